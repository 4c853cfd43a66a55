"""One run on disk: where its files are, how far it is, and whether it is finished."""

from __future__ import annotations

import fcntl
import json
import os
import time
import zipfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from studies import Run

# A run without our record that was written to this recently is taken to be still running. Longer than an episode of
# any usual environment, because the zoo writes to its folder only at the end of episodes and evaluations.
FRESH_SECONDS = 600.0


class State(str, Enum):
    """What is to be done with a run."""

    TO_DO = "to do"
    RUNNING = "running elsewhere"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    TRAINED = "trained, not evaluated"
    FINISHED = "finished"
    CONFLICT = "other settings"


class ZooLoader(yaml.SafeLoader):
    """Reads the zoo's ``args.yml``, whose Python tags a safe loader refuses, without running code named in the file."""


def _construct_python(loader: yaml.SafeLoader, kind: str, node: yaml.Node) -> Any:
    if kind == "object/apply:collections.OrderedDict" and isinstance(node, yaml.SequenceNode):
        (pairs,) = loader.construct_sequence(node, deep=True)
        return dict(pairs)
    if kind == "tuple" and isinstance(node, yaml.SequenceNode):
        return tuple(loader.construct_sequence(node, deep=True))
    # A class or a function: its name says enough to compare it.
    return kind


ZooLoader.add_multi_constructor("tag:yaml.org,2002:python/", _construct_python)


class RunFolder:
    """The folder of one run: ``<out>/<name>/<env>/seed<k>``, in it the zoo's ``<algo>/<env>_1``.

    :param out: Folder of all runs
    :param run: The run
    """

    def __init__(self, out: Path, run: Run) -> None:
        self.out = out
        self.run = run
        self.root = out / run.folder
        self.zoo = self.root / run.algo / f"{run.env_name}_1"
        self.model = self.zoo / f"{run.env_name}.zip"
        self.evaluations_file = self.zoo / "evaluations.npz"
        self.log = self.root / "out.log"
        self.record_file = self.root / "run.json"
        self.final_file = self.root / "final_evaluation.json"
        self.lock_file = out / ".locks" / ("--".join(run.folder.parts) + ".lock")

    # What is there

    def evaluations(self) -> dict[str, np.ndarray] | None:
        """The zoo's evaluations so far.

        :return: ``timesteps`` of shape (n,), ``results`` and ``ep_lengths`` of shape (n, episodes); None where there
            is no evaluation yet or the file is just being written
        """
        try:
            with np.load(self.evaluations_file) as data:
                every = self.run.agents  # each of the agents reports the episode
                return {
                    "timesteps": data["timesteps"] // every,
                    "results": data["results"][:, ::every],
                    "ep_lengths": data["ep_lengths"][:, ::every],
                }
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def record(self) -> dict[str, Any]:
        """What the harness noted about the run (state, versions, wall time); empty for a run started by hand."""
        return read_json(self.record_file) or {}

    def write_record(self, **fields: Any) -> None:
        """Add to the record.

        :param fields: Entries to set
        """
        write_json(self.record_file, {**self.record(), **fields})

    def final_returns(self) -> np.ndarray | None:
        """Returns of the final evaluation, if it was made as the study asks for.

        :return: Array of shape (episodes,), or None
        """
        result = read_json(self.final_file)
        final = self.run.final
        if result is None or result["deterministic"] != final.deterministic:
            return None
        returns = np.asarray(result["returns"], dtype=np.float64)[:: self.run.agents]
        return None if len(returns) < final.episodes else returns

    def zoo_arguments(self) -> dict[str, Any]:
        """The arguments that the zoo was started with, from its ``args.yml``; empty before training starts."""
        try:
            text = (self.zoo / self.run.env_name / "args.yml").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        return dict(yaml.load(text, Loader=ZooLoader) or {})

    def conflicts(self) -> list[str]:
        """Settings in which the run on disk differs from the run that is wanted.

        :return: One line for each difference; empty if they agree
        """
        arguments = self.zoo_arguments()
        if not arguments:
            return []
        wanted = self.run.settings()
        found = {key: arguments[key] for key in wanted}
        found["hyperparams"] = found["hyperparams"] or {}
        differences = [
            f"{key} is {found[key]!r}, wanted {value!r}"
            for key, value in wanted.items()
            if not _agree(found[key], value)
        ]
        if not differences and set(found["hyperparams"]) != set(wanted["hyperparams"]):
            differences.append(f"hyperparams is {found['hyperparams']!r}, wanted {wanted['hyperparams']!r}")
        if self.run.scalars and not arguments["tensorboard_log"]:
            differences.append(f"it has no TensorBoard log with {', '.join(self.run.scalars)}")
        return differences

    def is_trained(self) -> bool:
        """Whether the last evaluation and the complete model are there."""
        evaluations = self.evaluations()
        # Several environments step together, so that the last evaluation may come a few steps early.
        if evaluations is None or evaluations["timesteps"][-1] <= self.run.steps - self.run.eval_freq:
            return False
        # A zip that was cut off has no central directory.
        return self.model.is_file() and zipfile.is_zipfile(self.model)

    def is_locked(self) -> bool:
        """Whether a harness, or a run that outlived its harness, holds the run."""
        if not self.lock_file.exists():
            return False
        lock = self.lock()
        if lock is None:
            return True
        os.close(lock)
        return False

    def state(self) -> State:
        """Look at the files and say what is to be done."""
        return State.RUNNING if self.is_locked() else self.state_unlocked()

    def state_unlocked(self) -> State:
        """As :meth:`state`, for the caller that holds the lock."""
        if not self.root.exists() or not any(self.root.iterdir()):
            return State.TO_DO
        if self.is_trained():
            if self.conflicts():
                return State.CONFLICT
            return State.TRAINED if self.final_returns() is None else State.FINISHED
        record = self.record()
        if record.get("state") == "failed":
            return State.FAILED
        if not record and time.time() - self._last_write() < FRESH_SECONDS:
            return State.RUNNING
        return State.INTERRUPTED

    def steps_done(self) -> int:
        """Environment steps so far, from the last evaluation and the episodes in the monitor files."""
        evaluations = self.evaluations()
        evaluated = 0 if evaluations is None else int(evaluations["timesteps"][-1])
        return min(max(evaluated, sum(self._episode_lengths())), self.run.steps)

    def last_return(self) -> float | None:
        """Mean return of the last evaluation, if there is one."""
        evaluations = self.evaluations()
        return None if evaluations is None else float(evaluations["results"][-1].mean())

    def log_tail(self, lines: int = 15) -> str:
        """The end of the run's output.

        :param lines: Number of lines
        :return: The lines, indented
        """
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "    (no output)"
        return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:]) or "    (no output)"

    def started(self) -> float | None:
        """Time at which training started, in seconds since the epoch."""
        if "started" in self.record():
            return float(self.record()["started"])
        try:
            with open(self.zoo / "0.monitor.csv", encoding="utf-8") as file:
                return float(json.loads(file.readline().lstrip("#"))["t_start"])
        except (OSError, ValueError, KeyError):
            return None

    # What is done to it

    def lock(self) -> int | None:
        """Claim the run. The claim is inherited by a child that gets the descriptor and ends with the last holder.

        :return: A file descriptor to close when done, or None if someone else holds the run
        """
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def set_aside(self) -> Path | None:
        """Rename what an unfinished run has left, so that the run can start again in an empty folder.

        :return: The new path (``seed1-interrupted-1``), or None if there was nothing
        """
        if self.state_unlocked() is State.TO_DO:
            return None
        word = "failed" if self.state_unlocked() is State.FAILED else "interrupted"
        number = 1
        while (target := self.root.with_name(f"{self.root.name}-{word}-{number}")).exists():
            number += 1
        self.root.rename(target)
        return target

    def _last_write(self) -> float:
        return max(path.stat().st_mtime for path in (self.root, *self.root.rglob("*")))

    def _episode_lengths(self) -> list[int]:
        lengths = []
        for path in self.zoo.glob("*.monitor.csv"):
            rows = path.read_text(encoding="utf-8").splitlines()[2:]
            # The last row may be half written.
            lengths += [int(cells[1]) for cells in (row.split(",") for row in rows) if len(cells) > 2]
        return lengths


def _agree(found: Any, wanted: Any) -> bool:
    # Stable-Baselines3 adds to the policy_kwargs that it is given (use_sde), before the zoo saves them.
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return all(key in found and _agree(found[key], value) for key, value in wanted.items())
    return bool(found == wanted)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object.

    :param path: The file
    :return: Its content, or None where there is no such file
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object in one step, so that an interruption leaves the old file or the new one.

    :param path: The file
    :param content: Its content
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
