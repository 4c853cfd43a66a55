"""Turns the runs of a study into rows, and rows into the CSV files that tables and figures are made from."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from provenance import PACKAGES
from run_folder import RunFolder, State
from studies import Run, Study, zoo_command

Row = dict[str, Any]

CURVE_FIELDS = ("study", "algo", "env", "seed", "step", "return_mean", "return_std")
SCALAR_FIELDS = ("study", "algo", "env", "seed", "step", "name", "value")
SUMMARY_FIELDS = (
    "study", "algo", "env", "seed", "steps", "final_episodes", "final_return_mean", "final_return_std",
    "wall_seconds", "device", "threads", "cpu", "python", *PACKAGES, "commit", "command",
)  # fmt: skip


class Collection:
    """The rows of one study.

    :param study: Its name
    """

    def __init__(self, study: str) -> None:
        self.study = study
        self.curves: list[Row] = []
        self.scalars: list[Row] = []
        self.summary: list[Row] = []
        self.missing: list[str] = []

    def paths(self, results: Path) -> dict[str, Path]:
        """
        :param results: Folder of the CSV files
        :return: Where each kind of rows is stored
        """
        return {
            "curves": results / f"{self.study}.csv",
            "scalars": results / f"{self.study}_scalars.csv",
            "summary": results / f"{self.study}_summary.csv",
        }

    def write(self, results: Path) -> list[Path]:
        """
        :param results: Folder of the CSV files
        :return: The files written
        """
        results.mkdir(parents=True, exist_ok=True)
        paths = self.paths(results)
        written = [
            _write_csv(paths["curves"], CURVE_FIELDS, self.curves),
            _write_csv(paths["summary"], SUMMARY_FIELDS, self.summary),
        ]
        if self.scalars:
            written.append(_write_csv(paths["scalars"], SCALAR_FIELDS, self.scalars))
        return written

    @classmethod
    def read(cls, study: Study, results: Path) -> Collection:
        """
        :param study: The study
        :param results: Folder of the CSV files
        :return: What was written there; empty where nothing was
        """
        collection = cls(study.name)
        paths = collection.paths(results)
        collection.curves = _read_csv(paths["curves"])
        collection.summary = _read_csv(paths["summary"])
        if study.scalars:
            collection.scalars = _read_csv(paths["scalars"])
        there = {_run_of(row) for row in collection.summary}
        collection.missing = [run.ids[0] for run in study.runs() if (run.name, run.env, run.seed) not in there]
        return collection

    def add(self, stored: Collection, study: Study) -> None:
        """Take over the results of runs that are not at hand.

        :param stored: What was written earlier
        :param study: The study, whose order the rows take
        """
        order = {(run.name, run.env, run.seed): run.ids[0] for run in study.runs()}
        mine = {_run_of(row) for row in self.summary}
        for name in ("curves", "scalars", "summary"):
            kept = [row for row in getattr(stored, name) if _run_of(row) in order and _run_of(row) not in mine]
            rows = sorted([*getattr(self, name), *kept], key=lambda row: list(order).index(_run_of(row)))
            setattr(self, name, rows)
        there = {order[_run_of(row)] for row in self.summary}
        self.missing = [entry for entry in self.missing if entry.partition(":")[0] not in there]


def _run_of(row: Row) -> tuple[str, str, int]:
    return row["algo"], row["env"], int(row["seed"])


def collect(study: Study, out: Path) -> Collection:
    """Read the finished runs of a study.

    :param study: The study
    :param out: Folder of all runs
    :return: Its rows; the runs that are not finished are named in ``missing``
    """
    collection = Collection(study.name)
    for run in study.runs():
        folder = RunFolder(out, run)
        state = folder.state()
        if state is not State.FINISHED:
            collection.missing.append(f"{run.ids[0]}: {state.value}")
            continue
        evaluations = folder.evaluations()
        assert evaluations is not None
        start: Row = {"study": study.name, "algo": run.name, "env": run.env, "seed": run.seed}
        for step, returns in zip(evaluations["timesteps"], evaluations["results"], strict=True):
            collection.curves.append(
                {**start, "step": int(step), "return_mean": _short(returns.mean()), "return_std": _short(returns.std())}
            )
        collection.scalars += [
            {**start, **row} for row in _read_scalars(folder, [int(step) for step in evaluations["timesteps"]])
        ]
        collection.summary.append({**start, **_summary(folder, run)})
    return collection


def _summary(folder: RunFolder, run: Run) -> Row:
    returns = folder.final_returns()
    assert returns is not None
    record, arguments = folder.record(), folder.zoo_arguments()
    seconds = record.get("wall_seconds")
    return {
        "steps": run.steps,
        "final_episodes": len(returns),
        "final_return_mean": _short(returns.mean()),
        "final_return_std": _short(returns.std()),
        "wall_seconds": "" if seconds is None else round(seconds),
        "device": arguments["device"],
        "threads": arguments["num_threads"],
        **{key: record.get(key, "") for key in ("cpu", "python", *PACKAGES, "commit")},
        # Written anew from the settings, which agree with the run's own: what was typed may hold paths of a machine.
        "command": shlex.join(zoo_command(run, arguments["device"])),
    }


def _read_scalars(folder: RunFolder, steps: Sequence[int]) -> list[Row]:
    names = folder.run.scalars
    if not names:
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    (events,) = (folder.root / "tensorboard").rglob("events.out.tfevents.*")
    # Zero keeps all values instead of a sample of them.
    accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0})
    accumulator.Reload()
    unknown = set(names) - set(accumulator.Tags()["scalars"])
    if unknown:
        raise ValueError(
            f"{folder.run.ids[0]}: nothing is logged as {', '.join(sorted(unknown))}; "
            f"there are {', '.join(accumulator.Tags()['scalars'])}"
        )
    rows = []
    for name in names:
        logged = np.array([(event.step / folder.run.agents, event.value) for event in accumulator.Scalars(name)])
        rows += [
            {"step": step, "name": name, "value": _short(value)} for step, value in mean_by_interval(logged, steps)
        ]
    return rows


def mean_by_interval(logged: np.ndarray, steps: Sequence[int]) -> list[tuple[int, float]]:
    """Thin out a logged quantity to the steps of the evaluations.

    :param logged: Steps and values, of shape (n, 2)
    :param steps: Ends of the intervals, ascending
    :return: Each end with the mean of what was logged since the one before; intervals without a value are left out
    """
    interval = np.searchsorted(np.asarray(steps), logged[:, 0])
    return [(step, float(logged[interval == i, 1].mean())) for i, step in enumerate(steps) if (interval == i).any()]


def _short(value: float) -> str:
    return f"{value:.6g}"


def _write_csv(path: Path, fields: Sequence[str], rows: Iterable[Row]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _read_csv(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
