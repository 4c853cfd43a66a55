"""One run from its start, or from its last checkpoint, to the evaluation of its model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sb3_sac_variants.study.provenance import describe, describe_finished
from sb3_sac_variants.study.run_folder import RunFolder

# Of the environment and of the policy's noise in evaluations of the saved model; the same for all algorithms, so that
# they meet the same initial states, and far from the seeds of training.
FINAL_SEED = 10_000
POLL_SECONDS = 0.5
TERMINATION_SECONDS = 10.0

RESUME_COMMAND = ["python", "-m", "sb3_sac_variants.zoo", "resume"]
EVALUATE_COMMAND = ["python", "-m", "sb3_sac_variants.study.evaluate"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Where the system can do it (Linux), the run ends with the process that started it, also where that is killed.
_END_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class RunFailed(RuntimeError):
    """A run's own process has ended with an error; the message has the end of its output."""


class Stopped(RuntimeError):
    """The user, or the system, has asked to stop."""


@dataclass(frozen=True)
class Resources:
    """What a run gets.

    :param device: PyTorch device
    :param threads: Threads of PyTorch
    :param resumable: Ids of the algorithms that save checkpoints
    """

    device: str = "cpu"
    threads: int = 1
    resumable: frozenset[str] = frozenset()


def prepare(folder: RunFolder) -> Path | None:
    """Set aside what an earlier attempt has left, unless the run can go on from it.

    :param folder: The run
    :return: Where it was moved to, if anything was
    """
    if folder.is_trained() or (folder.checkpoint.exists() and not folder.conflicts()):
        return None
    return folder.set_aside()


def execute(folder: RunFolder, resources: Resources, tick: Callable[[], bool]) -> None:
    """Train, or go on with it, and evaluate the model; what is done already is not done again.

    :param folder: The run, prepared
    :param resources: What it gets
    :param tick: Called twice a second; false stops the run
    :raises RunFailed: If one of its processes ends with an error
    :raises Stopped: If ``tick`` asked for it
    """
    run = folder.run
    folder.root.mkdir(parents=True, exist_ok=True)
    if not folder.is_trained():
        resumed = folder.checkpoint.exists()
        if resumed:
            command = [*RESUME_COMMAND, str(run.zoo_folder)]
        else:
            command = run.zoo_command(resources.device, resources.threads, run.algo in resources.resumable)
        folder.write_record(state="running", resumed=resumed, device=resources.device, **describe())
        started, before = time.monotonic(), folder.record().get("wall_seconds", 0.0)
        try:
            _run(folder, command, resources, tick, "failed")
            if not folder.is_trained():
                folder.write_record(state="failed")
                raise RunFailed(f"training has left no complete model in {folder.zoo}:\n{folder.log_tail()}")
        finally:
            folder.write_record(wall_seconds=before + time.monotonic() - started)
    elif not folder.record():
        folder.write_record(device=folder.zoo_arguments()["device"], **describe_finished(folder.model))
    folder.write_record(state="trained")
    if plays := folder.missing_plays():
        command = [*EVALUATE_COMMAND, str(run.folder), "--algo", run.algo]
        command += ["--env", run.env, "--seed", str(FINAL_SEED), "--device", resources.device]
        command += ["--threads", str(resources.threads), "--plays", json.dumps(plays)]
        _run(folder, command, resources, tick, "trained")
    folder.write_record(state="finished")


def _run(
    folder: RunFolder, command: list[str], resources: Resources, tick: Callable[[], bool], state_if_failed: str
) -> None:
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(resources.threads)) | {"PYTHONUNBUFFERED": "1"}
    guard = ["-c", _END_WITH_PARENT] if sys.platform == "linux" else []
    with open(folder.log, "ab") as log:
        # Its own session: a Ctrl-C of the terminal must not reach the zoo, which would save the model as if the run
        # were complete.
        process = subprocess.Popen(
            [sys.executable, *guard, *command[1:]],
            cwd=folder.out,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            if not tick():
                folder.write_record(state="interrupted" if state_if_failed == "failed" else state_if_failed)
                raise Stopped
            time.sleep(POLL_SECONDS)
    finally:
        process.terminate()
        try:
            process.wait(TERMINATION_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0:
        folder.write_record(state=state_if_failed, returncode=process.returncode)
        raise RunFailed(f"exit status {process.returncode}, the end of {folder.log}:\n{folder.log_tail()}")
