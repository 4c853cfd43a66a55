"""The file of studies: read, check, and turn into runs, each with the RL Zoo's command for it."""

import ast
import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError

#: Saves the checkpoints from which a run goes on; the zoo takes it in its ``callback`` entry.
CHECKPOINT_CALLBACK = "sb3_sac_variants.common.callbacks.RunCheckpointCallback"
#: Of the environment and of the policy's noise in evaluations of the saved model; the same for all runs, so that they
#: meet the same initial states, and far from the seeds of training.
FINAL_SEED = 20_000
#: Fields by which a run is known again; what the others say can still be changed when it has ended.
SETTINGS = {"algo", "env", "seed", "steps", "eval_freq", "eval_episodes", "params", "agents"}
#: Hyperparameters that make the world of a saved model; the statistics that normalise are those of its training
WORLD = {"env_kwargs", "env_wrapper", "frame_stack", "vec_env_wrapper"}


def _as_mapping(value: Any) -> Any:
    if isinstance(value, list):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("must be names, in quotes where YAML reads a number, or map names to settings")
        value = dict.fromkeys(_different(value))
    return {name: {} if entry is None else entry for name, entry in value.items()} if isinstance(value, dict) else value


def _different(values: list[Any]) -> list[Any]:
    if len(set(map(str, values))) < len(values):
        raise ValueError("must be different from each other")
    return values


def _ordered(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if not value[1] <= value[0] <= value[2]:
        raise ValueError("must be [middle, low, high]")
    return value


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    env_kwargs = params.get("env_kwargs")
    for name in [*params, *(env_kwargs if isinstance(env_kwargs, dict) else ())]:
        if not str(name).isidentifier():  # the zoo evaluates what follows a colon
            raise ValueError(f"must have names of arguments as keys, got {name!r}")
    try:
        ast.literal_eval(repr(params))  # as the zoo reads them; YAML also knows dates and infinity
    except ValueError as error:
        raise ValueError("must be numbers, texts, lists and mappings, in quotes where YAML reads a date") from error
    return params


def _world(params: dict[str, Any]) -> dict[str, Any]:
    if others := ", ".join(sorted(params.keys() - WORLD)):
        raise ValueError(f"must change nothing but {', '.join(sorted(WORLD))}: no saved model heeds {others}")
    return params


Params = Annotated[dict[str, Any], AfterValidator(_plain)]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
# Names become folders and file names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Interval = Annotated[tuple[float, float, float], Field(strict=False), AfterValidator(_ordered)]


class Checked(BaseModel):
    """Part of the file, checked when it is read."""

    model_config = {"extra": "forbid", "strict": True, "frozen": True, "allow_inf_nan": False}


class FinalEvaluation(Checked):
    """How the saved model of a run is judged, and the mean return that the study asks for, if any."""

    episodes: PositiveInt = 20
    threshold: float | None = None
    deterministic: bool = True


class Tests(Checked):
    """Other worlds for the saved model: by name, hyperparameters that differ from those of training."""

    episodes: PositiveInt = 10
    actions: list[Literal["mean", "sampled"]] = ["mean"]
    worlds: dict[Name, Annotated[Params, AfterValidator(_world)]]


class Settings(Checked):
    """What a study says of each of its runs."""

    steps: PositiveInt
    eval_freq: PositiveInt
    eval_episodes: PositiveInt = 5
    final: FinalEvaluation = FinalEvaluation()
    tests: Tests = Tests(worlds={})
    scalars: list[str] = []
    checkpoint_freq: NonNegativeInt | None = None
    gym_packages: list[Module] = []


class Run(Settings):
    """One training run."""

    study: str
    name: str  # in folders and CSV files
    algo: str  # id in the zoo
    env: str
    seed: int
    params: Params = {}
    agents: PositiveInt = 1  # time steps that the algorithm counts in a step of the environment; episodes too

    @property
    def env_name(self) -> str:
        """The environment's name as the zoo writes it in paths."""
        return self.env.replace("/", "-")

    @property
    def folder(self) -> PurePosixPath:
        """Folder of the run, relative to the folder of all runs: ``study/name/env/seedK``."""
        return PurePosixPath(self.study, self.name, self.env_name, f"seed{self.seed}")

    def settings(self) -> dict[str, Any]:
        """What two runs must have in common to be the same run, as JSON keeps it."""
        return self.model_dump(mode="json", include=SETTINGS)

    def plays(self) -> dict[str, dict[str, Any]]:
        """How the saved model is evaluated: ``final`` and, by ``world/actions``, the tests."""
        plays: dict[str, tuple[int, bool, Params]] = {"final": (self.final.episodes, self.final.deterministic, {})} | {
            f"{world}/{actions}": (self.tests.episodes, actions == "mean", params)
            for world, params in self.tests.worlds.items()
            for actions in self.tests.actions
        }
        return {
            name: {"seed": FINAL_SEED, "episodes": episodes * self.agents, "deterministic": mean, "params": params}
            for name, (episodes, mean, params) in plays.items()
        }

    def modules(self) -> list[str]:
        """Modules that register environments, and those of the classes that the settings name."""
        keys = ("policy", "env_wrapper", "vec_env_wrapper", "callback")
        named = [settings.get(key) for settings in (self.params, *self.tests.worlds.values()) for key in keys]
        entries = [entry for value in named for entry in (value if isinstance(value, list) else [value])]
        names = [name for entry in entries for name in (entry if isinstance(entry, Mapping) else [entry])]
        of_classes = [name.rpartition(".")[0] for name in names if isinstance(name, str) and "." in name]
        return list(dict.fromkeys([*self.gym_packages, *of_classes]))

    def zoo_command(self, device: str = "cpu", threads: int = 1, checkpoints: bool = False) -> list[str]:
        """The zoo's command for the run, with or without checkpoints, to be started in the folder of all runs."""
        params = dict(self.params)
        every = self.eval_freq if self.checkpoint_freq is None else self.checkpoint_freq
        if checkpoints and every:
            own = params.get("callback") or []
            callback = {CHECKPOINT_CALLBACK: {"save_freq": every * self.agents}}
            params["callback"] = [*(own if isinstance(own, list) else [own]), callback]
        options = ["--algo", self.algo, "--env", self.env, "-n", self.steps * self.agents]
        options += _settings("-params", params)
        # The zoo gives those of -params to the training environment alone.
        options += _settings("--eval-env-kwargs", params.get("env_kwargs") or {})
        # Of evaluations, the zoo counts calls of the environment, and the episodes of each agent.
        evaluations = ["--eval-freq", self.eval_freq, "--eval-episodes", self.eval_episodes * self.agents]
        options += ["--gym-packages", *self.gym_packages] if self.gym_packages else []
        options += ["--seed", self.seed, *evaluations, "--num-threads", threads, "--device", device, "--verbose", 0]
        options += ["--tensorboard-log", f"{self.folder}/tensorboard"] if self.scalars else []
        return ["python", "-m", "rl_zoo3.train", *map(str, options), "-f", str(self.folder)]


class Variant(Checked):
    """One curve of a study: an algorithm with its settings; without ``algo`` and ``label``, those of its name."""

    algo: str | None = None
    label: str | None = None
    params: Params = {}
    baseline: str | None = None
    agents: PositiveInt = 1


class Study(Settings):
    """A set of runs that one table and one figure report together; the fields are those of the file."""

    name: Name
    title: str = ""
    environments: Annotated[dict[str, Params], BeforeValidator(_as_mapping), Field(min_length=1)]
    algorithms: Annotated[dict[Name, Variant], BeforeValidator(_as_mapping), Field(min_length=1)]
    params: Params = {}
    seeds: Annotated[list[Seed], AfterValidator(_different), Field(min_length=1)] = [1, 2, 3]
    baseline: str | None = None
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
        same = {field: getattr(self, field) for field in Settings.model_fields} | {"study": self.name}
        return [
            Run(**same, name=name, algo=variant.algo or name, env=env, seed=seed, agents=variant.agents, params=params)
            for seed in self.seeds
            for env, env_params in self.environments.items()
            for name, variant in self.algorithms.items()
            for params in [self.params | env_params | variant.params]
        ]


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would keep the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # as it is written; what is merged comes later
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"{', '.join(sorted(twice))} is there twice in the mapping{node.start_mark}")
        return node


def load_studies(path: Path, names: Collection[str] = ()) -> list[Study]:
    """Read and check a file of studies; keep those of some names, or all."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{path} must map names of studies to their fields, got {table!r}")
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"no study named {', '.join(unknown)}; {path.name} has {', '.join(table)}")
    studies = [parse_study(name, fields) for name, fields in table.items()]
    return [study for study in studies if not names or study.name in names]


def parse_study(name: str, fields: Mapping[str, Any]) -> Study:
    """Check one study of the file; errors name the field and its value."""
    if not isinstance(name, str):
        raise ValueError(f"study {name!r} must have a text as its name: put it in quotes")
    if name.endswith(("_scalars", "_tests", "_summary")):
        raise ValueError(f"study {name!r} would have its CSV file in place of another study's: name it otherwise")
    if not isinstance(fields, Mapping) or "name" in fields:
        raise ValueError(f"study {name!r} must be a mapping of fields, none of them a name, got {fields!r}")
    try:
        return Study.model_validate({**fields, "name": name})
    except ValidationError as error:
        unknown = any(entry["type"] == "extra_forbidden" and len(entry["loc"]) == 1 for entry in error.errors())
        known = ", ".join(field for field in Study.model_fields if field != "name")
        remedy = f"\nA study has the fields {known}." if unknown else ""
        raise ValueError(f"study {name!r}: {error}{remedy}") from error


def select(studies: Iterable[Study], patterns: Sequence[str]) -> list[Run]:
    """The runs that match every pattern, in their whole folder (``half_cheetah/sac_v1/*/seed1``) or a part of it."""
    return [
        run
        for study in studies
        for run in study.runs()
        if all(fnmatch.filter([run.env, str(run.folder), *run.folder.parts], pattern) for pattern in patterns)
    ]


def _settings(option: str, settings: Mapping[str, Any]) -> list[str]:
    # The zoo reads settings as key:expression.
    return [option, *(f"{key}:{python_expression(value)}" for key, value in settings.items())] if settings else []


def python_expression(value: Any) -> str:
    """Write a value as the Python expression that the zoo's ``-params`` evaluates: ``{"net_arch": [64, 64]}``."""
    text = repr(value)
    # A shell user quotes the whole argument with the other kind of quotes.
    return text if '"' in text else text.replace("'", '"')
