"""Networks of several agents: decentralised actors with weights stacked by agent, and all of them as one policy."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.actors import ActorNetwork, gaussian_log_prob, log_det_tanh
from sb3_sac_variants.common.networks.critics import stacked_mlp
from sb3_sac_variants.common.networks.policies import GAUSSIAN_ARGUMENTS, MaxEntPolicy
from sb3_sac_variants.masac.critics import CentralizedCritic
from sb3_sac_variants.masac.losses import JointSample

#: arguments of SB3's SACPolicy that ask for what is not here, and their defaults
_FEATURE_ARGUMENTS: dict[str, Any] = {
    "features_extractor_class": None,
    "features_extractor_kwargs": None,
    "share_features_extractor": False,
}


class DecentralizedActor(ActorNetwork):
    """
    A squashed Gaussian policy for each agent, which sees its own observation only.

    :param args: as :class:`~sb3_sac_variants.common.networks.actors.ActorNetwork`, for spaces Box ``(N, d)``
        and ``(N, D)``; the features extractor flattens and has no parameters
    :param share_actor: whether one network serves all agents, told which by a one-hot vector beside the observation
    :param kwargs: as :class:`~sb3_sac_variants.common.networks.actors.ActorNetwork`
    """

    observation_space: spaces.Box
    action_space: spaces.Box
    agent_ids: th.Tensor

    def __init__(self, *args: Any, share_actor: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.share_actor = share_actor
        self.n_agents, obs_dim = self.observation_space.shape
        self.action_dim = self.action_space.shape[1]
        n_networks, input_dim = (1, obs_dim + self.n_agents) if share_actor else (self.n_agents, obs_dim)
        self.networks = stacked_mlp(n_networks, input_dim, 2 * self.action_dim, self.net_arch, self.activation_fn)
        self.register_buffer("agent_ids", th.eye(self.n_agents).unsqueeze(1), persistent=False)

    def _agents_first(self, obs: th.Tensor) -> th.Tensor:
        """
        :param obs: observations, ``(B, N, d)``
        :return: ``(N, B, d)``, of the networks' type
        """
        return obs.to(self.agent_ids.dtype).transpose(0, 1)

    def _outputs(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param inputs: observations for the policy of each agent, ``(N, M, d)``
        :return: means and log standard deviations, ``(N, M, D)``
        """
        if self.share_actor:
            identified = th.cat([inputs, self.agent_ids.expand(-1, inputs.shape[1], -1)], dim=2)
            outputs = self.networks(identified.flatten(0, 1)).view(*inputs.shape[:2], -1)
        else:
            outputs = self.networks(inputs)
        mean, log_std = outputs.chunk(2, dim=2)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def policies(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Each agent's policy at its own observation.

        :param obs: observations, ``(B, N, d)``
        :return: means and log standard deviations before the tanh, ``(B, N, D)``
        """
        mean, log_std = self._outputs(self._agents_first(obs))
        return mean.transpose(0, 1), log_std.transpose(0, 1)

    def policies_at_each_observation(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        What every agent j would do in the place of every agent i, pi^j(.|o^i).

        :param obs: observations, ``(B, N, d)``
        :return: means and log standard deviations before the tanh, ``(B, N, N, D)``: batch, i, j, d
        """
        rows = self._agents_first(obs).flatten(0, 1)
        mean, log_std = (
            output.view(self.n_agents, self.n_agents, -1, self.action_dim).permute(2, 1, 0, 3)
            for output in self._outputs(rows.expand(self.n_agents, -1, -1))
        )
        return mean, log_std

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """
        :param batch_size: number of states
        :return: shape of the standard normal noise that :meth:`sample` takes
        """
        return (batch_size, self.n_agents, self.action_dim)

    def sample(self, obs: th.Tensor, noise: th.Tensor) -> JointSample:
        """
        Draw a^i ~ pi^i(.|o^i) of every agent as a = tanh(u), u = mean + std * noise.

        :param obs: observations, ``(B, N, d)``
        :param noise: standard normal noise of :meth:`noise_shape`
        :return: the actions, differentiable in the actor's parameters
        """
        mean, log_std = self.policies(obs)
        u = mean + log_std.exp() * noise
        log_prob = gaussian_log_prob(u, mean, log_std) - log_det_tanh(u)
        return JointSample(th.tanh(u), u, log_prob, mean, log_std)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Actions to take in the environment.

        :param obs: observations, ``(B, N, d)``
        :param deterministic: whether to take tanh(mean)
        :return: actions in [-1, 1], ``(B, N, D)``
        """
        assert isinstance(obs, th.Tensor)
        mean, log_std = self.policies(obs)
        return th.tanh(mean if deterministic else mean + log_std.exp() * th.randn_like(mean))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "share_actor": self.share_actor}


class MASACPolicy(MaxEntPolicy):
    """
    Actors, centralised twin critics and their targets. Arguments as SB3's ``SACPolicy`` (``net_arch``,
    ``activation_fn``, ``n_critics``, ``optimizer_class``, ``optimizer_kwargs``); those for features extractors and gSDE
    are refused.

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
        for name, flag in (("share_actor", share_actor), ("share_critic", share_critic)):
            if not isinstance(flag, bool):
                raise ValueError(f"policy_kwargs {name}={flag!r} is not allowed: pass True or False")
        for name, default in {**GAUSSIAN_ARGUMENTS, **_FEATURE_ARGUMENTS}.items():
            if kwargs.get(name, default) not in (default, self.default_features_extractor_class, {}):
                raise ValueError(
                    f"policy_kwargs {name}={kwargs[name]!r} has no effect on policies of several agents: leave it out"
                )
        self.share_actor, self.share_critic = share_actor, share_critic
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.critic_target = target_copy(self.critic)

    def make_actor(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> DecentralizedActor:
        kwargs: dict[str, Any] = {
            name: value for name, value in self.actor_kwargs.items() if name not in GAUSSIAN_ARGUMENTS
        }
        kwargs = self._update_features_extractor(kwargs, features_extractor)
        return DecentralizedActor(**kwargs, share_actor=self.share_actor).to(self.device)

    def make_critic(  # type: ignore[override]
        self, features_extractor: BaseFeaturesExtractor | None = None
    ) -> CentralizedCritic:
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return CentralizedCritic(**kwargs, share_critic=self.share_critic).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(share_actor=self.share_actor, share_critic=self.share_critic)
        return data


MlpPolicy = MASACPolicy
