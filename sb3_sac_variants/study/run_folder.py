"""One run on disk: where its files are, how far it is, and what is left to do."""

import contextlib
import itertools
import json
import os
import re
import zipfile
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from sb3_sac_variants.study.studies import Run


class State(Enum):
    """What is to be done with a run, in words, and as a sign with its colour."""

    FINISHED = "finished", "✓", "green"
    TRAINED = "trained, not evaluated", "e", "cyan"
    FAILED = "failed", "✗", "red"
    CONFLICT = "other settings", "≠", "red"
    INTERRUPTED = "interrupted", "‖", "yellow"
    RUNNING = "running", "▶", "cyan"
    TO_DO = "to do", "·", "dim"

    @property
    def words(self) -> str:
        """As tables and messages say it."""
        return self.value[0]


class RunFolder:
    """The folder of one run: ``<out>/<study>/<name>/<env>/seed<k>``, in it the zoo's ``<algo>/<env>_1``."""

    def __init__(self, out: Path, run: Run) -> None:
        self.out = out
        self.run = run
        self.root = out / run.folder
        self.zoo = self.root / run.algo / f"{run.env_name}_1"
        self.model = self.zoo / f"{run.env_name}.zip"
        self.evaluations_file = self.zoo / "evaluations.npz"
        self.checkpoint = self.zoo / "checkpoint" / "checkpoint.json"
        self.log = self.root / "out.log"
        # One for each run, so that several commands can share the work in a folder. It lies outside the run's folder,
        # which is renamed when it is set aside. The system holds it, so that it ends with its process.
        self.lock = FileLock(out / ".locks" / f"{run.folder}.lock", thread_local=False)

    def evaluations(self) -> dict[str, np.ndarray] | None:
        """``timesteps`` of shape (n,) and ``results`` of shape (n, episodes); None where none can be read yet."""
        try:
            with np.load(self.evaluations_file) as data:
                every = self.run.agents  # each of the agents reports the episode
                found = {"timesteps": data["timesteps"] // every, "results": data["results"][:, ::every]}
                return found if len(found["timesteps"]) else None
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def hyperparameters(self) -> str:
        """What the zoo has noted, without callbacks: all that it trained with, an algorithm's own file included."""
        file = self.zoo / self.run.env_name / "config.yml"
        if not file.exists():
            return ""
        noted: Any = yaml.compose(file.read_text(encoding="utf-8"))  # an ordered dictionary, as a list of pairs
        return "".join(yaml.serialize(pair) for pair in noted.value[0].value if pair.value[0].value != "callback")

    def record(self) -> dict[str, Any]:
        """What was noted of the run: settings, versions, wall time, evaluations of its model; empty before it began."""
        file = self.root / "run.json"
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}): remove {self.root} to start the run anew") from error

    def write_record(self, **fields: Any) -> None:
        """Add entries to the record."""
        write_bytes(self.root / "run.json", json.dumps({**self.record(), **fields}, indent=1).encode() + b"\n")

    def returns(self, name: str) -> np.ndarray | None:
        """Returns, of shape (episodes,), of an evaluation in ``run.plays()``, if it was made as it is wanted now."""
        play, made = json.loads(json.dumps(self.run.plays()[name])), self.record().get("plays", {}).get(name)
        if made is None or any(made.get(key) != play[key] for key in ("seed", "deterministic", "params")):
            return None
        returns = np.asarray(made["returns"], dtype=np.float64)
        return returns[:: self.run.agents] if len(returns) >= play["episodes"] else None

    def is_finite(self) -> bool:
        """Whether the returns of a finished run are numbers."""
        curve = (self.evaluations() or {}).get("results", np.nan)
        return all(
            np.isfinite(np.asarray(values, float)).all() for values in (curve, *map(self.returns, self.run.plays()))
        )

    def missing_plays(self) -> dict[str, dict[str, Any]]:
        """The evaluations of the saved model that are still to be made."""
        return {name: play for name, play in self.run.plays().items() if self.returns(name) is None}

    def conflicts(self) -> list[str]:
        """Settings in which the run on disk differs from the run that is wanted, one line for each."""
        record, wanted = self.record(), self.run.settings()
        if (made := record.get("settings")) is None:
            return ["it has no run.json that says how it was made"] if self.zoo.exists() else []
        lines = [f"{key} is {made.get(key)}, wanted {wanted[key]}" for key in wanted if made.get(key) != wanted[key]]
        if self.run.scalars and not record.get("scalars"):
            lines.append(f"it has no TensorBoard log with {', '.join(self.run.scalars)}")
        return lines

    def is_trained(self) -> bool:
        """Whether the last evaluation and the complete model are there."""
        evaluations = self.evaluations()
        # Several environments step together, so that the last evaluation may come a few steps early.
        if evaluations is None or evaluations["timesteps"][-1] <= self.run.steps - self.run.eval_freq:
            return False
        if not zipfile.is_zipfile(self.model):  # one that was cut off has no central directory
            return False
        # After the model the zoo saves what normalises, where so far that of the best model was.
        normalizes = (self.zoo / self.run.env_name / "vecnormalize.pkl").exists()
        return not normalizes or self.record().get("saved", True)

    def claim(self, timeout: float = 2.0) -> bool:
        """Keep other processes from the run until ``lock.release()``; false if one holds it for more than a look."""
        with contextlib.suppress(Timeout):
            self.lock.acquire(timeout=timeout, poll_interval=0.01)
        return self.lock.is_locked

    def state(self, patience: float = 0.1) -> State:
        """Say what is to be done, or that somebody is at it; ``patience`` waits for the end of another one's look."""
        look = RunFolder(self.out, self.run)
        with contextlib.suppress(PermissionError):  # in somebody else's folder one may look all the same
            if self.lock.is_locked or (Path(self.lock.lock_file).exists() and not look.claim(patience)):
                return State.RUNNING
        try:
            return self.found()  # while nobody sets it aside
        except ValueError:  # a damaged record, which work on the run and its status name
            return State.FAILED
        finally:
            look.lock.release()

    def found(self) -> State:
        """Look at the files and say what is to be done."""
        if not self.root.exists() or not any(self.root.iterdir()):
            return State.TO_DO
        record, trained = self.record(), self.is_trained()
        # Files that this run cannot use are in its way only if somebody may still want them.
        if self.conflicts() and (self.model.exists() or self.checkpoint.exists() or not record):
            return State.CONFLICT
        if trained and not self.missing_plays():
            return State.FINISHED
        if record.get("failed"):
            return State.FAILED
        return State.TRAINED if trained else State.INTERRUPTED

    def steps_done(self) -> int:
        """Environment steps so far, from the last evaluation and the episodes in the monitor files."""
        evaluations, steps = self.evaluations(), 0
        with contextlib.suppress(FileNotFoundError):  # it is just being set aside
            for file in self.zoo.glob("*.monitor.csv"):
                rows = file.read_text(encoding="utf-8")  # return,length,time; the last one may be half written
                steps += sum(map(int, re.findall(r"^[^,]+,(\d+),", rows, re.MULTILINE)))
        return min(max(0 if evaluations is None else int(evaluations["timesteps"][-1]), steps), self.run.steps)

    def log_tail(self) -> str:
        """The last lines of the run's output, indented."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-15:]) or "    (no output)"

    def set_aside(self) -> None:
        """Rename what an unfinished run has left (``seed1-interrupted-1``), so that it can start in an empty folder."""
        word = "failed" if self.record().get("failed") else "interrupted"
        if self.root.exists() and any(self.root.iterdir()):
            names = (f"{self.root.name}-{word}-{number}" for number in itertools.count(1))
            self.root.rename(next(path for path in map(self.root.with_name, names) if not path.exists()))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, so that an interruption leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
