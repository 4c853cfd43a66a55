"""The training loop of all algorithms of this package: sample, update, log."""

import math
import sys
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, get_args

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import (
    GymEnv,
    Schedule,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env.patch_gym import _patch_env

from sb3_sac_variants.common.algorithm import inspection
from sb3_sac_variants.common.algorithm.arguments import (
    EngineName,
    PrecisionName,
    check_arguments,
    check_constructor_arguments,
    check_learning_rates,
    check_settings,
    warn_of_idle_arguments,
)
from sb3_sac_variants.common.algorithm.logged_metrics import LoggedMetrics
from sb3_sac_variants.common.algorithm.saving import MaxEntSaving
from sb3_sac_variants.common.checks.compatibility import check_whole_episodes
from sb3_sac_variants.common.checks.policy_arguments import check_policy
from sb3_sac_variants.common.checks.validation import check_range, check_sde, learning_rate_at, parse_ent_coef, plain
from sb3_sac_variants.common.equations.losses import soft_bellman_error, td_error
from sb3_sac_variants.common.equations.types import Batch, Noise
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.precision import matmul_precision
from sb3_sac_variants.common.gradient_step.target_entropy import TemperatureMonitor, parse_target_entropy
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature, Temperature
from sb3_sac_variants.common.gradient_step.updater import Updater
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.discrete import CategoricalActor
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.persistence import optimizers
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

#: steps of an episode, of an environment that does not say how many there are at the most
USUAL_EPISODE = 1000
#: what an update reports: scalars to log by their names, and as "td_error" the errors of transitions, or None
Metrics = Mapping[str, th.Tensor | None]


class MaxEntAlgorithm(MaxEntSaving):
    """
    Base of the maximum-entropy algorithms: everything but the update itself.

    A subclass names its policies, says in :meth:`draw_noise` what randomness a gradient step takes, and writes its
    paper's algorithm box in :meth:`update`. The arguments below are those of every algorithm; what is not described
    is as in SB3's ``SAC``.

    :param learning_rate: of all networks, a number or a function of the remaining progress (from 1 to 0)
    :param ent_coef: temperature alpha: a number of at least 0, "auto" (learned), or "auto_0.1" (learned, from 0.1)
    :param target_update_interval: gradient steps, over the whole run, from one update of the targets to the next
    :param target_entropy: H of the learned temperature in nats: "auto" for -dim(A), or 0.7 log|A| on discrete actions;
        or a number; or, on discrete actions, "auto_0.9" for that fraction of log|A| (MASAC: of -dim(A), too)
    :param engine: how an update runs: "auto", "eager", "compile", "cudagraph"
    :param precision: of large matrix products in an update, "float32" or "bfloat16" (on a CPU of results, too)
    :param reward_scale: multiplies the rewards inside the loss (logged returns stay raw), 1/alpha of the 2018 paper
    :param qf_learning_rate: learning rate of the critics (and value networks), by default ``learning_rate``
    :param ent_coef_learning_rate: learning rate of the temperature, by default ``learning_rate``
    """

    #: id in the zoo and in saved models
    algorithm_id: ClassVar[str]
    #: arguments that the algorithm would ignore: the value that each has to keep, and why
    unsupported_arguments: ClassVar[dict[str, tuple[Any, str]]] = {}
    #: pairs of networks (online, target)
    tracked_networks: ClassVar[dict[str, str]]
    #: shape of the value of a state
    value_shape: tuple[int, ...] = ()
    #: what a learned temperature is differentiated by; an argument of SACv2
    ent_coef_loss: str = "alpha"
    #: attributes that a gradient step reads as plain values
    update_constants: ClassVar[tuple[str, ...]] = (
        "gamma",
        "tau",
        "target_update_interval",
        "reward_scale",
        "target_entropy",
        "precision",
    )
    #: arguments that are one of a few names
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "engine": get_args(EngineName),
        "precision": get_args(PrecisionName),
    }
    supported_action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Box,)
    default_replay_buffer_class: ClassVar[type[TensorReplayBuffer]] = TensorReplayBuffer

    actor: SquashedGaussianActor | CategoricalActor
    critic: StackedCritic
    actor_learner: Learner
    critic_learner: Learner
    #: the discount when the replay buffer was made, which may have one of its own
    _gamma_at_setup: float | None = None
    #: gradient steps that were done when the environment steps were last counted from zero
    _updates_at_reset: int = 0

    def __init__(
        self,
        policy: str | type[MaxEntPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        *,
        ent_coef: str | float,
        target_update_interval: int,
        target_entropy: str | float,
        policy_kwargs: dict[str, Any] | None,
        replay_buffer_kwargs: dict[str, Any] | None,
        verbose: int,
        engine: EngineName,
        precision: PrecisionName,
        reward_scale: float,
        qf_learning_rate: float | Schedule | None,
        ent_coef_learning_rate: float | Schedule | None,
        _init_setup_model: bool,
        **off_policy_arguments: Any,
    ):
        learning_rate, qf_learning_rate, ent_coef_learning_rate = map(
            plain, (learning_rate, qf_learning_rate, ent_coef_learning_rate)
        )
        off_policy_arguments = {name: plain(value) for name, value in off_policy_arguments.items()}
        check_constructor_arguments(verbose, policy_kwargs, replay_buffer_kwargs, off_policy_arguments["device"])
        if isinstance(env, str):
            env = maybe_make_env(env, verbose)
        old_env = getattr(sys.modules.get("gym"), "Env", None)
        if isinstance(old_env, type) and isinstance(env, old_env):
            env = _patch_env(env)  # of OpenAI Gym, which SB3 takes, too
        if env is not None:
            self._check_env(env)
            check_sde(off_policy_arguments["use_sde"], env.action_space)
        check_policy(policy, type(self))
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            policy_kwargs=dict(policy_kwargs or {}),
            replay_buffer_kwargs=dict(replay_buffer_kwargs or {}),
            verbose=verbose,
            supported_action_spaces=self.supported_action_spaces,
            support_multi_env=True,
            **off_policy_arguments,
        )
        self.algorithm = self.algorithm_id  # saved with the model: a zip knows what it is
        self.ent_coef = ent_coef
        self.target_update_interval = target_update_interval
        self.target_entropy: Any = target_entropy  # a number once the model is set up
        self.engine = engine
        self.precision = precision
        self.reward_scale = reward_scale
        self.qf_learning_rate = qf_learning_rate
        self.ent_coef_learning_rate = ent_coef_learning_rate

        if _init_setup_model:
            self._setup_model()
            check_whole_episodes(self.train_freq, self.n_envs)  # a model that was loaded may only play
            given = {
                "target_entropy": target_entropy,
                "ent_coef_loss": self.ent_coef_loss,
                "policy_kwargs": policy_kwargs,
            }
            given |= off_policy_arguments
            warn_of_idle_arguments(given, self)

    # ---------------------------------------------------------------- the algorithm's own

    def draw_noise(self, batch_size: int) -> Any:
        """Draw the random numbers that :meth:`update` takes: those of an action in each state and in the next one."""
        shape = (2, *self.actor.noise_shape(batch_size))
        return Noise(*th.randn(shape, dtype=self.actor.dtype, device=self.device).unbind())

    @abstractmethod
    def update(self, batch: Batch, noise: Any) -> Metrics:
        """
        Do one gradient step: the paper's algorithm box.

        There is no synchronisation with the host, shapes are static, and what changes from step to step is a tensor.

        :return: metrics to log by their names, scalars on the device, the same ones at each call; and as "td_error" the
            errors of transitions that :meth:`critic_loss` gave, for the replay
        """

    def critic_loss(
        self, critic: StackedCritic, batch: Batch, target_q: th.Tensor
    ) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor | None]]:
        """
        Soft Bellman error of the critics on a batch (P18, eq. 7), with the targets y, ``(B, N)``.

        A subclass may change what the critics minimise.

        :return: the error; the mean of the critics' values (to log); the error of each transition, ``(B,)``, if the
            replay wants to know it
        """
        q_values = critic.evaluate(batch.observations, batch.actions)
        errors = None if batch.indices is None else td_error(q_values, target_q)
        return soft_bellman_error(q_values, target_q, batch.weights), (q_values.mean(), errors)

    # ---------------------------------------------------------------- construction

    def _check_arguments(self) -> None:
        """Check the arguments; a subclass adds its own."""
        check_arguments(self)

    def _parse_target_entropy(self) -> float:
        """Read ``target_entropy`` as a number, in nats."""
        return parse_target_entropy(self.target_entropy, self.action_space)

    def _setup_model(self) -> None:
        self._check_arguments()
        # What SB3 chooses for an argument that was left out must not be saved as if it had been passed
        chosen = self.replay_buffer_class, dict(self.replay_buffer_kwargs)
        if self.replay_buffer_class is None and self.n_steps == 1:
            self.replay_buffer_class = self.default_replay_buffer_class
        super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs = chosen
        self._gamma_at_setup = self.gamma
        self._create_aliases()
        self.temperature: Temperature = self._make_temperature(*parse_ent_coef(self.ent_coef)).to(self.device)
        if isinstance(self.temperature, LearnedTemperature):
            self.temperature.setup_optimizer(self.lr_schedule(1))
        if new := optimizers.put_back(self, self._replaced_optimizers):
            self._new_optimizers = new  # until parameters are loaded
        self.updater = Updater(self.policy, self.policy.learned_networks, self.tracked_networks, self.temperature)
        self.updater.networks = self._networks()
        for name, learner in self.updater.learners.items():
            setattr(self, f"{name}_learner", learner)
        for name, tracker in self.updater.trackers.items():
            setattr(self, f"{name}_tracker", tracker)
        self._temperature_monitor = TemperatureMonitor(parse_ent_coef(self.ent_coef)[0])
        self._set_learning_rates(self._current_progress_remaining)

    def _make_temperature(self, value: float, learned: bool) -> Temperature:
        """Build the temperature, without an optimiser."""
        return LearnedTemperature(value, self.ent_coef_loss) if learned else Temperature(value)

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        qf, ent_coef = self.qf_learning_rate, self.ent_coef_learning_rate
        self._qf_lr_schedule = None if qf is None else FloatSchedule(qf)
        self._ent_coef_lr_schedule = None if ent_coef is None else FloatSchedule(ent_coef)
        self._scheduled_rates = self._rate_arguments()

    def _rate_arguments(self) -> tuple[Any, ...]:
        return self.learning_rate, self.qf_learning_rate, self.ent_coef_learning_rate

    # ---------------------------------------------------------------- training

    def _set_learning_rates(self, progress_remaining: float) -> dict[str, float]:
        """Set the learning rates for the steps that follow, and return them by SB3's log names."""
        if self._rate_arguments() != self._scheduled_rates:  # somebody has set one, which is saved
            check_learning_rates(self)
            schedule, is_set = self.lr_schedule, self.learning_rate != self._scheduled_rates[0]
            self._setup_lr_schedule()
            if not is_set:
                self.lr_schedule = schedule  # which may have been put there by hand
        schedules = {"learning_rate": self.lr_schedule}
        if self._qf_lr_schedule is not None:
            schedules["qf_learning_rate"] = self._qf_lr_schedule
        if self._ent_coef_lr_schedule is not None:
            schedules["ent_coef_learning_rate"] = self._ent_coef_lr_schedule
        progress = max(progress_remaining, 0.0)  # the last steps of several environments may go beyond the end
        rates = {name: learning_rate_at(progress, name, rate) for name, rate in schedules.items()}
        rate = rates["learning_rate"]
        self.updater.set_learning_rates(
            rate, rates.get("qf_learning_rate", rate), rates.get("ent_coef_learning_rate", rate)
        )
        return rates

    def _take_settings(self) -> None:
        """Check and take over what a callback may have changed; a subclass adds its own."""
        check_settings(self)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Sample the replay buffer and do the updates, as SB3's ``train``."""
        self._updates_unfinished = True  # until the end
        self._prepare_updates(gradient_steps, batch_size)
        self._plan_updates(gradient_steps)
        engine = self.updater.choose_engine(
            self.engine, self.draw_batch, self._gradient_step, self._draws_on_device, self.verbose
        )
        self.updater.check_precision(self.precision, engine.name)
        until = self._n_updates + gradient_steps
        with matmul_precision(self.precision, self.policy, self.device, engine.name):
            while self._n_updates < until:
                self._n_updates += self.updater.run(self._n_updates, until, batch_size, self.engine_signature)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        values = LoggedMetrics.of(self.logger)
        if values is not None:
            values.announce(self.updater.metrics, self._record_metrics)
        else:  # a logger of the user's own kind
            self._record_metrics()
        self._updates_unfinished = False

    def _prepare_updates(self, gradient_steps: int, batch_size: int) -> None:
        """Take over what may have changed since the last updates: networks, settings, learning rates."""
        if self._collected_by_user:  # whose rollout is over where updates begin
            self._between_rollouts, self._collected_by_user = True, False
        networks = self._networks()
        self._take_settings()
        check_range("batch_size", batch_size, 1, integer=True)
        check_range("gradient_steps", gradient_steps, 0, integer=True)
        if isinstance(self.replay_buffer, NStepReplayBuffer) and "gamma" not in self.replay_buffer_kwargs:
            self.replay_buffer.gamma = self.gamma  # which may have changed
        if self.updater.bind(networks):
            self._fast_actor = None
            self.policy.find_modules()
        self.policy.set_training_mode(True)
        for name, rate in self._set_learning_rates(self._current_progress_remaining).items():
            self.logger.record(f"train/{name}", rate)
        for tracker in self.updater.trackers.values():
            tracker.configure(self.tau, self.target_update_interval, self._n_updates)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.set_normalization(self._vec_normalize_env)

    def _plan_updates(self, gradient_steps: int) -> None:
        """Plan the updates where ``learn()`` has not, or where somebody does more of them by hand than were planned."""
        updater = self.updater
        if updater.planned_steps is None:
            updater.plan(self._planned_gradient_steps())
        if not self._learns and updater.updates_since_load + gradient_steps > (updater.planned_steps or 0):
            updater.plan(gradient_steps)

    def draw_batch(self, batch_size: int) -> tuple[Batch, Any]:
        """Draw a batch from the replay buffer, and the noise of a gradient step."""
        buffer: Any = self.replay_buffer
        if self._draws_on_device:
            samples = buffer.draw(batch_size)
        else:
            samples = buffer.sample(batch_size, env=self._vec_normalize_env)
        return Batch.of(samples, self.gamma), self.draw_noise(batch_size)

    def _gradient_step(self, batch: Batch, noise: Any) -> None:
        """Do one update, add up its metrics, and tell a prioritised replay the errors of its transitions."""
        with th.no_grad():
            reported = dict(self.update(batch, noise))
            errors = reported.pop("td_error", None)
            if batch.indices is not None:
                if errors is None:
                    raise ValueError(
                        f"{type(self.replay_buffer).__name__} asks for the errors of transitions, and "
                        f"{type(self).__name__}.update() reports no 'td_error': take another replay_buffer_class"
                    )
                self.replay_buffer.update_priorities(batch.indices, errors)  # type: ignore[union-attr]
            self.updater.metrics.add(reported)  # type: ignore[arg-type]

    @property
    def _draws_on_device(self) -> bool:
        return isinstance(self.replay_buffer, TensorReplayBuffer) and self.replay_buffer.draws_on_device

    def _planned_gradient_steps(self) -> float:
        """Number of gradient steps to the end of ``learn()``."""
        steps = max(self._total_timesteps - max(self.num_timesteps, self.learning_starts), 0)
        if self.gradient_steps < 0:
            return steps
        assert isinstance(self.train_freq, TrainFreq)
        between = self.train_freq.frequency * self.n_envs
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:
            env: Any = self.env.unwrapped if self.env is not None else None
            spec = getattr(next(iter(getattr(env, "envs", [])), None), "spec", None)
            between *= getattr(spec, "max_episode_steps", None) or USUAL_EPISODE
        return steps * self.gradient_steps / between

    def _setup_training(self, resumed: bool) -> None:
        if not resumed:  # a resumed run takes the engine it had
            self.updater.plan(self._planned_gradient_steps())
        if self.num_timesteps == 0:
            self._updates_at_reset = self._n_updates
        LoggedMetrics.of(self.logger)  # before a callback, which may keep the dictionary, sees it

    def set_logger(self, logger: Logger) -> None:
        """As SB3's: take a logger in place of the one that ``learn()`` makes."""
        LoggedMetrics.of(logger)
        super().set_logger(logger)

    def engine_signature(self) -> Hashable:
        """Changes when memory that a captured graph points to has been replaced, or a constant in it has changed."""
        constants = [getattr(self, name) for name in self.update_constants]
        replay = (id(self.replay_buffer), getattr(self.replay_buffer, "signature", None))
        return (*replay, *constants, *self.updater.signature())

    def dump_logs(self) -> None:
        """Write the logs: the metrics of the updates are means since the last time."""
        self._watch(self._record_metrics())
        super().dump_logs()
        self.updater.metrics.reset()

    def _record_metrics(self) -> dict[str, float]:
        """Give the logger the metrics of the updates, and return them: means since the logs were last written."""
        metrics = self.updater.metrics.means()
        values = {f"train/{name}": value for name, value in metrics.items()}
        if self.num_timesteps > self._num_timesteps_at_start:
            values["train/update_to_data"] = (self._n_updates - self._updates_at_reset) / self.num_timesteps
        LoggedMetrics.record(self.logger, values)
        return metrics

    def _watch(self, metrics: dict[str, float]) -> None:
        """Warn of what can be seen to go wrong in the means since the last time, empty if there was no update."""
        if self.temperature.learned:
            self._temperature_monitor.check(metrics, self.target_entropy)

    # ---------------------------------------------------------------- inspection

    @abstractmethod
    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        """(An estimate of) V(s), ``(B, 1)``, for :meth:`soft_value`, with the noise of one action for each state."""

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        """Draw arguments of :meth:`_soft_value`, stacked: its results are averaged."""
        shape = self.actor.noise_shape(batch_size)
        repetitions = n_samples if math.prod(shape) > 0 else 1  # without noise all results are the same
        shape = (repetitions, *shape)
        return th.randn(shape, generator=generator, dtype=self.actor.dtype, device=self.device)

    q_value = inspection.q_value
    soft_value = inspection.soft_value
