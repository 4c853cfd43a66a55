"""Networks of several agents: decentralised actors, centralised critics and their targets, weights stacked by agent."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn

from sb3_sac_variants.common.actors import gaussian_log_prob, log_det_tanh
from sb3_sac_variants.common.critics import StackedCritic, StackedLinear, stacked_mlp
from sb3_sac_variants.common.learner import target_copy
from sb3_sac_variants.common.losses import PolicySample
from sb3_sac_variants.common.policies import GAUSSIAN_ARGUMENTS, MaxEntPolicy
from sb3_sac_variants.masac.losses import JointSample

#: arguments of SB3's SACPolicy that ask for what is not here, and their defaults
_FEATURE_ARGUMENTS: dict[str, Any] = {
    "features_extractor_class": None,
    "features_extractor_kwargs": None,
    "share_features_extractor": False,
}


def first_layer(networks: nn.Sequential) -> StackedLinear:
    """
    :param networks: of :func:`~sb3_sac_variants.common.critics.stacked_mlp`
    :return: their first layer
    """
    layer = networks[0]
    assert isinstance(layer, StackedLinear)
    return layer


class DecentralizedActor(BasePolicy):
    """
    A squashed Gaussian policy for each agent, which sees its own observation only.

    :param observation_space: Box ``(N, d)``
    :param action_space: Box ``(N, D)``
    :param net_arch: sizes of the hidden layers of each agent's network
    :param features_extractor: flattens; has no parameters
    :param features_dim: size of what it gives
    :param activation_fn: activation function
    :param normalize_images: has no effect on vectors
    :param share_actor: whether one network serves all agents, told which by a one-hot vector beside the observation
    """

    observation_space: spaces.Box
    action_space: spaces.Box
    agent_ids: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        share_actor: bool = False,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.net_arch, self.features_dim, self.activation_fn = net_arch, features_dim, activation_fn
        self.share_actor = share_actor
        self.n_agents, obs_dim = observation_space.shape
        self.action_dim = action_space.shape[1]
        n_networks, input_dim = (1, obs_dim + self.n_agents) if share_actor else (self.n_agents, obs_dim)
        self.networks = stacked_mlp(n_networks, input_dim, 2 * self.action_dim, net_arch, activation_fn)
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

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            features_dim=self.features_dim,
            activation_fn=self.activation_fn,
            features_extractor=self.features_extractor,
            share_actor=self.share_actor,
        )
        return data


class CentralizedCritic(StackedCritic):
    """
    ``n_critics`` action-value networks Q_k^i(o^1..o^N, a^1..a^N) for each agent i. Arguments as
    :class:`~sb3_sac_variants.common.critics.StackedCritic`.

    :param share_critic: whether one set of networks serves all agents: it sees the joint observation and action in the
        order i, i + 1, ..., N, 1, ..., i - 1, and a one-hot vector that tells which agent i is
    """

    observation_space: spaces.Box
    action_space: spaces.Box
    q_networks: nn.Sequential
    agent_ids: th.Tensor
    order: th.Tensor

    def __init__(self, *args: Any, share_critic: bool = False, **kwargs: Any):
        self.share_critic = share_critic
        super().__init__(*args, **kwargs)
        agents = th.arange(self.n_agents)
        self.register_buffer("order", (agents.unsqueeze(1) + agents) % self.n_agents, persistent=False)
        self.register_buffer("agent_ids", th.eye(self.n_agents), persistent=False)

    def _n_networks(self) -> int:
        return self.n_critics if self.share_critic else self.n_critics * self.n_agents

    @property
    def n_agents(self) -> int:
        """
        :return: number of agents
        """
        return int(self.action_space.shape[0])

    def _network_sizes(self, features_dim: int) -> tuple[int, int]:
        joint = features_dim + get_action_dim(self.action_space)
        return joint + self.n_agents if self.share_critic else joint, 1

    def features(self, obs: PyTorchObs) -> th.Tensor:
        assert isinstance(obs, th.Tensor)
        return obs.flatten(1).to(self.agent_ids.dtype)

    def evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        Q of every agent at a joint action.

        :param obs: observations, ``(B, N, d)``
        :param actions: in [-1, 1], ``(B, N, D)`` or as the replay buffer has them, ``(B, N * D)``
        :return: ``(n_critics, B, N)``
        """
        if self.share_critic:
            actions = actions.view(-1, *self.action_space.shape)
            return self._evaluate_shared(obs, actions, actions)
        return self._by_agent(self.q_networks(self._joint(obs, actions)))

    def sample_q(self, obs: PyTorchObs, sample: PolicySample | JointSample) -> th.Tensor:
        """
        Q of every agent at the actions of a sample.

        :param obs: observations, ``(B, N, d)``
        :param sample: actions of all agents
        :return: ``(n_critics, B, N)``
        """
        assert sample.actions is not None
        return self.evaluate(obs, sample.actions)

    def min_q(self, obs: PyTorchObs, sample: PolicySample | JointSample) -> th.Tensor:
        """
        Minimum over the critics, min_k Q_k^i(o, a).

        :param obs: observations, ``(B, N, d)``
        :param sample: actions of all agents
        :return: ``(B, N)``
        """
        return self.sample_q(obs, sample).amin(dim=0)

    def min_q_of_own_action(self, obs: PyTorchObs, sample: JointSample) -> th.Tensor:
        """
        min_k Q_k^i(o, a^i, sg a^{-i}): the numbers of :meth:`min_q`, where the gradient of agent i's Q reaches agent
        i's action and no other's.

        :param obs: observations, ``(B, N, d)``
        :param sample: actions of all agents
        :return: ``(B, N)``
        """
        actions, constant = sample.actions, sample.actions.detach()
        if self.share_critic:
            return self._evaluate_shared(obs, actions, constant).amin(dim=0)
        # All networks see the same joint action, as a constant. The own action comes in once more at the first layer,
        # as its difference from itself: that is zero, and has the gradient wanted
        first = first_layer(self.q_networks)
        own = (actions - constant).transpose(0, 1).repeat(self.n_critics, 1, 1)
        hidden = th.baddbmm(first(self._joint(obs, constant)), own, self._own_action_weight(first))
        return self._by_agent(self.q_networks[1:](hidden)).amin(dim=0)

    def _own_action_weight(self, layer: StackedLinear) -> th.Tensor:
        """
        :param layer: the first layer
        :return: of network (k, i) the weights for agent i's action, ``(n_critics * N, D, out_features)``
        """
        of_actions = layer.weight[:, -self.n_agents * self.action_space.shape[1] :]
        by_agents = of_actions.view(self.n_critics, self.n_agents, self.n_agents, -1, of_actions.shape[2])
        return by_agents.diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2).flatten(0, 1)

    def _evaluate_shared(self, obs: PyTorchObs, own: th.Tensor, others: th.Tensor) -> th.Tensor:
        """
        :param obs: observations, ``(B, N, d)``
        :param own: of each agent, where its own networks see it, ``(B, N, D)``
        :param others: of each agent, where those of other agents see it, ``(B, N, D)``
        :return: ``(n_critics, B, N)``
        """
        rows = self.features(obs).view(*own.shape[:2], -1)[:, self.order].flatten(2)
        actions = th.cat([own.unsqueeze(2), others[:, self.order[:, 1:]]], dim=2).flatten(2)
        ids = self.agent_ids.expand(own.shape[0], -1, -1)
        inputs = th.cat([rows, actions, ids], dim=2).flatten(0, 1)
        return self.q_networks(inputs).view(self.n_critics, *own.shape[:2])

    def _joint(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return th.cat([self.features(obs), actions.flatten(1)], dim=1)

    def _by_agent(self, q_values: th.Tensor) -> th.Tensor:
        return q_values.view(self.n_critics, self.n_agents, -1).transpose(1, 2)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "share_critic": self.share_critic}


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
