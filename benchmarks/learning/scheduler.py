"""Runs training processes side by side, each with its final evaluation behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from provenance import describe, describe_finished
from run_folder import RunFolder, State
from studies import zoo_command

# Of the environment and of the policy's noise in final evaluations; the same for all algorithms, so that they meet the
# same initial states, and far from the seeds of training.
FINAL_SEED = 10_000
TERMINATION_SECONDS = 10.0
FINAL_SCRIPT = Path(__file__).resolve().with_name("final_evaluation.py")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Job:
    """A run in progress: first the zoo's training, then the final evaluation.

    :param folder: The run
    :param lock: Descriptor of the lock that is held on it
    :param device: PyTorch device
    """

    def __init__(self, folder: RunFolder, lock: int, device: str) -> None:
        self.folder = folder
        self.lock = lock
        self.device = device
        self.training = not folder.is_trained()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Path | None:
        """Start the training, or the evaluation of a run that is trained already.

        :return: Where an earlier attempt was moved to, if there was one
        """
        aside = None
        if self.training:
            aside = self.folder.set_aside()
            self.folder.root.mkdir(parents=True, exist_ok=True)
            self.folder.write_record(state="running", started=time.time(), device=self.device, **describe())
            self._spawn([sys.executable, *zoo_command(self.folder.run, self.device)[1:]])
        else:
            if not self.folder.record():
                self.folder.write_record(
                    state="trained",
                    device=self.folder.zoo_arguments()["device"],
                    **describe_finished(self.folder.model),
                )
            self._start_evaluation()
        return aside

    def poll(self) -> State | None:
        """Go on to the evaluation when training has ended.

        :return: ``FINISHED`` or ``FAILED`` when the job is over, else None
        """
        assert self._process is not None
        returncode = self._process.poll()
        if returncode is None:
            return None
        if self.training and returncode == 0 and self.folder.is_trained():
            self.training = False
            self._start_evaluation()
            return None
        finished = not self.training and returncode == 0 and self.folder.final_returns() is not None
        # A run whose evaluation failed keeps its training.
        state = "finished" if finished else "failed" if self.training else "trained"
        self._end(state, returncode=returncode)
        return State.FINISHED if finished else State.FAILED

    def signal(self, number: int) -> None:
        """Send a signal to the processes of the job, the compiler's workers included.

        :param number: The signal
        """
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def interrupt(self, deadline: float) -> None:
        """Wait for the end of processes that were told to end, then kill, and mark the run.

        :param deadline: Time (monotonic) until which to wait
        """
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._end("interrupted" if self.training else "trained")

    def _start_evaluation(self) -> None:
        started = self.folder.started()
        if "wall_seconds" not in self.folder.record() and started is not None:
            # The zoo writes the model last.
            self.folder.write_record(state="trained", wall_seconds=self.folder.model.stat().st_mtime - started)
        run, final = self.folder.run, self.folder.run.final
        command = [sys.executable, str(FINAL_SCRIPT), str(run.folder), "--algo", run.algo, "--env", run.env]
        command += ["--episodes", str(final.episodes * run.agents), "--seed", str(FINAL_SEED), "--device", self.device]
        self._spawn(command if final.deterministic else [*command, "--stochastic"])

    def _spawn(self, command: list[str]) -> None:
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, "1") | {"PYTHONUNBUFFERED": "1"}
        with open(self.folder.log, "ab") as log:
            # Its own session: a Ctrl-C of the terminal must not reach the zoo, which would save the model as if the run
            # were complete. The lock goes along, so that a process that outlives the harness keeps its run.
            self._process = subprocess.Popen(
                command,
                cwd=self.folder.out,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.lock,),
            )
        self.folder.write_record(pid=self._process.pid)

    def _end(self, state: str, **fields: int) -> None:
        self.folder.write_record(state=state, **fields)
        os.close(self.lock)


class Scheduler:
    """Works through runs with a number of processes side by side.

    :param folders: The runs, in order
    :param jobs: Processes side by side
    :param device: PyTorch device
    :param say: Called with a line of text for each event
    """

    def __init__(self, folders: Iterable[RunFolder], jobs: int, device: str, say: Callable[[str], None]) -> None:
        self.waiting = deque(folders)
        self.running: list[Job] = []
        self.finished: list[RunFolder] = []
        self.failed: list[RunFolder] = []
        self.skipped: list[RunFolder] = []
        self._jobs = jobs
        self._device = device
        self._say = say

    def step(self) -> bool:
        """Collect the jobs that are over and start others in their place.

        :return: Whether there is more to do
        """
        for job in list(self.running):
            outcome = job.poll()
            if outcome is None:
                continue
            self.running.remove(job)
            folder = job.folder
            if outcome is State.FINISHED:
                self.finished.append(folder)
                returns = folder.final_returns()
                assert returns is not None
                self._say(f"finished {folder.run.folder}: final return {returns.mean():.1f} +- {returns.std():.1f}")
            else:
                self.failed.append(folder)
                self._say(f"FAILED {folder.run.folder}, the end of {folder.log}:\n{folder.log_tail()}")
        while self.waiting and len(self.running) < self._jobs:
            self._start(self.waiting.popleft())
        return bool(self.running)

    def interrupt(self) -> None:
        """End all processes and mark their runs as interrupted."""
        for job in self.running:
            job.signal(signal.SIGTERM)
        deadline = time.monotonic() + TERMINATION_SECONDS
        while self.running:
            job = self.running.pop()
            job.interrupt(deadline)
            self._say(f"interrupted {job.folder.run.folder}")

    def _start(self, folder: RunFolder) -> None:
        lock = folder.lock()
        if lock is None or folder.state_unlocked() in (State.FINISHED, State.RUNNING, State.CONFLICT):
            # Someone else has taken or ended it since we looked.
            if lock is not None:
                os.close(lock)
            self.skipped.append(folder)
            self._say(f"skipped {folder.run.folder}: taken by another process meanwhile")
            return
        job = Job(folder, lock, self._device)
        aside = job.start()
        if aside is not None:
            self._say(f"set aside an earlier attempt at {folder.run.folder} as {aside.name}")
        self.running.append(job)
        self._say(f"{'training' if job.training else 'evaluating'} {folder.run.folder}")
