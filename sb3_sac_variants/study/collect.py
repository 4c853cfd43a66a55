"""Turns the runs of a study into the CSV files that tables and figures are made from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sb3_sac_variants.study.provenance import PACKAGES
from sb3_sac_variants.study.run_folder import RunFolder, State
from sb3_sac_variants.study.studies import Study

KEYS = ["algo", "env", "seed"]
#: Kinds of results: end of the file's name, and columns after study, algo, env and seed
KINDS = {
    "curves": ("", ["step", "return_mean", "return_std"]),
    "scalars": ("_scalars", ["step", "name", "value"]),
    "tests": ("_tests", ["world", "actions", "episodes", "return_mean", "return_std"]),
    "summary": ("_summary", ["steps", "final_episodes", "final_return_mean", "final_return_std", "wall_seconds",
                             "device", "threads", "cpu", "python", *PACKAGES, "commit", "command"]),
}  # fmt: skip

Results = dict[str, pd.DataFrame]


def collect(study: Study, out: Path, stored: Results) -> tuple[Results, list[str]]:
    """Read the finished runs of a study.

    :param study: The study
    :param out: Folder of all runs
    :param stored: Results written earlier, which are kept for runs that are not finished in ``out``
    :return: Results by kind, as text, and a line for each run that there are none of
    """
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    old = stored["summary"].set_index(KEYS).index
    missing = []
    for run in study.runs():
        folder, key = RunFolder(out, run), (run.name, run.env, str(run.seed))
        state = folder.state()
        if state is State.FINISHED:
            for kind, found in _read(folder).items():
                rows[kind] += [{"study": study.name, **dict(zip(KEYS, key, strict=True)), **row} for row in found]
        elif key in old:
            for kind, frame in stored.items():
                rows[kind] += frame[frame.set_index(KEYS).index == key].to_dict("records")
        else:
            missing.append(f"{run.ids[0]}: {state.value}")
    return {kind: pd.DataFrame(rows[kind], columns=_columns(kind)).astype(str) for kind in KINDS}, missing


def write(results: Results, study: str, folder: Path) -> None:
    """Write the CSV files of a study; of kinds without rows only curves and summary."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, frame in results.items():
        if len(frame) or kind in ("curves", "summary"):
            frame.to_csv(folder / f"{study}{KINDS[kind][0]}.csv", index=False, lineterminator="\n")


def read(study: str, folder: Path) -> Results:
    """Read what :func:`write` wrote, as text; empty where nothing was."""
    results = {}
    for kind, (suffix, _) in KINDS.items():
        path = folder / f"{study}{suffix}.csv"
        empty = pd.DataFrame(columns=_columns(kind))
        results[kind] = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else empty
    return results


def _columns(kind: str) -> list[str]:
    return ["study", *KEYS, *KINDS[kind][1]]


def _read(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    run, evaluations, record, arguments = folder.run, folder.evaluations(), folder.record(), folder.zoo_arguments()
    assert evaluations is not None
    steps, seconds = evaluations["timesteps"].tolist(), folder.wall_seconds()
    plays = {name: _spread(folder.returns(name)) for name in run.plays()}
    summary = {
        "steps": run.steps,
        **{f"final_{key}": value for key, value in plays.pop("final").items()},
        "wall_seconds": "" if seconds is None else round(seconds),
        "device": arguments["device"],
        "threads": arguments["num_threads"],
        **{key: record.get(key, "") for key in ("cpu", "python", *PACKAGES, "commit")},
        # Written anew from the settings, which agree with the run's own: what was typed may hold paths of a machine.
        "command": shlex.join(run.zoo_command(arguments["device"], arguments["num_threads"])),
    }
    curves = [{"step": step} | _spread(values) for step, values in zip(steps, evaluations["results"], strict=True)]
    tests = [dict(zip(("world", "actions"), name.split("/"), strict=True)) | play for name, play in plays.items()]
    return {"curves": curves, "scalars": _read_scalars(folder, steps), "tests": tests, "summary": [summary]}


def _spread(values: np.ndarray | None) -> dict[str, Any]:
    assert values is not None
    return {"episodes": len(values), "return_mean": _short(values.mean()), "return_std": _short(values.std())}


def _read_scalars(folder: RunFolder, steps: Sequence[int]) -> list[dict[str, Any]]:
    run = folder.run
    if not run.scalars:
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    logged: dict[str, dict[float, float]] = {}
    # A run that went on after an interruption has a file for each attempt; the later one counts.
    for file in sorted((folder.root / "tensorboard").rglob("events.out.tfevents.*"), key=lambda file: file.name):
        # Zero keeps all values instead of a sample of them.
        accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0})
        accumulator.Reload()
        for name in accumulator.Tags()["scalars"]:
            values = {event.step / run.agents: event.value for event in accumulator.Scalars(name)}
            logged.setdefault(name, {}).update(values)
    if unknown := set(run.scalars) - set(logged):
        raise ValueError(f"{run.ids[0]}: scalars={sorted(unknown)} are not logged; there are {', '.join(logged)}")
    return [
        {"step": step, "name": name, "value": _short(value)}
        for name in run.scalars
        for step, value in mean_by_interval(logged[name], steps).items()
    ]


def mean_by_interval(logged: Mapping[float, float], steps: Sequence[int]) -> dict[int, float]:
    """Thin out a logged quantity, by step, to the steps of the evaluations: the mean of what was logged since the last.

    Intervals without a value are left out.
    """
    ends = pd.cut(np.array(list(logged), dtype=float), [-np.inf, *steps], labels=list(steps))
    return {
        int(end): float(mean) for end, mean in pd.Series([*logged.values()]).groupby(ends, observed=True).mean().items()
    }


def _short(value: float) -> str:
    return f"{value:.6g}"
