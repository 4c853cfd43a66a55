"""Soft actor-critic of 2019: twin Q-functions and a learned temperature."""

from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict
from typing_extensions import Self

from sb3_sac_variants.common.algorithm.arguments import EngineName, PrecisionName, TrainFreqUnit
from sb3_sac_variants.common.algorithm.maxent_algorithm import MaxEntAlgorithm, Metrics
from sb3_sac_variants.common.equations.losses import (
    policy_entropy,
    soft_bellman_target,
    soft_policy_improvement,
    soft_value,
)
from sb3_sac_variants.common.equations.types import Batch, Noise, PolicySample
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.persistence.files import Path
from sb3_sac_variants.sac_v2 import sb3_conversion
from sb3_sac_variants.sac_v2.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SACv2Policy
from sb3_sac_variants.sac_v2.sb3_weights import is_of_sac, parameters_of_sac


class SACv2(MaxEntAlgorithm):
    """
    Soft actor-critic with twin target critics and automatic entropy adjustment.

    Paper (P19): Haarnoja et al. 2018/2019, Soft Actor-Critic Algorithms and Applications,
    https://arxiv.org/abs/1812.05905.
    On discrete actions every expectation over actions is an exact sum (Christodoulou 2019,
    https://arxiv.org/abs/1910.07207).

    The arguments are those of SB3's ``SAC``, with its names, order and defaults, and those of
    :class:`~sb3_sac_variants.common.algorithm.maxent_algorithm.MaxEntAlgorithm`.

    :param ent_coef_loss: what the temperature's objective (P19, eq. 18) is differentiated by: "alpha" (the paper), or
        "log_alpha" (the authors' early code and SB3)
    :param update_order: "paper" (Q-functions, policy, temperature, targets) or "sb3" (temperature first). SB3 goes on
        with the temperature from before its step, so the two orders compute the same numbers; with "log_alpha" both
        follow SB3's SAC number for number on the same batch and noise
    :raises ValueError: if an argument is out of range, or does not go with another one or with the environment
    """

    algorithm_id = "sac_v2"
    supported_action_spaces = (spaces.Box, spaces.Discrete)
    tracked_networks: ClassVar[dict[str, str]] = {"critic": "critic_target"}
    update_constants = (*MaxEntAlgorithm.update_constants, "ent_coef_loss", "update_order")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **MaxEntAlgorithm.choices,
        "ent_coef_loss": ("alpha", "log_alpha"),
        "update_order": ("paper", "sb3"),
    }
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: SACv2Policy
    critic_target: StackedCritic
    critic_target_tracker: TargetTracker

    def __init__(
        self,
        policy: str | type[SACv2Policy],
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
        ent_coef: float | str = "auto",
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
        ent_coef_loss: Literal["alpha", "log_alpha"] = "alpha",
        update_order: Literal["paper", "sb3"] = "paper",
    ):
        self.ent_coef_loss = ent_coef_loss
        self.update_order = update_order
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

    def _take_settings(self) -> None:
        super()._take_settings()
        if isinstance(self.temperature, LearnedTemperature):
            self.temperature.loss = self.ent_coef_loss

    def bootstrap_q(self, next_obs: th.Tensor | TensorDict, next_sample: PolicySample, noise: Noise) -> th.Tensor:
        """Q of the target critics that the Bellman target takes, ``(B, K)``: the minimum; for a subclass to change."""
        return self.critic_target.min_q(next_obs, next_sample)

    def actor_q(self, obs: th.Tensor | TensorDict, sample: PolicySample) -> th.Tensor:
        """Q that the policy climbs, ``(B, K)``: the minimum of the critics; for a subclass to change."""
        return self.critic.min_q(obs, sample)

    def update(self, batch: Batch, noise: Noise) -> Metrics:  # Haarnoja et al. 2019, Algorithm 1
        alpha = self.temperature.value
        obs = batch.observations
        # One action a state, for the policy and its temperature
        drawn = self.actor_learner.evaluate(lambda actor: actor.sample(obs, noise.actions))
        sample = drawn.value
        temperature_metrics = {}
        if self.update_order == "sb3":
            temperature_metrics = self.temperature.minimize(sample, self.target_entropy)

        # Q-functions, P19, eq. 5 with the target of eq. 2 and 3
        next_sample = self.actor.sample(batch.next_observations, noise.next_actions)
        next_q = self.bootstrap_q(batch.next_observations, next_sample, noise)
        next_value = soft_value(next_q, next_sample, alpha)
        target_q = soft_bellman_target(batch, next_value, self.reward_scale)
        critic_loss, (q_mean, td_error) = self.critic_learner.minimize(
            lambda critic: self.critic_loss(critic, batch, target_q)
        )

        # Policy, P19, eq. 7
        actor_loss = self.actor_learner.minimize(
            lambda with_grad: soft_policy_improvement(self.actor_q(obs, with_grad), with_grad, alpha), at=drawn
        )

        # Temperature, P19, eq. 18
        if self.update_order == "paper":
            temperature_metrics = self.temperature.minimize(sample, self.target_entropy)

        # Target Q-functions
        self.critic_target_tracker.step()
        return {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "ent_coef": alpha,
            "entropy": policy_entropy(sample),
            "q_mean": q_mean,
            "td_error": td_error,
            **temperature_metrics,
        }

    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        sample = self.actor.sample(obs, noise)
        return soft_value(self.critic.min_q(obs, sample), sample, self.temperature.value)

    # ---------------------------------------------------------------- interchange

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """Load states of networks and optimisers, also what ``get_parameters()`` of Stable-Baselines3's SAC gives."""
        if is_of_sac(load_path_or_dict):
            load_path_or_dict = parameters_of_sac(load_path_or_dict, self)
        super().set_parameters(load_path_or_dict, exact_match, device)

    @classmethod
    def from_sb3(
        cls,
        sac_or_path: SAC | Path,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        trusted: bool = False,
        **kwargs: Any,
    ) -> Self:
        """
        Take over a model of Stable-Baselines3's SAC.

        Networks, states of the optimisers, temperature, arguments and counters are taken over, replay buffer and random
        state are not. By default it goes on learning as there (``update_order="sb3"``, ``ent_coef_loss="log_alpha"``).

        :param sac_or_path: the model, or path to a saved one
        :param env: environment of the new model; by default the one of a model that is given
        :param device: device of the new model
        :param trusted: whether to build whatever the file describes, lambdas included, which may run code
        :param kwargs: arguments of the new model to change, ``policy_kwargs`` and ``use_sde`` excepted
        :raises ValueError: if it is no model of SAC, one with networks of its own kind, or needs to be trusted
        :raises TypeError: if it is neither a model nor a path
        """
        return sb3_conversion.from_sb3(cls, sac_or_path, env, device, trusted, **kwargs)

    def to_sb3(self, exact: bool = True, **kwargs: Any) -> SAC:
        """
        Hand over to Stable-Baselines3's SAC, on the same environment.

        Networks, states of the optimisers, temperature, arguments and counters are handed over, replay buffer and
        random state are not.

        :param exact: whether to refuse a model with options that SAC does not know (``reward_scale``, say), which would
            go on learning differently there; False hands over its networks all the same
        :param kwargs: arguments of the new model to change; ``buffer_size=1`` is enough to play
        :raises ValueError: if SAC has no counterpart of an option, of the action space or of the policy
        """
        return sb3_conversion.to_sb3(self, exact, **kwargs)
