"""Go on with a run of the RL Zoo that was interrupted: ``python -m sb3_sac_variants.zoo resume FOLDER``.

The folder is that of the run, ``logs/sac_v2/Pendulum-v1_1`` say. Its arguments and hyperparameters are read from there,
its last checkpoint (of :class:`~sb3_sac_variants.common.callbacks.RunCheckpointCallback`) is loaded, and the zoo trains
on, into the same folder, with the weights and evaluations of a run that was never interrupted. Killed before the first
checkpoint was due, the run begins again. One that saves none is refused, since its files would be replaced.
"""

import argparse
import contextlib
import functools
import importlib
import inspect
import itertools
import os
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from rl_zoo3 import exp_manager, train
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import ALGOS, get_callback_list
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv

from sb3_sac_variants.common.algorithm.saving import MaxEntSaving
from sb3_sac_variants.common.callbacks import RunCheckpointCallback, restore_checkpoint
from sb3_sac_variants.common.persistence.checkpoint_folder import POINTER
from sb3_sac_variants.zoo.run_files import check_files, check_hyperparameters, is_class, read_yaml, require_harmless

#: folder of the checkpoint in the folder of a run
CHECKPOINT = "checkpoint"


def main() -> None:
    """Go on with the run in the folder that the command line names."""
    description = "Go on with a run of the RL Zoo that was interrupted, from its last checkpoint, in its own folder."
    parser = argparse.ArgumentParser(prog="python -m sb3_sac_variants.zoo resume", description=description)
    parser.add_argument("folder", type=Path, help="folder of the run, e.g. logs/sac_v2/Pendulum-v1_1")
    parser.add_argument(
        "--import", nargs="*", default=[], metavar="MODULE", dest="modules",
        help="modules of yours to import first: the run may then name their classes, as a wrapper or policy say, and "
        "their functions as wrappers",
    )  # fmt: skip
    arguments = parser.parse_args()
    for module in arguments.modules:
        importlib.import_module(module)
    resume(arguments.folder, arguments.modules)


def resume(folder: Path, modules: Collection[str] = ()) -> None:
    """Go on with a run, to its end.

    :param folder: folder of the run
    :param modules: names of imported modules whose functions the run may name as wrappers
    :raises FileNotFoundError: if it holds no run
    :raises ValueError: if a file of it is damaged, a link, or needs to be trusted; if there is no checkpoint where one
        was due
    """
    found = sorted(folder.glob("*/args.yml"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"folder={str(folder)!r} holds no run of the zoo (no args.yml, one folder deeper): pass the folder of a "
            "run. One that was interrupted before it wrote the file has to be started again"
        )
    check_files(folder)
    arguments = read_yaml(found[0])
    for name in arguments.get("gym_packages") or ():
        require_harmless(name in sys.modules, found[0], name, importable=True)
    require_harmless(not arguments.get("trained_agent"), found[0], arguments.get("trained_agent"))
    require_harmless(not arguments.get("track"), found[0], "an upload to Weights & Biases")

    class SavedArguments(argparse.ArgumentParser):
        """Gives the arguments of the run, whatever the command line."""

        def parse_args(self, *_: Any, **__: Any) -> Any:
            return argparse.Namespace(**{**vars(super().parse_args([])), **arguments})

    class ResumedExperiment(_Resumed):
        """Of this folder."""

        run_folder, own_modules = folder, modules

    replaced = {"argparse": SimpleNamespace(ArgumentParser=SavedArguments), "ExperimentManager": ResumedExperiment}
    originals = {name: getattr(train, name) for name in replaced}
    vars(train).update(replaced)
    try:
        train.train()
    finally:
        vars(train).update(originals)


class _Resumed(ExperimentManager):
    """An experiment that goes on in the folder of a run. Arguments as the zoo's ``ExperimentManager``."""

    run_folder: Path
    own_modules: Collection[str] = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.optimize_hyperparameters:
            raise ValueError(
                f"folder={str(self.run_folder)!r} is of a hyperparameter search: start it again with the same storage"
            )
        self.save_path = str(self.run_folder)
        self.params_path = os.path.join(self.save_path, str(self.env_name))

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        file = Path(self.params_path) / "config.yml"
        saved = read_yaml(file)
        check_hyperparameters(file, saved, self.own_modules)
        callback = _checkpoint_callback(saved)
        self.checkpoint = Path(callback.path or self.run_folder / CHECKPOINT)
        self.has_checkpoint = (self.checkpoint / POINTER).is_file()
        self.continue_training = self.continue_training or self.has_checkpoint
        model, steps = self.run_folder / f"{self.env_name}.zip", _steps_done(self.run_folder)
        if not self.has_checkpoint and (model.is_file() or steps >= callback.save_freq):
            remedy = "train anew elsewhere, or begin with a model that is there (-i)"
            if callback.path and not self.checkpoint.is_absolute():
                remedy = f"call this from the folder in which the run was started, or {remedy}"
            raise ValueError(
                f"folder={self.save_path!r} is of a run of {steps} steps or more, whose files a run from the start "
                f"would replace, and {str(self.checkpoint)!r} has no checkpoint to go on from: {remedy}"
            )
        print(f"Going on with {self.save_path}" + ("" if self.has_checkpoint else " from the start: no checkpoint"))
        return dict(saved), OrderedDict(saved)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        if not self.has_checkpoint or eval_env:
            return super().create_envs(n_envs, eval_env, no_log)
        make = exp_manager.make_vec_env

        # Among the hyperparameters, the zoo would look at these, and replace them for environments with goals
        def make_and_go_on(env: Any, *, monitor_kwargs: dict[str, Any], **kwargs: Any) -> VecEnv:
            return make(env, monitor_kwargs={**monitor_kwargs, "override_existing": False}, **kwargs)

        vars(exp_manager).update(make_vec_env=make_and_go_on)
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            vars(exp_manager).update(make_vec_env=make)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        given = self.trained_agent
        # Without an agent to begin with, the zoo would look for a pickle of statistics in the working folder
        self.trained_agent = given or os.path.join(os.devnull, "none")
        try:
            return super()._maybe_normalize(env, eval_env)
        finally:
            self.trained_agent = given

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> Any:
        if not self.has_checkpoint:
            return super()._load_pretrained_agent(hyperparams, env)
        algorithm: Any = ALGOS[self.algo]
        given = {"tensorboard_log": self.tensorboard_log, "verbose": self.verbose}
        if issubclass(algorithm, MaxEntSaving):
            model = algorithm.load_checkpoint(self.checkpoint, env, self.device)
            vars(model).update(given)
        else:  # made as the zoo has made it
            new = functools.partial(algorithm, env=env, seed=self.seed, device=self.device, **given)
            begun = self.trained_agent.endswith(".zip")
            model = super()._load_pretrained_agent(hyperparams, env) if begun else new(**hyperparams)
            restore_checkpoint(model, self.checkpoint)
        steps, environments = model.num_timesteps // model.n_envs, getattr(env.unwrapped, "envs", [])
        for file in self.run_folder.glob("*.monitor.csv"):
            number = file.name.partition(".")[0]
            own = environments[int(number)] if number.isdecimal() and int(number) < len(environments) else None
            _forget_episodes_after(file, steps, own)
        return model

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        print(f"Log path: {self.save_path}")  # the files are there

    def learn(self, model: Any) -> None:
        model = _GoesOn(model) if self.has_checkpoint else model
        super().learn(model)


class _GoesOn:
    """A model whose ``learn()`` counts the steps that are done.

    :param model: the model
    """

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def learn(self, total_timesteps: int, **kwargs: Any) -> None:
        """Train up to a number of steps.

        :param total_timesteps: steps of the whole run
        :param kwargs: other arguments
        """
        model = self._model
        name = inspect.signature(model.learn).parameters["tb_log_name"].default or type(model).__name__
        logs = model.tensorboard_log
        if logs is not None and len(list(Path(logs).glob(f"{name}_*"))) != 1:
            # Stable-Baselines3 would go on in the last folder, which may be another run's
            model.set_logger(configure_logger(model.verbose, logs, name, reset_num_timesteps=True))
            print(f"TensorBoard's log of the rest is in {model.logger.dir}")
        left = max(total_timesteps - model.num_timesteps, 0)
        model.learn(left, reset_num_timesteps=False, **kwargs)


def _checkpoint_callback(hyperparams: dict[str, Any]) -> RunCheckpointCallback:
    """The ``RunCheckpointCallback`` that hyperparameters name; one that saves at every step where they name none."""
    entries = hyperparams.get("callback") or []
    for entry in entries if isinstance(entries, list) else [entries]:
        name = next(iter(entry), None) if isinstance(entry, dict) else entry
        if isinstance(name, str) and is_class(name, RunCheckpointCallback):
            return cast(RunCheckpointCallback, get_callback_list({"callback": entry})[0])
    return RunCheckpointCallback(save_freq=1)


def _steps_done(folder: Path) -> int:
    """Steps that a run has done at least, by the episodes in its monitors, the models it saved, its last evaluation."""
    steps = sum(sum(_episode_lengths(file)) for file in folder.glob("*.monitor.csv"))
    saved = [file.stem.split("_")[-2] for file in folder.glob("rl_model_*_steps.zip")]  # --save-freq
    steps = max([steps, *(int(number) for number in saved if number.isdecimal())])
    with contextlib.suppress(OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile):
        steps = max(steps, int(np.load(folder / "evaluations.npz")["timesteps"][-1]))
    return steps


def _episode_lengths(file: Path) -> list[int]:
    """Lengths of the episodes that the monitor of one environment has written to the end."""
    # Below a comment and the names of the columns: reward, length, time. An empty line is an episode of no length
    lines = [line for line in file.read_bytes().splitlines(keepends=True)[2:] if line.endswith(b"\n")]
    try:
        return [int(line.split(b",")[1]) if line.strip() else 0 for line in lines]
    except (ValueError, LookupError) as error:
        raise ValueError(f"{str(file)!r} is damaged ({error}): mend the line, or start the run again") from error


def _forget_episodes_after(file: Path, steps: int, env: Any) -> None:
    """Cut from a monitor's file the episodes that ended after the checkpoint: they are played again.

    :param file: what the monitor of one environment has written
    :param steps: of this environment, until the checkpoint
    :param env: the environment, where it is in this process: a monitor that was restored knows its episodes
    """
    while env is not None and not isinstance(env, Monitor):
        env = getattr(env, "env", None)
    lines = file.read_bytes().splitlines(keepends=True)
    finished = [] if env is None else env.get_episode_rewards()
    ends = itertools.accumulate(_episode_lengths(file))
    kept = 2 + (len(finished) or sum(end <= steps for end in ends))
    os.truncate(file, sum(map(len, lines[:kept])))


if __name__ == "__main__":
    main()
