"""Collecting experience: SB3's rollout with a shorter way from observation to action, and a guard before the buffer."""

import copy
import pathlib
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from sb3_sac_variants.common.algorithm.arguments import check_loop
from sb3_sac_variants.common.checks.compatibility import (
    check_env,
    check_is_env,
    check_normalization,
    check_whole_episodes,
)
from sb3_sac_variants.common.checks.data import DivergedError, check_actions, check_finite, check_observation_shape
from sb3_sac_variants.common.checks.random_state import RandomState, torch_random_state
from sb3_sac_variants.common.checks.replaced import is_of_user
from sb3_sac_variants.common.checks.validation import (
    check_action_space,
    check_discrete_start,
    check_range,
)
from sb3_sac_variants.common.networks.fast_inference import PACKAGE, fast_inference
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.persistence import callback_state
from sb3_sac_variants.common.persistence.checkpoint import warn_that_a_run_begins_anew
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.common.replay.trajectories import end_trajectory


class MaxEntRollout(OffPolicyAlgorithm):
    """What :class:`MaxEntAlgorithm` changes in SB3's rollout."""

    supported_action_spaces: ClassVar[tuple[type[spaces.Space], ...]]
    policy: MaxEntPolicy

    #: attributes that say where in the loop a run is; a saved model has none
    rollout_state: ClassVar[tuple[str, ...]] = (
        *("_between_rollouts", "_collects", "_collected_by_user", "_updates_unfinished", "_state_before_rollout"),
        *("_resumed", "_stopped_after_step", "_fast_actor", "_fast_actor_instead_of"),
        *("_callback", "_restore_callbacks", "_checkpoints", "_warned_of_terminal_observations", "_learns"),
    )
    #: whether no step is half stored, and no rollout was stopped
    _between_rollouts: bool = True
    #: whether the last rollout was stopped by its callback, and the observation is that after the step
    _stopped_after_step: bool = False
    #: whether :meth:`learn` is running
    _learns: bool = False
    #: whether :meth:`collect_rollouts` is running
    _collects: bool = False
    #: whether the last action was asked for without it, by a rollout of the user's own
    _collected_by_user: bool = False
    #: whether an error or Ctrl-C has left ``train()`` before its end
    _updates_unfinished: bool = False
    #: torch's random state from before the exploration matrices of the rollout were drawn (gSDE only)
    _state_before_rollout: RandomState | None = None
    #: whether the next ``learn()`` goes on with a run restored from a checkpoint
    _resumed: bool = False
    #: the callback of the last ``learn()``, whose state goes into checkpoints
    _callback: BaseCallback | None = None
    #: gives callbacks the state that they had in the run that the next ``learn()`` goes on with
    _restore_callbacks: Callable[[BaseCallback], None] | None = None
    #: versions of checkpoints that are of this run, by folder
    _checkpoints: dict[pathlib.Path, set[str | None]] | None = None
    #: whether it was said that truncated episodes lack their last observation
    _warned_of_terminal_observations: bool = False
    #: the actor as the rollout calls it; made by the first step of each ``learn()`` where nobody has an own predict()
    _fast_actor: Callable[..., th.Tensor] | None = None
    #: the methods between observation and action when it was made
    _fast_actor_instead_of: tuple[Callable[..., Any], ...] = ()

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's; keeps track of where in the loop we are, for checkpoints."""
        self._between_rollouts, self._updates_unfinished, self._collects = True, False, True
        if self.use_sde:
            self._state_before_rollout = torch_random_state(self.device)
        try:
            rollout = super().collect_rollouts(env, callback, *args, **kwargs)
        except DivergedError as error:
            raise error.at(self.num_timesteps) from None
        finally:
            self._collects = False
        self._between_rollouts = rollout.continue_training
        self._state_before_rollout = None
        if not rollout.continue_training and "new_obs" in callback.locals:
            self._go_to(callback.locals["new_obs"])
        return rollout

    def _go_to(self, new_obs: Any) -> None:
        """
        Take note of where a step has led to that was not stored, because the callback has stopped the training.

        SB3 acts on the observation before once more, and stores what never was a step.
        """
        self._last_obs, self._stopped_after_step = _own_copy(new_obs), True
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        if self.replay_buffer is not None:
            end_trajectory(self.replay_buffer)

    @property
    def _can_go_on_exactly(self) -> bool:
        """Whether a run resumed from a checkpoint of now would be this one."""
        return self._between_rollouts and not self._updates_unfinished

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions, as SB3's ``predict``.

        :param observation: one observation, or one of each environment (normalised, where VecNormalize is used)
        :param state: passed on as it is: no policy here has one
        :param episode_start: not used, likewise
        :param deterministic: whether to take the policy's best action (the mean) in place of one that is drawn
        :return: actions as the environment takes them, and ``state``
        :raises DivergedError: if a network has diverged
        """
        try:
            return super().predict(observation, state, episode_start, deterministic)
        except DivergedError as error:
            raise error.at(self.num_timesteps) from None

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions for a step of the rollout, as SB3's.

        The way through ``predict()``, which unscales a Box action that is then scaled again, is left out.
        """
        self._between_rollouts = self._stopped_after_step = False
        self._collected_by_user = not self._collects
        warm_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        policy = self.policy
        ways = (self.predict, policy.predict, policy._predict, policy.obs_to_tensor)
        if ways != self._fast_actor_instead_of:
            self._fast_actor, self._fast_actor_instead_of = None, ways
        if self._fast_actor is None and _are_as_ever(ways):
            self._fast_actor = fast_inference(self.actor)
        if warm_up or self._fast_actor is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None, "self._last_obs was not set"
        with th.no_grad():
            actions = self._fast_actor(obs_as_tensor(self._last_obs, self.device)).cpu().numpy()
        assert self.action_space.shape is not None
        scaled = actions.reshape(-1, *self.action_space.shape)
        if not isinstance(self.action_space, spaces.Box):
            check_actions(scaled, type(self.policy).__name__)
            scaled = scaled.astype(self.action_space.dtype, copy=False)
            return scaled, scaled
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """As SB3's, after a look at what is about to be stored: rewards and observations have to be finite."""
        reward, dones = np.asarray(reward), np.asarray(dones)  # lists, from some environments
        normalizer = self._vec_normalize_env
        # Look at what will be stored: VecNormalize clips an infinite value and hides it
        raw_reward = reward if normalizer is None else normalizer.get_original_reward()
        raw_obs = new_obs if normalizer is None else normalizer.get_original_obs()
        check_finite("reward", raw_reward, self.num_timesteps)
        check_observation_shape("observation", raw_obs, self.observation_space, self.n_envs)
        check_finite("observation", raw_obs, self.num_timesteps)
        last_obs = self._last_obs if normalizer is None else self._last_original_obs
        next_obs: Any = raw_obs  # which our buffer copies from
        if dones.any() or not isinstance(replay_buffer, TensorReplayBuffer) or is_of_user(replay_buffer, "add"):
            infos = self._with_terminal_observations(dones, infos)
            next_obs = self._with_last_of_episodes(raw_obs, dones, infos)
        replay_buffer.add(last_obs, next_obs, buffer_action, raw_reward, dones, infos)  # type: ignore[arg-type]
        self._last_obs = new_obs = _own_copy(new_obs)
        self._last_original_obs = last_obs if normalizer is None else raw_obs

    def _with_last_of_episodes(self, raw_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> Any:
        """Copy observations before normalisation, with the last one of each episode that has ended in its place."""
        next_obs = _own_copy(raw_obs)
        for index in np.flatnonzero(dones).tolist():
            last = infos[index].get("terminal_observation")
            if last is not None and self._vec_normalize_env is not None:
                last = self._vec_normalize_env.unnormalize_obs(last)
            if isinstance(last, dict):
                for key, values in next_obs.items():
                    values[index] = _rounded_for(values, last[key])
            elif last is not None:
                next_obs[index] = _rounded_for(next_obs, last)
        return next_obs

    def _with_terminal_observations(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """
        Check the observations that ended an episode. Where a truncated one has none, use the observation before.

        What then bootstraps is the value of the observation before, which is a step away from the right one. The first
        observation of the next episode, which SB3 would take, may be any number of steps away; to take the episode as
        terminated would be wrong by the whole value. (An infinite one has been clipped by ``VecNormalize``, and what it
        was before is not known any more.)
        """
        infos = list(infos)
        for index in np.flatnonzero(dones).tolist():
            last = infos[index].get("terminal_observation")
            if isinstance(last, dict):
                last = {key: np.asarray(value)[None] for key, value in last.items()}
            elif last is not None:
                last = np.asarray(last)[None]
            if last is not None:
                check_observation_shape("terminal observation", last, self.observation_space, 1, first_env=index)
                check_finite("terminal observation", last, self.num_timesteps, first_env=index)
            elif infos[index].get("TimeLimit.truncated", False):
                infos[index] = {**infos[index], "terminal_observation": self._observation_before(index)}
                if not self._warned_of_terminal_observations:
                    self._warned_of_terminal_observations = True
                    warnings.warn(
                        f"the episode of environment {index} was truncated at step {self.num_timesteps}, and "
                        'infos[...]["terminal_observation"] does not say where it ended: the observation before takes '
                        "its place. Have the VecEnv put the last observation of each episode there",
                        stacklevel=2,
                    )
        return infos

    def _observation_before(self, index: int) -> Any:
        """The observation that an environment was in before the step, as its VecEnv would give it."""
        normalizer = self._vec_normalize_env
        before: Any = self._last_obs if normalizer is None else self._last_original_obs
        before = {key: value[index] for key, value in before.items()} if isinstance(before, dict) else before[index]
        return before if normalizer is None else normalizer.normalize_obs(before)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train. As SB3's ``learn``, with the name of the class for TensorBoard; ``log_interval=None`` for no logs."""
        if log_interval is not None:
            check_range("log_interval", log_interval, 1, integer=True)
        before, self._learns = self._learns, True
        try:
            return super().learn(
                total_timesteps,
                callback,
                log_interval,  # type: ignore[arg-type]
                tb_log_name or type(self).__name__,
                reset_num_timesteps,
                progress_bar,
            )
        finally:
            self._learns = before
            self._collected_by_user = False  # updates by hand do not end a rollout that was stopped

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        check_range("total_timesteps", total_timesteps, 0)
        self._take_over_changes()
        # An error or Ctrl-C in the middle of a step: the environment may have gone on, we have not
        if not (self._between_rollouts or self._stopped_after_step):
            self._last_obs = None
        if self._resumed and reset_num_timesteps:
            warn_that_a_run_begins_anew(self.num_timesteps)
        begins_anew = reset_num_timesteps or self._last_obs is None
        if begins_anew and self.replay_buffer is not None:
            end_trajectory(self.replay_buffer)
        noise = copy.deepcopy(self.action_noise) if self._resumed and not reset_num_timesteps else None
        # Our buffer sees by itself where a trajectory was cut: SB3's truncation of the last one, which would end the
        # episode as if it had terminated, is for its own memory-saving buffer
        optimize_memory_usage = self.optimize_memory_usage
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.optimize_memory_usage = False
        try:
            result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            self.optimize_memory_usage = optimize_memory_usage
        if noise is not None:  # the episode goes on: so does its noise, which SB3 has reset
            self.action_noise = noise
        self._setup_training(self._resumed)
        callback_state.note_start(result[1])
        if self._restore_callbacks is not None and not reset_num_timesteps:
            self._restore_callbacks(result[1])
        self._callback, self._restore_callbacks = result[1], None
        self._resumed = False
        if begins_anew:
            self._last_obs = _own_copy(self._last_obs)
        first = self._last_original_obs if self._vec_normalize_env is not None else self._last_obs
        assert first is not None
        check_observation_shape("observation", first, self.observation_space, self.n_envs)
        check_finite("observation", first, self.num_timesteps)
        return result

    def _take_over_changes(self) -> None:
        """Check, and take over, what may have changed since the last ``learn()``, or in making a copy."""
        self._networks()
        self.policy.find_modules()
        self._fast_actor = None
        if isinstance(self.replay_buffer, TensorReplayBuffer) and self.replay_buffer.device != self.device:
            self.replay_buffer.to(self.device)  # a copy of the model has it on the CPU
        check_loop(self)
        self._warn_of_few_updates()
        self._convert_train_freq()
        check_whole_episodes(self.train_freq, self.n_envs)
        if isinstance(self.replay_buffer, HerReplayBuffer):  # a copy has none, set_env() may have brought another
            self.replay_buffer.env = self.env
        if isinstance(self.action_noise, VectorizedActionNoise) and self.action_noise.n_envs != self.n_envs:
            self.action_noise = self.action_noise.base_noise  # for as many environments as there are now

    @abstractmethod
    def _networks(self) -> dict[str, th.nn.Module]:
        """The networks by their names, the same in the model and in its policy."""

    @abstractmethod
    def _setup_training(self, resumed: bool) -> None:
        """Prepare the gradient steps of a ``learn()``, which goes on with a run restored from a checkpoint or not."""

    def _warn_of_few_updates(self) -> None:
        """Say so, at verbose >= 1, where many environments outrun the updates. It is advice: people may mean it."""
        train_freq = self.train_freq
        if self.verbose < 1 or self.n_envs == 1 or self.gradient_steps <= 0 or not isinstance(train_freq, TrainFreq):
            return
        ratio = self.gradient_steps / (train_freq.frequency * self.n_envs)
        if ratio < 0.5:
            warnings.warn(
                f"gradient_steps={self.gradient_steps} with {self.n_envs} environments and train_freq="
                f"{train_freq.frequency} makes {ratio:.2g} updates for each environment step: pass gradient_steps=-1 "
                "for one update a step",
                stacklevel=4,
            )

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check_is_env(env)
        wrapped = OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        check_normalization(wrapped)
        return wrapped

    @classmethod
    def _check_env(cls, env: GymEnv) -> None:
        """Refuse an environment whose observations or actions are of an unsupported kind."""
        check_env(env)
        check_action_space(env.action_space, cls.supported_action_spaces, cls.__name__)
        check_discrete_start(env.action_space)


def _are_as_ever(ways: tuple[Callable[..., Any], ...]) -> bool:
    """Whether no user has put something of their own between observation and action."""
    # functools.wraps() gives a method's own module to what replaces it
    return all(
        way.__module__.partition(".")[0] in ("stable_baselines3", PACKAGE) and not hasattr(way, "__wrapped__")
        for way in ways
    )


def _rounded_for(array: np.ndarray, observation: Any) -> Any:
    """An observation that becomes part of an array: normalised and back again, a 1 may be 0.9999999."""
    return np.rint(observation) if array.dtype.kind in "iu" else observation


def _own_copy(observation: Any) -> Any:
    """Copy observations: an environment may return the same array at each step."""
    if isinstance(observation, dict):
        return {key: np.array(value) for key, value in observation.items()}
    return np.array(observation)
