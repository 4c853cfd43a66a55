"""One run from its start, or from its last checkpoint, to the evaluation of its model; several on this machine."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from zipfile import is_zipfile

import yaml

from sb3_sac_variants.study.provenance import describe
from sb3_sac_variants.study.run_folder import RunFolder, State
from sb3_sac_variants.study.studies import Run

POLL_SECONDS = 0.5
NOTE_SECONDS = 30.0
TERMINATION_SECONDS = 10.0

RESUME_COMMAND = ["python", "-m", "sb3_sac_variants.zoo", "resume"]
EVALUATE_COMMAND = ["python", "-m", "sb3_sac_variants.study.evaluate"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Where the system can do it (Linux), the run ends with the process that started it, also where that is killed.
_END_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


class RunFailed(RuntimeError):
    """A run's own process has ended with an error; the message has the end of its output."""


@dataclass(frozen=True)
class Resources:
    """What a run gets; ``resumable`` are the ids of the algorithms that save checkpoints."""

    device: str = "cpu"
    threads: int = 1
    resumable: frozenset[str] = frozenset()

    def command(self, run: Run) -> list[str]:
        """The zoo's command for a run."""
        return run.zoo_command(self.device, self.threads, run.algo in self.resumable)


class Local:
    """Executes some runs at a time, each in a process of its own; offers the same as ``cluster.RayCluster``."""

    def __init__(self, jobs: int, resources: Resources) -> None:
        check_device(resources.device)
        self._resources = resources
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(jobs)

    def submit(self, folder: RunFolder) -> Future[None]:
        """Execute a run as soon as there is room for it; the future raises what the run raises."""
        return self._executor.submit(self._execute, folder)

    def _execute(self, folder: RunFolder) -> None:
        if prepare(folder):
            try:
                execute(folder, self._resources, self._raise_if_stopped)
            finally:
                folder.lock.release()

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise CancelledError

    def close(self) -> None:
        """End all that was started."""
        self._stop.set()
        self._executor.shutdown(cancel_futures=True)


def check_device(device: str, remedy: str = "take --device cpu") -> None:
    """Refuse a GPU that is not there, in whose place Stable-Baselines3 would take the CPU."""
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"device={device!r}: PyTorch finds no GPU on this machine; {remedy}, or use another one")


def prepare(folder: RunFolder) -> bool:
    """Claim a run, and set aside what it cannot go on from; false if it is done, or another process is at it."""
    if not folder.claim():
        return False
    with contextlib.ExitStack() as otherwise:
        otherwise.callback(folder.lock.release)
        if folder.found() in (State.FINISHED, State.CONFLICT):
            return False
        if not folder.is_trained() and not folder.checkpoint.exists():
            folder.set_aside()
        otherwise.pop_all()
    return True


def execute(folder: RunFolder, resources: Resources, tick: Callable[[], None]) -> None:
    """Do what is left of training and evaluation; what ``tick`` raises, called twice a second, ends the run."""
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.write_record(failed=False)
    try:
        if not folder.is_trained():
            _train(folder, resources, tick)
        if folder.missing_plays():
            arguments = [yaml.safe_dump(folder.run.model_dump()), resources.device, str(resources.threads)]
            _call([*EVALUATE_COMMAND, *arguments], folder, resources, tick)
    except RunFailed:
        folder.write_record(failed=True)
        raise


def _train(folder: RunFolder, resources: Resources, tick: Callable[[], None]) -> None:
    resumed, command = folder.checkpoint.exists(), resources.command(folder.run)
    if resumed:
        check_device(folder.record()["device"], f"remove {folder.root} to start it anew")
        command = [*RESUME_COMMAND, str(folder.zoo.relative_to(folder.out)), "--import", *folder.run.modules()]
    else:  # one that goes on keeps its device and its threads
        made = {"device": resources.device, "threads": resources.threads}
        folder.write_record(settings=folder.run.settings(), scalars=folder.run.scalars, **made)
    folder.write_record(resumed=resumed, saved=False, **describe())
    earlier, start = folder.record().get("wall_seconds", 0.0), time.monotonic()

    noted = start

    def note_and_tick() -> None:  # on the way, too, so that the time of a run that is killed counts
        nonlocal noted
        if time.monotonic() - noted > NOTE_SECONDS:
            noted = time.monotonic()
            folder.write_record(wall_seconds=earlier + noted - start)
        tick()

    try:
        try:
            _call(command, folder, resources, note_and_tick)
        finally:
            folder.write_record(wall_seconds=earlier + time.monotonic() - start)
        folder.write_record(saved=True)
        if not folder.is_trained():
            early = f"training ended without an error after {folder.steps_done()} of {folder.run.steps} steps: "
            early += "remove the callback that ends it, or give the study fewer steps"
            broken = f"training has left no complete model in {folder.zoo}:\n{folder.log_tail()}"
            raise RunFailed(early if is_zipfile(folder.model) else broken)
    except RunFailed as error:
        if resumed:
            raise RunFailed(f"{error}\nIt went on from a checkpoint: remove {folder.root} to start it anew") from error
        raise


def _call(command: list[str], folder: RunFolder, resources: Resources, tick: Callable[[], None]) -> None:
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(resources.threads)) | {"PYTHONUNBUFFERED": "1"}
    if paths := os.environ.get("PYTHONPATH"):  # the process works in another folder
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, paths.split(os.pathsep))))
    guard = ["-c", _END_WITH_PARENT, str(os.getpid())] if sys.platform == "linux" else []
    with open(folder.log, "ab") as log:
        # Its own session: a Ctrl-C of the terminal must not reach the zoo, which would save the model as if the run
        # were complete.
        command = [sys.executable, *guard, *command[1:]]
        process = Popen(
            command, cwd=folder.out, env=environment, stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True
        )
    try:
        while process.poll() is None:
            tick()
            time.sleep(POLL_SECONDS)
    finally:
        process.terminate()
        with contextlib.suppress(TimeoutExpired):
            process.wait(TERMINATION_SECONDS)
        process.kill()
        process.wait()
    if process.returncode != 0:
        log_file = folder.run.folder / folder.log.name
        raise RunFailed(f"exit status {process.returncode}, the end of {log_file}:\n{folder.log_tail()}")
