"""The file of studies: read, check, and turn into runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, StringConstraints, ValidationError

from sb3_sac_variants.study.runs import Checked, FinalEvaluation, Run, Tests


def _as_mapping(value: Any) -> Any:
    if isinstance(value, list):
        if len(set(map(str, value))) < len(value):
            raise ValueError("must name each only once")
        value = dict.fromkeys(value)
    return {name: {} if entry is None else entry for name, entry in value.items()} if isinstance(value, dict) else value


def _different(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("must be different from each other")
    return values


def _ordered(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if not value[1] <= value[0] <= value[2]:
        raise ValueError("must be [middle, low, high]")
    return value


Params = dict[str, Any]
# Names become folders and file names.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Interval = Annotated[tuple[float, float, float], Field(strict=False), AfterValidator(_ordered)]


class Variant(Checked):
    """One curve of a study: an algorithm with its settings; without ``algo`` and ``label``, those of its name."""

    algo: str | None = None
    label: str | None = None
    params: Params = {}
    baseline: str | None = None
    agents: PositiveInt = 1


class Study(Checked):
    """A set of runs that one table and one figure report together; the fields are those of the file."""

    name: Name
    title: str = ""
    environments: Annotated[dict[str, Params], BeforeValidator(_as_mapping), Field(min_length=1)]
    algorithms: Annotated[dict[Name, Variant], BeforeValidator(_as_mapping), Field(min_length=1)]
    params: Params = {}
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_different), Field(min_length=1)] = [1, 2, 3]
    steps: PositiveInt
    eval_freq: PositiveInt
    eval_episodes: PositiveInt = 5
    final: FinalEvaluation = FinalEvaluation()
    tests: Tests = Tests(worlds={})
    baseline: str | None = None
    scalars: list[str] = []
    checkpoint_freq: Annotated[int, Field(ge=0)] | None = None
    published: dict[str, dict[str, dict[int, Interval]]] = {}

    def model_post_init(self, context: Any) -> None:
        """Check what concerns several fields."""
        if self.steps % self.eval_freq:
            raise ValueError(f"steps={self.steps} must be a multiple of eval_freq={self.eval_freq}")
        for baseline in {self.baseline, *(variant.baseline for variant in self.algorithms.values())} - {None}:
            if baseline not in self.algorithms:
                raise ValueError(f"baseline={baseline!r} must be one of the algorithms {', '.join(self.algorithms)}")

    @property
    def labels(self) -> dict[str, str]:
        """What tables and figures call the algorithms."""
        return {name: variant.label or name for name, variant in self.algorithms.items()}

    def baseline_of(self, name: str) -> str | None:
        """The algorithm that another one is compared with, if any."""
        baseline = self.algorithms[name].baseline or self.baseline
        return None if baseline == name else baseline

    def runs(self) -> list[Run]:
        """All runs of the study, first seeds first, so that an early look covers every curve."""
        runs = [
            Run(
                name=name,
                algo=variant.algo or name,
                env=env,
                seed=seed,
                steps=self.steps,
                eval_freq=self.eval_freq,
                eval_episodes=self.eval_episodes,
                params={**self.params, **env_params, **variant.params},
                agents=variant.agents,
                final=self.final,
                tests=self.tests,
                scalars=tuple(self.scalars),
                checkpoint_freq=self.eval_freq if self.checkpoint_freq is None else self.checkpoint_freq,
            )
            for seed in self.seeds
            for env, env_params in self.environments.items()
            for name, variant in self.algorithms.items()
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

    :raises ValueError: If a field is missing, unknown or of the wrong kind, with its name and value
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"study {name!r} must be a mapping of fields, got {fields!r}")
    try:
        return Study.model_validate({**fields, "name": name})
    except ValidationError as error:
        known = f"; a study has the fields {', '.join(Study.model_fields)}"
        lines = [
            f"{'.'.join(map(str, entry['loc']))}={entry['input']!r}: {entry['msg']}"
            + known * (entry["type"] == "extra_forbidden" and len(entry["loc"]) == 1)
            if entry["loc"] and entry["type"] != "missing"
            else f"{'.'.join(map(str, entry['loc']))} {entry['msg']}".strip()
            for entry in error.errors(include_url=False)
        ]
        raise ValueError(f"study {name!r}: " + "; ".join(lines)) from error


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
