"""
The cross-entropy between the agents' policies: its floor, its sign, and how far policies differ.

The objective of agent i is J(pi^i) = E sum_t gamma^t (r^i + alpha_i H(pi^i) + beta sum_{j != i} CE(pi^i, pi^j)) with
CE(pi^i, pi^j) = -E_{a ~ pi^i} log pi^j(a). Maximising it with beta > 0 drives pi^i away from the others. The
description that the term was built from (we have no reference for it) says in words that beta > 0 makes policies alike,
and in its formulas the opposite; the default convention here, "objective", follows the formulas, and "similarity" turns
the sign around.

The optimal policy is proportional to exp(Q/alpha) prod_j pi^j(a)^(-beta/alpha). For beta > 0 that has no finite
integral where pi^j is a squashed Gaussian on [-1, 1]^D. Every pi^j is therefore mixed with a uniform density first,
which keeps it a density: in the joint space of actions, (1 - eps) pi^j(a) + eps/2^D, or in each dimension by itself,
the product over d of (1 - eps) pi^j_d(a_d) + eps/2. The joint mixture is flat, and its gradient gone, as soon as one
dimension is far out; the product keeps the gradient of the others.

Discrete actions have one dimension, and both mixtures are (1 - eps) pi^j(a) + eps/|A|. The sum over finitely many
actions is finite without it, so it may be left out ("none"). It is there by default because of what agents do to each
other: each log-odds is pushed by beta/alpha times the others', so that from |beta|/alpha = 1 on (beta > 0, or
``|beta| (N - 1)/alpha`` = 1 for beta < 0) they grow without bound, and Q with them. With the floor the term stays below
|beta| (N - 1) log(|A|/eps).
"""

import math
from typing import NamedTuple

import torch as th

from sb3_sac_variants.common.checks.validation import LARGEST, as_float, check_bool, check_choice, check_range
from sb3_sac_variants.common.equations.losses import check_shape
from sb3_sac_variants.common.networks.actors import gaussian_log_prob, log_det_tanh

#: uniform share eps of a floor that does not name its own
DEFAULT_SHARE = 0.05
#: for beta < 0, log pi^j counts up to this times the number of dimensions: beyond, policies would be paid for
#: collapsing to a point. A Gaussian of standard deviation 0.05 in the middle of [-1, 1] has this density at its mean.
#: No probability of a discrete action comes near.
LOG_DENSITY_LIMIT = 2.0

CONVENTIONS = ("objective", "similarity")
FLOORS = ("product", "joint")


class Floor(NamedTuple):
    """
    What keeps a density from vanishing.

    :param kind: "product" or "joint"
    :param share: uniform share eps; 0 for no floor
    """

    kind: str
    share: float


def parse_floor(ce_floor: str, may_be_none: bool = False) -> Floor:
    """
    Read the argument ``ce_floor``.

    :param ce_floor: "product" or "joint", or "product_<share>" or "joint_<share>" for another uniform share than 0.05
    :param may_be_none: whether "none" is allowed, as it is for discrete actions
    :return: the floor
    :raises ValueError: if it is none
    """
    remedy = "pass 'product' or 'joint', or one of them with its uniform share in (0, 1), as in 'product_0.1'"
    if ce_floor == "none":
        if may_be_none:
            return Floor("product", 0.0)
        raise ValueError(
            f"ce_floor={ce_floor!r} is for discrete actions: without a floor, the best policy has no finite integral "
            f"on continuous ones; {remedy}"
        )
    kind, _, text = ce_floor.partition("_") if isinstance(ce_floor, str) else ("", "", "")
    try:
        share = as_float(text) if text else DEFAULT_SHARE
    except ValueError:
        share = math.nan
    if kind not in FLOORS or ce_floor == f"{kind}_" or not 0 < share < 1:
        also = "; on discrete actions also 'none'" if may_be_none else ""
        raise ValueError(f"ce_floor={ce_floor!r} is not known: {remedy}{also}")
    return Floor(kind, share)


def gaussian_densities(pre_tanh: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    log pi^j_d(a^i_d) of squashed Gaussians, for each pair of agents and each action dimension, at a = tanh(u).

    :param pre_tanh: u of each agent, ``(B, N, D)``
    :param mean: means of the policies j for agent i, ``(B, N, N, D)``, or ``(B, 1, N, D)`` where all i have the same
    :param log_std: log standard deviations, as ``mean``
    :return: ``(B, N, N, 1, D)``: batch, i, j, the one action, d
    """
    check_shape("pre_tanh", pre_tanh, (None, None, None))
    batch_size, n_agents, action_dim = pre_tanh.shape
    first = 1 if mean.shape[1:2] == (1,) else n_agents
    for name, tensor in (("mean", mean), ("log_std", log_std)):
        check_shape(name, tensor, (batch_size, first, n_agents, action_dim))
    u = pre_tanh.unsqueeze(2).unsqueeze(-1)
    log_density = gaussian_log_prob(u, mean.unsqueeze(-1), log_std.unsqueeze(-1)) - log_det_tanh(u)
    return log_density.unsqueeze(3)


def floored_log_density(log_density: th.Tensor, floor: Floor, log_volume: float = math.log(2.0)) -> th.Tensor:
    """
    Log of a density mixed with the uniform one.

    :param log_density: log-density of each dimension, the dimensions being independent, ``(..., D)``
    :param floor: how
    :param log_volume: log of the size of a dimension: 2 for [-1, 1], ``|A|`` for discrete actions
    :return: log-density of the action, ``(...)``
    """
    if floor.share == 0:
        return log_density.sum(dim=-1)
    if floor.kind == "joint":
        log_volume *= log_density.shape[-1]
        log_density = log_density.sum(dim=-1, keepdim=True)
    uniform = th.full_like(log_density, math.log(floor.share) - log_volume)
    return th.logaddexp(log_density + math.log1p(-floor.share), uniform).sum(dim=-1)


def sum_over_others(values: th.Tensor) -> th.Tensor:
    """Sum over j != i of values for each pair of agents, ``(B, N, N, K)`` to ``(B, N, K)``."""
    check_shape("values", values, (None, None, values.shape[1], None))
    itself = th.eye(values.shape[1], dtype=th.bool, device=values.device).unsqueeze(2)
    return values.masked_fill(itself, 0.0).sum(dim=2)


def policy_divergence(log_density: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Jensen-Shannon divergence between the agents' policies, averaged over pairs of agents and states.

    It is 0 where they are the same, log 2 where they share no action. With m = (pi^i + pi^j)/2 it is the mean over the
    ordered pairs of E_{a ~ pi^i} log(pi^i(a)/m(a)) = E[log 2 - softplus(log pi^j(a) - log pi^i(a))]: exact for discrete
    actions, an estimate at sampled ones. Each policy has to be weighed in the same place: with ``ce_obs="own"`` pi^i is
    at o^i and pi^j at o^j in its turn, and where agents observe different things the mean is not that of one place.

    :param log_density: log pi^j_d at agent i's own actions, ``(B, N, N, K, D)``
    :param weights: of agent i's own actions, ``(B, N, K)``
    :return: scalar in nats, without gradient; 0 for a single agent
    """
    check_shape("log_density", log_density, (None, None, log_density.shape[1], None, None))
    check_shape("weights", weights, (*log_density.shape[:2], log_density.shape[3]))
    n_agents = log_density.shape[1]
    log_prob = log_density.detach().sum(dim=-1)
    own = log_prob.diagonal(dim1=1, dim2=2).permute(0, 2, 1).unsqueeze(2)
    relative_entropy = math.log(2.0) - th.nn.functional.softplus(log_prob - own)
    divergence = (weights.detach() * sum_over_others(relative_entropy)).sum(dim=2)
    return divergence.mean(dim=0).sum() / max(n_agents * (n_agents - 1), 1)


class CrossEntropy:
    """
    The cross-entropy term of the objective.

    :param coefficient: beta, or beta/alpha with ``relative``
    :param convention: "objective" (beta > 0: different policies) or "similarity" (beta > 0: similar ones)
    :param floor: "product", "joint", or one of them with its uniform share; with ``n_actions`` also "none"
    :param center: whether to subtract the mean over the batch, which shifts Q by beta * mean/(1 - gamma) otherwise
    :param relative: whether the coefficient is in units of the temperature
    :param n_actions: number of discrete actions; None for continuous ones
    :param device: where updates compute
    :raises ValueError: if an argument has no meaning
    """

    def __init__(
        self,
        coefficient: float,
        convention: str,
        floor: str,
        center: bool = False,
        relative: bool = False,
        n_actions: int | None = None,
        device: th.device | str = "cpu",
    ) -> None:
        check_range("ce_coef", coefficient, -LARGEST, LARGEST)
        check_choice("ce_convention", convention, CONVENTIONS)
        check_bool("ce_center", center)
        check_bool("ce_relative", relative)
        beta = float(coefficient) if convention == "objective" else -float(coefficient)
        #: beta with the sign it has in the objective; a tensor, so that annealing it compiles no update anew
        self.coefficient = th.tensor(beta, dtype=th.float32, device=device)
        #: -1, 0 or 1
        self.sign = (beta > 0) - (beta < 0)
        self.floor = parse_floor(floor, may_be_none=n_actions is not None)
        self.center = center
        self.relative = relative
        self.log_volume = math.log(2.0 if n_actions is None else n_actions)

    def beta(self, ent_coef: th.Tensor) -> th.Tensor:
        """Beta of each agent, with the sign of the objective, ``(N,)`` as the temperatures are."""
        return self.coefficient * (ent_coef if self.relative else th.ones_like(ent_coef))

    def ratio(self, ent_coef: th.Tensor) -> th.Tensor:
        """
        The share ``|beta| (N - 1)/alpha_i`` of each agent's temperature that agreement costs, ``(N,)``.

        For beta < 0 agents that agree have the temperature alpha (1 - ratio), and from 1 on nothing holds them from
        collapsing to a point.
        """
        smallest = th.finfo(ent_coef.dtype).tiny  # a temperature of 0 is allowed, and 0/0 has no meaning
        return self.beta(ent_coef).abs() * (ent_coef.shape[0] - 1) / ent_coef.clamp(min=smallest)

    def bonus(
        self, log_density: th.Tensor, weights: th.Tensor, ent_coef: th.Tensor, may_center: bool = True
    ) -> th.Tensor:
        """
        What the term adds to each agent's reward, -beta sum_{j != i} log pi^j(a^i).

        :param log_density: log pi^j_d at agent i's own actions, ``(B, N, N, K, D)``; gradients reach what it was
            computed of
        :param weights: of agent i's own actions, ``(B, N, K)``
        :param ent_coef: temperatures, ``(N,)``
        :param may_center: False for the term as it is, whatever ``ce_center`` says, which depends on the whole batch
        :return: ``(B, N, K)``
        """
        if self.sign == 0:
            return log_density.new_zeros(weights.shape)
        log_prob = floored_log_density(log_density, self.floor, self.log_volume)
        if self.sign < 0:
            log_prob = log_prob.clamp(max=LOG_DENSITY_LIMIT * log_density.shape[-1])
        bonus = -self.beta(ent_coef).unsqueeze(1) * sum_over_others(log_prob)
        if not (self.center and may_center):
            return bonus
        return bonus - (weights * bonus).sum(dim=2).detach().mean(dim=0).unsqueeze(1)
