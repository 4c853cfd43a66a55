"""Constructors as a type checker, an editor and a caller see them."""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mypy import api
from stable_baselines3 import SAC

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2

ALGORITHMS = [SACv1, SACv2, SQL, MASAC]
#: defaults in which an algorithm follows its paper
OWN_DEFAULTS = {"SACv1": {"ent_coef": 1.0}, "SQL": {"ent_coef": 1.0}}

SNIPPET = """
    from typing_extensions import assert_type

    from sb3_sac_variants import MASAC, SQL, SACv1, SACv2

    SACv2("MlpPolicy", "Pendulum-v1", learnig_rate=1)  # error: learnig_rate
    SACv1("MlpPolicy", "Pendulum-v1", policy_gradient="foo")  # error: policy_gradient
    SQL("MlpPolicy", "Pendulum-v1", buffer_size="big")  # error: buffer_size
    MASAC("MlpPolicy", "SimpleSpread-v3", ce_obs="mine")  # error: ce_obs
    SACv2("MlpPolicy", "Pendulum-v1", engine="fast")  # error: engine
    SACv2("MlpPolicy", "Pendulum-v1", train_freq=(1, "day"))  # error: train_freq
    SACv2.load("model", 3)  # error: "load"

    assert_type(SACv2("MlpPolicy", "Pendulum-v1", 1e-3, ent_coef="auto_0.1", engine="compile").learn(1), SACv2)
    assert_type(SACv1("CnnPolicy", None, lambda progress: progress, policy_q="q1", verbose=1), SACv1)
    assert_type(SQL.load("model", buffer_size=1), SQL)
    assert_type(MASAC.load_checkpoint("run", "SimpleSpread-v3"), MASAC)
    assert_type(SACv2.from_sb3("sac.zip"), SACv2)
"""


def test_a_type_checker_sees_wrong_arguments(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(textwrap.dedent(SNIPPET), encoding="utf-8")
    lines = snippet.read_text(encoding="utf-8").splitlines()
    wanted = {number: line.split("# error: ")[1] for number, line in enumerate(lines, 1) if "# error" in line}
    config = tmp_path / "mypy.ini"  # what torch and others look like inside takes most of the time, and tells nothing
    config.write_text("[mypy]\n[mypy-torch.*,numpy.*,matplotlib.*,pandas.*]\nfollow_imports = skip\n", encoding="utf-8")
    out, err, _ = api.run(["--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), str(snippet)])
    assert not err, err
    errors = {int(line): text for line, text in re.findall(r"snippet\.py:(\d+): error: (.*)", out)}
    assert errors.keys() == wanted.keys(), out
    for number, name in wanted.items():
        assert name in errors[number], errors[number]


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_arguments_of_sac_keep_their_order_and_defaults(cls: type) -> None:
    ours = [one for one in parameters(cls).values() if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    theirs = list(parameters(SAC).values())
    assert [one.name for one in ours] == [one.name for one in theirs]
    own = OWN_DEFAULTS.get(cls.__name__, {})
    assert [one.default for one in ours] == [own.get(one.name, one.default) for one in theirs]


@pytest.mark.parametrize("cls", ALGORITHMS)
@pytest.mark.parametrize("method", ["predict", "learn"])
def test_methods_have_the_arguments_of_sb3s(cls: type, method: str) -> None:
    ours, theirs = parameters(getattr(cls, method)), parameters(getattr(SAC, method))
    assert [*ours] == [*theirs]
    own = {"tb_log_name": None}  # the name of the class
    assert [one.default for one in ours.values()] == [own.get(name, one.default) for name, one in theirs.items()]


def test_algorithms_agree_on_what_they_share() -> None:
    first = parameters(SACv2)
    for cls in ALGORITHMS:
        shared = {name: one for name, one in parameters(cls).items() if name in first and name != "policy"}
        own = OWN_DEFAULTS.get(cls.__name__, {})
        for name, one in shared.items():
            assert (one.kind, one.annotation) == (first[name].kind, first[name].annotation), (cls, name)
            assert one.default == own.get(name, first[name].default), (cls, name)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_an_unknown_argument_names_the_class(cls: type) -> None:
    with pytest.raises(TypeError, match=rf"{cls.__name__}.*learnig_rate"):
        cls("MlpPolicy", None, learnig_rate=1)


def test_a_subclass_refuses_what_it_ignores() -> None:
    class Mine(SACv2):
        unsupported_arguments = {"update_order": ("paper", "whose order is its own")}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"update_order='sb3' has no effect on Mine, whose order is its own: pass"):
        Mine("MlpPolicy", "Pendulum-v1", update_order="sb3")
    Mine("MlpPolicy", "Pendulum-v1", device="cpu")
