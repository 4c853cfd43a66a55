"""With what a run was made: versions, commit, processor."""

from __future__ import annotations

import platform
import re
import subprocess
import zipfile
from importlib import metadata
from pathlib import Path

from stable_baselines3.common.utils import get_system_info

PACKAGES = ("torch", "stable_baselines3", "sb3_contrib", "rl_zoo3", "gymnasium", "mujoco", "numpy", "sb3_sac_variants")


def describe() -> dict[str, str]:
    """Entries ``python``, ``cpu``, ``commit`` and one for each of ``PACKAGES``, empty where it is not installed."""
    return {
        "python": platform.python_version(),
        "cpu": cpu_model(),
        **{package: _version(package) for package in PACKAGES},
        "commit": commit(),
    }


def describe_finished(model: Path) -> dict[str, str]:
    """Describe a run that was started by hand, by what its model records.

    Only where that is this interpreter on this machine; the commit stays empty, as the checkout may have moved on.
    """
    with zipfile.ZipFile(model) as archive:
        same = archive.read("system_info.txt").decode().strip() == get_system_info(print_info=False)[1].strip()
    return {**describe(), "commit": ""} if same else {}


def commit() -> str:
    """Git commit of the package, with ``+changes`` if its files differ from it; empty where git does not track it."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changes = git("status", "--porcelain", "--", ".", "../hyperparams")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu_model() -> str:
    """Name of the processor."""
    try:
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
