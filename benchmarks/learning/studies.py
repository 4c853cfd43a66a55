"""The table of studies: read, check, and turn into runs and zoo commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

STUDIES_FILE = Path(__file__).with_name("studies.yml")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_STUDY_FIELDS = {
    "title", "environments", "algorithms", "params", "seeds", "steps", "eval_freq", "eval_episodes", "final",
    "baseline", "scalars",
}  # fmt: skip


@dataclass(frozen=True)
class FinalEvaluation:
    """How the saved model of a run is judged.

    :param episodes: Number of episodes
    :param threshold: Mean return that the study asks for, if any
    :param deterministic: Whether the policy acts without noise
    """

    episodes: int = 20
    threshold: float | None = None
    deterministic: bool = True


@dataclass(frozen=True)
class Variant:
    """One curve of a study: an algorithm with its settings.

    :param name: Name in folders and CSV files
    :param algo: Algorithm id in the zoo
    :param label: Text in legends and tables
    :param params: Hyperparameters that override the zoo's
    :param baseline: Name of the variant to compare it with, if any
    :param agents: How many time steps it counts in a step of the environment: one for each agent where they are
        environments of their own
    """

    name: str
    algo: str
    label: str
    params: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    agents: int = 1


@dataclass(frozen=True)
class Run:
    """One training run, which several studies may share.

    :param name: Name of the variant
    :param algo: Algorithm id in the zoo
    :param env: Gymnasium id
    :param seed: Seed of environment and algorithm
    :param steps: Environment steps
    :param eval_freq: Environment steps between two evaluations
    :param eval_episodes: Episodes of each evaluation
    :param params: Hyperparameters that override the zoo's
    :param agents: How many time steps the algorithm counts in a step of the environment, and episodes in an episode
    :param final: How the saved model is judged
    :param scalars: Logged quantities to collect beside the return
    :param ids: The names ``study/name/env/seedK`` under which studies know the run
    """

    name: str
    algo: str
    env: str
    seed: int
    steps: int
    eval_freq: int
    eval_episodes: int
    params: Mapping[str, Any] = field(default_factory=dict)
    agents: int = 1
    final: FinalEvaluation = field(default_factory=FinalEvaluation)
    scalars: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def env_name(self) -> str:
        """The environment's name as the zoo writes it in paths: without slashes and module prefix."""
        return self.env.replace("/", "-").rpartition(":")[2]

    @property
    def folder(self) -> PurePosixPath:
        """Folder of the run, relative to the folder of all runs."""
        return PurePosixPath(self.name, self.env_name, f"seed{self.seed}")

    def settings(self) -> dict[str, Any]:
        """What two runs must have in common to be the same run, under the zoo's argument names."""
        return {
            "algo": self.algo,
            "env": self.env,
            "seed": self.seed,
            "n_timesteps": self.steps * self.agents,
            "eval_freq": self.eval_freq,  # the zoo counts calls of the environment here
            "eval_episodes": self.eval_episodes * self.agents,
            "hyperparams": dict(self.params),
        }


@dataclass(frozen=True)
class Study:
    """A set of runs that one table and one figure report together; the fields are those of ``studies.yml``."""

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
    scalars: tuple[str, ...]

    def runs(self) -> list[Run]:
        """All runs of the study, first seeds first, so that an early look covers every curve.

        :return: One run for each seed, environment and variant
        """
        runs = [
            Run(
                name=variant.name,
                algo=variant.algo,
                env=env,
                seed=seed,
                steps=self.steps,
                eval_freq=self.eval_freq,
                eval_episodes=self.eval_episodes,
                params={**self.params, **env_params, **variant.params},
                agents=variant.agents,
                final=self.final,
                scalars=self.scalars,
            )
            for seed in self.seeds
            for env, env_params in self.environments.items()
            for variant in self.variants
        ]
        return [replace(run, ids=(f"{self.name}/{run.folder}",)) for run in runs]


def load_studies(path: Path = STUDIES_FILE) -> dict[str, Study]:
    """Read and check the table of studies.

    :param path: YAML file
    :return: Studies by name, in the order of the file
    :raises ValueError: If a field is missing, unknown or of the wrong kind
    """
    with open(path, encoding="utf-8") as file:
        table = yaml.safe_load(file)
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path.name}: expected a mapping from study names to studies, got {type(table).__name__}")
    return {name: parse_study(name, fields) for name, fields in table.items()}


def parse_study(name: str, fields: Mapping[str, Any]) -> Study:
    """Check one entry of the table.

    :param name: Name of the study
    :param fields: Its fields
    :return: The study
    :raises ValueError: If a field is missing, unknown or of the wrong kind
    """
    where = f"study {name!r}"
    _check_name(where, name)
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where}: expected a mapping of fields, got {fields!r}")
    unknown = set(fields) - _STUDY_FIELDS
    if unknown:
        raise ValueError(f"{where}: unknown field(s) {sorted(unknown)}; known are {sorted(_STUDY_FIELDS)}")
    missing = {"environments", "algorithms", "steps", "eval_freq"} - set(fields)
    if missing:
        raise ValueError(f"{where}: missing field(s) {sorted(missing)}")

    steps = _positive_int(where, "steps", fields["steps"])
    eval_freq = _positive_int(where, "eval_freq", fields["eval_freq"])
    if steps % eval_freq:
        raise ValueError(
            f"{where}: steps={steps} must be a multiple of eval_freq={eval_freq} to evaluate the last step"
        )
    seeds = fields.get("seeds", [1, 2, 3])
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise ValueError(f"{where}: seeds={seeds!r} must be a non-empty list of integers of at least 0")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds={seeds!r} holds a seed twice")
    variants = tuple(
        _parse_variant(f"{where}, algorithm {key!r}", key, entry, fields.get("baseline"))
        for key, entry in _as_mapping(where, "algorithms", fields["algorithms"]).items()
    )
    names = [variant.name for variant in variants]
    for baseline in (fields.get("baseline"), *(variant.baseline for variant in variants)):
        if baseline is not None and baseline not in names:
            raise ValueError(f"{where}: baseline={baseline!r} is none of {names}")
    scalars = fields.get("scalars", [])
    if not isinstance(scalars, list) or not all(isinstance(scalar, str) for scalar in scalars):
        raise ValueError(f"{where}: scalars={scalars!r} must be a list of log keys such as train/entropy")
    return Study(
        name=name,
        title=str(fields.get("title", name)),
        environments={
            env: _params(f"{where}, environment {env!r}", params)
            for env, params in _as_mapping(where, "environments", fields["environments"]).items()
        },
        variants=variants,
        seeds=tuple(seeds),
        steps=steps,
        eval_freq=eval_freq,
        eval_episodes=_positive_int(where, "eval_episodes", fields.get("eval_episodes", 5)),
        params=_params(where, fields.get("params")),
        final=_parse_final(where, fields.get("final")),
        scalars=tuple(scalars),
    )


def merge_runs(studies: Iterable[Study]) -> list[Run]:
    """The distinct runs of several studies; a run that several studies share appears once.

    :param studies: The studies
    :return: The runs, each with all ids under which the studies know it
    :raises ValueError: If two studies want different runs in the same folder
    """
    merged: dict[PurePosixPath, Run] = {}
    for run in (run for study in studies for run in study.runs()):
        known = merged.setdefault(run.folder, run)
        if known is run:
            continue
        if known.settings() != run.settings() or known.final.deterministic != run.final.deterministic:
            raise ValueError(
                f"{known.ids[0]} and {run.ids[0]} share the folder {run.folder} but differ in their settings: "
                "give the algorithm another name in one of the two studies"
            )
        merged[run.folder] = replace(
            known,
            ids=known.ids + run.ids,
            final=max(known.final, run.final, key=lambda final: final.episodes),
            scalars=tuple(dict.fromkeys(known.scalars + run.scalars)),
        )
    return list(merged.values())


def select(runs: Iterable[Run], patterns: Iterable[str]) -> list[Run]:
    """Keep the runs that a filter names.

    :param runs: The runs
    :param patterns: Shell patterns, each for a whole id (``half_cheetah/sac_v1/*/seed1``) or for one of its parts
        (``sac_v1``, ``Reacher*``, ``seed2``); a run must match all of them; without patterns every run is kept
    :return: The runs kept, in order
    """

    def matches(run_id: str, pattern: str) -> bool:
        return any(fnmatchcase(text, pattern) for text in (run_id, *run_id.split("/")))

    wanted = list(patterns)
    return [run for run in runs if any(all(matches(run_id, pattern) for pattern in wanted) for run_id in run.ids)]


def zoo_command(run: Run, device: str = "cpu") -> list[str]:
    """The zoo's own command for a run, to be started in the folder of all runs.

    :param run: The run
    :param device: PyTorch device
    :return: Arguments, the first being ``python``
    """
    wanted = run.settings()
    command = ["python", "-m", "rl_zoo3.train", "--algo", run.algo, "--env", run.env, "-n", str(wanted["n_timesteps"])]
    if run.params:
        command += ["-params", *(f"{key}:{python_expression(value)}" for key, value in run.params.items())]
    command += ["--seed", str(run.seed), "--eval-freq", str(run.eval_freq)]
    command += ["--eval-episodes", str(wanted["eval_episodes"])]
    command += ["--num-threads", "1", "--device", device, "--verbose", "0"]
    if run.scalars:
        command += ["--tensorboard-log", f"{run.folder}/tensorboard"]
    return [*command, "-f", str(run.folder)]


def python_expression(value: Any) -> str:
    """Write a value of the table as the Python expression that the zoo's ``-params`` evaluates, without spaces.

    :param value: Number, string, boolean, None, or a list or mapping of them
    :return: Such as ``dict(net_arch=[64,64])``
    """
    if isinstance(value, Mapping):
        return f"dict({','.join(f'{key}={python_expression(item)}' for key, item in value.items())})"
    if isinstance(value, list):
        return f"[{','.join(map(python_expression, value))}]"
    # A shell user quotes the whole argument with the other kind of quotes.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _parse_variant(where: str, name: Any, entry: Any, baseline: Any) -> Variant:
    _check_name(where, name)
    entry = entry or {}
    known = ("algo", "label", "params", "baseline", "agents")
    if not isinstance(entry, Mapping) or set(entry) - set(known):
        raise ValueError(f"{where}: {entry!r} must be a mapping with the keys {', '.join(known)} only")
    baseline = entry.get("baseline", baseline)
    return Variant(
        name=name,
        algo=str(entry.get("algo", name)),
        label=str(entry.get("label", name)),
        params=_params(where, entry.get("params")),
        baseline=None if baseline == name else baseline,
        agents=_positive_int(where, "agents", entry.get("agents", 1)),
    )


def _parse_final(where: str, entry: Any) -> FinalEvaluation:
    entry = entry or {}
    if not isinstance(entry, Mapping) or set(entry) - {"episodes", "threshold", "deterministic"}:
        raise ValueError(f"{where}: final={entry!r} must be a mapping with episodes, threshold and deterministic only")
    threshold = entry.get("threshold")
    if threshold is not None and type(threshold) not in (int, float):
        raise ValueError(f"{where}: threshold={threshold!r} must be a number")
    deterministic = entry.get("deterministic", True)
    if type(deterministic) is not bool:
        raise ValueError(f"{where}: deterministic={deterministic!r} must be true or false")
    episodes = _positive_int(where, "final episodes", entry.get("episodes", 20))
    return FinalEvaluation(episodes=episodes, threshold=threshold, deterministic=deterministic)


def _check_name(where: str, name: Any) -> None:
    # Names become folders and file names.
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: the name {name!r} must be made of letters, digits, '_', '-' and '.'")


def _positive_int(where: str, key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{where}: {key}={value!r} must be an integer of at least 1")
    return value


def _as_mapping(where: str, key: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, list):
        if len(set(map(str, value))) < len(value):
            raise ValueError(f"{where}: {key}={value!r} holds a name twice")
        value = dict.fromkeys(value)
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: {key}={value!r} must be a non-empty list of names or a mapping from names")
    return value


def _params(where: str, value: Any) -> Mapping[str, Any]:
    value = value or {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where}: hyperparameters {value!r} must be a mapping from names to values")
    return dict(value)
