"""Centralised critics: Q-functions of every agent at what all observe and do, weights stacked by agent."""

import math
from abc import abstractmethod
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.networks.critics import StackedCritic, StackedLinear
from sb3_sac_variants.common.networks.preprocessing import one_hot
from sb3_sac_variants.masac.losses import JointSample


class CentralizedCritic(StackedCritic):
    """
    ``n_critics`` action-value networks Q_k^i(o^1..o^N, a^1..a^N) for each agent i.

    Arguments as :class:`~sb3_sac_variants.common.networks.critics.StackedCritic`. Observations are ``(B, N, d)``;
    ``forward`` and ``q1_forward`` give the values of all agents, ``(B, N)`` for each critic. The single networks
    (``q_networks``, ``qf0``, ``qf1``, ...) are those of critic 0 for agents 0 to N - 1, then those of critic 1, unless
    ``share_critic``.

    :param share_critic: whether one set of networks serves all agents: it sees the joint observation and action in the
        order i, i + 1, ..., N, 1, ..., i - 1, and a one-hot vector that tells which agent i is
    """

    observation_space: spaces.Box
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
        """Number of agents."""
        return int(self.observation_space.shape[0])

    def features(self, obs: PyTorchObs) -> th.Tensor:
        assert isinstance(obs, th.Tensor)
        return obs.flatten(1).to(self.agent_ids.dtype)

    @abstractmethod
    def sample_q(self, obs: PyTorchObs, sample: PolicySample | JointSample) -> th.Tensor:
        """Q of every agent at its own actions, the others' being those drawn, ``(n_critics, B, N, K)``."""

    def min_q(self, obs: PyTorchObs, sample: PolicySample | JointSample) -> th.Tensor:
        """Minimum over the critics, min_k Q_k^i(o, a), ``(B, N, K)``."""
        return self.sample_q(obs, sample).amin(dim=0)

    def min_q_of_own_action(self, obs: PyTorchObs, sample: JointSample) -> th.Tensor:
        """
        min_k Q_k^i(o, a^i, sg a^{-i}), the numbers of :meth:`min_q`.

        The gradient of agent i's Q reaches agent i's action and no other's.
        """
        return self.min_q(obs, sample)

    def _in_order(self, values: th.Tensor) -> th.Tensor:
        """Values of all agents, ``(B, N * d)``, in the order that begins with the agent's own, ``(B, N, N * d)``."""
        size = values.shape[1] // self.n_agents
        return th.cat([values, values[:, :-size]], dim=1).unfold(1, values.shape[1], size)

    def _identified(self, inputs: th.Tensor) -> th.Tensor:
        """Inputs of each agent, ``(B, N, d)``, with its one-hot vector, as rows for the shared networks."""
        return th.cat([inputs, self.agent_ids.expand(inputs.shape[0], -1, -1)], dim=2).flatten(0, 1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "share_critic": self.share_critic}


class CentralizedContinuousCritic(CentralizedCritic):
    """
    Networks Q_k^i(o, a) that see the actions of all, Box ``(N, D)``.

    Arguments as :class:`CentralizedCritic`.
    """

    action_space: spaces.Box

    def _network_sizes(self, features_dim: int) -> tuple[int, int]:
        joint = features_dim + get_action_dim(self.action_space)
        return joint + self.n_agents if self.share_critic else joint, 1

    def _evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self._by_agent(self.q_networks(self._joint(obs, actions)))

    def sample_q(self, obs: PyTorchObs, sample: PolicySample | JointSample) -> th.Tensor:
        assert sample.actions is not None
        return self.evaluate(obs, sample.actions).unsqueeze(3)

    def min_q_of_own_action(self, obs: PyTorchObs, sample: JointSample) -> th.Tensor:
        if self._is_called_as_module:  # what hooks or a user make of Q is not known here: once for each agent
            own = th.eye(self.n_agents, dtype=th.bool, device=sample.actions.device).unsqueeze(2)
            mixed = [th.where(agent, sample.actions, sample.actions.detach()) for agent in own]
            q_values = [self.evaluate(obs, actions)[:, :, i] for i, actions in enumerate(mixed)]
            return th.stack(q_values, dim=2).amin(dim=0).unsqueeze(2)
        # The networks see all actions as constants. The own action comes in once more at the first layer, as its
        # difference from itself: that is zero, and has the gradient wanted. The rest of a joint input needs none,
        # which would cost as much as the first layer itself
        constant = sample.actions.detach()
        own = sample.actions - constant
        if self.share_critic:
            own = own.flatten(0, 1).expand(self.n_critics, -1, -1)
        else:
            own = own.transpose(0, 1).repeat(self.n_critics, 1, 1)
        first = self.q_networks.stacked[0]
        hidden = th.baddbmm(first(self._joint(obs, constant)), own, self._own_action_weight(first))
        return self._by_agent(self.q_networks(hidden, first=1)).amin(dim=0).unsqueeze(2)

    def _own_action_weight(self, layer: StackedLinear) -> th.Tensor:
        """Weights of the first layer for the own action, ``(n_networks, D, out_features)``."""
        n_agents, action_dim = self.action_space.shape
        begin = math.prod(self.observation_space.shape)
        if self.share_critic:
            return layer.weight[:, begin : begin + action_dim]
        by_agents = layer.weight[:, begin:].view(self.n_critics, n_agents, n_agents, action_dim, -1)
        return by_agents.diagonal(dim1=1, dim2=2).permute(0, 3, 1, 2).flatten(0, 1)

    def _joint(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Joint observation and action: one row for each state or, for shared networks, one for each agent in it."""
        observed, done = self.features(obs), actions.flatten(1)
        if not self.share_critic:
            return th.cat([observed, done], dim=1)
        return self._identified(th.cat([self._in_order(observed), self._in_order(done)], dim=2))

    def _by_agent(self, q_values: th.Tensor) -> th.Tensor:
        if self.share_critic:
            return q_values.view(self.n_critics, -1, self.n_agents)
        return q_values.view(self.n_critics, self.n_agents, -1).transpose(1, 2)


class CentralizedDiscreteCritic(CentralizedCritic):
    """
    Networks Q_k^i(o, a^{-i}, .) that see the others' actions and give all of the agent's own at once.

    For actions MultiDiscrete ``[n] * N``. What a network sees begins with the agent's own observation, followed by the
    others' in their order, and by their actions as one-hot vectors. Arguments as :class:`CentralizedCritic`.
    """

    def __init__(self, observation_space: spaces.Box, action_space: spaces.MultiDiscrete, *args: Any, **kwargs: Any):
        self.n_actions = int(action_space.nvec[0])
        super().__init__(observation_space, action_space, *args, **kwargs)

    def _network_sizes(self, features_dim: int) -> tuple[int, int]:
        joint = features_dim + (self.n_agents - 1) * self.n_actions
        return joint + self.n_agents if self.share_critic else joint, self.n_actions

    def values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        Q of every agent at all of its own actions, ``(n_critics, B, N, |A|)``.

        :param actions: numbers of the joint action, of which an agent's own does not matter, ``(B, N)``
        """
        chosen = one_hot(actions.long(), self.n_actions).to(self.agent_ids.dtype)
        inputs = th.cat([self._in_order(self.features(obs)), chosen[:, self.order[:, 1:]].flatten(2)], dim=2)
        if self.share_critic:
            return self.q_networks(self._identified(inputs)).view(self.n_critics, *actions.shape, -1)
        q_values = self.q_networks(inputs.transpose(0, 1).repeat(self.n_critics, 1, 1))
        return q_values.view(self.n_critics, self.n_agents, *q_values.shape[1:]).transpose(1, 2)

    def _evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        own = actions.long().expand(self.n_critics, -1, -1).unsqueeze(3)
        return self.values(obs, actions).gather(3, own).squeeze(3)

    def sample_q(self, obs: PyTorchObs, sample: PolicySample | JointSample) -> th.Tensor:
        assert sample.actions is not None
        if not self._is_called_as_module:
            return self.values(obs, sample.actions)
        # forward() knows one action at a time: each of an agent's own beside the others', once for each agent
        own = th.eye(self.n_agents, dtype=th.bool, device=sample.actions.device)
        q_values = [
            [self.evaluate(obs, th.where(agent, action, sample.actions))[:, :, i] for action in range(self.n_actions)]
            for i, agent in enumerate(own)
        ]
        return th.stack([th.stack(of_agent, dim=2) for of_agent in q_values], dim=2)
