"""What the equations speak of: a batch of transitions, and what a policy offers to form an expectation."""

from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import TensorDict


class Batch(NamedTuple):
    """
    Transitions drawn from the replay buffer, as an update sees them.

    :param observations: observations, ``(B, *obs_shape)``, or a dictionary of such tensors
    :param actions: actions as stored, scaled to [-1, 1] on Box, ``(B, action_dim)``
    :param next_observations: what followed (the true last observation at the end of an episode), as ``observations``
    :param dones: 1 where the episode terminated, 0 where it went on or was truncated, ``(B, 1)``
    :param rewards: raw (or n-step) rewards, ``(B, 1)``, or ``(B, N)`` of several agents
    :param discounts: discount of the bootstrapped value: gamma, or gamma^n for n-step returns, as ``rewards``
    :param weights: weight of each transition in the Bellman error, ``(B, 1)``; None for 1
    :param indices: where the replay keeps the transitions, ``(B,)``, if it wants to know their errors
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor | None = None
    indices: th.Tensor | None = None

    @classmethod
    def of(cls, samples: Any, gamma: float) -> "Batch":
        """Take over what a replay buffer gave, with ``gamma`` where it has no discounts of its own."""
        discounts = getattr(samples, "discounts", None)
        return cls(
            samples.observations,
            samples.actions,
            samples.next_observations,
            samples.dones,
            samples.rewards,
            th.full_like(samples.rewards, gamma) if discounts is None else discounts,
            getattr(samples, "weights", None),
            getattr(samples, "indices", None),
        )


class Noise(NamedTuple):
    """
    Random numbers of one update, standard normal.

    :param actions: for the policy's actions in the sampled states, of the actor's ``noise_shape``
    :param next_actions: for those in the states that followed
    """

    actions: th.Tensor
    next_actions: th.Tensor


class PolicySample(NamedTuple):
    """
    What a policy offers to form an expectation over its actions: ``E_pi[f] = sum_k weights_k f_k``.

    A continuous policy gives one sampled action of weight one, a discrete policy all its actions weighted by their
    probabilities, so that equations are written once for both.

    :param actions: the action, ``(B, action_dim)``, or several, ``(B, K, action_dim)``; None where all actions of a
        discrete space are meant
    :param log_prob: log pi(a|s), ``(B, K)``
    :param weights: weights of the expectation, ``(B, K)``
    """

    actions: th.Tensor | None
    log_prob: th.Tensor
    weights: th.Tensor
