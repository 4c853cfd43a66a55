"""One run on disk: where its files are, how far it is, and what is left to do."""

import contextlib
import itertools
import json
import zipfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
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
        self.zoo = out / run.zoo_folder
        self.model = self.zoo / f"{run.env_name}.zip"
        self.evaluations_file = self.zoo / "evaluations.npz"
        self.checkpoint = self.zoo / "checkpoint" / "checkpoint.json"
        self.log = self.root / "out.log"
        self.plays_file = self.root / "plays.json"
        # One for each run, so that several commands can share the work in a folder. It lies outside the run's folder,
        # which is renamed when it is set aside. The system holds it, so that it ends with its process.
        self.lock = FileLock(out / ".locks" / ("--".join(run.folder.parts) + ".lock"), thread_local=False)

    def evaluations(self) -> dict[str, np.ndarray] | None:
        """``timesteps`` of shape (n,) and ``results`` of shape (n, episodes); None where none can be read yet."""
        try:
            with np.load(self.evaluations_file) as data:
                every = self.run.agents  # each of the agents reports the episode
                return {"timesteps": data["timesteps"] // every, "results": data["results"][:, ::every]}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def record(self) -> dict[str, Any]:
        """What was noted about the run: settings, versions, wall time; empty before it has begun."""
        return read_json(self.root / "run.json")

    def write_record(self, **fields: Any) -> None:
        """Add entries to the record."""
        write_json(self.root / "run.json", {**self.record(), **fields})

    def returns(self, name: str) -> np.ndarray | None:
        """Returns, of shape (episodes,), of an evaluation in ``run.plays()``, if it was made as it is wanted now."""
        play, made = json.loads(json.dumps(self.run.plays()[name])), read_json(self.plays_file).get(name)
        if made is None or any(made.get(key) != play[key] for key in ("seed", "deterministic", "params")):
            return None
        returns = np.asarray(made["returns"], dtype=np.float64)
        return returns[:: self.run.agents] if len(returns) >= play["episodes"] else None

    def missing_plays(self) -> dict[str, dict[str, Any]]:
        """The evaluations of the saved model that are still to be made."""
        return {name: play for name, play in self.run.plays().items() if self.returns(name) is None}

    def conflicts(self) -> list[str]:
        """Settings in which the run on disk differs from the run that is wanted, one line for each."""
        record = self.record()
        made, wanted = record.get("settings", {}), self.run.settings()
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
        return zipfile.is_zipfile(self.model)  # one that was cut off has no central directory

    def claim(self, timeout: float = 2.0) -> bool:
        """Keep other processes from the run until ``lock.release()``; false if one holds it for more than a look."""
        with contextlib.suppress(Timeout):
            self.lock.acquire(timeout=timeout, poll_interval=0.01)
        return self.lock.is_locked

    def is_held(self, patience: float) -> bool:
        """Whether this process or another one has claimed the run; ``patience`` waits for the end of a mere look."""
        other = RunFolder(self.out, self.run)
        if self.lock.is_locked or (Path(self.lock.lock_file).exists() and not other.claim(patience)):
            return True
        other.lock.release()
        return False

    def state(self, patience: float = 0.1) -> State:
        """Say what is to be done, or that somebody is at it."""
        return State.RUNNING if self.is_held(patience) else self.found()

    def found(self) -> State:
        """Look at the files and say what is to be done."""
        if not self.root.exists() or not any(self.root.iterdir()):
            return State.TO_DO
        record, trained = self.record(), self.is_trained()
        if record.get("failed") and not trained:
            return State.FAILED
        if self.conflicts() and (record or trained):
            return State.CONFLICT
        if trained:
            return State.TRAINED if self.missing_plays() else State.FINISHED
        return State.INTERRUPTED

    def steps_done(self) -> int:
        """Environment steps so far, from the last evaluation and the episodes in the monitor files."""
        evaluations, files = self.evaluations(), self.zoo.glob("*.monitor.csv")
        rows = [row.split(",") for path in files for row in path.read_text(encoding="utf-8").splitlines()[2:]]
        steps = sum(int(row[1]) for row in rows if len(row) > 2)  # the last row may be half written
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no such file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in one step."""
    write_bytes(path, json.dumps(content, indent=1).encode() + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step, so that an interruption leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
