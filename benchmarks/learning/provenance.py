"""With what a run was made: versions, commit, processor."""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
import zipfile
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "stable_baselines3", "sb3_contrib", "rl_zoo3", "gymnasium", "mujoco", "numpy", "sb3_sac_variants")

# Names in the system_info.txt that Stable-Baselines3 stores in each saved model.
_SAVED_NAMES = {
    "OS": "os",
    "Python": "python",
    "PyTorch": "torch",
    "Stable-Baselines3": "stable_baselines3",
    "Gymnasium": "gymnasium",
    "Numpy": "numpy",
}


def describe() -> dict[str, str]:
    """Versions and machine of this interpreter; empty where something is not installed.

    :return: Entries ``python``, ``os``, ``cpu``, ``commit`` and one for each of ``PACKAGES``
    """
    return {
        "python": platform.python_version(),
        # As Stable-Baselines3 writes it, see `recorded_in`.
        "os": re.sub(r"#(\d)", r"# \1", f"{platform.platform()} {platform.version()}"),
        "cpu": cpu_model(),
        **{package: _version(package) for package in PACKAGES},
        "commit": commit(),
    }


def recorded_in(model: Path) -> dict[str, str]:
    """What a saved model says about the interpreter that saved it.

    :param model: Zip file written by Stable-Baselines3
    :return: The entries of :func:`describe` that it knows
    """
    with zipfile.ZipFile(model) as archive:
        lines = archive.read("system_info.txt").decode().splitlines()
    pairs = (line.removeprefix("- ").partition(": ") for line in lines)
    return {_SAVED_NAMES[name]: value for name, _, value in pairs if name in _SAVED_NAMES}


def describe_finished(model: Path) -> dict[str, str]:
    """Describe a run that was started by hand, after the fact.

    What its model does not record (processor, MuJoCo, ...) is taken from this interpreter, but only if everything that
    is recorded agrees with it. The commit stays empty: the checkout may have moved on since.

    :param model: The run's saved model
    :return: As :func:`describe`
    """
    saved, here = recorded_in(model), describe()
    same = all(here[name] == value for name, value in saved.items())
    return {**(here if same else dict.fromkeys(here, "")), **saved, "commit": ""}


def commit() -> str:
    """Git commit of the package that is imported, with ``+changes`` if its files differ from it.

    :return: Twelve digits, or nothing where the imported package is not the one of this checkout
    """
    spec = importlib.util.find_spec("sb3_sac_variants")
    if spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(REPOSITORY):
        return ""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", "sb3_sac_variants", "hyperparams"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+changes" if changes.stdout else "")


def cpu_model() -> str:
    """Name of the processor."""
    if platform.system() == "Darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        ).stdout.strip()
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
