"""
The equations of multi-agent soft actor-critic, one pure function each.

Those of the critics are the same as for a single agent: :mod:`sb3_sac_variants.common.equations.losses`. Shapes are
checked as there. ``B`` is the batch size, ``N`` the number of agents, ``K`` the number of an agent's own actions that
an expectation runs over (1 for a sampled action, ``|A|`` for an exact sum over discrete actions); alpha_i is agent i's
temperature, beta the coefficient of the cross-entropy.

Losses are summed over the agents, so that each agent's gradient is what it would be were it alone.
"""

from typing import NamedTuple

import torch as th

from sb3_sac_variants.common.equations.losses import check_shape


class JointSample(NamedTuple):
    """
    What the agents' policies offer to form expectations: ``E_{pi^i}[f^i] = sum_k weights_k f^i_k``.

    One action of each agent is drawn. For the other agents it stands for their policies; the agent itself takes the
    expectation over its own: at the drawn action, of weight one, if actions are continuous, else over all of them.

    :param actions: the drawn actions, without gradient if they are numbers of actions: ``(B, N, D)`` or ``(B, N)``
    :param log_prob: log pi^i(a^i|o^i) of the own actions, ``(B, N, K)``
    :param weights: weights of the expectation, ``(B, N, K)``
    :param density_inputs: what the actor computes the densities of the others at these actions from
    """

    actions: th.Tensor
    log_prob: th.Tensor
    weights: th.Tensor
    density_inputs: tuple[th.Tensor, ...] = ()


def own_expectation(sample: JointSample, values: th.Tensor) -> th.Tensor:
    """
    Expectation over each agent's own action, E_{pi^i}[f^i] = sum_k w_k f^i_k.

    :param sample: own actions and weights
    :param values: f^i at these actions, ``(B, N, K)``
    :return: ``(B, N)``
    """
    check_shape("values", values, tuple(sample.weights.shape))
    return (sample.weights * values).sum(dim=2)


def agent_soft_value(q_values: th.Tensor, sample: JointSample, ent_coef: th.Tensor, bonus: th.Tensor) -> th.Tensor:
    """
    Soft value of each agent, E_{pi^i}[Q^i(o, a) - alpha_i log pi^i(a^i|o^i) - beta sum_{j != i} log pi^j(a^i|.)].

    The other agents' actions are the drawn ones, which marginalises them.

    :param q_values: Q^i(o, a) at the own actions, ``(B, N, K)``
    :param sample: the agents' actions
    :param ent_coef: temperatures alpha_i, ``(N,)``
    :param bonus: -beta sum_{j != i} log pi^j(a^i|.), the term of the cross-entropy, ``(B, N, K)``
    :return: ``(B, N)``
    """
    check_shape("q_values", q_values, (None, ent_coef.shape[0], None))
    check_shape("sample.log_prob", sample.log_prob, tuple(q_values.shape))
    check_shape("bonus", bonus, tuple(q_values.shape))
    return own_expectation(sample, q_values - ent_coef.unsqueeze(1) * sample.log_prob + bonus)


def agent_policy_improvement(values: th.Tensor) -> th.Tensor:
    """
    Policy loss J_pi = -sum_i E[V^i(o, a)], where V^i depends on a^i only as far as gradients go.

    :param values: of :func:`agent_soft_value` at the policies' own actions, ``(B, N)``
    :return: scalar
    """
    check_shape("values", values, (None, None))
    return -values.mean(dim=0).sum()


def agent_temperature_loss(coefficient: th.Tensor, sample: JointSample, target_entropy: float) -> th.Tensor:
    """
    Temperature objective of each agent, J(alpha) = sum_i E[-alpha_i (log pi^i(a^i|o^i) + H)].

    It is eq. 18 of Haarnoja et al. 2019 for each agent.

    :param coefficient: what the gradient is taken of: alpha, ``(N,)``
    :param sample: the agents' actions; no gradient flows into them
    :param target_entropy: H of one agent, in nats
    :return: scalar
    """
    check_shape("sample.log_prob", sample.log_prob, (None, coefficient.shape[0], None))
    excess = own_expectation(sample, sample.log_prob).detach() + target_entropy
    return -(coefficient * excess).mean(dim=0).sum()
