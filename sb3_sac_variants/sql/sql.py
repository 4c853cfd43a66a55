"""Soft Q-learning of 2017: soft Q-functions, and a policy that samples actions by exp(Q/alpha)."""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn, Schedule, TensorDict

from sb3_sac_variants.common.algorithm.arguments import EngineName, PrecisionName, TrainFreqUnit
from sb3_sac_variants.common.algorithm.maxent_algorithm import MaxEntAlgorithm, Metrics
from sb3_sac_variants.common.checks.validation import SMALLEST, parse_ent_coef, plain
from sb3_sac_variants.common.equations.losses import (
    importance_sampled_soft_value,
    policy_entropy,
    soft_bellman_target,
)
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.preprocessing import batch_size
from sb3_sac_variants.sql.actions import ActionKind, AllActions, ParticleNoise, ParticleOptions, SampledActions
from sb3_sac_variants.sql.policies import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    SoftmaxActor,
    SQLPolicy,
    SteinActor,
)

#: states times particles that :meth:`SQL.soft_value` evaluates at a time
ROWS_AT_ONCE = 1 << 16


class SQL(MaxEntAlgorithm):
    """
    Soft Q-learning.

    Paper (P17): Haarnoja et al. 2017, Reinforcement Learning with Deep Energy-Based Policies,
    https://arxiv.org/abs/1702.08165. Continuous actions are drawn by a Stein sampler
    (:mod:`sb3_sac_variants.sql.svgd`). On discrete actions V is an exact sum and the policy softmax(Q/alpha), without
    a sampler and without epsilon-greedy exploration (soft DQN). Two Q-functions with the minimum, as in the comparison
    of Haarnoja et al. 2018. The paper's hard target copies are ``tau=1`` with ``target_update_interval=1000``, its
    temperature ``ent_coef``, or as in the authors' code the inverse of ``reward_scale``.

    ``predict(deterministic=True)`` takes the action of the highest Q, on continuous actions among 32 that are sampled
    with the same noise each time; the papers evaluate the stochastic policy.

    ``train/entropy`` is that of exp(Q/alpha), on discrete actions in the states of the batch. On continuous ones it is
    in those that followed, what the value particles see of it, and not below dim(A) log 2 - log(n_value_particles);
    ``train/actor_loss`` has the gradient of a Stein step, and no meaning as a number.

    The arguments are those of SB3's ``SAC``, with its names, order and defaults (but ``ent_coef``, which is 1.0 here),
    and those of :class:`~sb3_sac_variants.common.algorithm.maxent_algorithm.MaxEntAlgorithm`.
    There is no gSDE, which needs a Gaussian policy. ``ent_coef`` must be greater than 0, and a number on continuous
    actions, where no density of the policy is known to learn it from.

    :param n_value_particles: uniform actions, drawn for each state anew, that V is estimated with (P17, eq. 10); the
        paper's 50
    :param n_svgd_particles: actions a state that the sampler learns from, fixed and updated ones together; the paper
        has 32 of each kind
    :param svgd_update_ratio: fraction of them that are updated; the others are held fixed, and attract or repel them
    :param squash_gradient: with respect to what the squash term is differentiated: "pre_tanh" (right), "action" (the
        authors' code), or "none" (no such term); :mod:`sb3_sac_variants.sql.svgd` derives which
    :raises ValueError: if an argument is out of range, has no meaning for the kind of action, or does not go with
        another one or with the environment
    """

    algorithm_id = "sql"
    supported_action_spaces = (spaces.Box, spaces.Discrete)
    unsupported_arguments: ClassVar[dict[str, tuple[Any, str]]] = {
        "use_sde": (False, "whose policy is not Gaussian and explores by itself")
    }
    tracked_networks: ClassVar[dict[str, str]] = {"critic": "critic_target"}
    update_constants = (*MaxEntAlgorithm.update_constants, "particle_options")
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SQLPolicy
    actor: SteinActor | SoftmaxActor  # type: ignore[assignment]
    critic_target: StackedCritic
    critic_target_tracker: TargetTracker

    def __init__(
        self,
        policy: str | type[SQLPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, TrainFreqUnit] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        ent_coef: float | str = 1.0,
        target_update_interval: int = 1,
        target_entropy: float | str = "auto",
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
        engine: EngineName = "auto",
        precision: PrecisionName = "float32",
        reward_scale: float = 1.0,
        qf_learning_rate: float | Schedule | None = None,
        ent_coef_learning_rate: float | Schedule | None = None,
        n_value_particles: int = ParticleOptions.n_value_particles,
        n_svgd_particles: int = ParticleOptions.n_svgd_particles,
        svgd_update_ratio: float = ParticleOptions.svgd_update_ratio,
        squash_gradient: Literal["pre_tanh", "action", "none"] = "pre_tanh",
    ):
        self.n_value_particles = n_value_particles
        self.n_svgd_particles = n_svgd_particles
        self.svgd_update_ratio = svgd_update_ratio
        self.squash_gradient = squash_gradient
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            engine=engine,
            precision=precision,
            reward_scale=reward_scale,
            qf_learning_rate=qf_learning_rate,
            ent_coef_learning_rate=ent_coef_learning_rate,
        )

    @property
    def particle_options(self) -> ParticleOptions:
        options = (self.n_value_particles, self.n_svgd_particles, self.svgd_update_ratio, self.squash_gradient)
        return ParticleOptions(*map(plain, options))

    @property
    def _action_kind_class(self) -> type[ActionKind]:
        return AllActions if isinstance(self.action_space, spaces.Discrete) else SampledActions

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_temperature(parse_ent_coef(self.ent_coef)[0])
        self._action_kind_class.check(self.particle_options, self.ent_coef, self.action_space)

    def _check_temperature(self, value: float) -> None:
        if value < SMALLEST:
            raise ValueError(
                f"ent_coef={value!r} is not allowed: exp(Q/ent_coef) needs one greater than 0, {SMALLEST:.2g} at least"
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        self._setup_actions()
        self._tell_actor_temperature()

    def _setup_actions(self) -> None:
        self._in_use = self.particle_options, self.actor, self.critic
        self.actor.follow(self.critic)
        self._action_kind = self._action_kind_class(
            self.actor, self.critic, self.updater.learners, self.particle_options
        )

    def _take_settings(self) -> None:
        super()._take_settings()
        # The number of particles, or a network
        if self._in_use != (self.particle_options, self.actor, self.critic):
            self._action_kind_class.check(self.particle_options, self.ent_coef, self.action_space)
            self._setup_actions()

    def _set_fixed_temperature(self, value: float) -> None:
        self._check_temperature(value)
        super()._set_fixed_temperature(value)
        self._tell_actor_temperature()

    def _tell_actor_temperature(self) -> None:
        if isinstance(self.actor, SoftmaxActor):
            self.actor.ent_coef.copy_(self.temperature.value)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As SB3's; the actor follows a temperature that somebody has set (``log_ent_coef``)."""
        self._tell_actor_temperature()
        return super().collect_rollouts(*args, **kwargs)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As SB3's; the actor follows a temperature that somebody has set (``log_ent_coef``)."""
        self._tell_actor_temperature()
        return super().predict(observation, state, episode_start, deterministic)

    def draw_noise(self, batch_size: int) -> ParticleNoise:
        return self._action_kind.draw_noise(batch_size)

    def update(self, batch: Batch, noise: ParticleNoise) -> Metrics:  # Haarnoja et al. 2017, Algorithm 1
        alpha = self.temperature.value

        # Soft Q-functions, P17, eq. 11 with the soft value of eq. 10
        proposal = self._action_kind.proposal(noise.value_particles)
        next_q = self.critic_target.min_q(batch.next_observations, proposal)
        next_value = importance_sampled_soft_value(next_q, proposal, alpha)
        target_q = soft_bellman_target(batch, next_value, self.reward_scale)
        critic_loss, (q_mean, td_error) = self.critic_learner.minimize(
            lambda critic: self.critic_loss(critic, batch, target_q)
        )

        # Temperature: the paper's is fixed; a learned one follows Haarnoja et al. 2019 (P19), eq. 18
        sample = self._action_kind.policy(batch, next_q, proposal, alpha)
        temperature_metrics = self.temperature.minimize(sample, self.target_entropy)

        # Policy, P17, eq. 13 and 14: a Stein step of SampledActions; on discrete actions there is nothing to learn
        policy_metrics = self._action_kind.improve_policy(batch, noise, self.temperature.value)

        # Target Q-functions
        self.critic_target_tracker.step()
        return {
            "critic_loss": critic_loss,
            "ent_coef": alpha,
            "entropy": policy_entropy(sample),
            "q_mean": q_mean,
            "td_error": td_error,
            **policy_metrics,
            **temperature_metrics,
        }

    def soft_value(self, observation: np.ndarray | dict[str, np.ndarray], n_samples: int = 1024) -> np.ndarray:
        """
        Soft state value V(s) = alpha log integral exp(min_i Q_i(s, a)/alpha) da (P17, eq. 5), ``(n,)``.

        The integral runs over actions scaled to [-1, 1]; it is a sum over discrete ones. The random state of the
        training stays untouched.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param n_samples: continuous actions to estimate the integral with, for each observation
        """
        return super().soft_value(observation, n_samples)

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        # All particles in one estimate: the mean of estimates with fewer would be too low
        return self._action_kind.draw_particles(n_samples, batch_size, generator).unsqueeze(0)

    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        # A grid of states, each with a thousand particles, would not fit into memory at once
        size = max(ROWS_AT_ONCE // max(math.prod(noise.shape[1:-1]), 1), 1)
        values = []
        for begin in range(0, max(batch_size(obs), 1), size):
            some = slice(begin, begin + size)
            proposal = self._action_kind.proposal(noise[some])
            part = {key: value[some] for key, value in obs.items()} if isinstance(obs, dict) else obs[some]
            q_values = self.critic.min_q(part, proposal)
            values.append(importance_sampled_soft_value(q_values, proposal, self.temperature.value))
        return th.cat(values)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        super().set_parameters(load_path_or_dict, exact_match, device)
        self._tell_actor_temperature()  # the saved policy's may be another: load(..., ent_coef=0.1)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_action_kind", "_in_use"]
