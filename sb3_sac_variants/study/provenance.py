"""With what a run was made: versions, commit, processor."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "stable_baselines3", "sb3_contrib", "rl_zoo3", "gymnasium", "mujoco", "numpy", "sb3_sac_variants")


def describe() -> dict[str, str]:
    """Entries ``python``, ``cpu``, ``commit`` and one for each of ``PACKAGES``, empty where it is not installed."""
    versions = dict.fromkeys(PACKAGES, "")
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"python": platform.python_version(), "cpu": cpu_model(), **versions, "commit": commit()}


def commit() -> str:
    """Git commit of the package, with ``+changes`` if its files differ from it; empty where git does not track it."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", *arguments], cwd=package, stderr=subprocess.DEVNULL, text=True).strip()

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
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return platform.processor() or platform.machine()
