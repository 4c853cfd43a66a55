"""The training loop of all algorithms of this package: sample, update, log, save."""

import math
import pathlib
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    Schedule,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import FloatSchedule
from typing_extensions import Self

from sb3_sac_variants.common.algorithm import inspection
from sb3_sac_variants.common.algorithm.arguments import (
    EngineName,
    PrecisionName,
    check_arguments,
    check_constructor_arguments,
    warn_of_idle_arguments,
)
from sb3_sac_variants.common.algorithm.inspection import Observation
from sb3_sac_variants.common.algorithm.logged_metrics import LoggedMetrics
from sb3_sac_variants.common.algorithm.rollout import MaxEntRollout
from sb3_sac_variants.common.checks.compatibility import check_policy
from sb3_sac_variants.common.checks.validation import check_range, check_sde, parse_ent_coef, plain
from sb3_sac_variants.common.equations.losses import soft_bellman_error, td_error
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.precision import matmul_precision
from sb3_sac_variants.common.gradient_step.target_entropy import TemperatureMonitor
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature, Temperature
from sb3_sac_variants.common.gradient_step.updater import Updater
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.discrete import CategoricalActor
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.persistence import checkpoint, save_load
from sb3_sac_variants.common.persistence.save_load import Path
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

#: what an update reports: scalars to log by their names, and as "td_error" the errors of transitions, or None
Metrics = Mapping[str, th.Tensor | None]


def bellman_loss(
    critic: StackedCritic, batch: Batch, target_q: th.Tensor
) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor | None]]:
    """
    Soft Bellman error of the critics on a batch.

    :param critic: Q-functions
    :param batch: transitions
    :param target_q: y, ``(B, N)``
    :return: the error; the mean of the critics' values (to log); the error of each transition, ``(B,)``, if the replay
        wants to know it
    """
    q_values = critic.evaluate(batch.observations, batch.actions)
    errors = None if batch.indices is None else td_error(q_values, target_q)
    return soft_bellman_error(q_values, target_q, batch.weights), (q_values.mean(), errors)


class MaxEntAlgorithm(MaxEntRollout):
    """
    Base of the maximum-entropy algorithms: everything but the update itself.

    A subclass names its policies, says in :meth:`draw_noise` what randomness a gradient step takes, and writes its
    paper's algorithm box in :meth:`update`. The arguments below are those of every algorithm; what is not described
    is as in SB3's ``SAC``.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a policy class
    :param env: the environment, or its id
    :param learning_rate: of all networks, a number or a function of the remaining progress (from 1 to 0)
    :param ent_coef: temperature alpha: a number of at least 0, "auto" (learned), or "auto_0.1" (learned, from 0.1)
    :param target_update_interval: gradient steps, over the whole run, from one update of the targets to the next
    :param target_entropy: H of the learned temperature in nats: "auto" for -dim(A), or 0.7 log|A| on discrete actions;
        or a number; or, on discrete actions, "auto_0.9" for that fraction of log|A|
    :param policy_kwargs: arguments of the policy
    :param replay_buffer_kwargs: arguments of the replay buffer
    :param verbose: 0 silent, 1 information, 2 debugging
    :param engine: how an update runs: "auto", "eager", "compile", "cudagraph"
    :param precision: of the operands of matrix products in an update, "float32" or "bfloat16"
    :param reward_scale: multiplies the rewards inside the loss (logged returns stay raw), 1/alpha of the 2018 paper
    :param qf_learning_rate: learning rate of the critics (and value networks), by default ``learning_rate``
    :param ent_coef_learning_rate: learning rate of the temperature, by default ``learning_rate``
    :param _init_setup_model: whether to build the networks now
    :param off_policy_arguments: the other arguments of SB3's ``OffPolicyAlgorithm``
    :raises TypeError: if an argument is of a wrong type
    :raises ValueError: if an argument has no meaning; the message names it, its value and the remedy
    """

    #: id in the zoo and in saved models
    algorithm_id: ClassVar[str]
    #: arguments that the algorithm would ignore: the value that each has to keep, and why
    unsupported_arguments: ClassVar[dict[str, tuple[Any, str]]] = {}
    #: pairs of networks (online, target)
    tracked_networks: ClassVar[dict[str, str]]
    #: attributes that a gradient step reads as plain values
    update_constants: ClassVar[tuple[str, ...]] = (
        "gamma",
        "tau",
        "target_update_interval",
        "reward_scale",
        "target_entropy",
        "precision",
    )
    supported_action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Box,)
    default_replay_buffer_class: ClassVar[type[TensorReplayBuffer]] = TensorReplayBuffer

    policy: MaxEntPolicy
    actor: SquashedGaussianActor | CategoricalActor
    critic: StackedCritic
    actor_learner: Learner
    critic_learner: Learner
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
        check_constructor_arguments(learning_rate, verbose, policy_kwargs, replay_buffer_kwargs, off_policy_arguments)
        if isinstance(env, str):
            env = maybe_make_env(env, verbose)
        self._check_env(env)
        if env is not None:
            check_sde(off_policy_arguments["use_sde"], env.action_space)
        check_policy(policy, self.policy_aliases)
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
        self.ent_coef = plain(ent_coef)
        self.target_update_interval = target_update_interval
        self.target_entropy: Any = target_entropy  # a number once the model is set up
        self.engine = engine
        self.precision = precision
        self.reward_scale = reward_scale
        self.qf_learning_rate = qf_learning_rate
        self.ent_coef_learning_rate = ent_coef_learning_rate

        if _init_setup_model:
            self._setup_model()
            warn_of_idle_arguments({"target_entropy": target_entropy, **off_policy_arguments}, self)

    # ---------------------------------------------------------------- the algorithm's own

    @abstractmethod
    def draw_noise(self, batch_size: int) -> Any:
        """
        Draw the random numbers of one gradient step.

        :param batch_size: transitions in the gradient step
        :return: the random numbers :meth:`update` takes
        """

    @abstractmethod
    def update(self, batch: Batch, noise: Any) -> Metrics:
        """
        Do one gradient step: the paper's algorithm box.

        There is no synchronisation with the host, shapes are static, and what changes from step to step is a tensor.

        :param batch: transitions
        :param noise: what :meth:`draw_noise` gave
        :return: metrics to log by their names, scalars on the device, the same ones at each call; and as "td_error" the
            errors of transitions that :func:`bellman_loss` gave, for the replay
        """

    # ---------------------------------------------------------------- construction

    def _check_arguments(self) -> None:
        """
        Check the arguments; a subclass adds its own.

        :raises TypeError: if an argument is of a wrong type
        :raises ValueError: if an argument has no meaning
        """
        check_arguments(self)

    def _setup_model(self) -> None:
        self._check_arguments()
        # What SB3 chooses for an argument that was left out must not be saved as if it had been passed
        chosen = self.replay_buffer_class, dict(self.replay_buffer_kwargs)
        if self.replay_buffer_class is None and self.n_steps == 1:
            self.replay_buffer_class = self.default_replay_buffer_class
        super()._setup_model()
        self.replay_buffer_class, self.replay_buffer_kwargs = chosen
        self._create_aliases()
        self._setup_temperature()
        learned, tracked = self.policy.learned_networks, self.tracked_networks
        self.updater = Updater(self.policy, learned, tracked, self.temperature)
        for name, learner in self.updater.learners.items():
            setattr(self, f"{name}_learner", learner)
        for name, tracker in self.updater.trackers.items():
            setattr(self, f"{name}_tracker", tracker)
        self._temperature_monitor = TemperatureMonitor(parse_ent_coef(self.ent_coef)[0])
        self._set_learning_rates(self._current_progress_remaining)

    def _create_aliases(self) -> None:
        """SB3's attributes: ``model.actor``, ``model.critic`` and the other networks."""
        for name in self._network_names():
            setattr(self, name, getattr(self.policy, name))

    def _network_names(self) -> set[str]:
        return {"actor", *self.policy.learned_networks, *self.tracked_networks.values()}

    def _networks(self) -> dict[str, th.nn.Module]:
        return {name: getattr(self, name) for name in self._network_names()}

    def _setup_temperature(self) -> None:
        self.temperature: Temperature = self._make_temperature(*parse_ent_coef(self.ent_coef)).to(self.device)
        if isinstance(self.temperature, LearnedTemperature):
            # Adam as in SB3, whatever the networks use: weight decay, say, has no meaning for one number
            self.temperature.setup_optimizer(th.optim.Adam, lr=self.lr_schedule(1))

    def _make_temperature(self, value: float, learned: bool) -> Temperature:
        """
        Build the temperature, without an optimiser.

        :param value: (initial) alpha
        :param learned: whether it is learned
        :return: the temperature, without an optimiser
        """
        return LearnedTemperature(value, getattr(self, "ent_coef_loss", "alpha")) if learned else Temperature(value)

    @property
    def ent_coef(self) -> str | float:
        """
        The temperature as it was passed: a number, or "auto" where it is learned.

        A fixed one may be changed at any time. A learned one is where ``log_ent_coef`` is.
        """
        return vars(self)["ent_coef"]

    @ent_coef.setter
    def ent_coef(self, ent_coef: str | float) -> None:
        if "temperature" in vars(self):
            value, learned = parse_ent_coef(ent_coef)
            if learned != self.temperature.learned or (learned and ent_coef != self.ent_coef):
                raise ValueError(
                    f"ent_coef={ent_coef!r} cannot take the place of ent_coef={self.ent_coef!r}: set a learned "
                    "temperature with model.log_ent_coef.data.fill_(math.log(value)), or make a new model and give its "
                    "policy the state_dict of this one's"
                )
            if not learned:
                self._set_fixed_temperature(value)
        vars(self)["ent_coef"] = ent_coef

    def _set_fixed_temperature(self, value: float) -> None:
        """
        Change a temperature that is not learned.

        :param value: alpha
        """
        self.temperature.value.fill_(value)

    @property
    def ent_coef_tensor(self) -> th.Tensor:
        """The fixed temperature, as SB3 has it; to be set as :attr:`ent_coef`."""
        if self.temperature.learned:
            raise AttributeError(f"ent_coef_tensor: with ent_coef={self.ent_coef!r}, read log_ent_coef.exp() instead")
        return self.temperature.value

    @ent_coef_tensor.setter
    def ent_coef_tensor(self, value: th.Tensor | float) -> None:
        self.ent_coef = float(value)

    @property
    def log_ent_coef(self) -> th.Tensor | None:
        """Log of the learned temperature, ``(1,)`` (with several agents, one each); None if it is fixed."""
        return self.temperature.log_ent_coef if isinstance(self.temperature, LearnedTemperature) else None

    @property
    def ent_coef_optimizer(self) -> th.optim.Optimizer | None:
        """Optimiser of the learned temperature; None if it is fixed."""
        return self.temperature.optimizer if isinstance(self.temperature, LearnedTemperature) else None

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self._qf_lr_schedule = None if self.qf_learning_rate is None else FloatSchedule(self.qf_learning_rate)
        self._ent_coef_lr_schedule = (
            None if self.ent_coef_learning_rate is None else FloatSchedule(self.ent_coef_learning_rate)
        )

    # ---------------------------------------------------------------- training

    def _set_learning_rates(self, progress_remaining: float) -> dict[str, float]:
        """
        Set the learning rates for the steps that follow.

        :param progress_remaining: from 1 (beginning) to 0 (end)
        :return: the rates by SB3's log names
        """
        rate = self.lr_schedule(progress_remaining)
        rates = {"learning_rate": rate}
        if self._qf_lr_schedule is not None:
            rates["qf_learning_rate"] = self._qf_lr_schedule(progress_remaining)
        if self._ent_coef_lr_schedule is not None:
            rates["ent_coef_learning_rate"] = self._ent_coef_lr_schedule(progress_remaining)
        self.updater.set_learning_rates(
            rate, rates.get("qf_learning_rate", rate), rates.get("ent_coef_learning_rate", rate)
        )
        return rates

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        Sample the replay buffer and do the updates.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions in each
        """
        self.policy.set_training_mode(True)
        if self.updater.bind_learners(self._networks()):
            self._fast_actor = None
        for name, rate in self._set_learning_rates(self._current_progress_remaining).items():
            self.logger.record(f"train/{name}", rate)
        self.updater.configure_targets(self.tau, self.target_update_interval, self._n_updates)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.set_normalization(self._vec_normalize_env)
        engine = self.updater.choose_engine(
            self.engine,
            self.draw_batch,
            self._gradient_step,
            draw_on_device=self._draws_on_device,
            planned_steps=self._planned_gradient_steps(),
            verbose=self.verbose,
        )
        until = self._n_updates + gradient_steps
        with matmul_precision(self.precision, self.policy, self.device):
            while self._n_updates < until:
                self._n_updates += self.updater.run(engine, self._n_updates, until, batch_size, self.engine_signature)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        LoggedMetrics.of(self.logger).announce(self.updater.metrics, self._record_metrics)

    def draw_batch(self, batch_size: int) -> tuple[Batch, Any]:
        """
        Draw a batch from the replay buffer, and the noise of a gradient step.

        :param batch_size: number of transitions
        :return: transitions from the replay buffer, and the noise of a gradient step
        """
        buffer = self.replay_buffer
        assert buffer is not None
        if self._draws_on_device:
            samples = buffer.draw(batch_size)  # type: ignore[attr-defined]
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
            getattr(samples, "weights", None),
            getattr(samples, "indices", None),
        )
        return batch, self.draw_noise(batch_size)

    def _gradient_step(self, batch: Batch, noise: Any) -> None:
        """
        Do one update, add up its metrics, and tell a prioritised replay the errors of its transitions.

        :param batch: transitions
        :param noise: random numbers
        """
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
        """
        Number of gradient steps to the end of ``learn()``.

        :return: gradient steps to the end of ``learn()``
        """
        steps = max(self._total_timesteps - self.num_timesteps, 0)
        if self.gradient_steps > 0:
            assert isinstance(self.train_freq, TrainFreq)
            if self.train_freq.unit == TrainFrequencyUnit.STEP:
                return steps * self.gradient_steps / (self.train_freq.frequency * self.n_envs)
        return steps

    def _setup_training(self, resumed: bool) -> None:
        self.updater.bind_targets(self._networks())
        if not resumed or self.updater.planned_steps is None:  # a resumed run takes the engine it had
            self.updater.plan(self._planned_gradient_steps())
        if self.num_timesteps == 0:
            self._updates_at_reset = self._n_updates

    def engine_signature(self) -> Hashable:
        """
        Identify the memory and the constants that a captured graph was made for.

        :return: changes when memory that a captured graph points to has been replaced, or a constant in it has changed
        """
        constants = [getattr(self, name) for name in self.update_constants]
        replay = (id(self.replay_buffer), getattr(self.replay_buffer, "signature", None))
        return (*replay, *constants, *self.updater.signature())

    def dump_logs(self) -> None:
        """Write the logs: the metrics of the updates are means since the last time."""
        self._watch(self._record_metrics())
        super().dump_logs()
        self.updater.metrics.reset()

    def _record_metrics(self) -> dict[str, float]:
        """
        Read the metrics of the updates from the device, and give them to the logger.

        :return: means since the logs were last written, empty if there was no update
        """
        metrics = self.updater.metrics.means(begin_anew=False)
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        if self.num_timesteps > self._num_timesteps_at_start:
            self.logger.record("train/update_to_data", (self._n_updates - self._updates_at_reset) / self.num_timesteps)
        return metrics

    def _watch(self, metrics: dict[str, float]) -> None:
        """
        Warn of what can be seen to go wrong.

        :param metrics: means since the last time, empty if there was no update
        """
        if self.temperature.learned:
            self._temperature_monitor.check(metrics, self.target_entropy)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train. As SB3's ``learn``.

        :param total_timesteps: environment steps
        :param callback: called at each of them
        :param log_interval: episodes from one log to the next, at least 1; None for no logs
        :param tb_log_name: name of the run for TensorBoard, by default the class's
        :param reset_num_timesteps: whether to count from zero, or go on
        :param progress_bar: whether to show one
        :return: the model
        """
        if log_interval is not None:
            check_range("log_interval", log_interval, 1, integer=True)
        return super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar,
        )

    # ---------------------------------------------------------------- inspection

    @abstractmethod
    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        """
        Estimate V(s), for :meth:`soft_value`.

        :param obs: observations
        :param noise: noise of one action for each
        :return: (an estimate of) V(s), ``(B, 1)``
        """

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        """
        Draw the noise for :meth:`soft_value`.

        :param n_samples: actions to sample for each observation
        :param batch_size: number of observations
        :param generator: what to draw from
        :return: arguments of :meth:`_soft_value`, stacked: its results are averaged
        """
        shape = self.actor.noise_shape(batch_size)
        repetitions = n_samples if math.prod(shape) > 0 else 1  # without noise all results are the same
        return th.randn((repetitions, *shape), generator=generator, device=self.device)

    def q_value(self, observation: Observation, action: np.ndarray) -> np.ndarray:
        """
        Q(s, a), the minimum over the critics, for analysis and plots.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param action: actions as the environment takes them, ``(n, *action_shape)``
        :return: ``(n,)``
        """
        return inspection.q_value(self, observation, action)

    def soft_value(self, observation: Observation, n_samples: int = 64) -> np.ndarray:
        """
        Soft state value V(s), for analysis and plots.

        It is that of the value network where the algorithm has one, else the mean of min Q - alpha log pi over sampled
        actions, or its exact sum over discrete ones. The random state of the training stays untouched.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param n_samples: continuous actions to sample for each observation
        :return: ``(n,)``
        """
        return inspection.soft_value(self, observation, n_samples)

    # ---------------------------------------------------------------- saving and loading

    def save(self, path: Path, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Save the model. As SB3's ``save``, but a file that is already there is replaced only by a complete one.

        :param path: path (``.zip`` is added where there is no ending), or a file-like object
        :param exclude: attributes not to save, beside the default ones
        :param include: attributes to save although they are excluded by default
        """
        save_load.save_model(super().save, path, exclude, include)

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

        :param path: path to the file, or a file-like object
        :param env: environment to run the model on
        :param device: device to load it to
        :param custom_objects: objects to put in the place of saved ones
        :param print_system_info: whether to print information on the system the model was saved on
        :param force_reset: whether to reset the environment before training goes on
        :param trusted: whether to build whatever the file describes, lambdas included, which may run code
        :param kwargs: arguments of the algorithm to change
        :return: the model
        :raises ValueError: if the file is damaged, is no model of this algorithm, or needs to be trusted
        :raises TypeError: if an argument is unknown
        """
        model = save_load.load_model(
            cls,
            super().load,
            path,
            trusted,
            env=env,
            device=device,
            custom_objects=custom_objects,
            print_system_info=print_system_info,
            force_reset=force_reset,
            **kwargs,
        )
        warn_of_idle_arguments(kwargs, model)
        return model

    def save_replay_buffer(self, path: Path) -> None:
        """
        Save the replay buffer. As SB3's, but a file that is already there is replaced only by a complete one.

        :param path: path (``.pkl`` is added where there is no ending), or a file-like object
        """
        save_load.save_replay_buffer(self, path)

    def load_replay_buffer(self, path: Path, truncate_last_traj: bool = True, trusted: bool = False) -> None:
        """
        Load a replay buffer. As SB3's, but no code of whoever wrote the file is run.

        :param path: path to the file, or a file-like object
        :param truncate_last_traj: with ``HerReplayBuffer``, whether the last episode in it has ended
        :param trusted: whether to build whatever the file describes, which may run code
        :raises ValueError: if the file is damaged, needs to be trusted, or is not of this model's environment
        """
        save_load.load_replay_buffer(self, path, truncate_last_traj, trusted)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.to(self.device)

    def save_checkpoint(self, path: str | pathlib.Path) -> None:
        """
        Save all that a run needs to go on as if it had never stopped.

        That is: model, optimisers, temperature, counters, replay buffer, random states, wrappers with their statistics
        (``VecNormalize``), and the environments in the middle of their episode. On the CPU the resumed run computes the
        same numbers, bit for bit.

        Call it between two calls of ``learn()``, or from a callback's ``_on_rollout_start``: between a gradient step
        and the next environment step, as :class:`~sb3_sac_variants.common.callbacks.RunCheckpointCallback` does.
        Elsewhere (in ``_on_step``, or after a callback stopped the training there) a step is half done: a run resumed
        from there begins a new episode, and a warning says so. The same goes for environments whose state cannot be
        saved; :mod:`sb3_sac_variants.common.persistence.env_state` says which.

        The new version is written beside the old one and becomes current in a single step, so whenever the writing is
        interrupted, a complete checkpoint is left.

        :param path: folder of the checkpoint; made where there is none
        :raises ValueError: if the model has no environment, or the path is a file
        """
        checkpoint.save_checkpoint(self, path)

    @classmethod
    def load_checkpoint(
        cls, path: str | pathlib.Path, env: GymEnv | str, device: th.device | str = "auto", trusted: bool = False
    ) -> Self:
        """
        Take up a run where :meth:`save_checkpoint` left it.

        ``learn()`` then wants the steps that are left::

            model = SACv2.load_checkpoint("run", env)
            model.learn(total_timesteps - model.num_timesteps, reset_num_timesteps=False)

        As with ``load()``, no code of whoever wrote the files is run.

        :param path: folder of the checkpoint
        :param env: environment built as that of the interrupted run, wrappers included, or its id; its state is
            overwritten
        :param device: device to load the model to
        :param trusted: whether to build whatever the files describe, which may run code
        :return: the model
        :raises FileNotFoundError: if there is no checkpoint in the folder
        :raises ValueError: if it is damaged, of another algorithm, of an environment built otherwise, or needs to be
            trusted
        """
        return checkpoint.load_checkpoint(cls, path, env, device, trusted)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Take over parameters. As SB3's ``set_parameters``.

        :param load_path_or_dict: the parameters, or the path of a saved model
        :param exact_match: whether they must be all
        :param device: where the model lives
        :raises ValueError: if the file is damaged, or of a model with other parts
        """
        save_load.set_parameters(self, super().set_parameters, load_path_or_dict, exact_match, device)
        self.updater.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of a copy what belongs to this model's memory; the updater leaves out its engine."""
        return {**vars(self), "_fast_actor": None, "_callback": None}

    def _excluded_save_params(self) -> list[str]:
        parts = [name for name, value in vars(self).items() if isinstance(value, Learner | TargetTracker)]
        parts += ["temperature", "updater", "_temperature_monitor", *self._network_names()]
        if not self._between_rollouts:  # in the middle of a step: whoever goes on begins a new episode
            parts.append("_last_obs")
        return [*super()._excluded_save_params(), *parts, *self.rollout_state]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", *(f"{name}.optimizer" for name in self.policy.learned_networks)]
        if isinstance(self.temperature, LearnedTemperature):
            state_dicts += ["temperature", "temperature.optimizer"]
        return state_dicts, []
