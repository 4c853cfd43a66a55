"""Turns the runs of a study into the CSV files that tables and figures are made from."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sb3_sac_variants.study.provenance import PACKAGES
from sb3_sac_variants.study.run_folder import RunFolder, State, write_bytes
from sb3_sac_variants.study.studies import Study

KEYS = ["study", "algo", "env", "seed"]
#: Kinds of results, in the file ``<study>_<kind>.csv`` (curves: ``<study>.csv``), with their columns
COLUMNS = {
    "curves": [*KEYS, "step", "return_mean", "return_std"],
    "scalars": [*KEYS, "step", "name", "value"],
    "tests": [*KEYS, "world", "actions", "episodes", "return_mean", "return_std"],
    "summary": [*KEYS, "steps", "final_episodes", "final_return_mean", "final_return_std", "wall_seconds",
                "device", "threads", "cpu", "python", *PACKAGES, "commit", "command"],
}  # fmt: skip

Results = dict[str, pd.DataFrame]


def collect(study: Study, out: Path, stored: Results) -> tuple[Results, list[str]]:
    """Results by kind, as text: of finished runs anew, of others as stored; and lines for what is amiss or missing."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in COLUMNS}
    seeds: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    old, missing = stored["summary"].set_index(KEYS), []
    for run in study.runs():
        folder, key = RunFolder(out, run), (study.name, run.name, run.env, str(run.seed))
        if (state := folder.state()) is State.FINISHED and not folder.is_finite():
            missing.append(f"missing {run.folder}: some of its returns are not finite")
        elif state is State.FINISHED:
            seeds[run.name, run.env][folder.hyperparameters()].append(run.seed)
            for kind, found in _read(folder).items():
                rows[kind] += [dict(zip(KEYS, key, strict=True)) | row for row in found]
        elif state is not State.CONFLICT and key in old.index:
            row = old.loc[key]
            kept = {
                kind: frame[frame.set_index(KEYS).index == key].to_dict("records") for kind, frame in stored.items()
            }
            wanted = shlex.join(run.zoo_command(row["device"], row["threads"]))
            played = {"final": row["final_episodes"]}
            played |= {f"{test['world']}/{test['actions']}": test["episodes"] for test in kept["tests"]}
            fewer = any(int(played.get(name, 0)) * run.agents < play["episodes"] for name, play in run.plays().items())
            if state is not State.TO_DO or row["command"] != wanted or fewer:
                tests = f"{played.pop('final')} episodes and {len(played)} tests"
                missing.append(f"kept for {run.folder} ({state.words}): {tests} after {row['command']}")
            for kind, records in kept.items():
                rows[kind] += records
        else:
            missing.append(f"missing {run.folder}: {state.words}")
    missing += [
        f"mixed {study.name}/{name} on {env}: seeds {' and '.join(map(str, groups.values()))} have other "
        "hyperparameters (config.yml in their folders)"
        for (name, env), groups in seeds.items()
        if len(groups) > 1
    ]
    silent = set(study.scalars) - {row["name"] for row in rows["scalars"]} if rows["summary"] else set()
    missing += [f"missing scalars {name!r}: no run has logged it" for name in sorted(silent)]
    return {kind: pd.DataFrame(rows[kind], columns=COLUMNS[kind]).astype(str) for kind in COLUMNS}, missing


def write(results: Results, study: str, folder: Path) -> None:
    """Write the CSV files of a study; of kinds without rows only curves and summary."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, frame in results.items():
        if len(frame) or kind in ("curves", "summary"):
            write_bytes(_file(study, folder, kind), frame.to_csv(index=False, lineterminator="\n").encode())
        else:
            _file(study, folder, kind).unlink(missing_ok=True)


def read(study: str, folder: Path) -> Results:
    """Read what :func:`write` wrote, as text; empty where nothing was. An error if somebody has changed it."""
    results = {kind: pd.DataFrame(columns=columns) for kind, columns in COLUMNS.items()}
    for kind, columns in COLUMNS.items():
        if (file := _file(study, folder, kind)).exists():
            results[kind] = pd.read_csv(file, dtype=str, keep_default_na=False)
            key = [name for name in columns if name in (*KEYS, "step", "name", "world", "actions")]
            if not set(columns) <= set(results[kind]) or results[kind].duplicated(key).any():
                raise ValueError(f"{file} lacks columns or has a row twice: put back what report wrote, or remove it")
    if lost := set(results["summary"].set_index(KEYS).index) - set(results["curves"].set_index(KEYS).index):
        file = _file(study, folder, "curves")
        raise ValueError(f"{file} lacks {min(lost)}: put back what report wrote, or remove the summary, too")
    return results


def _file(study: str, folder: Path, kind: str) -> Path:
    return folder / (f"{study}.csv" if kind == "curves" else f"{study}_{kind}.csv")


def _read(folder: RunFolder) -> dict[str, list[dict[str, Any]]]:
    run, evaluations, record = folder.run, folder.evaluations(), folder.record()
    assert evaluations is not None
    steps = evaluations["timesteps"].tolist()
    plays = {name: _spread(folder.returns(name)) for name in run.plays()}
    summary = {
        "steps": run.steps,
        **{f"final_{key}": value for key, value in plays.pop("final").items()},
        "wall_seconds": round(record["wall_seconds"]),
        **{key: record.get(key, "") for key in ("device", "threads", "cpu", "python", *PACKAGES, "commit")},
        "command": shlex.join(run.zoo_command(record["device"], record["threads"])),
    }
    curves = [{"step": step} | _spread(values) for step, values in zip(steps, evaluations["results"], strict=True)]
    tests = [dict(zip(("world", "actions"), name.split("/"), strict=True)) | play for name, play in plays.items()]
    scalars = [
        {"step": step, "name": name, "value": f"{value:.6g}"}
        for name, logged in read_scalars(folder).items()
        for step, value in mean_by_interval(logged, steps).items()
    ]
    return {"curves": curves, "scalars": scalars, "tests": tests, "summary": [summary]}


def _spread(values: np.ndarray | None) -> dict[str, Any]:
    assert values is not None
    return {"episodes": len(values), "return_mean": f"{values.mean():.6g}", "return_std": f"{values.std():.6g}"}


def read_scalars(folder: RunFolder) -> dict[str, dict[float, float]]:
    """Read what a run has logged of the scalars that its study asks for, by steps of the environment."""
    run, logged = folder.run, defaultdict[str, dict[float, float]](dict)
    if run.scalars:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore

        # A run that went on after an interruption has a file for each attempt; the later one counts.
        for file in sorted((folder.root / "tensorboard").rglob("events.out.tfevents.*"), key=lambda file: file.name):
            # Zero keeps all values instead of a sample of them.
            accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
            for name in accumulator.Tags()["scalars"]:
                logged[name] |= {event.step / run.agents: event.value for event in accumulator.Scalars(name)}
    return {name: logged[name] for name in run.scalars if name in logged}


def mean_by_interval(logged: Mapping[float, float], steps: Sequence[int]) -> dict[int, float]:
    """Mean of what was logged since the last evaluation, by the step of each; none where nothing was."""
    values = pd.Series(logged)
    ends = pd.cut(values.index.astype(float), [-np.inf, *steps], labels=steps)
    return {int(end): float(mean) for end, mean in values.groupby(ends, observed=True).mean().items()}
