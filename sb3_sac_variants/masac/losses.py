"""
The equations of multi-agent soft actor-critic, one pure function each; shapes are checked as in
:mod:`sb3_sac_variants.common.equations.losses`. ``B`` is the batch size, ``N`` the number of agents, ``D`` the
size of one agent's action; alpha_i is agent i's temperature, beta the coefficient of the cross-entropy.

Losses are summed over the agents, so that each agent's gradient is what it would be were it alone.
"""

from typing import NamedTuple

import torch as th

from sb3_sac_variants.common.equations.losses import check_shape
from sb3_sac_variants.common.equations.types import Batch


class JointSample(NamedTuple):
    """
    One action of each agent, and the policies it was drawn from.

    :param actions: a = tanh(u), ``(B, N, D)``
    :param pre_tanh: u, ``(B, N, D)``
    :param log_prob: log pi^i(a^i|o^i), ``(B, N)``
    :param mean: of u, ``(B, N, D)``
    :param log_std: log standard deviation of u, ``(B, N, D)``
    """

    actions: th.Tensor
    pre_tanh: th.Tensor
    log_prob: th.Tensor
    mean: th.Tensor
    log_std: th.Tensor


def agent_soft_value(
    q_values: th.Tensor, log_prob: th.Tensor, ent_coef: th.Tensor, cross_entropy: th.Tensor
) -> th.Tensor:
    """
    Soft value of each agent at one sampled joint action, which marginalises the other agents' actions:
    Q^i(o, a) - alpha_i log pi^i(a^i|o^i) - beta sum_{j != i} log pi^j(a^i|.).

    :param q_values: Q^i(o, a), ``(B, N)``
    :param log_prob: log pi^i(a^i|o^i), ``(B, N)``
    :param ent_coef: temperatures alpha_i, ``(N,)``
    :param cross_entropy: -beta sum_{j != i} log pi^j(a^i|.), ``(B, N)``
    :return: ``(B, N)``
    """
    check_shape("q_values", q_values, (None, ent_coef.shape[0]))
    check_shape("log_prob", log_prob, tuple(q_values.shape))
    check_shape("cross_entropy", cross_entropy, tuple(q_values.shape))
    return q_values - ent_coef * log_prob + cross_entropy


def agent_bellman_target(batch: Batch, next_value: th.Tensor, reward_scale: float = 1.0) -> th.Tensor:
    """
    Targets of the soft Bellman backup, y^i = c r^i + gamma (1 - d) V^i(o').

    :param batch: transitions; rewards and discounts ``(B, N)``, ``dones`` of all agents at once ``(B, 1)``
    :param next_value: V^i(o'), ``(B, N)``
    :param reward_scale: c, multiplies the rewards
    :return: ``(B, N)``, without gradient
    """
    check_shape("next_value", next_value, (None, None))
    check_shape("batch.rewards", batch.rewards, tuple(next_value.shape))
    check_shape("batch.discounts", batch.discounts, tuple(next_value.shape))
    check_shape("batch.dones", batch.dones, (next_value.shape[0], 1))
    return (reward_scale * batch.rewards + (1.0 - batch.dones) * batch.discounts * next_value).detach()


def agent_bellman_error(q_values: th.Tensor, target_q: th.Tensor) -> th.Tensor:
    """
    Soft Bellman residual J_Q = sum_k sum_i 1/2 E[(Q_k^i(o, a) - y^i)^2].

    :param q_values: Q of all critics, ``(n_critics, B, N)``
    :param target_q: y, ``(B, N)``
    :return: scalar
    """
    check_shape("target_q", target_q, (None, None))
    check_shape("q_values", q_values, (None, *target_q.shape))
    return 0.5 * (q_values - target_q).square().mean(dim=1).sum()


def agent_policy_improvement(values: th.Tensor) -> th.Tensor:
    """
    Policy loss J_pi = -sum_i E[V^i(o, a)], where V^i depends on a^i only as far as gradients go.

    :param values: of :func:`agent_soft_value` at the policies' own actions, ``(B, N)``
    :return: scalar
    """
    check_shape("values", values, (None, None))
    return -values.mean(dim=0).sum()


def agent_temperature_loss(coefficient: th.Tensor, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
    """
    Temperature objective of each agent, J(alpha) = sum_i E[-alpha_i (log pi^i(a^i|o^i) + H)] (Haarnoja et al. 2019,
    eq. 18).

    :param coefficient: what the gradient is taken of: alpha, ``(N,)``
    :param log_prob: log pi^i(a^i|o^i), ``(B, N)``; no gradient flows into it
    :param target_entropy: H of one agent, in nats
    :return: scalar
    """
    check_shape("log_prob", log_prob, (None, coefficient.shape[0]))
    return -(coefficient * (log_prob.detach() + target_entropy)).mean(dim=0).sum()
