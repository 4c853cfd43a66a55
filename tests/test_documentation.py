"""
The code of README and documentation runs, and their commands are understood.

The Python blocks of a page run in order and share their names, in an empty folder, with training cut to
:data:`MOST_STEPS` environment steps. A page that imports what is no requirement of the tests is skipped by that name.
Of the shell blocks, the commands of the zoo and of this package are parsed by themselves (the fast tests), and those of
the zoo's page run, with few steps (the slow one).
"""

import re
import runpy
import shlex
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest
from installs import CHECKOUT, run
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

#: of a call of ``learn()``: enough for updates to begin, which they do after 100 steps
MOST_STEPS = 130
#: imported in examples, and no requirement of the tests
OPTIONAL = ("onnx", "onnxruntime", "onnxscript")
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a page in some languages."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [code for language, code in fences if language in languages]


def commands(page: Path) -> list[str]:
    """The commands in the shell blocks of a page."""
    text = "".join(blocks(page, "bash", "sh", "shell", "console")).replace("\\\n", " ")
    return [command for line in text.splitlines() if (command := line.partition(" #")[0].strip())]


def name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = OffPolicyAlgorithm.learn

    def short_learn(self: BaseAlgorithm, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        return learn(self, min(total_timesteps, MOST_STEPS), *args, **kwargs)

    monkeypatch.setattr(OffPolicyAlgorithm, "learn", short_learn)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = blocks(page, "python")
    for module in OPTIONAL:
        if re.search(rf"\b{module}\b", "".join(codes)):
            pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    namespace: dict[str, Any] = {"__name__": "documentation"}
    for number, code in enumerate(codes, 1):
        exec(compile(code, f"{name(page)}, block {number}", "exec"), namespace)


class Understood(Exception):
    """A command's parser took its arguments."""


@pytest.mark.parametrize(
    "command",
    sorted(
        command
        for command in {command for page in PAGES for command in commands(page)}
        if command.startswith(("python -m rl_zoo3", "python -m sb3_sac_variants"))
    ),
)
def test_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *arguments = shlex.split(command)
    if "--help" in arguments:
        arguments.remove("--help")
    parse_args = ArgumentParser.parse_args

    def parse_and_stop(self: ArgumentParser, *args: Any, **kwargs: Any) -> Namespace:
        raise Understood(parse_args(self, *args, **kwargs))

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Understood):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_extras_exist() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text()
    declared = set(re.findall(r"^([\w-]+) = \[", text.partition("[project.optional-dependencies]")[2], re.MULTILINE))
    named = {
        extra.strip()
        for page in [*PAGES, CHECKOUT / "benchmarks" / "README.md"]
        for extras in re.findall(r"pip install (?:-e )?\"(?:\.|sb3-sac-variants)\[([\w, -]+)\]", page.read_text())
        for extra in extras.split(",")
    }
    assert named
    assert named <= declared


@pytest.mark.parametrize("page", [*PAGES, CHECKOUT / "CHANGELOG.md"], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```(?!\{image\}|\{literalinclude\}).*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)|^```\{(?:image|literalinclude)\} (\S+)", text, re.MULTILINE)
    paths = [path for pair in targets for path in pair if path and "://" not in path]
    missing = [path for path in paths if not (page.parent / path.partition("#")[0]).exists()]
    assert not missing


def test_named_files_exist() -> None:
    """Files and folders of the checkout that pages name in the text."""
    pattern = r"`(?:python )?((?:benchmarks|docs|examples|hyperparams|sb3_sac_variants|tests|\.ci)/[\w./-]*)"
    named = {path for page in PAGES for path in re.findall(pattern, page.read_text()) if "_build" not in path}
    assert named
    assert not {path for path in named if not (CHECKOUT / path).exists()}


def test_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 110


def test_the_zoo_page_resumes_a_run_that_keeps_checkpoints() -> None:
    """As its commands give runs their folders when they are called one after the other."""
    runs: dict[str, str] = {}
    resumed = []
    for command in commands(CHECKOUT / "docs" / "zoo.md"):
        if "zoo resume" in command:
            resumed.append(command.split()[-1])
        elif "rl_zoo3.train" in command and "-optimize" not in command:
            parser = ArgumentParser()
            for option, default in (("--algo", None), ("--env", None), ("-f", "logs")):
                parser.add_argument(option, default=default)
            options, _ = parser.parse_known_args(shlex.split(command)[3:])
            folder = f"{options.f}/{options.algo}/{options.env}"
            number = 1 + sum(run.startswith(f"{folder}_") for run in runs)
            runs[f"{folder}_{number}"] = command
    assert resumed
    assert all("RunCheckpointCallback" in runs[run] for run in resumed)


#: what shortens a command, by a part of it
SHORTER = {
    r"rl_zoo3\.train|zoo train": "-n 300 --num-threads 1 --eval-freq -1",
    r"-optimize": "--n-trials 4 --n-evaluations 1 --no-optim-plots",
    r"rl_zoo3\.enjoy": "-n 50 --no-render",
    r"rl_zoo3\.record_video": "-n 20",
}


@pytest.mark.slow
def test_commands_of_the_zoo_page_run(tmp_path: Path) -> None:
    """The zoo's page from top to bottom, but for the database on other machines."""
    for command in commands(CHECKOUT / "docs" / "zoo.md"):
        if re.match(r"python -m (rl_zoo3|sb3_sac_variants\.zoo)", command) and "postgresql" not in command:
            options = [option for part, option in SHORTER.items() if re.search(part, command)]
            run(sys.executable, *shlex.split(" ".join([command, *options]))[1:], cwd=tmp_path, PYTHONPATH=str(CHECKOUT))
    assert list(tmp_path.glob("logs/sac_v2/Pendulum-v1_*/Pendulum-v1.zip"))
