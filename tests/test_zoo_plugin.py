"""What the zoo is told about our algorithms, and the way to tell it without a start-up hook."""

import argparse
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest
import rl_zoo3
from rl_zoo3 import exp_manager, hyperparams_opt, utils
from rl_zoo3.exp_manager import ExperimentManager

import sb3_sac_variants
from sb3_sac_variants.zoo import __main__, hyperparameter_file, plugin, register, samplers

ALGOS = ["sac_v1", "sac_v2", "sql", "masac"]


@pytest.fixture(autouse=True)
def registered() -> None:
    register()


def manager(algo: str, tmp_path: Path, *args: object, **kwargs: object) -> ExperimentManager:
    return ExperimentManager(argparse.Namespace(), algo, "Pendulum-v1", str(tmp_path), *args, **kwargs)


def test_zoo_knows_classes_samplers_and_converters() -> None:
    assert utils.ALGOS["sac_v1"] is rl_zoo3.ALGOS["sac_v1"] is exp_manager.ALGOS["sac_v1"] is sb3_sac_variants.SACv1
    assert utils.ALGOS["sac_v2"] is sb3_sac_variants.SACv2
    for algo in ALGOS:
        assert exp_manager.HYPERPARAMS_SAMPLER[algo] is getattr(samplers, f"sample_{algo}_params")
        assert exp_manager.HYPERPARAMS_CONVERTER[algo] is getattr(samplers, f"convert_{algo}_params")


def test_ids_are_those_that_the_algorithms_save() -> None:
    assert [utils.ALGOS[algo].algorithm_id for algo in ALGOS] == ALGOS


def test_registering_again_changes_nothing() -> None:
    before = dict(utils.ALGOS), ExperimentManager.__init__
    register()
    assert (dict(utils.ALGOS), ExperimentManager.__init__) == before


def test_reloaded_zoo_is_extended_again() -> None:
    importlib.reload(hyperparams_opt)
    register()
    assert "sac_v1" in hyperparams_opt.HYPERPARAMS_SAMPLER


def test_manager_keeps_its_signature() -> None:
    assert list(inspect.signature(ExperimentManager.__init__).parameters)[:4] == ["self", "args", "algo", "env_id"]


@pytest.mark.parametrize("algo", ALGOS)
def test_our_hyperparameters_where_no_file_is_given(algo: str, tmp_path: Path) -> None:
    assert manager(algo, tmp_path).config == str(hyperparameter_file(algo))
    assert manager(algo, tmp_path, config=None).config == str(hyperparameter_file(algo))


def test_given_hyperparameter_file_is_kept(tmp_path: Path) -> None:
    assert manager("sac_v1", tmp_path, config="my.yml").config == "my.yml"


def test_config_given_by_position_is_kept(tmp_path: Path) -> None:
    parameters = list(inspect.signature(ExperimentManager.__init__).parameters.values())[5:]
    names = [parameter.name for parameter in parameters]
    values = ["my.yml" if parameter.name == "config" else parameter.default for parameter in parameters]
    assert manager("sac_v1", tmp_path, *values[: names.index("config") + 1]).config == "my.yml"


def test_other_algorithms_keep_the_zoos_file(tmp_path: Path) -> None:
    sac = manager("sac", tmp_path, trial_id=0)
    assert Path(sac.config) == Path(rl_zoo3.__file__).parent / "hyperparams" / "sac.yml"
    assert sac.trial_id == 0
    assert not sac.trial_id


def test_trial_zero_counts_as_given(tmp_path: Path) -> None:
    """The zoo tests the truth of the trial id, so that ``--trial-id 0`` would silently train the defaults."""
    trial_id = manager("sac_v2", tmp_path, trial_id=0).trial_id
    assert trial_id == 0
    assert trial_id
    assert ["first", "second"][trial_id] == "first"
    assert manager("sac_v2", tmp_path).trial_id is None


def test_missing_hyperparameter_file_says_what_to_reinstall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = plugin.SAC_V1._replace(hyperparameters=tmp_path / "sac_v1.yml")
    monkeypatch.setattr(plugin, "SAC_V1", moved)
    with pytest.raises(FileNotFoundError, match=r"sac_v1\.yml.*reinstall sb3-sac-variants"):
        hyperparameter_file("sac_v1")
    with pytest.raises(ValueError, match="no installed package declares algo='sacv1'"):
        hyperparameter_file("sacv1")


@pytest.mark.parametrize("missing", ["rl_zoo3", "optuna"])
def test_missing_zoo_names_the_pip_command(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "rl_zoo3" or name.startswith("rl_zoo3.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf'{missing}.*pip install "sb3-sac-variants\[zoo\]"'):
        register()


@pytest.mark.parametrize(("arguments", "error"), [([], "no command"), (["tarin"], "unknown command 'tarin'")])
def test_module_without_a_known_command_names_them(
    arguments: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", *arguments])
    with pytest.raises(SystemExit, match=rf"{error}.*train,.*enjoy,record_video"):
        __main__.main()


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_module_lists_its_commands(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", option])
    __main__.main()
    listed = capsys.readouterr().out
    assert all(command in listed for command in __main__.COMMANDS)


def test_every_command_of_the_module_is_one_of_the_zoo() -> None:
    for command, module in __main__.COMMANDS.items():
        assert importlib.util.find_spec(module) is not None
        assert module.endswith(f".{command}")


@pytest.mark.parametrize("command", ["plot_train", "plots.plot_train"])
def test_module_hands_over_the_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str]]] = []

    def run_module(name: str, run_name: str, alter_sys: bool) -> ModuleType:
        calls.append((name, sys.argv[1:]))
        return ModuleType(run_name)

    monkeypatch.setattr(__main__.runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["zoo", command, "--algo", "sac_v1"])
    __main__.main()
    assert calls == [("rl_zoo3.plots.plot_train", ["--algo", "sac_v1"])]
