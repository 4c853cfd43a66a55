"""Multi-agent soft actor-critic, with and without a cross-entropy term between the agents' policies."""

import warnings
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_sac_variants.common.algorithm.arguments import EngineName, PrecisionName, TrainFreqUnit
from sb3_sac_variants.common.algorithm.maxent_algorithm import MaxEntAlgorithm, Metrics
from sb3_sac_variants.common.checks.compatibility import check_env
from sb3_sac_variants.common.checks.validation import plain
from sb3_sac_variants.common.equations.losses import soft_bellman_target
from sb3_sac_variants.common.equations.types import Batch, Noise
from sb3_sac_variants.common.gradient_step.targets import TargetTracker
from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature, Temperature
from sb3_sac_variants.masac.buffers import AgentReplayBuffer
from sb3_sac_variants.masac.checks import (
    check_agent_replay_buffer,
    check_agent_spaces,
    check_reward_normalization,
    parse_agent_target_entropy,
    space_of_one_agent,
)
from sb3_sac_variants.masac.critics import CentralizedCritic
from sb3_sac_variants.masac.cross_entropy import CrossEntropy, policy_divergence
from sb3_sac_variants.masac.losses import (
    JointSample,
    agent_policy_improvement,
    agent_soft_value,
    agent_temperature_loss,
    own_expectation,
)
from sb3_sac_variants.masac.policies import DecentralizedActor, MASACPolicy, MlpPolicy


class MASAC(MaxEntAlgorithm):
    """
    Soft actor-critic for several agents.

    Each agent acts on its own observation, and learns from critics that see the observations and actions of all (Lowe
    et al. 2017, arXiv 1706.02275).
    Optionally the cross-entropy between their policies is part of the objective,

    J(pi^i) = E sum_t gamma^t (r^i + alpha_i H(pi^i) + beta sum_{j != i} CE(pi^i, pi^j)).

    The environment is a :class:`~sb3_sac_variants.envs.ParallelEnvAdapter`, or another one with observations
    ``(N, d)``, actions ``(N, D)`` or MultiDiscrete ``[n] * N``, and the agents' rewards in ``info["agent_rewards"]``.
    On discrete actions every expectation over an agent's own action is an exact sum, with one action drawn of each
    other agent. Wrappers may change observations and actions; rewards, of which Gymnasium's see only the mean, are
    changed inside, in the PettingZoo environment, or by ``reward_scale``. Wrappers that change the mean alone are
    refused, and so is ``VecNormalize`` with ``norm_reward=True``. Targets bootstrap until all agents have terminated,
    also those of one that has left before. :meth:`q_value` and :meth:`soft_value` give ``(n, N)``, a value for each
    agent.

    The sign of beta: objective and closed form say that beta > 0 makes policies different, and so it is measured. The
    description that the term was built from calls it similarity. ``ce_convention`` chooses between the two.

    The arguments are those of SB3's ``SAC``, with its names, order and defaults, and those of
    :class:`~sb3_sac_variants.common.algorithm.maxent_algorithm.MaxEntAlgorithm`.
    The only policy is "MlpPolicy", with ``share_actor`` and ``share_critic`` in ``policy_kwargs`` for networks that
    serve all agents. There are no gSDE and no n-step returns.

    :param target_entropy: H of each agent, in nats: "auto" for -D, "auto_0.5" for half of that, or a number; on
        discrete actions "auto" for 0.7 log|A|, "auto_0.5" for half of log|A|
    :param ce_coef: beta, in units of reward; 0 leaves the cross-entropy out, and gives the other ``ce_`` arguments
        nothing to do, but that ``train/policy_divergence`` is measured where ``ce_obs`` says. It may be changed at any
        time. Actions are compared as fractions of the range that each agent's have
    :param ce_convention: "objective": beta > 0 makes policies differ; "similarity": beta > 0 makes them alike
    :param ce_obs: where pi^j is evaluated: "theirs", at agent j's observation (the state is what all observe), or
        "own", at agent i's (would j do the same in my place?), which costs N times the actors
    :param ce_floor: how pi^j is mixed with a uniform density, without which beta > 0 has no optimum: "product" in each
        dimension, "joint" in all at once; "product_0.1" for another uniform share than 0.05. For beta < 0,
        log pi^j also counts no more than 2 nats times the number of dimensions. On discrete actions the optimum exists
        without it, and "none" leaves it out; with a floor the term is bounded, whatever the policies do to each other
    :param ce_center: whether to subtract the batch's mean from the term, which shifts Q by mean/(1 - gamma) otherwise;
        :meth:`soft_value` leaves it in, and so differs by that much from what the critics learn
    :param ce_relative: whether ``ce_coef`` is in units of the temperature: beta_i = ce_coef * alpha_i
    :raises ValueError: if an argument is out of range, or does not go with another one or with the environment
    """

    algorithm_id = "masac"
    default_replay_buffer_class = AgentReplayBuffer
    supported_action_spaces = (spaces.Box, spaces.MultiDiscrete)
    unsupported_arguments: ClassVar[dict[str, tuple[Any, str]]] = {
        "use_sde": (False, "whose several agents explore by themselves"),
        "n_steps": (1, "whose replay buffer has one-step returns of several agents"),
    }
    tracked_networks: ClassVar[dict[str, str]] = {"critic": "critic_target"}
    update_constants = (*MaxEntAlgorithm.update_constants, "ce_obs", "_ce_constants")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {**MaxEntAlgorithm.choices, "ce_obs": ("theirs", "own")}
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy}
    policy: MASACPolicy
    cross_entropy: CrossEntropy
    _ce_arguments: tuple[Any, ...] | None = None
    #: what of it an update reads as plain values: all but the size of beta
    _ce_constants: tuple[Any, ...] | None = None
    _warned_of_collapse = False
    actor: DecentralizedActor  # type: ignore[assignment]
    critic: CentralizedCritic
    critic_target: CentralizedCritic
    critic_target_tracker: TargetTracker

    def __init__(
        self,
        policy: str | type[MASACPolicy],
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
        ce_coef: float = 0.0,
        ce_convention: Literal["objective", "similarity"] = "objective",
        ce_obs: Literal["theirs", "own"] = "theirs",
        ce_floor: str = "product",
        ce_center: bool = False,
        ce_relative: bool = False,
    ):
        self.ce_coef = ce_coef
        self.ce_convention = ce_convention
        self.ce_obs = ce_obs
        self.ce_floor = ce_floor
        self.ce_center = ce_center
        self.ce_relative = ce_relative
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
    def n_agents(self) -> int:
        """Number of agents N."""
        assert self.action_space.shape is not None
        return int(self.action_space.shape[0])

    @property
    def value_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """A value for each agent."""
        return (self.n_agents,)

    # ---------------------------------------------------------------- construction

    @classmethod
    def _check_env(cls, env: GymEnv) -> None:
        check_env(env)
        check_agent_spaces(env.observation_space, env.action_space)
        super()._check_env(env)

    def _check_arguments(self) -> None:
        check_agent_replay_buffer(self)
        check_reward_normalization(self._vec_normalize_env)
        super()._check_arguments()
        self._setup_cross_entropy()

    def _parse_target_entropy(self) -> float:
        return parse_agent_target_entropy(self.target_entropy, self.action_space)

    def _setup_cross_entropy(self) -> None:
        """Make the term, or bring it up to date where its arguments have changed: a callback may anneal beta."""
        one = space_of_one_agent(self.action_space)
        n_actions = int(one.n) if isinstance(one, spaces.Discrete) else None
        own = (self.ce_coef, self.ce_convention, self.ce_floor, self.ce_center, self.ce_relative)
        arguments: tuple[Any, ...] = (*map(plain, own), n_actions, self.device)
        if arguments == self._ce_arguments:
            return
        before: CrossEntropy | None = vars(self).get("cross_entropy")
        with th.inference_mode(False):
            term = CrossEntropy(*arguments)
            if before is not None and before.coefficient.device == term.coefficient.device:
                # In the memory that a captured graph reads
                term.coefficient = before.coefficient.copy_(term.coefficient)
        self.cross_entropy, self._ce_arguments = term, arguments
        self._ce_constants = (term.sign, *arguments[1:])
        if self.n_agents == 1 and self.ce_coef:
            warnings.warn(f"ce_coef={self.ce_coef} has no effect on a single agent: leave it out", stacklevel=4)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._warn_of_collapse(self.cross_entropy.ratio(self.temperature.value).max().item())

    def _take_settings(self) -> None:
        super()._take_settings()
        check_reward_normalization(self._vec_normalize_env)
        self._setup_cross_entropy()

    def _make_temperature(self, value: float, learned: bool) -> Temperature:
        if not learned:
            return Temperature(value, self.n_agents)
        return LearnedTemperature(value, size=self.n_agents, objective=agent_temperature_loss)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As SB3's ``set_env``.

        :param env: the environment to learn in
        :param force_reset: whether to reset it before training goes on
        :raises ValueError: if it is not one for these agents
        """
        check_reward_normalization(unwrap_vec_normalize(env) if isinstance(env, VecEnv) else None)
        super().set_env(env, force_reset)

    # ---------------------------------------------------------------- the update

    def update(self, batch: Batch, noise: Noise) -> Metrics:
        obs, next_obs = batch.observations, batch.next_observations
        assert isinstance(obs, th.Tensor)
        assert isinstance(next_obs, th.Tensor)
        alpha = self.temperature.value

        # Q-functions: y^i = c r^i + gamma (1 - d) V^i(o'), where
        # V^i(o) = E_{a^i}[min Q^i(o, a) - alpha_i log pi^i(a^i) - beta sum_{j != i} log pi^j(a^i)]
        next_sample = self.actor.sample(next_obs, noise.next_actions)
        next_value = self._value(self.critic_target.min_q(next_obs, next_sample), next_obs, next_sample, alpha)
        target_q = soft_bellman_target(batch, next_value, self.reward_scale)
        critic_loss, (q_mean, td_error) = self.critic_learner.minimize(
            lambda critic: self.critic_loss(critic, batch, target_q)
        )

        # Policies: each climbs V^i, in which Q^i(o, a) lets through the gradient of its own action a^i only
        actor_loss, (sample, log_densities) = self.actor_learner.minimize(
            lambda actor: self._policy_loss(actor, obs, noise.actions, alpha)
        )

        # Temperatures, each with its own agent's entropy
        temperature_metrics = self.temperature.minimize(sample, self.target_entropy)

        # Target Q-functions
        self.critic_target_tracker.step()
        entropy = -own_expectation(sample, sample.log_prob).mean(dim=0)
        hottest, ce_ratio = alpha.argmax(dim=0, keepdim=True), self.cross_entropy.ratio(alpha)
        return {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "ent_coef": alpha.mean(),
            "ent_coef_max": alpha.max(),
            "entropy": entropy.mean(),
            "entropy_min": entropy.min(),
            "entropy_of_hottest": entropy.gather(0, hottest),
            "q_mean": q_mean,
            "td_error": td_error,
            "ce_ratio": ce_ratio.mean(),
            "ce_ratio_max": ce_ratio.max(),
            "policy_divergence": policy_divergence(log_densities, sample.weights),
            **temperature_metrics,
        }

    def _policy_loss(
        self, actor: DecentralizedActor, obs: th.Tensor, noise: th.Tensor, alpha: th.Tensor
    ) -> tuple[th.Tensor, tuple[JointSample, th.Tensor]]:
        sample = actor.sample(obs, noise)
        # Of the policies as they are: only the action that they judge has a gradient
        log_densities = self.actor.log_densities(obs, sample, self.ce_obs)
        values = self._value(self.critic.min_q_of_own_action(obs, sample), obs, sample, alpha, log_densities)
        return agent_policy_improvement(values), (sample, log_densities)

    def _value(
        self,
        q_values: th.Tensor,
        obs: th.Tensor,
        sample: JointSample,
        alpha: th.Tensor,
        log_densities: th.Tensor | None = None,
        may_center: bool = True,
    ) -> th.Tensor:
        """
        Soft value of each agent, ``(B, N)``, cross-entropy included.

        :param log_densities: log pi^j at agent i's own actions, where they are known already
        """
        if self.cross_entropy.sign == 0:
            return agent_soft_value(q_values, sample, alpha, th.zeros_like(q_values))
        if log_densities is None:
            log_densities = self.actor.log_densities(obs, sample, self.ce_obs)
        bonus = self.cross_entropy.bonus(log_densities, sample.weights, alpha, may_center)
        return agent_soft_value(q_values, sample, alpha, bonus)

    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        assert isinstance(obs, th.Tensor)
        self._setup_cross_entropy()
        sample = self.actor.sample(obs, noise)
        q_values = self.critic.min_q(obs, sample)  # the value of a state does not depend on what else is asked about
        return self._value(q_values, obs, sample, self.temperature.value, may_center=False)

    # ---------------------------------------------------------------- watching and saving

    def _watch(self, metrics: dict[str, float]) -> None:
        # Means over the agents would hide the one whose temperature runs away; a user's update may not report it
        hottest = {"ent_coef": "ent_coef_max", "entropy": "entropy_of_hottest"}
        super()._watch({name: metrics[own] for name, own in hottest.items() if own in metrics})
        self._warn_of_collapse(metrics.get("ce_ratio_max", 0.0))

    def _warn_of_collapse(self, ratio: float) -> None:
        """
        Warn once if the policies' attraction outweighs their entropy.

        :param ratio: |beta| (N - 1)/alpha
        """
        if self.cross_entropy.sign < 0 and ratio >= 1 and not self._warned_of_collapse:
            self._warned_of_collapse = True
            others = "" if self.ce_relative else ", a larger ent_coef, or ce_relative=True, which lets beta follow it"
            warnings.warn(
                f"ce_coef={self.ce_coef} with ce_convention={self.ce_convention!r} draws {self.n_agents} policies "
                f"together more strongly than the entropy keeps them apart: ce_ratio = |beta| (N - 1)/alpha is "
                f"{ratio:.3g}, and from 1 on policies that agree collapse to a point. Pass a ce_coef closer to 0"
                + others,
                stacklevel=2,
            )

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "cross_entropy",
            "_ce_arguments",
            "_ce_constants",
            "_warned_of_collapse",
        ]
