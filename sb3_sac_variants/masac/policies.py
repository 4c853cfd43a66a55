"""Networks of several agents: decentralised actors with weights stacked by agent, and all of them as one policy."""

from abc import abstractmethod
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_sac_variants.common.checks.validation import check_bool
from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.actors import LOG_SQRT_2PI, ActorNetwork, log_det_tanh
from sb3_sac_variants.common.networks.critics import stacked_mlp
from sb3_sac_variants.common.networks.discrete import choose_actions
from sb3_sac_variants.common.networks.policies import GAUSSIAN_ARGUMENTS, MaxEntPolicy
from sb3_sac_variants.masac.critics import CentralizedContinuousCritic, CentralizedCritic, CentralizedDiscreteCritic
from sb3_sac_variants.masac.cross_entropy import gaussian_densities
from sb3_sac_variants.masac.losses import JointSample

#: arguments of SB3's SACPolicy that ask for what is not here, and their defaults
_FEATURE_ARGUMENTS: dict[str, Any] = {
    "features_extractor_class": None,
    "features_extractor_kwargs": None,
    "share_features_extractor": False,
}


class DecentralizedActor(ActorNetwork):
    """
    A policy for each agent, which sees its own observation only; a subclass says of which kind.

    Observations are ``(B, N, d)``.

    :param args: as :class:`~sb3_sac_variants.common.networks.actors.ActorNetwork`, for observations Box ``(N, d)``;
        the features extractor flattens and has no parameters
    :param share_actor: whether one network serves all agents, told which by a one-hot vector beside the observation
    :param kwargs: as :class:`~sb3_sac_variants.common.networks.actors.ActorNetwork`
    """

    observation_space: spaces.Box
    agent_ids: th.Tensor

    def __init__(self, *args: Any, share_actor: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.share_actor = share_actor
        self.n_agents, obs_dim = self.observation_space.shape
        n_networks, input_dim = (1, obs_dim + self.n_agents) if share_actor else (self.n_agents, obs_dim)
        self.networks = stacked_mlp(n_networks, input_dim, self._output_dim(), self.net_arch, self.activation_fn)
        self.register_buffer("agent_ids", th.eye(self.n_agents).unsqueeze(1), persistent=False)

    @abstractmethod
    def _output_dim(self) -> int:
        """Numbers that describe the policy of one agent."""

    @abstractmethod
    def sample(self, obs: th.Tensor, noise: th.Tensor) -> JointSample:
        """
        Draw a^i ~ pi^i(.|o^i) of every agent, differentiable in the actor's parameters.

        :param noise: standard normal noise of :meth:`noise_shape`
        """

    @abstractmethod
    def log_densities(self, obs: th.Tensor, sample: JointSample, ce_obs: str) -> th.Tensor:
        """
        log pi^j_d of each pair of agents, at agent i's own actions.

        A gradient reaches the policies through agent i's action only.

        :param ce_obs: "theirs": policies at agent j's observation; "own": at agent i's
        :return: ``(B, N, N, K, D)``: batch, i, j, own action of i, dimension
        """

    @abstractmethod
    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Shape of the standard normal noise that :meth:`sample` takes."""

    def outputs(self, obs: th.Tensor) -> th.Tensor:
        """
        Parameters of each agent's policy at its own observation: means and log deviations, or logits.

        :return: ``(B, N, output_dim)``
        """
        return self._outputs(self._agents_first(obs)).transpose(0, 1)

    def outputs_at_each_observation(self, obs: th.Tensor) -> th.Tensor:
        """
        What every agent j would do in place of every agent i, pi^j(.|o^i).

        :return: ``(B, N, N, output_dim)``: batch, i, j
        """
        rows = self._agents_first(obs).flatten(0, 1)
        outputs = self._outputs(rows.expand(self.n_agents, -1, -1))
        return outputs.unflatten(1, (self.n_agents, -1)).permute(2, 1, 0, 3)

    def _agents_first(self, obs: th.Tensor) -> th.Tensor:
        """Observations ``(B, N, d)`` as ``(N, B, d)``, of the networks' type."""
        return obs.to(self.agent_ids.dtype).transpose(0, 1)

    def _outputs(self, inputs: th.Tensor) -> th.Tensor:
        """Observations for the policy of each agent, ``(N, M, d)``, to ``(N, M, output_dim)``."""
        if not self.share_actor:
            return self.networks(inputs)
        identified = th.cat([inputs, self.agent_ids.expand(-1, inputs.shape[1], -1)], dim=2)
        return self.networks(identified.flatten(0, 1)).squeeze(0).unflatten(0, inputs.shape[:2])

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "share_actor": self.share_actor}


def _mean_and_log_std(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    mean, log_std = outputs.chunk(2, dim=-1)
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


class GaussianActors(DecentralizedActor):
    """
    A squashed Gaussian policy for each agent, on actions Box ``(N, D)``.

    Arguments as :class:`DecentralizedActor`.
    """

    action_space: spaces.Box

    def _output_dim(self) -> int:
        return 2 * self.action_space.shape[1]

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        return (batch_size, *self.action_space.shape)

    def sample(self, obs: th.Tensor, noise: th.Tensor) -> JointSample:
        mean, log_std = _mean_and_log_std(self.outputs(obs))
        u = mean + log_std.exp() * noise
        # (u - mean) / std is the noise, as in SquashedGaussianActor.sample()
        log_density = (-0.5 * noise.square() - LOG_SQRT_2PI - log_std).sum(dim=-1)
        log_prob = (log_density - log_det_tanh(u)).unsqueeze(2)
        return JointSample(th.tanh(u), log_prob, th.ones_like(log_prob), (u, mean, log_std))

    def log_densities(self, obs: th.Tensor, sample: JointSample, ce_obs: str) -> th.Tensor:
        u, mean, log_std = sample.density_inputs
        if ce_obs == "own":
            mean, log_std = _mean_and_log_std(self.outputs_at_each_observation(obs))
        else:
            mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
        return gaussian_densities(u, mean.detach(), log_std.detach())

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Actions to take in the environment, in [-1, 1], ``(B, N, D)``.

        :param deterministic: whether to take tanh(mean)
        """
        assert isinstance(obs, th.Tensor)
        mean, log_std = _mean_and_log_std(self.outputs(obs))
        return th.tanh(mean if deterministic else mean + log_std.exp() * th.randn_like(mean))


class CategoricalActors(DecentralizedActor):
    """
    A categorical policy for each agent, on actions MultiDiscrete ``[n] * N``.

    Arguments as :class:`DecentralizedActor`.
    """

    action_space: spaces.MultiDiscrete

    def _output_dim(self) -> int:
        return int(self.action_space.nvec[0])

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        return (batch_size, self.n_agents)

    def log_prob(self, obs: th.Tensor) -> th.Tensor:
        """log pi^i(.|o^i) of each agent's actions, ``(B, N, |A|)``."""
        return th.log_softmax(self.outputs(obs), dim=-1)

    def sample(self, obs: th.Tensor, noise: th.Tensor) -> JointSample:
        log_prob = self.log_prob(obs)
        weights = log_prob.exp()
        # The inverse of the distribution function, at a uniform number: that of the normal distribution at the noise
        uniform = th.special.ndtr(noise).unsqueeze(2)
        actions = (uniform > weights.detach().cumsum(dim=2)[..., :-1]).sum(dim=2)
        return JointSample(actions, log_prob, weights)

    def log_densities(self, obs: th.Tensor, sample: JointSample, ce_obs: str) -> th.Tensor:
        if ce_obs == "own":
            log_prob = th.log_softmax(self.outputs_at_each_observation(obs), dim=-1)
        else:
            log_prob = sample.log_prob.unsqueeze(1).expand(-1, self.n_agents, -1, -1)
        return log_prob.detach().unsqueeze(4)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Numbers of the actions to take in the environment, ``(B, N)``.

        :param deterministic: whether to take the most likely ones
        """
        assert isinstance(obs, th.Tensor)
        return choose_actions(self.log_prob(obs), deterministic)


class MASACPolicy(MaxEntPolicy):
    """
    Actors, centralised twin critics and their targets.

    Arguments as SB3's ``SACPolicy`` (``net_arch``, ``activation_fn``, ``n_critics``, ``optimizer_class``,
    ``optimizer_kwargs``); those for features extractors and gSDE are refused.

    :param share_actor: whether one actor network serves all agents, told which by a one-hot vector beside the
        observation; by default each has its own
    :param share_critic: the same for the critics, which then see the joint observation and action in an order that
        begins with the agent's own
    :raises ValueError: if an argument has no meaning here
    """

    actor: DecentralizedActor  # type: ignore[assignment]
    critic: CentralizedCritic
    critic_target: CentralizedCritic  # type: ignore[assignment]

    def __init__(self, *args: Any, share_actor: bool = False, share_critic: bool = False, **kwargs: Any):
        check_bool("policy_kwargs share_actor", share_actor)
        check_bool("policy_kwargs share_critic", share_critic)
        for name, default in {**GAUSSIAN_ARGUMENTS, **_FEATURE_ARGUMENTS}.items():
            if kwargs.get(name, default) not in (default, self.default_features_extractor_class, {}):
                raise ValueError(
                    f"policy_kwargs {name}={kwargs[name]!r} has no effect on policies of several agents: leave it out"
                )
        self.share_actor, self.share_critic = share_actor, share_critic
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.critic_target = target_copy(self.critic, self.make_critic)

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> DecentralizedActor:
        kwargs = self._update_features_extractor(self._actor_kwargs_without_gaussian(), features_extractor)
        actor_class = GaussianActors if isinstance(self.action_space, spaces.Box) else CategoricalActors
        return actor_class(**kwargs, share_actor=self.share_actor).to(self.device)

    def make_critic(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> CentralizedCritic:
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        continuous = isinstance(self.action_space, spaces.Box)
        critic_class = CentralizedContinuousCritic if continuous else CentralizedDiscreteCritic
        return critic_class(**kwargs, share_critic=self.share_critic).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(share_actor=self.share_actor, share_critic=self.share_critic)
        return data


MlpPolicy = MASACPolicy
