"""The file of studies: read, check, and turn into runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from sb3_sac_variants.study.runs import FinalEvaluation, Run, Tests


@dataclass(frozen=True)
class Variant:
    """One curve of a study: an algorithm with its settings.

    :param baseline: Name of the variant to compare it with, if any
    """

    name: str
    algo: str
    label: str
    params: Mapping[str, Any]
    baseline: str | None
    agents: int


@dataclass(frozen=True)
class Study:
    """A set of runs that one table and one figure report together; the fields are those of the file."""

    name: str
    title: str
    environments: Mapping[str, Mapping[str, Any]]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    steps: int
    eval_freq: int
    eval_episodes: int
    params: Mapping[str, Any]
    final: FinalEvaluation
    tests: Tests
    scalars: tuple[str, ...]
    checkpoint_freq: int
    published: Mapping[str, Mapping[str, Mapping[int, list[float]]]]

    def runs(self) -> list[Run]:
        """All runs of the study, first seeds first, so that an early look covers every curve."""
        shared = ("steps", "eval_freq", "eval_episodes", "final", "tests", "scalars", "checkpoint_freq")
        runs = [
            Run(
                name=variant.name,
                algo=variant.algo,
                env=env,
                seed=seed,
                params={**self.params, **env_params, **variant.params},
                agents=variant.agents,
                **{field: getattr(self, field) for field in shared},
            )
            for seed in self.seeds
            for env, env_params in self.environments.items()
            for variant in self.variants
        ]
        return [replace(run, ids=(f"{self.name}/{run.folder}",)) for run in runs]


def load_studies(path: Path, names: Collection[str] = ()) -> list[Study]:
    """Read and check a file of studies.

    :param names: Studies to keep; empty for all
    :raises ValueError: If a field is missing, unknown or of the wrong kind, or there is no study of a name
    """
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path} must map names of studies to their fields, got {type(table).__name__}")
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"no study named {', '.join(unknown)}; {path.name} has {', '.join(table)}")
    studies = [parse_study(name, fields) for name, fields in table.items()]
    return [study for study in studies if not names or study.name in names]


def parse_study(name: str, fields: Mapping[str, Any]) -> Study:
    """Check one study of the file.

    :raises ValueError: If a field is missing, unknown or of the wrong kind
    """
    entry = _Entry(
        f"study {name!r}", fields, set(Study.__dataclass_fields__) - {"name", "variants"} | {"algorithms", "baseline"}
    )
    _check_name(entry.where, name)
    missing = {"environments", "algorithms", "steps", "eval_freq"} - set(fields)
    if missing:
        raise ValueError(f"{entry.where}: add the missing field(s) {', '.join(sorted(missing))}")
    steps, eval_freq = entry.integer("steps"), entry.integer("eval_freq")
    entry.check("steps", steps % eval_freq == 0, f"be a multiple of eval_freq={eval_freq}, to evaluate the last step")
    variants = tuple(
        _variant(f"{entry.where}, algorithm {key!r}", key, value, fields.get("baseline"))
        for key, value in entry.names("algorithms").items()
    )
    names = [variant.name for variant in variants]
    for baseline in {fields.get("baseline"), *(variant.baseline for variant in variants)} - {None, *names}:
        raise ValueError(f"{entry.where}: baseline={baseline!r} must be one of the algorithms {', '.join(names)}")
    final = _Entry(f"{entry.where}, final", fields.get("final"), {"episodes", "threshold", "deterministic"})
    tests = _Entry(f"{entry.where}, tests", fields.get("tests"), {"episodes", "actions", "worlds"})
    kinds = {"mean", "sampled"}
    return Study(
        name=name,
        title=str(fields.get("title", name)),
        environments=entry.params_by_name("environments"),
        variants=variants,
        seeds=tuple(
            entry.get("seeds", [1, 2, 3], _is_seeds, "be a non-empty list of different integers of at least 0")
        ),
        steps=steps,
        eval_freq=eval_freq,
        eval_episodes=entry.integer("eval_episodes", 5),
        params=entry.params("params"),
        final=FinalEvaluation(
            final.integer("episodes", 20),
            final.get("threshold", None, lambda x: x is None or type(x) in (int, float), "be a number"),
            final.get("deterministic", True, lambda x: type(x) is bool, "be true or false"),
        ),
        tests=Tests(
            tests.integer("episodes", 10),
            tuple(tests.get("actions", ["mean"], lambda x: bool(x) and set(x) <= kinds, "list mean, sampled or both")),
            tests.params_by_name("worlds") if fields.get("tests") else {},
        ),
        scalars=tuple(
            entry.get(
                "scalars",
                [],
                lambda x: isinstance(x, list) and all(isinstance(key, str) for key in x),
                "be a list of log keys such as train/entropy",
            )
        ),
        checkpoint_freq=entry.integer("checkpoint_freq", eval_freq, least=0),
        published=entry.get(
            "published", {}, _is_published, "map environments to labels, labels to steps, steps to [middle, low, high]"
        ),
    )


def merge_runs(studies: Iterable[Study]) -> list[Run]:
    """The distinct runs of several studies; a run that several studies share appears once, with all its ids.

    :raises ValueError: If two studies want different runs in the same folder
    """
    merged: dict[PurePosixPath, Run] = {}
    for run in (run for study in studies for run in study.runs()):
        known = merged.setdefault(run.folder, run)
        if known is run:
            continue
        same = known.settings() == run.settings() and known.final.deterministic == run.final.deterministic
        if not same or (known.tests.worlds and run.tests.worlds and known.tests != run.tests):
            raise ValueError(
                f"{known.ids[0]} and {run.ids[0]} share the folder {run.folder} but differ in their settings: "
                "give the algorithm another name in one of the two studies"
            )
        merged[run.folder] = replace(
            known,
            ids=known.ids + run.ids,
            final=max(known.final, run.final, key=lambda final: final.episodes),
            tests=known.tests if known.tests.worlds else run.tests,
            scalars=tuple(dict.fromkeys(known.scalars + run.scalars)),
        )
    return list(merged.values())


class _Entry:
    """A mapping of the file, whose fields are checked when they are read."""

    def __init__(self, where: str, fields: Any, known: set[str]) -> None:
        self.where = where
        self.fields = {} if fields is None else fields
        names = ", ".join(sorted(known))
        if not isinstance(self.fields, Mapping):
            raise ValueError(f"{where}: {self.fields!r} must be a mapping with the fields {names}")
        if unknown := set(self.fields) - known:
            raise ValueError(f"{where}: no field is named {', '.join(map(str, unknown))}; known are {names}")

    def check(self, key: str, valid: bool, must: str) -> None:
        if not valid:
            raise ValueError(f"{self.where}: {key}={self.fields.get(key)!r} must {must}")

    def get(self, key: str, default: Any, is_valid: Callable[[Any], bool], must: str) -> Any:
        value = self.fields.get(key, default)
        self.check(key, is_valid(value), must)
        return value

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        return int(
            self.get(key, default, lambda x: type(x) is int and x >= least, f"be an integer of at least {least}")
        )

    def names(self, key: str) -> dict[str, Any]:
        value: Any = self.fields.get(key)
        listed = isinstance(value, list) and len(set(map(str, value))) == len(value)
        named: Any = dict.fromkeys(value) if listed else value
        valid = isinstance(named, Mapping) and bool(named) and all(isinstance(name, str) for name in named)
        self.check(key, valid, "be a non-empty list of different names, or a mapping from names")
        return dict(named)

    def params(self, key: str) -> dict[str, Any]:
        valid = "be a mapping from names of hyperparameters to values"
        return dict(self.get(key, None, _is_params, valid) or {})

    def params_by_name(self, key: str) -> dict[str, dict[str, Any]]:
        names = self.names(key)
        entry = _Entry(f"{self.where}, {key}", names, set(names))
        return {name: entry.params(name) for name in names}


def _variant(where: str, name: Any, fields: Any, baseline: Any) -> Variant:
    _check_name(where, name)
    entry = _Entry(where, fields, {"algo", "label", "params", "baseline", "agents"})
    baseline = entry.fields.get("baseline", baseline)
    return Variant(
        name=name,
        algo=str(entry.fields.get("algo", name)),
        label=str(entry.fields.get("label", name)),
        params=entry.params("params"),
        baseline=None if baseline == name else baseline,
        agents=entry.integer("agents", 1),
    )


def _check_name(where: str, name: Any) -> None:
    # Names become folders and file names.
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{where}: the name {name!r} must be made of letters, digits, '_', '-' and '.'")


def _is_params(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(key, str) for key in value))


def _is_seeds(value: Any) -> bool:
    listed = isinstance(value, list) and bool(value) and all(type(seed) is int and seed >= 0 for seed in value)
    return listed and len(set(value)) == len(value)


def _is_published(value: Any) -> bool:
    try:
        points = [point for curves in value.values() for curve in curves.values() for point in curve.items()]
        return all(type(step) is int and low <= middle <= high for step, (middle, low, high) in points)
    except (AttributeError, TypeError, ValueError):
        return False
