"""What ``pip install`` puts on a machine: files, start-up hook, metadata, and the checks that guard them."""

import configparser
import re
import zipfile
from email.parser import Parser
from pathlib import Path
from pkgutil import resolve_name

import pytest
from installs import CHECKOUT, STARTUP, build, installed_python, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sb3_sac_variants

KINDS = ["wheel", "editable"]
HOOK_FILES = ["_sb3_sac_variants_zoo.py", "sb3_sac_variants_zoo.pth", "sb3_sac_variants_zoo.start"]


def contents(kind: str) -> dict[str, str]:
    with zipfile.ZipFile(build(kind)) as wheel:
        return {name: wheel.read(name).decode() for name in wheel.namelist()}


@pytest.mark.parametrize("kind", KINDS)
def test_hook_lies_at_the_root_of_site_packages(kind: str) -> None:
    files = contents(kind)
    for name in HOOK_FILES:
        assert files[name] == (STARTUP / name).read_text()
    assert not [name for name in files if "/startup/" in name]


def test_wheel_carries_every_module_and_hyperparameter_file() -> None:
    files = contents("wheel")
    package = CHECKOUT / "sb3_sac_variants"
    modules = {path.relative_to(CHECKOUT).as_posix() for path in package.rglob("*.py") if STARTUP not in path.parents}
    assert modules <= set(files)
    assert "sb3_sac_variants/py.typed" in files
    for source in (CHECKOUT / "hyperparams").glob("*.yml"):
        assert files[f"sb3_sac_variants/hyperparams/{source.name}"] == source.read_text()
    top_level = {name.split("/")[0] for name in files}
    assert top_level == {"sb3_sac_variants", f"sb3_sac_variants-{sb3_sac_variants.__version__}.dist-info", *HOOK_FILES}


def test_editable_install_keeps_no_copy_of_what_one_edits() -> None:
    """A copy would go stale; the start-up files are the exception, since Python reads them nowhere else."""
    names = [name for name in contents("editable") if ".dist-info/" not in name]
    assert sorted(names) == sorted([*HOOK_FILES, "_editable_impl_sb3_sac_variants.pth"])


def test_metadata() -> None:
    (text,) = (text for name, text in contents("wheel").items() if name.endswith("/METADATA"))
    metadata = Parser().parsestr(text)
    assert metadata["Version"] == sb3_sac_variants.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    requirements = metadata.get_all("Requires-Dist") or []
    required = {re.split(r"[<>=;\[ ]", line)[0] for line in requirements if "extra ==" not in line}
    assert required == {"torch", "stable-baselines3", "gymnasium", "numpy", "typing-extensions"}
    assert set(metadata.get_all("Provides-Extra") or []) == {
        "atari",
        "box2d",
        "cluster",
        "dev",
        "docs",
        "mujoco",
        "multiagent",
        "study",
        "zoo",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_algorithms_are_declared_as_entry_points(kind: str) -> None:
    (text,) = (text for name, text in contents(kind).items() if name.endswith("/entry_points.txt"))
    declared = configparser.ConfigParser()
    declared.read_string(text)
    assert set(declared["rl_zoo3.algorithms"]) == {"sac_v1", "sac_v2", "sql", "masac"}
    for algo, value in declared["rl_zoo3.algorithms"].items():
        assert Path(resolve_name(value).hyperparameters) == CHECKOUT / "hyperparams" / f"{algo}.yml"


@pytest.mark.parametrize("kind", KINDS)
def test_installed_hook_starts_with_python_and_imports_nothing_else(kind: str, tmp_path: Path) -> None:
    code = "import sys; print(sorted(name for name in sys.modules if name.split('.')[0] in {!r}))"
    watched = ("_sb3_sac_variants_zoo", "sb3_sac_variants", "torch", "stable_baselines3", "gymnasium", "rl_zoo3")
    python = installed_python(kind)
    assert run(python, "-c", code.format(watched), cwd=tmp_path).strip() == "['_sb3_sac_variants_zoo']"
    finders = "import sys; print(str(sys.meta_path).count('ZooFinder'))"
    assert run(python, "-c", finders, cwd=tmp_path).strip() == "1"
    assert run(python, "-c", finders, cwd=tmp_path, SB3_SAC_VARIANTS_NO_ZOO="1").strip() == "0"
    # Neither does it bring what the import system loads only for those who ask.
    bare = run(python, "-c", "import sys; print(sys.modules.keys())", cwd=tmp_path, SB3_SAC_VARIANTS_NO_ZOO="1")
    assert run(python, "-c", "import sys; print(sys.modules.keys())", cwd=tmp_path) == bare


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_installed_zoo_knows_our_algorithms_environments_and_files(kind: str, tmp_path: Path) -> None:
    output = run(
        installed_python(kind),
        *("-m", "rl_zoo3.train", "--algo", "sac_v1", "--env", "MultiGoal-v0"),
        *("-n", 5, "--eval-freq", -1, "--verbose", 0, "--device", "cpu"),
        cwd=tmp_path,
    )
    file = re.search(r"Loading hyperparameters from: (.*)", output)
    assert file is not None
    in_checkout = Path(file[1]) == CHECKOUT / "hyperparams" / "sac_v1.yml"
    assert in_checkout == (kind == "editable")
    assert (tmp_path / "logs" / "sac_v1" / "MultiGoal-v0_1" / "MultiGoal-v0.zip").is_file()


@pytest.mark.slow
def test_switched_off_the_zoo_is_as_it_was(tmp_path: Path) -> None:
    command = (installed_python("wheel"), "-m", "rl_zoo3.train", "--algo")
    output = run(*command, "sac_v1", cwd=tmp_path, fails=True, SB3_SAC_VARIANTS_NO_ZOO="1")
    assert "invalid choice: 'sac_v1'" in output


@pytest.mark.slow
def test_package_imports_without_any_extra(tmp_path: Path) -> None:
    extras = ["rl_zoo3", "sb3_contrib", "optuna", "rich", "tqdm", "mpe2", "pettingzoo", "mujoco", "onnx", "ray"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({extras!r}))
import sb3_sac_variants, sb3_sac_variants.zoo
print(sb3_sac_variants.SACv1.__name__)
"""
    assert run(installed_python("wheel"), "-c", code, cwd=tmp_path).strip() == "SACv1"


def shell_blocks(markdown: str) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)


def test_ci_installs_and_tests_as_the_readme_says() -> None:
    *installs, tests = shell_blocks((CHECKOUT / "README.md").read_text())[1].strip().splitlines()
    ci = (CHECKOUT / ".ci" / "run").read_text().splitlines()
    commands = [line.removeprefix("run ") for line in ci if line.startswith("run ")]
    commands = [re.sub(r'"\$\{\w+:-(.*)\}"', r"\1", line) for line in commands]  # what is taken by default
    # The README makes its environment in the checkout, CI in a folder that it throws away.
    assert "venv" in installs[0]
    assert commands[: len(installs)] == [*installs[1:], tests]
    assert tests == "python -m pytest"


def test_the_oldest_versions_are_those_of_the_metadata() -> None:
    """CI runs on them; what a cluster and development take besides is as new as it comes."""
    (text,) = (text for name, text in contents("wheel").items() if name.endswith("/METADATA"))
    requirements = map(Requirement, Parser().parsestr(text).get_all("Requires-Dist") or [])
    allowed: dict[str, list[Version]] = {}
    for requirement in requirements:
        wanted = not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in ("", "zoo", "study"))
        for bound in requirement.specifier if wanted else ():
            if bound.operator == ">=":
                allowed.setdefault(canonicalize_name(requirement.name), []).append(Version(bound.version))
    lines = (CHECKOUT / ".ci" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    oldest = {name: max(versions) for name, versions in allowed.items()}
    assert {canonicalize_name(name): Version(version) for name, version in pinned.items()} == oldest
