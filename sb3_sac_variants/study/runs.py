"""One training run: its settings, and the RL Zoo's command for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

#: Saves the checkpoints from which a run goes on; the zoo takes it in its ``callback`` entry.
CHECKPOINT_CALLBACK = "sb3_sac_variants.common.callbacks.RunCheckpointCallback"


class Checked(BaseModel):
    """Part of the file of studies, checked when it is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FinalEvaluation(Checked):
    """How the saved model of a run is judged, and the mean return that the study asks for, if any."""

    episodes: PositiveInt = 20
    threshold: float | None = None
    deterministic: bool = True


class Tests(Checked):
    """Other circumstances in which the saved models play.

    :param episodes: Number of episodes in each
    :param actions: ``mean``, ``sampled`` or both
    :param worlds: By name, the zoo's hyperparameters that differ from those of training, such as ``env_wrapper``
    """

    episodes: PositiveInt = 10
    actions: list[Literal["mean", "sampled"]] = ["mean"]
    worlds: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One training run, which several studies may share.

    :param name: Name in folders and CSV files
    :param algo: Algorithm id in the zoo
    :param agents: Time steps that the algorithm counts in a step of the environment, and episodes in an episode
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
    tests: Tests = field(default_factory=lambda: Tests(worlds={}))
    scalars: tuple[str, ...] = ()
    checkpoint_freq: int = 0
    ids: tuple[str, ...] = ()

    @property
    def env_name(self) -> str:
        """The environment's name as the zoo writes it in paths: without slashes and module prefix."""
        return self.env.replace("/", "-").rpartition(":")[2]

    @property
    def folder(self) -> PurePosixPath:
        """Folder of the run, relative to the folder of all runs."""
        return PurePosixPath(self.name, self.env_name, f"seed{self.seed}")

    @property
    def zoo_folder(self) -> PurePosixPath:
        """The zoo's own folder in it."""
        return self.folder / self.algo / f"{self.env_name}_1"

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

    def plays(self) -> dict[str, dict[str, Any]]:
        """How the saved model is evaluated: ``final`` and, by ``world/actions``, the tests."""
        final = {"episodes": self.final.episodes * self.agents, "deterministic": self.final.deterministic, "params": {}}
        episodes = self.tests.episodes * self.agents
        return {"final": final} | {
            f"{world}/{actions}": {"episodes": episodes, "deterministic": actions == "mean", "params": params}
            for world, params in self.tests.worlds.items()
            for actions in self.tests.actions
        }

    def zoo_command(self, device: str = "cpu", threads: int = 1, checkpoints: bool = False) -> list[str]:
        """The zoo's command for the run, to be started in the folder of all runs.

        :param checkpoints: Whether the algorithm can save checkpoints, and shall
        """
        params = dict(self.params)
        if checkpoints and self.checkpoint_freq:
            own = params.get("callback") or []
            kwargs = {"path": f"{self.zoo_folder}/checkpoint", "save_freq": self.checkpoint_freq * self.agents}
            params["callback"] = [*(own if isinstance(own, list) else [own]), {CHECKPOINT_CALLBACK: kwargs}]
        wanted = self.settings()
        command = ["python", "-m", "rl_zoo3.train", "--algo", self.algo, "--env", self.env]
        command += ["-n", str(wanted["n_timesteps"])]
        if params:
            command += ["-params", *key_values(params)]
        if params.get("env_kwargs"):  # the zoo gives those of -params to the training environment alone
            command += ["--eval-env-kwargs", *key_values(params["env_kwargs"])]
        command += ["--seed", str(self.seed), "--eval-freq", str(self.eval_freq)]
        command += ["--eval-episodes", str(wanted["eval_episodes"]), "--num-threads", str(threads)]
        command += ["--device", device, "--verbose", "0"]
        if self.scalars:
            command += ["--tensorboard-log", f"{self.folder}/tensorboard"]
        return [*command, "-f", str(self.folder)]


def key_values(settings: Mapping[str, Any]) -> list[str]:
    """Write settings as the zoo reads them on its command line: ``key:expression``."""
    return [f"{key}:{python_expression(value)}" for key, value in settings.items()]


def python_expression(value: Any) -> str:
    """Write a value as the Python expression that the zoo's ``-params`` evaluates: ``dict(net_arch=[64,64])``."""
    if isinstance(value, Mapping):
        items = {key: python_expression(item) for key, item in value.items()}
        if all(key.isidentifier() for key in items):
            return f"dict({','.join(f'{key}={item}' for key, item in items.items())})"
        return f"{{{','.join(f'{json.dumps(key)}:{item}' for key, item in items.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(python_expression, value))}]"
    # A shell user quotes the whole argument with the other kind of quotes.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def select(runs: Iterable[Run], patterns: Iterable[str]) -> list[Run]:
    """Keep the runs that a filter names.

    :param patterns: Shell patterns, each for a whole id (``half_cheetah/sac_v1/*/seed1``) or for one of its parts
        (``sac_v1``, ``Reacher*``, ``seed2``); a run must match all of them; without patterns every run is kept
    """

    def matches(run: Run, pattern: str) -> bool:
        return any(fnmatchcase(text, pattern) for run_id in run.ids for text in (run_id, *run_id.split("/")))

    return [run for run in runs if all(matches(run, pattern) for pattern in patterns)]
