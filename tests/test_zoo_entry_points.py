"""Algorithms of other packages in the zoo: declared by entry points, and no harm where a declaration is wrong."""

import argparse
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rl_zoo3
from installs import declare, run
from rl_zoo3 import exp_manager, hyperparams_opt, utils
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3 import SAC

from sb3_sac_variants import SACv2
from sb3_sac_variants.zoo import ZooAlgorithm, hyperparameter_file, register


class Ours(SACv2):
    """An algorithm of somebody else."""


def sample(*args: Any) -> dict[str, Any]:
    return {}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that declares algorithms, importable; the zoo's dictionaries are put back afterwards."""
    for module, name in [
        (utils, "ALGOS"),
        (hyperparams_opt, "HYPERPARAMS_SAMPLER"),
        (hyperparams_opt, "HYPERPARAMS_CONVERTER"),
    ]:
        table = getattr(module, name)
        for algo in table:  # so that what is added goes away with the fixture
            monkeypatch.setitem(table, algo, table[algo])
        for algo in ("theirs", "theirs_too", "sac_v1"):
            monkeypatch.setitem(table, algo, None)
            del table[algo]
    monkeypatch.syspath_prepend(str(tmp_path))
    module = ModuleType("their_package")
    monkeypatch.setitem(sys.modules, "their_package", module)
    (tmp_path / "theirs.yml").write_text("default: {policy: MlpPolicy, n_timesteps: 7, learning_starts: 3}")
    module.THEIRS = ZooAlgorithm(Ours, tmp_path / "theirs.yml", sample, sample)  # type: ignore[attr-defined]
    return module


def test_algorithm_of_another_package(package: ModuleType, tmp_path: Path) -> None:
    declare(tmp_path, "their-package", theirs="their_package:THEIRS")
    register()
    assert exp_manager.ALGOS["theirs"] is rl_zoo3.ALGOS["theirs"] is Ours
    assert exp_manager.HYPERPARAMS_SAMPLER["theirs"] is exp_manager.HYPERPARAMS_CONVERTER["theirs"] is sample
    assert hyperparameter_file("theirs") == tmp_path / "theirs.yml"
    manager = ExperimentManager(argparse.Namespace(), "theirs", "Pendulum-v1", str(tmp_path), trial_id=0, eval_freq=-1)
    assert manager.trial_id  # 0 counts as given
    model, _ = ExperimentManager(
        argparse.Namespace(), "theirs", "Pendulum-v1", str(tmp_path), eval_freq=-1, device="cpu"
    ).setup_experiment()
    assert (type(model), model.learning_starts) == (Ours, 3)


def test_names_instead_of_objects(package: ModuleType, tmp_path: Path) -> None:
    names = ZooAlgorithm("stable_baselines3:TD3", "td3.yml", "rl_zoo3.hyperparams_opt:sample_td3_params")
    package.THEIRS = names  # type: ignore[attr-defined]
    declare(tmp_path, "their-package", theirs="their_package:THEIRS")
    register()
    assert utils.ALGOS["theirs"] is utils.ALGOS["td3"]
    assert hyperparams_opt.HYPERPARAMS_SAMPLER["theirs"] is hyperparams_opt.sample_td3_params
    assert "theirs" not in hyperparams_opt.HYPERPARAMS_CONVERTER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimize_hyperparameters": True}, "-optimize needs a sampler of algo='theirs'"),
        ({"trial_id": 0, "study_name": "a", "storage": "b"}, "--trial-id needs a converter of algo='theirs'"),
    ],
)
def test_tuning_without_a_sampler_says_what_is_missing(
    arguments: dict[str, Any], message: str, package: ModuleType, tmp_path: Path
) -> None:
    package.THEIRS = ZooAlgorithm(Ours, "x.yml")  # type: ignore[attr-defined]
    (tmp_path / "x.yml").touch()
    declare(tmp_path, "a-package", theirs="their_package:THEIRS")
    register()
    config = str(tmp_path / "x.yml")
    with pytest.raises(ValueError, match=rf"{message}: 'their_package:THEIRS' of a-package must name one"):
        ExperimentManager(argparse.Namespace(), "theirs", "Pendulum-v1", str(tmp_path), config=config, **arguments)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module:THEIRS", "No module named 'no_such_module'"),
        ("their_package:NOTHING", "no attribute 'NOTHING'"),
        ("their_package:__name__", "no attribute 'algorithm'"),
        ("their_package:BROKEN", "No module named 'no_such_module'"),
        ("leaving:THEIRS", "SystemExit('no licence')"),
    ],
)
def test_broken_declaration_is_named_and_costs_nobody_else_anything(
    value: str, why: str, package: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('no licence')")
    package.BROKEN = ZooAlgorithm("no_such_module:Algorithm", "x.yml")  # type: ignore[attr-defined]
    declare(tmp_path, "a-package", theirs=value, theirs_too="their_package:THEIRS")
    fault = rf"goes without 'theirs', since '{value}' of a-package is broken: "
    with pytest.warns(UserWarning, match=fault) as warned:
        register()
    assert why in str(warned[0].message)
    assert all(re.search(fault, str(warning.message)) for warning in warned)
    assert "theirs" not in utils.ALGOS
    assert utils.ALGOS["theirs_too"] is Ours
    assert utils.ALGOS["sac_v1"].algorithm_id == "sac_v1"


def test_a_sampler_may_be_a_method(package: ModuleType, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Each look at it gives another object."""
    package.Ours = type("Ours", (), {"sample": classmethod(lambda cls, *_: {})})  # type: ignore[attr-defined]
    package.METHOD = ZooAlgorithm(Ours, "x.yml", "their_package:Ours.sample")  # type: ignore[attr-defined]
    declare(tmp_path, "a-package", theirs="their_package:METHOD")
    register()
    register()
    assert hyperparams_opt.HYPERPARAMS_SAMPLER["theirs"]() == {}
    assert not [warning for warning in recwarn if "another algorithm" in str(warning.message)]


@pytest.mark.parametrize("algo", ["sac", "sac_v2"])
def test_name_that_is_taken_stays_whose_it_was(algo: str, package: ModuleType, tmp_path: Path) -> None:
    before = utils.ALGOS[algo]
    declare(tmp_path, "a-package", **{algo: "their_package:THEIRS"})
    with pytest.warns(UserWarning, match=f"goes without the '{algo}' of a-package, since another algorithm has this"):
        register()
    assert utils.ALGOS[algo] is before
    manager = ExperimentManager(argparse.Namespace(), algo, "Pendulum-v1", str(tmp_path))
    assert Path(manager.config).name == f"{algo}.yml"
    assert SAC is utils.ALGOS["sac"]


def test_metadata_of_an_earlier_version_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    declare(tmp_path, "sb3-sac-variants")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no entry points 'rl_zoo3\.algorithms': please install the package anew"):
        register()


@pytest.mark.slow
def test_a_script_may_import_the_samplers_before_the_zoo() -> None:
    """The zoo's modules then ask for them while they are being imported."""
    code = """
        import warnings; warnings.simplefilter("error")
        import sb3_sac_variants.zoo.samplers
        sb3_sac_variants.zoo.register()
        import rl_zoo3.hyperparams_opt as zoo
        assert zoo.HYPERPARAMS_SAMPLER["sql"] is sb3_sac_variants.zoo.samplers.sample_sql_params
    """
    run(sys.executable, "-c", textwrap.dedent(code), PYTHONPATH=":".join(sys.path))
