"""Interpreters with this package freshly installed, and a way to run them: what a user has after ``pip install``."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
STARTUP = CHECKOUT / "sb3_sac_variants" / "zoo" / "startup"

#: No window, no other threads, and no switch that the caller's environment happens to set.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("SB3_SAC_VARIANTS_NO_ZOO", "PYTHONPATH")},
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "SDL_VIDEODRIVER": "dummy",
}


def run(*command: object, cwd: Path | None = None, fails: bool = False, **environment: str) -> str:
    """Run a command and return what it wrote; its exit status must be as expected."""
    process = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert (process.returncode != 0) == fails, process.stdout
    return process.stdout


@functools.cache
def build(kind: str) -> Path:
    """Build the ``"wheel"`` of this checkout, or the one that ``pip install -e`` makes of it (``"editable"``)."""
    folder = _temporary_folder()
    run(sys.executable, "-c", f"from hatchling.build import *; build_{kind}({str(folder)!r})", cwd=CHECKOUT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@functools.cache
def installed_python(kind: str) -> Path:
    """A new virtual environment with the package installed from :func:`build`, and the dependencies of this one."""
    folder = _temporary_folder()
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", build(kind))
    site_packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A folder named in a .pth file comes without its own .pth files: only this installation's hook is there.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def declare(folder: Path, distribution: str, **algorithms: str) -> None:
    """Write metadata into ``folder``, as pip would for a package that declares these algorithms for the zoo."""
    metadata = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in algorithms.items()]
    (metadata / "entry_points.txt").write_text("".join(["[rl_zoo3.algorithms]\n", *lines]))


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
