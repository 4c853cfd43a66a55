"""
Networks for discrete actions, where every expectation over actions is an exact sum: nothing is sampled in an update.

A policy sample names no action and weights all of them by their probabilities; the critics answer with Q(s, .). The
equations of :mod:`sb3_sac_variants.common.equations.losses` then read as for continuous actions (Christodoulou 2019,
Soft Actor-Critic for Discrete Action Settings, arXiv 1910.07207).
"""

from abc import abstractmethod
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.networks.actors import ActorNetwork
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.preprocessing import batch_size


def choose_actions(log_prob: th.Tensor, deterministic: bool) -> th.Tensor:
    """
    Draw actions by their log-probabilities ``(..., |A|)``, or take the most likely ones.

    :return: numbers of actions, ``(...)``; -1 where the network has diverged, which
        :func:`~sb3_sac_variants.common.checks.data.check_actions` finds
    """
    scores = log_prob
    if not deterministic:  # the draw of th.multinomial, which would look at the probabilities on the host first
        scores = log_prob.exp() / th.empty_like(log_prob).exponential_()
    best, action = scores.max(dim=-1)
    return th.where(best.isnan(), -1, action)


class CategoricalActor(BasePolicy):
    """A policy over a finite set of actions; a subclass says with which probabilities."""

    action_space: spaces.Discrete
    dtype: th.dtype = th.float32

    @abstractmethod
    def log_prob(self, obs: PyTorchObs) -> th.Tensor:
        """Log-probabilities of all actions, log pi(.|s), ``(B, |A|)``."""

    def noise_shape(self, batch_size: int) -> tuple[int, ...]:
        """Shape of the noise that :meth:`sample` takes: no number at all."""
        return (batch_size, 0)

    def sample(self, obs: PyTorchObs, noise: th.Tensor, reparameterize: bool = True) -> PolicySample:
        """
        All actions and their probabilities.

        :param noise: empty, of :meth:`noise_shape`
        :param reparameterize: whether gradients flow through the weights of the sum, or only into the log-probabilities
            (likelihood ratio); the gradient of the policy's loss is the same
        """
        log_prob = self.log_prob(obs)
        weights = log_prob.exp()
        return PolicySample(None, log_prob, weights if reparameterize else weights.detach())

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Numbers of actions to take in the environment, ``(B,)``; -1 where the network has diverged."""
        return choose_actions(self.log_prob(obs), deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)


class DiscreteActor(CategoricalActor, ActorNetwork):
    """A network that gives the logits of the actions."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        n_actions = int(self.action_space.n)
        self.logits = nn.Sequential(*create_mlp(self.features_dim, n_actions, self.net_arch, self.activation_fn))

    def log_prob(self, obs: PyTorchObs) -> th.Tensor:
        return th.log_softmax(self.logits(self.extract_features(obs, self.features_extractor)), dim=1)


class StackedDiscreteCritic(StackedCritic):
    """Action-value networks Q_i(s, .), i = 1..n_critics, that give all actions of a discrete space at once."""

    action_space: spaces.Discrete

    def _network_sizes(self, features_dim: int) -> tuple[int, int]:
        return features_dim, int(self.action_space.n)

    def values(self, obs: PyTorchObs) -> th.Tensor:
        """Q of all critics at all actions, ``(n_critics, B, |A|)``."""
        return self.q_networks(self.features(obs))

    def _evaluate(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        return self.values(obs).gather(2, actions.long().expand(self.n_critics, *actions.shape))

    def q_of_all_actions(self, obs: PyTorchObs) -> th.Tensor:
        """:meth:`values`, with what hooks or a ``forward()`` of the user's make of each."""
        if not self._is_called_as_module:
            return self.values(obs)
        # forward() knows one action at a time
        count = batch_size(obs)
        each = th.arange(int(self.action_space.n), device=self.device).unsqueeze(1).expand(-1, count)
        return th.cat([self.evaluate(obs, action.unsqueeze(1)) for action in each], dim=2)

    def sample_q(self, obs: PyTorchObs, sample: PolicySample) -> th.Tensor:
        return self.q_of_all_actions(obs)
