"""With what a run was made: versions, commit, processor."""

import contextlib
import platform
import re
import subprocess
from functools import partial
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
    run = partial(subprocess.check_output, cwd=package, stderr=subprocess.DEVNULL, text=True)
    try:
        run(["git", "ls-files", "--error-unmatch", "__init__.py"])
        changes = run(["git", "status", "--porcelain", "--", ".", "../hyperparams"])
        return run(["git", "rev-parse", "--short=12", "HEAD"]).strip() + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu_model() -> str:
    """Name of the processor."""
    try:
        if platform.system() == "Darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        return re.findall(r"\nmodel name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return platform.processor() or platform.machine()
