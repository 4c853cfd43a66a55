"""Soft Q-learning of 2017: soft Q-functions, and a policy that samples actions by exp(Q/alpha)."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TensorDict

from sb3_sac_variants.common.algorithm.maxent_algorithm import MaxEntAlgorithm, bellman_loss
from sb3_sac_variants.common.checks.validation import parse_ent_coef
from sb3_sac_variants.common.equations.losses import (
    energy_based_policy,
    importance_sampled_soft_value,
    policy_entropy,
    soft_bellman_target,
)
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.sql.actions import ActionKind, AllActions, Noise, ParticleOptions, SampledActions
from sb3_sac_variants.sql.policies import (
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    SoftmaxActor,
    SQLPolicy,
    SteinActor,
)


class SQL(MaxEntAlgorithm):
    """
    Soft Q-learning.

    Paper: Haarnoja et al. 2017, Reinforcement Learning with Deep Energy-Based Policies,
    https://arxiv.org/abs/1702.08165. Continuous actions are drawn by a Stein sampler
    (:mod:`sb3_sac_variants.sql.svgd`). On discrete actions V is an exact sum and the policy softmax(Q/alpha), without
    a sampler and without epsilon-greedy exploration (soft DQN). Two Q-functions with the minimum, as in the comparison
    of Haarnoja et al. 2018. The paper's hard target copies are ``tau=1`` with ``target_update_interval=1000``, its
    temperature ``reward_scale`` (with ``ent_coef=1``).

    ``predict(deterministic=True)`` takes the action of the highest Q, on continuous actions among 32 that are sampled
    with the same noise each time; the papers evaluate the stochastic policy.

    ``train/entropy`` is that of exp(Q/alpha) in the next states. On continuous actions it is what the value particles
    see of it, and not below dim(A) log 2 - log(n_value_particles).

    :param args: as :class:`~sb3_sac_variants.common.algorithm.arguments.MaxEntArguments`, that is as SB3's
        ``SAC``, without gSDE, which needs a Gaussian policy. ``ent_coef`` must be greater than 0, and a number on
        continuous actions, where no density of the policy is known to learn it from
    :param n_value_particles: uniform actions, drawn for each state anew, that V is estimated with (eq. 10)
    :param n_svgd_particles: actions a state that the sampler learns from, fixed and updated ones together
    :param svgd_update_ratio: fraction of them that are updated
    :param squash_gradient: with respect to what the squash term is differentiated: "pre_tanh" (right), "action" (the
        authors' code), or "none" (no such term); :mod:`sb3_sac_variants.sql.svgd` derives which
    :param kwargs: as ``args``
    :raises ValueError: if an argument has no meaning for the kind of action
    """

    algorithm_id = "sql"
    default_ent_coef = 1.0
    supported_action_spaces = (spaces.Box, spaces.Discrete)
    tracked_networks: ClassVar[dict[str, str]] = {"critic": "critic_target"}
    update_constants = (*MaxEntAlgorithm.update_constants, "_options_in_use")
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SQLPolicy
    actor: SteinActor | SoftmaxActor  # type: ignore[assignment]
    critic_target: StackedCritic

    def __init__(
        self,
        *args: Any,
        n_value_particles: int = ParticleOptions.n_value_particles,
        n_svgd_particles: int = ParticleOptions.n_svgd_particles,
        svgd_update_ratio: float = ParticleOptions.svgd_update_ratio,
        squash_gradient: str = ParticleOptions.squash_gradient,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        super().__init__(*args, _init_setup_model=False, **kwargs)  # type: ignore[misc]
        self.n_value_particles = n_value_particles
        self.n_svgd_particles = n_svgd_particles
        self.svgd_update_ratio = svgd_update_ratio
        self.squash_gradient = squash_gradient
        if _init_setup_model:
            self._setup_model()

    @property
    def _particle_options(self) -> ParticleOptions:
        return ParticleOptions(
            self.n_value_particles, self.n_svgd_particles, self.svgd_update_ratio, self.squash_gradient
        )

    @property
    def _action_kind(self) -> type[ActionKind]:
        # Without an environment there are no spaces: _check_arguments, which comes later, says so
        space = getattr(self, "action_space", None)
        return AllActions if isinstance(space, spaces.Discrete) else SampledActions

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.use_sde:
            raise ValueError(
                f"use_sde={self.use_sde} needs a Gaussian policy, and SQL's is none: leave it out, the policy explores "
                "by itself"
            )
        value, _ = parse_ent_coef(self.ent_coef)
        if value == 0:
            raise ValueError(f"ent_coef={self.ent_coef!r} is not allowed: exp(Q/ent_coef) needs one greater than 0")
        self._action_kind.check(self._particle_options, self.ent_coef, self.action_space)

    def _setup_model(self) -> None:
        self.metric_names = ("critic_loss", "ent_coef", "entropy", "q_mean", *self._action_kind.metric_names)
        super()._setup_model()
        self._setup_actions()
        self._tell_actor_temperature()

    def _setup_actions(self) -> None:
        self._options_in_use = self._particle_options
        self._actions = self._action_kind(self.policy, self.learners, self._options_in_use)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        if self._particle_options != self._options_in_use:  # a callback may change the number of particles
            self._action_kind.check(self._particle_options, self.ent_coef, self.action_space)
            self._setup_actions()
        super().train(gradient_steps, batch_size)

    def _tell_actor_temperature(self) -> None:
        if isinstance(self.actor, SoftmaxActor):
            self.actor.ent_coef.copy_(self.temperature.value)

    def draw_noise(self, batch_size: int) -> Noise:
        return self._actions.draw_noise(batch_size)

    def update(self, batch: Batch, noise: Noise) -> dict[str, th.Tensor]:  # Haarnoja et al. 2017, Algorithm 1
        alpha = self.temperature.value

        # Soft Q-functions, eq. 11 with the soft value of eq. 10
        proposal = self._actions.proposal(noise.value_particles)
        next_q = self.critic_target.min_q(batch.next_observations, proposal)
        next_value = importance_sampled_soft_value(next_q, proposal, alpha)
        target_q = soft_bellman_target(batch, next_value, self.reward_scale)
        critic_loss, q_mean = self.critic_learner.minimize(lambda critic: bellman_loss(critic, batch, target_q))

        # Temperature: the paper's is fixed; a learned one follows Haarnoja et al. 2019, eq. 18
        next_policy = energy_based_policy(next_q, proposal, alpha)
        temperature_metrics = self.temperature.minimize(next_policy, self.target_entropy)

        # Policy, eq. 13 and 14
        policy_metrics = self._actions.improve_policy(batch, noise, self.temperature.value)

        # Target Q-functions
        self.target_trackers["critic_target"].step()
        return {
            "critic_loss": critic_loss,
            "ent_coef": alpha,
            "entropy": policy_entropy(next_policy),
            "q_mean": q_mean,
            **policy_metrics,
            **temperature_metrics,
        }

    def soft_value(self, observation: np.ndarray | dict[str, np.ndarray], n_samples: int = 1024) -> np.ndarray:
        """
        Soft state value V(s) = alpha log integral exp(min_i Q_i(s, a)/alpha) da over actions scaled to [-1, 1] (eq. 5),
        or its sum over discrete actions. Does not touch the random state of the training.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param n_samples: continuous actions to estimate the integral with, for each observation
        :return: ``(n,)``
        """
        return super().soft_value(observation, n_samples)

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        # All particles in one estimate: the mean of estimates with fewer would be too low
        return self._actions.draw_particles(n_samples, batch_size, generator).unsqueeze(0)

    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        proposal = self._actions.proposal(noise)
        return importance_sampled_soft_value(self.critic.min_q(obs, proposal), proposal, self.temperature.value)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        super().set_parameters(load_path_or_dict, exact_match, device)
        self._tell_actor_temperature()  # the saved policy's may be another: load(..., ent_coef=0.1)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_actions", "_options_in_use", "metric_names"]
