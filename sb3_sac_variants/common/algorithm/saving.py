"""Saving and loading, of models, replay buffers and whole runs: SB3's methods, without lost files or run code."""

import copy
import pathlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv
from typing_extensions import Self

from sb3_sac_variants.common.algorithm.arguments import check_constructor_arguments, warn_of_idle_arguments
from sb3_sac_variants.common.algorithm.rollout import MaxEntRollout
from sb3_sac_variants.common.algorithm.sb3_attributes import SB3Attributes
from sb3_sac_variants.common.checks.validation import check_device, plain
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.persistence import checkpoint, optimizers, replay_file, save_load
from sb3_sac_variants.common.persistence.files import Path
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.common.replay.trajectories import end_trajectory


class MaxEntSaving(SB3Attributes, MaxEntRollout):
    """What :class:`MaxEntAlgorithm` changes in SB3's saving and loading."""

    policy: MaxEntPolicy

    #: classes of optimisers that are not those of ``policy_kwargs``, by what they train; in saved models
    _replaced_optimizers: Mapping[str, str] = MappingProxyType({})

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the model. As SB3's ``save``, but a file that is already there is replaced only by a complete one.

        :param path: path (``.zip`` is added where there is no ending), or a file open for writing
        :param exclude: names of attributes to leave out
        :param include: names of attributes to save although they are left out by default
        :raises TypeError: if one of the two is a single name
        """
        self._networks()
        self._note_ent_coef()
        self._replaced_optimizers = optimizers.replaced(self)
        save_load.save_model(self, super().save, path, exclude, include)

    @classmethod
    def load(
        cls,
        path: Path,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trusted: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Load a saved model. As SB3's ``load``, but no code of whoever wrote the file is run.

        :param path: path of the file, or a file open for reading
        :param custom_objects: objects to put in place of saved ones, by their names
        :param trusted: whether to build whatever the file describes, lambdas included, which may run code
        :param kwargs: arguments of the algorithm to change
        :raises ValueError: if the file is damaged, is no model of this algorithm, or needs to be trusted
        :raises TypeError: if an argument is unknown
        """
        kwargs = {name: plain(value) for name, value in kwargs.items()}
        dictionaries = {name: kwargs.pop(name, None) for name in ("policy_kwargs", "replay_buffer_kwargs")}
        check_constructor_arguments(kwargs.get("verbose", 0), device=device, **dictionaries)
        kwargs |= {name: value for name, value in dictionaries.items() if value is not None}
        kwargs |= {"env": env, "device": device, "custom_objects": custom_objects}
        kwargs |= {"print_system_info": print_system_info, "force_reset": force_reset}
        model = save_load.load_model(cls, super().load, path, trusted, **kwargs)
        warn_of_idle_arguments(kwargs, model)
        return model

    def save_replay_buffer(self, path: Path) -> None:
        """
        Save the replay buffer. As SB3's, but a file that is there already is replaced only by a complete one.

        :param path: path (``.pkl`` is added where there is no ending), or a file open for writing
        """
        replay_file.save_replay_buffer(self, path)

    def load_replay_buffer(self, path: Path, truncate_last_traj: bool = True, trusted: bool = False) -> None:
        """
        Load a replay buffer. As SB3's, but no code of whoever wrote the file is run.

        :param path: path of the file, or a file open for reading
        :param truncate_last_traj: with ``HerReplayBuffer`` and n-step returns, whether the step that is stored next
            does not follow the last one in it
        :param trusted: whether to build whatever the file describes, which may run code
        :raises ValueError: if the file is damaged, needs to be trusted, or is not of this model's environment
        """
        replay_file.load_replay_buffer(self, path, truncate_last_traj, trusted)
        assert self.replay_buffer is not None
        if truncate_last_traj:
            end_trajectory(self.replay_buffer)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.to(self.device)

    def save_checkpoint(self, path: str | pathlib.Path) -> None:
        """
        Save all that a run needs to go on as if it had never stopped.

        Call it between two calls of ``learn()``, or from a callback's ``_on_rollout_start``: between a gradient step
        and the next environment step, as :class:`~sb3_sac_variants.common.callbacks.RunCheckpointCallback` does.
        Elsewhere (in ``_on_step``, or after a callback stopped the training there) a step is half done: a run resumed
        from there begins a new episode, and a warning says so. The same goes for environments whose state cannot be
        saved; :mod:`sb3_sac_variants.common.persistence.env_state` says which. After Ctrl-C or an error in
        ``train()``, what was left of its updates is not made up for, with a warning, too.

        :param path: folder of the checkpoint, made where there is none; it has a complete one at any moment. The
            first save of a model replaces what is there; later ones refuse what another run wrote in between
        :raises ValueError: if the model has no environment, or the path is a file
        :raises RuntimeError: if another run writes to the folder
        """
        checkpoint.save_checkpoint(self, path)

    @classmethod
    def load_checkpoint(
        cls, path: str | pathlib.Path, env: GymEnv | str, device: th.device | str = "auto", trusted: bool = False
    ) -> Self:
        """
        Take up a run where :meth:`save_checkpoint` left it; as with ``load()``, no code in the files is run.

        ``learn()`` then wants the steps that are left::

            model = SACv2.load_checkpoint("run", env)
            model.learn(max(total_timesteps - model.num_timesteps, 0), reset_num_timesteps=False)

        :param path: folder of the checkpoint
        :param env: environment built as that of the interrupted run, wrappers included, or its id; its state is
            overwritten
        :param trusted: whether to build whatever the files describe, which may run code
        :raises FileNotFoundError: if there is no checkpoint in the folder
        :raises ValueError: if it is damaged, of another algorithm, of an environment built otherwise, or needs to be
            trusted
        """
        return checkpoint.load_checkpoint(cls, path, env, device, trusted)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Take over parameters. As SB3's ``set_parameters``, with errors that say what does not fit.

        :param load_path_or_dict: what ``get_parameters()`` gave, or a saved model
        :param exact_match: whether parameters of each network and optimiser have to be there
        :param device: where to load them first
        :raises ValueError: if the file is damaged, or they are those of a model with other parts
        """
        if isinstance(load_path_or_dict, dict):  # torch's optimisers take over the tensors of a state as they are
            load_path_or_dict = copy.deepcopy(load_path_or_dict)
        check_device(device)
        save_load.set_parameters(self, super().set_parameters, load_path_or_dict, exact_match, device)
        self.updater.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of a copy what belongs to this model's memory or ``learn()``; the updater leaves out its engine."""
        of_this_one = {"_fast_actor": None, "_fast_actor_instead_of": (), "_callback": None, "_learns": False}
        return {**vars(self), **of_this_one}

    def _excluded_save_params(self) -> list[str]:
        parts = [name for name, value in vars(self).items() if isinstance(value, Learner | TargetTracker)]
        parts += ["temperature", "updater", "_temperature_monitor", "_gamma_at_setup", "_scheduled_rates"]
        parts += self._network_names()
        if not self._between_rollouts:  # in the middle of a step: whoever goes on begins a new episode
            parts.append("_last_obs")
        return [*super()._excluded_save_params(), *parts, *self.rollout_state]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", *(f"{name}.optimizer" for name in self.policy.learned_networks)]
        if isinstance(self.temperature, LearnedTemperature):
            state_dicts += ["temperature", "temperature.optimizer"]
        return state_dicts, []
