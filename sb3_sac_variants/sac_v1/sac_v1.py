"""Soft actor-critic of 2018: a value network with a slowly moving target, twin Q-functions, a fixed temperature."""

from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict

from sb3_sac_variants.common.algorithm.arguments import EngineName, PrecisionName, TrainFreqUnit
from sb3_sac_variants.common.algorithm.maxent_algorithm import MaxEntAlgorithm, Metrics
from sb3_sac_variants.common.equations.losses import (
    likelihood_ratio_policy_improvement,
    policy_entropy,
    soft_bellman_target,
    soft_policy_improvement,
    soft_value,
    soft_value_error,
)
from sb3_sac_variants.common.equations.types import Batch, PolicySample
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.sac_v1.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SACv1Policy, ValueNetwork


class SACv1(MaxEntAlgorithm):
    """
    Soft actor-critic with a state-value network.

    Paper (P18): Haarnoja et al. 2018, Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a
    Stochastic Actor, https://arxiv.org/abs/1801.01290. Its reward scale is ``reward_scale`` (with ``ent_coef=1``); its
    hard target copies are ``tau=1`` with ``target_update_interval=1000``. On discrete actions every expectation over
    actions is an exact sum.

    The arguments are those of SB3's ``SAC``, with its names, order and defaults (but ``ent_coef``, which is 1.0 here),
    and those of :class:`~sb3_sac_variants.common.algorithm.maxent_algorithm.MaxEntAlgorithm`.
    ``policy_kwargs`` takes ``n_components``, the number of Gaussians in the policy.

    :param policy_gradient: "reparameterized" (P18, eq. 12) or "likelihood_ratio" (eq. 10; what a mixture policy needs)
    :param policy_q: which Q the policy follows: "min" (section 4.2 of the paper) or "q1" (the authors' code)
    :raises ValueError: if an argument is out of range, or does not go with another one or with the environment
    """

    algorithm_id = "sac_v1"
    supported_action_spaces = (spaces.Box, spaces.Discrete)
    tracked_networks: ClassVar[dict[str, str]] = {"value_net": "value_net_target"}
    update_constants = (*MaxEntAlgorithm.update_constants, "policy_gradient", "policy_q")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **MaxEntAlgorithm.choices,
        "policy_gradient": ("reparameterized", "likelihood_ratio"),
        "policy_q": ("min", "q1"),
    }
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SACv1Policy
    value_net: ValueNetwork
    value_net_target: ValueNetwork
    value_net_learner: Learner
    value_net_target_tracker: TargetTracker

    def __init__(
        self,
        policy: str | type[SACv1Policy],
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
        policy_gradient: Literal["reparameterized", "likelihood_ratio"] = "reparameterized",
        policy_q: Literal["min", "q1"] = "min",
    ):
        self.policy_gradient = policy_gradient
        self.policy_q = policy_q
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

    def _check_arguments(self) -> None:
        super()._check_arguments()
        n_components = self.policy_kwargs.get("n_components", 1)
        if n_components != 1 and self.policy_gradient != "likelihood_ratio":
            raise ValueError(
                f"policy_kwargs n_components={n_components} cannot be learned with policy_gradient="
                f"{self.policy_gradient!r}: pass policy_gradient='likelihood_ratio'"
            )

    def draw_noise(self, batch_size: int) -> th.Tensor:
        return th.randn(self.actor.noise_shape(batch_size), dtype=self.actor.dtype, device=self.device)

    def update(self, batch: Batch, noise: th.Tensor) -> Metrics:  # Haarnoja et al. 2018, Algorithm 1
        alpha = self.temperature.value
        obs = batch.observations
        reparameterize = self.policy_gradient == "reparameterized"

        # Value function, P18, eq. 5: one fresh action a state, which the policy loss shares
        drawn = self.actor_learner.evaluate(lambda actor: actor.sample(obs, noise, reparameterize))
        sample = drawn.value
        target_value = soft_value(self.critic.min_q(obs, sample), sample, alpha)
        value_loss = self.value_net_learner.minimize(lambda value_net: soft_value_error(value_net(obs), target_value))

        # Q-functions, P18, eq. 7 and 8
        target_q = soft_bellman_target(batch, self.value_net_target(batch.next_observations), self.reward_scale)
        critic_loss, (q_mean, td_error) = self.critic_learner.minimize(
            lambda critic: self.critic_loss(critic, batch, target_q)
        )

        # Policy, P18, eq. 12 (reparameterised) or eq. 10 (likelihood ratio, with V as the baseline)
        baseline = None if reparameterize else self.value_net(obs)
        actor_loss = self.actor_learner.minimize(
            lambda with_grad: self._policy_loss(with_grad, batch, alpha, baseline), at=drawn
        )

        # Temperature: the paper's is fixed; a learned one follows Haarnoja et al. 2019 (P19), eq. 18
        temperature_metrics = self.temperature.minimize(sample, self.target_entropy)

        # Target value function
        self.value_net_target_tracker.step()
        return {
            "value_loss": value_loss,
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "ent_coef": alpha,
            "entropy": policy_entropy(sample),
            "q_mean": q_mean,
            "td_error": td_error,
            **temperature_metrics,
        }

    def _policy_loss(
        self, sample: PolicySample, batch: Batch, alpha: th.Tensor, baseline: th.Tensor | None
    ) -> th.Tensor:
        if self.policy_q == "min":
            q_values = self.critic.min_q(batch.observations, sample)
        else:
            q_values = self.critic.sample_q(batch.observations, sample)[0]
        if baseline is None:
            return soft_policy_improvement(q_values, sample, alpha)
        return likelihood_ratio_policy_improvement(q_values, baseline, sample, alpha)

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        return th.empty(1, 0)  # V(s) is what the network says: nothing is sampled

    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        return self.value_net(obs)
