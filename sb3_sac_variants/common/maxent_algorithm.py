"""The training loop of all algorithms of this package: sample, update, log, save."""

import math
from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    Schedule,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import FloatSchedule

from sb3_sac_variants.common.actors import SquashedGaussianActor
from sb3_sac_variants.common.buffers import TensorReplayBuffer
from sb3_sac_variants.common.checkpoint import Resumable
from sb3_sac_variants.common.critics import StackedCritic
from sb3_sac_variants.common.discrete import CategoricalActor
from sb3_sac_variants.common.engine import Engine, make_engine
from sb3_sac_variants.common.learner import Learner, TargetTracker
from sb3_sac_variants.common.losses import Batch, soft_bellman_error
from sb3_sac_variants.common.metrics import DeviceMetrics
from sb3_sac_variants.common.policies import MaxEntPolicy
from sb3_sac_variants.common.target_entropy import RunawayWatch, parse_target_entropy
from sb3_sac_variants.common.temperature import LearnedTemperature, Temperature
from sb3_sac_variants.common.validation import check_choice, check_range, parse_ent_coef

SelfMaxEnt = TypeVar("SelfMaxEnt", bound="MaxEntAlgorithm")


def bellman_loss(critic: StackedCritic, batch: Batch, target_q: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    :param critic: Q-functions
    :param batch: transitions
    :param target_q: y, ``(B, 1)``
    :return: the soft Bellman error of the critics, and the mean of their values (to log)
    """
    q_values = critic.evaluate(batch.observations, batch.actions)
    return soft_bellman_error(q_values, target_q), q_values.mean()


class MaxEntAlgorithm(Resumable):
    """
    Base of the maximum-entropy algorithms: everything but the update itself.

    A subclass names its policies, says in :meth:`draw_noise` what randomness a gradient step takes, and writes its
    paper's algorithm box in :meth:`update`. Arguments not described here are those of SB3's ``SAC``, with its names,
    order and defaults.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a policy class
    :param env: the environment, or its id
    :param learning_rate: of all networks, a number or a function of the remaining progress (from 1 to 0)
    :param buffer_size: transitions to keep
    :param learning_starts: steps to collect (with random actions) before learning starts
    :param batch_size: transitions in a gradient step
    :param tau: coefficient of the targets' moving average, in (0, 1]; 1 copies
    :param gamma: discount factor, in [0, 1]
    :param train_freq: environment steps (or episodes) from one call of the training to the next
    :param gradient_steps: gradient steps in each; -1 for as many as there were environment steps
    :param action_noise: noise added to the action in training
    :param replay_buffer_class: by default :class:`~sb3_sac_variants.common.buffers.TensorReplayBuffer`
    :param replay_buffer_kwargs: its arguments
    :param optimize_memory_usage: whether to store each observation once
    :param n_steps: n of n-step returns
    :param ent_coef: temperature alpha: a number of at least 0, "auto" (learned), or "auto_0.1" (learned, from 0.1);
        None for the paper's
    :param target_update_interval: gradient steps, over the whole run, from one update of the targets to the next
    :param target_entropy: H of the learned temperature in nats: "auto" for -dim(A), or 0.7 log|A| on discrete actions;
        or a number; or, on discrete actions, "auto_0.9" for that fraction of log|A|
    :param use_sde: whether to explore with gSDE
    :param sde_sample_freq: steps from one exploration matrix to the next; -1: once a rollout
    :param use_sde_at_warmup: whether gSDE, not random actions, before learning starts
    :param stats_window_size: episodes the reported means run over
    :param tensorboard_log: folder for TensorBoard
    :param policy_kwargs: arguments of the policy
    :param verbose: 0 silent, 1 information, 2 debugging
    :param seed: of all random generators
    :param device: where to train
    :param _init_setup_model: whether to build the networks now
    :param engine: how an update runs: "auto", "eager", "compile", "cudagraph"
    :param reward_scale: multiplies the rewards inside the loss (logged returns stay raw), 1/alpha of the 2018 paper
    :param qf_learning_rate: learning rate of the critics (and value networks), by default ``learning_rate``
    :param ent_coef_learning_rate: learning rate of the temperature, by default ``learning_rate``
    :raises ValueError: if an argument has no meaning; the message names it, its value and the remedy
    """

    #: id in the zoo and in saved models
    algorithm_id: ClassVar[str]
    default_ent_coef: ClassVar[str | float] = "auto"
    #: what :meth:`update` reports
    metric_names: ClassVar[tuple[str, ...]]
    #: pairs of networks (online, target)
    tracked_networks: ClassVar[dict[str, str]]
    supported_action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Box,)

    policy: MaxEntPolicy
    actor: SquashedGaussianActor | CategoricalActor
    critic: StackedCritic
    actor_learner: Learner
    critic_learner: Learner

    def __init__(
        self,
        policy: str | type[MaxEntPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: str | float | None = None,
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        engine: str = "auto",
        reward_scale: float = 1.0,
        qf_learning_rate: float | Schedule | None = None,
        ent_coef_learning_rate: float | Schedule | None = None,
    ):
        if isinstance(env, str):
            env = maybe_make_env(env, verbose)
        self._check_env(env)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=dict(replay_buffer_kwargs or {}),
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=dict(policy_kwargs or {}),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            supported_action_spaces=self.supported_action_spaces,
            support_multi_env=True,
        )
        self.algorithm = self.algorithm_id  # saved with the model: a zip knows what it is
        self.ent_coef = self.default_ent_coef if ent_coef is None else ent_coef
        self.target_update_interval = target_update_interval
        self.target_entropy: Any = target_entropy  # a number once the model is set up
        self.engine = engine
        self.reward_scale = reward_scale
        self.qf_learning_rate = qf_learning_rate
        self.ent_coef_learning_rate = ent_coef_learning_rate

        if _init_setup_model:
            self._setup_model()

    # ---------------------------------------------------------------- the algorithm's own

    @abstractmethod
    def draw_noise(self, batch_size: int) -> Any:
        """
        :param batch_size: transitions in the gradient step
        :return: the random numbers :meth:`update` takes
        """

    @abstractmethod
    def update(self, batch: Batch, noise: Any) -> dict[str, th.Tensor]:
        """
        One gradient step: the paper's algorithm box. No synchronisation with the host, static shapes, everything that
        changes from step to step a tensor.

        :param batch: transitions
        :param noise: what :meth:`draw_noise` gave
        :return: metrics to log, scalars on the device, the same names at each call
        """

    @abstractmethod
    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param noise: noise of one action for each
        :return: (an estimate of) V(s), ``(B, 1)``
        """

    # ---------------------------------------------------------------- inspection

    def q_value(self, observation: np.ndarray | dict[str, np.ndarray], action: np.ndarray) -> np.ndarray:
        """
        Q(s, a), the minimum over the critics, for analysis and plots.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param action: actions as the environment takes them, ``(n, *action_shape)``
        :return: ``(n,)``
        """
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(observation)
        if isinstance(self.action_space, spaces.Box):
            action = np.asarray(action, dtype=np.float32).reshape(-1, *self.action_space.shape)
            action = self.policy.scale_action(action)
        actions = th.as_tensor(action, device=self.device)
        with th.no_grad():
            q_values = self.critic.evaluate(obs, actions.reshape(-1, get_action_dim(self.action_space)))
        return q_values.amin(dim=0).squeeze(1).cpu().numpy()

    def soft_value(self, observation: np.ndarray | dict[str, np.ndarray], n_samples: int = 64) -> np.ndarray:
        """
        Soft state value V(s), for analysis and plots: of the value network where the algorithm has one, else the mean
        of min Q - alpha log pi over sampled actions, or its exact sum over discrete ones. Does not touch the random
        state of the training.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param n_samples: continuous actions to sample for each observation
        :return: ``(n,)``
        """
        check_range("n_samples", n_samples, 1, integer=True)
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(observation)
        batch_size = next(iter(obs.values())).shape[0] if isinstance(obs, dict) else obs.shape[0]
        generator = th.Generator(self.device).manual_seed(0)
        with th.no_grad():
            noise = self._draw_inspection_noise(n_samples, batch_size, generator)
            values = th.stack([self._soft_value(obs, sample_noise) for sample_noise in noise])
        return values.mean(dim=0).squeeze(1).cpu().numpy()

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        """
        :param n_samples: actions to sample for each observation
        :param batch_size: number of observations
        :param generator: what to draw from
        :return: arguments of :meth:`_soft_value`, stacked: its results are averaged
        """
        shape = self.actor.noise_shape(batch_size)
        repetitions = n_samples if math.prod(shape) > 0 else 1  # without noise all results are the same
        return th.randn((repetitions, *shape), generator=generator, device=self.device)

    # ---------------------------------------------------------------- construction

    def _check_arguments(self) -> None:
        """
        :raises ValueError: if an argument has no meaning
        """
        check_range("tau", self.tau, 0, 1, low_open=True)
        check_range("gamma", self.gamma, 0, 1)
        check_range("batch_size", self.batch_size, 1, integer=True)
        check_range("buffer_size", self.buffer_size, 1, integer=True)
        check_range("learning_starts", self.learning_starts, 0, integer=True)
        check_range("n_steps", self.n_steps, 1, integer=True)
        check_range("target_update_interval", self.target_update_interval, 1, integer=True)
        check_range("reward_scale", self.reward_scale, 0, low_open=True)
        if self.gradient_steps != -1:
            check_range("gradient_steps", self.gradient_steps, 1, integer=True)
        check_choice("engine", self.engine, ("auto", "eager", "compile", "cudagraph"))
        for name in ("learning_rate", "qf_learning_rate", "ent_coef_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not callable(rate):
                check_range(name, rate, 0)
        _, learned = parse_ent_coef(self.ent_coef)
        if not learned and self.ent_coef_learning_rate is not None:
            raise ValueError(
                f"ent_coef_learning_rate={self.ent_coef_learning_rate} has no effect on the fixed ent_coef="
                f"{self.ent_coef!r}: leave it out, or pass ent_coef='auto'"
            )
        self.target_entropy = parse_target_entropy(self.target_entropy, self.action_space)
        self._check_n_steps()
        self._check_exploration()

    def _check_exploration(self) -> None:
        if isinstance(self.action_space, spaces.Box):
            return
        if self.action_noise is not None:
            raise ValueError(
                f"action_noise={self.action_noise} cannot be added to actions of {self.action_space}: leave it out, "
                "the policy explores by itself"
            )
        if self.use_sde:
            raise ValueError(
                f"use_sde=True needs continuous actions, not {self.action_space}: pass use_sde=False, the policy "
                "explores by itself"
            )

    def _check_n_steps(self) -> None:
        if self.n_steps == 1:
            return
        if self.replay_buffer_class is not None and not issubclass(self.replay_buffer_class, NStepReplayBuffer):
            raise ValueError(
                f"n_steps={self.n_steps} does not go with replay_buffer_class={self.replay_buffer_class.__name__}, "
                "which would ignore it: pass n_steps=1, or leave replay_buffer_class out"
            )
        if isinstance(self.observation_space, spaces.Dict):
            raise ValueError(
                f"n_steps={self.n_steps} is not supported for dictionary observations: pass n_steps=1, or flatten them "
                "with gymnasium.wrappers.FlattenObservation"
            )

    def _setup_model(self) -> None:
        self._check_arguments()
        # What SB3 chooses for an argument that was left out must not be saved as if it had been passed
        chosen = self.replay_buffer_class, dict(self.replay_buffer_kwargs)
        if self.replay_buffer_class is None and self.n_steps == 1:
            self.replay_buffer_class = TensorReplayBuffer
        super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs = chosen
        self._create_aliases()
        self._setup_temperature()
        self.learners = {name: Learner(getattr(self, name), name) for name in self.policy.learned_networks}
        for name, learner in self.learners.items():
            setattr(self, f"{name}_learner", learner)
        self.target_trackers = {
            target: TargetTracker(getattr(self, online), getattr(self, target))
            for online, target in self.tracked_networks.items()
        }
        names = (*self.metric_names, "ent_coef_loss") if self.temperature.learned else self.metric_names
        self._metrics = DeviceMetrics(names, self.device)
        self._runaway_watch = RunawayWatch(parse_ent_coef(self.ent_coef)[0])
        self._engine: Engine | None = None
        self._set_learning_rates(self._current_progress_remaining)

    def _create_aliases(self) -> None:
        """SB3's attributes: ``model.actor``, ``model.critic`` and the other networks."""
        for name in self._network_names():
            setattr(self, name, getattr(self.policy, name))

    def _network_names(self) -> set[str]:
        return {"actor", *self.policy.learned_networks, *self.tracked_networks.values()}

    def _setup_temperature(self) -> None:
        value, learned = parse_ent_coef(self.ent_coef)
        self.temperature: Temperature
        if learned:
            temperature = LearnedTemperature(value, getattr(self, "ent_coef_loss", "alpha")).to(self.device)
            # Adam as in SB3, whatever the networks use: weight decay, say, has no meaning for one number
            temperature.setup_optimizer(th.optim.Adam, lr=self.lr_schedule(1))
            self.temperature = temperature
        else:
            self.temperature = Temperature(value).to(self.device)

    @property
    def log_ent_coef(self) -> th.Tensor | None:
        """
        :return: log of the learned temperature, ``(1,)``; None if it is fixed
        """
        return self.temperature.log_ent_coef if isinstance(self.temperature, LearnedTemperature) else None

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self._qf_lr_schedule = None if self.qf_learning_rate is None else FloatSchedule(self.qf_learning_rate)
        self._ent_coef_lr_schedule = (
            None if self.ent_coef_learning_rate is None else FloatSchedule(self.ent_coef_learning_rate)
        )

    # ---------------------------------------------------------------- training

    def _set_learning_rates(self, progress_remaining: float) -> dict[str, float]:
        """
        :param progress_remaining: from 1 (beginning) to 0 (end)
        :return: the rates by SB3's log names
        """
        rate = self.lr_schedule(progress_remaining)
        qf_rate = rate if self._qf_lr_schedule is None else self._qf_lr_schedule(progress_remaining)
        logged = {"learning_rate": rate}
        if self._qf_lr_schedule is not None:
            logged["qf_learning_rate"] = qf_rate
        for name, learner in self.learners.items():
            learner.set_learning_rate(rate if name == "actor" else qf_rate)
        if isinstance(self.temperature, LearnedTemperature):
            schedule = self._ent_coef_lr_schedule
            alpha_rate = rate if schedule is None else schedule(progress_remaining)
            self.temperature.learner.set_learning_rate(alpha_rate)
            if schedule is not None:
                logged["ent_coef_learning_rate"] = alpha_rate
        return logged

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Sample the replay buffer and do the updates.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions in each
        """
        self.policy.set_training_mode(True)
        for name, rate in self._set_learning_rates(self._current_progress_remaining).items():
            self.logger.record(f"train/{name}", rate)
        for tracker in self.target_trackers.values():
            tracker.configure(self.tau, self.target_update_interval, self._n_updates)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.set_normalization(self._vec_normalize_env)
        if self._engine is None:
            for learner in self.learners.values():
                learner.refresh()  # parameters may have been frozen since the model was made
            self._engine = self._make_engine()
        self._engine.run(gradient_steps, batch_size, self._engine_signature())
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _draw(self, batch_size: int) -> tuple[Batch, Any]:
        """
        :param batch_size: number of transitions
        :return: transitions from the replay buffer, and the noise of a gradient step
        """
        buffer = self.replay_buffer
        assert buffer is not None
        if isinstance(buffer, TensorReplayBuffer):
            samples = buffer.draw(batch_size)
        else:
            samples = buffer.sample(batch_size, env=self._vec_normalize_env)
        discounts = samples.discounts
        if discounts is None:
            discounts = th.full_like(samples.rewards, self.gamma)
        batch = Batch(
            samples.observations,
            samples.actions,
            samples.next_observations,
            samples.dones,
            samples.rewards,
            discounts,
        )
        return batch, self.draw_noise(batch_size)

    def _gradient_step(self, batch: Batch, noise: Any) -> None:
        """
        :param batch: transitions
        :param noise: random numbers
        """
        with th.no_grad():
            self._metrics.add(self.update(batch, noise))

    def _make_engine(self) -> Engine:
        steps_left = max(self._total_timesteps - self.num_timesteps, 0)
        if self.gradient_steps > 0:
            assert isinstance(self.train_freq, TrainFreq)
            if self.train_freq.unit == TrainFrequencyUnit.STEP:
                steps_left = steps_left * self.gradient_steps / (self.train_freq.frequency * self.n_envs)
        # A run resumed from a checkpoint takes the engine it had
        self._planned_steps = steps_left if self._planned_steps is None else self._planned_steps
        learners = list(self.learners.values())
        return make_engine(
            self.engine,
            self._draw,
            self._gradient_step,
            device=self.device,
            draw_on_device=isinstance(self.replay_buffer, TensorReplayBuffer),
            fullgraph=all(learner.plain_adam for learner in learners),
            planned_steps=self._planned_steps,
            verbose=self.verbose,
        )

    def _engine_signature(self) -> Hashable:
        """
        :return: changes when memory that a captured graph points to has been replaced, or a constant in it has changed
        """
        memory = (id(self.replay_buffer), getattr(self.replay_buffer, "version", 0))
        return (*memory, self.gamma, self.reward_scale, self.tau, self.target_update_interval)

    def dump_logs(self) -> None:
        """Write the logs: only now are the metrics read from the device, as means since the last time."""
        metrics = self._metrics.means()
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        if self.temperature.learned:
            self._runaway_watch.check(metrics, self.target_entropy)
        if self.num_timesteps > self._num_timesteps_at_start:
            self.logger.record("train/update_to_data", self._n_updates / max(self.num_timesteps, 1))
        super().dump_logs()

    def learn(
        self: SelfMaxEnt,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMaxEnt:
        """
        Train. As SB3's ``learn``.

        :param total_timesteps: environment steps
        :param callback: called at each of them
        :param log_interval: episodes from one log to the next; None for no logs
        :param tb_log_name: name of the run for TensorBoard, by default the class's
        :param reset_num_timesteps: whether to count from zero, or go on
        :param progress_bar: whether to show one
        :return: the model
        """
        return super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar,
        )

    # ---------------------------------------------------------------- saving and loading

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        super().set_parameters(load_path_or_dict, exact_match, device)
        for learner in self.learners.values():
            learner.refresh()
        if isinstance(self.temperature, LearnedTemperature):
            self.temperature.learner.refresh()
        self._engine, self._planned_steps = None, None

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        super().load_replay_buffer(path, truncate_last_traj)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.to(self.device)

    def _excluded_save_params(self) -> list[str]:
        learners = ["temperature", "learners", *(name for name in vars(self) if name.endswith("_learner"))]
        machinery = [*learners, "target_trackers", "_metrics", "_runaway_watch", "_engine"]
        return [*super()._excluded_save_params(), *self._network_names(), *machinery]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", *(f"{name}.optimizer" for name in self.policy.learned_networks)]
        if isinstance(self.temperature, LearnedTemperature):
            state_dicts += ["temperature", "temperature.optimizer"]
        return state_dicts, []
