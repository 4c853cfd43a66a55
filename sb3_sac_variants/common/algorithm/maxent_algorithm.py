"""The training loop of all algorithms of this package: sample, update, log, save."""

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import (
    MaybeCallback,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import FloatSchedule

from sb3_sac_variants.common.algorithm.arguments import MaxEntArguments
from sb3_sac_variants.common.algorithm.inspection import Inspection
from sb3_sac_variants.common.checks.validation import parse_ent_coef
from sb3_sac_variants.common.equations.losses import soft_bellman_error
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.gradient_step.engine import COMPILE_PAYS_FROM, Engine, make_engine
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.metrics import DeviceMetrics
from sb3_sac_variants.common.gradient_step.precision import matmul_precision
from sb3_sac_variants.common.gradient_step.target_entropy import TemperatureMonitor
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature, Temperature
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.discrete import CategoricalActor
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

#: gradient steps from one search for denormal numbers to the next
FLUSH_INTERVAL = 64

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


class MaxEntAlgorithm(MaxEntArguments, Inspection):
    """
    Base of the maximum-entropy algorithms: everything but the update itself. Arguments as :class:`MaxEntArguments`.

    A subclass names its policies, says in :meth:`draw_noise` what randomness a gradient step takes, and writes its
    paper's algorithm box in :meth:`update`.
    """

    #: what :meth:`update` reports
    metric_names: tuple[str, ...]
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
    #: updates that were done when the steps were last counted from zero
    _updates_at_reset: int = 0
    #: updates that were done since the model was made or loaded
    _updates_since_load: int = 0

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

    # ---------------------------------------------------------------- construction

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
        self.learners = {name: Learner(getattr(self, name), name) for name in self.policy.learned_networks}
        for name, learner in self.learners.items():
            setattr(self, f"{name}_learner", learner)
        self.target_trackers = {
            target: TargetTracker(getattr(self, online), getattr(self, target))
            for online, target in self.tracked_networks.items()
        }
        names = (*self.metric_names, "ent_coef_loss") if self.temperature.learned else self.metric_names
        self._metrics = DeviceMetrics(names, self.device)
        self._temperature_monitor = TemperatureMonitor(parse_ent_coef(self.ent_coef)[0])
        self._engine: Engine | None = None
        self._set_learning_rates(self._current_progress_remaining)

    def _create_aliases(self) -> None:
        """SB3's attributes: ``model.actor``, ``model.critic`` and the other networks."""
        for name in self._network_names():
            setattr(self, name, getattr(self.policy, name))

    def _network_names(self) -> set[str]:
        return {"actor", *self.policy.learned_networks, *self.tracked_networks.values()}

    def _setup_temperature(self) -> None:
        self.temperature: Temperature = self._make_temperature(*parse_ent_coef(self.ent_coef)).to(self.device)
        if isinstance(self.temperature, LearnedTemperature):
            # Adam as in SB3, whatever the networks use: weight decay, say, has no meaning for one number
            self.temperature.setup_optimizer(th.optim.Adam, lr=self.lr_schedule(1))

    def _make_temperature(self, value: float, learned: bool) -> Temperature:
        """
        :param value: (initial) alpha
        :param learned: whether it is learned
        :return: the temperature, without an optimiser
        """
        return LearnedTemperature(value, getattr(self, "ent_coef_loss", "alpha")) if learned else Temperature(value)

    @property
    def log_ent_coef(self) -> th.Tensor | None:
        """
        :return: log of the learned temperature, ``(1,)`` (with several agents, one each); None if it is fixed
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
        self._bind()
        for name, rate in self._set_learning_rates(self._current_progress_remaining).items():
            self.logger.record(f"train/{name}", rate)
        for tracker in self.target_trackers.values():
            tracker.configure(self.tau, self.target_update_interval, self._n_updates)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.set_normalization(self._vec_normalize_env)
        if self._engine is None or self._engine.draw_on_device != self._draws_on_device:
            self._engine = self._make_engine()
        self._updates_since_load += gradient_steps
        until = self._n_updates + gradient_steps
        with matmul_precision(self.precision):
            while self._n_updates < until:
                steps = min(until - self._n_updates, FLUSH_INTERVAL - self._n_updates % FLUSH_INTERVAL)
                self._engine.run(steps, batch_size, self._engine_signature)
                self._n_updates += steps
                if self._n_updates % FLUSH_INTERVAL == 0 and self.device.type == "cpu":
                    for learner in self.learners.values():
                        learner.flush_denormals()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _bind(self) -> None:
        """See to it that what is trained is what there is: a network or optimiser may be new, a parameter frozen."""
        for name, learner in self.learners.items():
            if not learner.is_bound_to(getattr(self, name)):
                learner.bind(getattr(self, name))
                self._engine = self._fast_actor = None

    def _draw(self, batch_size: int) -> tuple[Batch, Any]:
        """
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
        )
        return batch, self.draw_noise(batch_size)

    def _gradient_step(self, batch: Batch, noise: Any) -> None:
        """
        :param batch: transitions
        :param noise: random numbers
        """
        with th.no_grad():
            self._metrics.add(self.update(batch, noise))

    @property
    def _draws_on_device(self) -> bool:
        return isinstance(self.replay_buffer, TensorReplayBuffer) and self.replay_buffer.draws_on_device

    def _make_engine(self) -> Engine:
        learners = [*self.learners.values()]
        in_one_graph = all(learner.plain_adam for learner in learners)
        for learner in learners:
            learner.in_one_graph = in_one_graph
        return make_engine(
            self.engine,
            self._draw,
            self._gradient_step,
            device=self.device,
            draw_on_device=self._draws_on_device,
            fullgraph=in_one_graph,
            planned_steps=self._plan() if self._planned_steps is None else self._planned_steps,
            unsupported_engines={
                name: why for learner in learners for name, why in learner.unsupported_engines().items()
            },
            verbose=self.verbose,
        )

    def _plan(self) -> float:
        """
        :return: gradient steps from when the model was made or loaded to the end of ``learn()``. Those that are done
            count too: who has trained so long in short calls of ``learn()`` will likely go on
        """
        steps = max(self._total_timesteps - self.num_timesteps, 0)
        if self.gradient_steps > 0:
            assert isinstance(self.train_freq, TrainFreq)
            if self.train_freq.unit == TrainFrequencyUnit.STEP:
                steps = steps * self.gradient_steps / (self.train_freq.frequency * self.n_envs)
        return self._updates_since_load + steps

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        resumed = self._resumed
        result = super()._setup_learn(*args, **kwargs)
        for online, target in self.tracked_networks.items():
            tracker, networks = self.target_trackers[target], (getattr(self, online), getattr(self, target))
            if not tracker.is_bound_to(*networks):
                tracker.bind(*networks)
                self._engine = None
        if not resumed or self._planned_steps is None:  # a run resumed from a checkpoint takes the engine it had
            before, self._planned_steps = self._planned_steps, self._plan()
            if before is not None and before < COMPILE_PAYS_FROM <= self._planned_steps:
                self._engine = None  # to be chosen anew
        if self.num_timesteps == 0:
            self._updates_at_reset = self._n_updates
        return result

    def _engine_signature(self) -> Hashable:
        """
        :return: changes when memory that a captured graph points to has been replaced, or a constant in it has changed
        """
        written: list[Learner | TargetTracker] = [*self.learners.values(), *self.target_trackers.values()]
        if isinstance(self.temperature, LearnedTemperature):
            written.append(self.temperature.learner)
        constants = [getattr(self, name) for name in self.update_constants]
        replay = (id(self.replay_buffer), getattr(self.replay_buffer, "signature", None))
        return (*replay, *constants, *(one.signature() for one in written))

    def dump_logs(self) -> None:
        """Write the logs: only now are the metrics read from the device, as means since the last time."""
        metrics = self._metrics.means()
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        self._watch(metrics)
        if self.num_timesteps > self._num_timesteps_at_start:
            self.logger.record("train/update_to_data", (self._n_updates - self._updates_at_reset) / self.num_timesteps)
        super().dump_logs()

    def _watch(self, metrics: dict[str, float]) -> None:
        """
        Warn of what can be seen to go wrong.

        :param metrics: means since the last time, empty if there was no update
        """
        if self.temperature.learned:
            self._temperature_monitor.check(metrics, self.target_entropy)

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

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes an engine of its own: a compiled step, or a captured graph, is of this model's memory."""
        return {**vars(self), "_engine": None, "_fast_actor": None}

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        super().load_replay_buffer(path, truncate_last_traj)
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.replay_buffer.to(self.device)

    def _excluded_save_params(self) -> list[str]:
        learners = ["temperature", "learners", *(name for name in vars(self) if name.endswith("_learner"))]
        machinery = [*learners, "target_trackers", "_metrics", "_temperature_monitor", "_engine", "_updates_since_load"]
        return [*super()._excluded_save_params(), *self._network_names(), *machinery]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", *(f"{name}.optimizer" for name in self.policy.learned_networks)]
        if isinstance(self.temperature, LearnedTemperature):
            state_dicts += ["temperature", "temperature.optimizer"]
        return state_dicts, []
