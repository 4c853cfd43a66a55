"""
The equations of maximum-entropy reinforcement learning, one pure function each.

Every function takes tensors and returns tensors: no network, no optimiser, no state. Shapes are checked, because a
silent broadcast of ``(batch,)`` against ``(batch, 1)`` is the classic error of this field. Notation: ``B`` batch
size, ``N`` number of agents (1 but for MASAC), ``n`` number of critics, ``K`` number of actions an expectation runs
over (1 for a sampled action, ``|A|`` for an exact sum over discrete actions); ``sample`` holds the policy's actions,
``q_values`` Q at these, ``(B, K)``, and ``ent_coef`` is the temperature alpha, ``(1,)``, without gradient.

P17 is Haarnoja et al. 2017 (arXiv 1702.08165), P18 Haarnoja et al. 2018 (arXiv 1801.01290), P19 Haarnoja et al.
2018/2019 (arXiv 1812.05905).
"""

import torch as th

from sb3_sac_variants.common.equations.types import Batch, PolicySample


def check_shape(name: str, tensor: th.Tensor, expected: tuple[int | None, ...]) -> None:
    """Refuse a shape that would broadcast; None in ``expected`` stands for any size."""
    if tensor.shape == expected:
        return
    if tensor.dim() != len(expected) or any(
        want is not None and have != want for have, want in zip(tensor.shape, expected, strict=True)
    ):
        wanted = tuple("any" if size is None else size for size in expected)
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected {wanted}: reshape it, or it would broadcast"
        )


def expectation(sample: PolicySample, values: th.Tensor) -> th.Tensor:
    """Expectation over the policy's actions, E_pi[f(s, a)] = sum_k w_k f_k, ``(B, 1)``, of values f ``(B, K)``."""
    check_shape("values", values, sample.weights.shape)
    return (sample.weights * values).sum(dim=1, keepdim=True)


def soft_value(q_values: th.Tensor, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
    """Soft state value V(s) = E_pi[Q(s, a) - alpha log pi(a|s)] (P18, eq. 3), ``(B, 1)``."""
    check_shape("q_values", q_values, tuple(sample.log_prob.shape))
    return expectation(sample, q_values - ent_coef * sample.log_prob)


def soft_bellman_target(batch: Batch, next_value: th.Tensor, reward_scale: float = 1.0) -> th.Tensor:
    """
    Target of the soft Bellman backup, y = c r + gamma (1 - d) V(s') (P18, eq. 8; P19, eq. 2), without gradient.

    :param next_value: V(s'), ``(B, N)``, as the result
    :param reward_scale: c, multiplies the reward; 1/alpha of P18
    """
    check_shape("next_value", next_value, (None, None))
    for name in ("rewards", "discounts"):
        check_shape(f"batch.{name}", getattr(batch, name), tuple(next_value.shape))
    check_shape("batch.dones", batch.dones, (next_value.shape[0], 1))
    return (reward_scale * batch.rewards + (1.0 - batch.dones) * batch.discounts * next_value).detach()


def soft_bellman_error(q_values: th.Tensor, target_q: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Soft Bellman residual J_Q = sum_i 1/2 E[(Q_i(s, a) - y)^2] (P18, eq. 7; P19, eq. 5).

    The sum over critics (and agents) makes one optimiser over all of them the same, element by element, as one for
    each.

    :param q_values: Q of all critics, ``(n, B, N)``
    :param target_q: y, ``(B, N)``
    :param weights: weight of each transition, ``(B, 1)``; None for 1
    """
    check_shape("target_q", target_q, (None, None))
    check_shape("q_values", q_values, (None, *target_q.shape))
    squares = (q_values - target_q).square()
    if weights is not None:
        check_shape("weights", weights, (target_q.shape[0], 1))
        squares = weights * squares
    return 0.5 * squares.mean(dim=1).sum()


def td_error(q_values: th.Tensor, target_q: th.Tensor) -> th.Tensor:
    """Absolute temporal-difference error of each transition, |Q(s, a) - y|, mean over critics and agents, ``(B,)``."""
    return (q_values - target_q).abs().mean(dim=(0, 2))


def soft_value_error(values: th.Tensor, target_value: th.Tensor) -> th.Tensor:
    """
    Residual of the value network J_V = 1/2 E[(V(s) - target)^2] (P18, eq. 5).

    The target is E_pi[Q - alpha log pi], ``(B, 1)``, without gradient.
    """
    check_shape("target_value", target_value, (None, 1))
    check_shape("values", values, tuple(target_value.shape))
    return 0.5 * (values - target_value).square().mean()


def soft_policy_improvement(q_values: th.Tensor, sample: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
    """
    Reparameterised policy loss J_pi = E[E_pi[alpha log pi(a|s) - Q(s, a)]] (P18, eq. 12; P19, eq. 7).

    For discrete actions the inner expectation is the exact sum over actions (not its mean: that would scale the
    loss by ``1/|A|``).
    """
    return -soft_value(q_values, sample, ent_coef).mean()


def likelihood_ratio_policy_improvement(
    q_values: th.Tensor, values: th.Tensor, sample: PolicySample, ent_coef: th.Tensor
) -> th.Tensor:
    """
    Likelihood-ratio form of the policy loss, E[log pi(a|s) sg(alpha log pi(a|s) - Q(s, a) + V(s))].

    Its gradient is the score-function gradient of P18, eq. 10, with V, ``(B, 1)``, as the baseline. Of the sample only
    the log-probabilities are differentiable.
    """
    check_shape("q_values", q_values, (None, None))
    check_shape("values", values, (q_values.shape[0], 1))
    check_shape("sample.log_prob", sample.log_prob, tuple(q_values.shape))
    advantage = q_values - ent_coef * sample.log_prob - values
    return -expectation(sample, sample.log_prob * advantage.detach()).mean()


def importance_sampled_soft_value(q_values: th.Tensor, proposal: PolicySample, ent_coef: th.Tensor) -> th.Tensor:
    """
    Soft value of the optimal policy, V(s) = alpha log E_{a ~ q}[exp(Q(s, a)/alpha) / q(a)] (P17, eq. 10), ``(B, 1)``.

    The proposal has actions and their log-density under q. With all actions of a discrete space as the proposal this is
    alpha logsumexp(Q/alpha), without error.
    """
    check_shape("q_values", q_values, tuple(proposal.log_prob.shape))
    best = q_values.amax(dim=1, keepdim=True).detach()  # Q/alpha itself may be too large for its differences
    log_ratio = (q_values - best) / ent_coef - proposal.log_prob + proposal.weights.log()
    return best + ent_coef * th.logsumexp(log_ratio, dim=1, keepdim=True)


def energy_based_policy(q_values: th.Tensor, proposal: PolicySample, ent_coef: th.Tensor) -> PolicySample:
    """
    The optimal policy for Q, pi(a|s) = exp((Q(s, a) - V(s))/alpha) (P17, eq. 6), at the actions of a proposal.

    Weights turn expectations under the proposal into expectations under the policy (self-normalised importance
    sampling; exact where the proposal is all actions of a discrete space).
    """
    q_values = q_values - q_values.amax(dim=1, keepdim=True).detach()  # the same policy, of smaller numbers
    value = importance_sampled_soft_value(q_values, proposal, ent_coef)
    # Of probability 0 at a low temperature, and then still a number: 0 times minus infinity is none
    log_prob = ((q_values - value) / ent_coef).clamp(min=th.finfo(q_values.dtype).min)
    return PolicySample(proposal.actions, log_prob, proposal.weights * (log_prob - proposal.log_prob).exp())


def temperature_loss(coefficient: th.Tensor, sample: PolicySample, target_entropy: float) -> th.Tensor:
    """
    Temperature objective J(alpha) = E[-alpha (log pi(a|s) + H)] (P19, eq. 18), with no gradient into the actions.

    :param coefficient: what the gradient is taken of: alpha (the paper) or log alpha (the authors' early code, SB3)
    :param target_entropy: H, in nats
    """
    excess = expectation(sample, sample.log_prob).detach() + target_entropy
    return -(coefficient * excess).mean()


def policy_entropy(sample: PolicySample) -> th.Tensor:
    """Estimate of the policy's entropy, E[-log pi(a|s)] in nats, without gradient."""
    return -expectation(sample, sample.log_prob).mean().detach()
