r"""
Amortised Stein variational gradient descent, the sampler of soft Q-learning, as pure functions.

Haarnoja et al. 2017 (P17), section 3.3 and eq. 13-14, after Liu and Wang 2016, arXiv 1608.04471.

A network turns noise into actions, :math:`a = \tanh u`, :math:`u = f_\phi(s, \xi)`, and is to sample from
:math:`\pi(a|s) \propto \exp(Q(s, a)/\alpha)` on the cube :math:`[-1, 1]^D`. Of K actions some are held fixed and others
updated; a particle x is moved along

.. math:: \Delta(x) = E_{x'}[\kappa(x', x) \nabla_{x'} \log p(x') + \nabla_{x'} \kappa(x', x)],

the expectation running over the fixed ones, and the network follows its particles: :math:`\phi` ascends
:math:`E_\xi[\Delta \cdot \partial x / \partial\phi]`.

**Which density, and the gradient with respect to what.** :math:`\Delta` vanishes once the particles are distributed
like p, because by Stein's identity

.. math:: E_p[\kappa \nabla \log p + \nabla\kappa] = \int \nabla(p\,\kappa)\,dx,

an integral over the surface of the domain, is zero. This needs p to vanish there. In the coordinates of the action it
does not: :math:`\exp(Q/\alpha)` is as large at the faces of the cube as inside, and particles that have found the right
density are still pushed outwards. In the coordinates :math:`u \in R^D` it does. Their density is, by the change of
variables,

.. math:: \log p(u) = Q(s, \tanh u)/\alpha + \sum_d \log(1 - \tanh^2 u_d) + const,

which falls like :math:`e^{-2|u|}`, and everything is to be differentiated with respect to u:

.. math:: \nabla_u \log p = (1 - a^2) \nabla_a Q/\alpha - 2 a.

That is ``"pre_tanh"``, the default: particles, kernel, gradient and the network's output are all u. (With a kernel of
the actions instead, :math:`(1 - a^2)\kappa` takes the place of the kernel in the action's coordinates; it vanishes on
the faces, which is why that works as well.)

The authors' code (``"action"``) adds the same sum of logarithms but differentiates with respect to a, with particles
and kernel in the coordinates of the action. There :math:`\log(1 - a^2)` is no volume element; it is part of the target,
and the sampler tends to :math:`\exp(Q/\alpha) \prod_d (1 - a_d^2)`: for a constant Q to the density
:math:`\frac{3}{4}(1 - a^2)` in place of the uniform one, and away from every mode at the border. Eq. 13 as printed has
no such term (``"none"``): the right target, but without Stein's identity, so that particles pile up at the border.
``benchmarks/sql_sampler.py`` measures all three against known densities.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_sac_variants.common.networks.actors import log_det_tanh

#: smallest bandwidth of the kernel (authors' code): particles that all coincide would divide by zero
MIN_BANDWIDTH = 1e-3
#: added inside the logarithm of 1 - a^2 (authors' code), which at the border has no gradient
BORDER_EPSILON = 1e-6


class Squash(NamedTuple):
    """
    The coordinates x that particles move in, and the density they have there.

    :param coordinates: x of the sampler's output u, ``(..., D)`` to ``(..., D)``
    :param actions: the action at x, likewise
    :param log_volume: what log p(x) has beside Q/alpha, ``(..., D)`` to ``(...)``
    """

    coordinates: Callable[[th.Tensor], th.Tensor]
    actions: Callable[[th.Tensor], th.Tensor]
    log_volume: Callable[[th.Tensor], th.Tensor]


def _same(x: th.Tensor) -> th.Tensor:
    return x


def _log_one_minus_square(actions: th.Tensor) -> th.Tensor:
    return (1.0 - actions.square() + BORDER_EPSILON).log().sum(dim=-1)


def _nothing(actions: th.Tensor) -> th.Tensor:
    return th.zeros_like(actions[..., 0])


#: by the name of the variable that the squash term is differentiated by
SQUASH_GRADIENTS = {
    "pre_tanh": Squash(_same, th.tanh, log_det_tanh),
    "action": Squash(th.tanh, _same, _log_one_minus_square),
    "none": Squash(th.tanh, _same, _nothing),
}


def rbf_kernel(fixed: th.Tensor, updated: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    The kernel ``exp(-|x' - x|^2 / h)`` and its gradient by the fixed particle x'.

    Its bandwidth is the median of the squared distances over log(F + 1), for each state its own, so that the kernel's
    sum over the fixed particles is near that of a particle on itself (Liu and Wang 2016, section 5).

    :param fixed: x', ``(B, F, D)``
    :param updated: x, ``(B, U, D)``
    :return: kernel ``(B, F, U)`` and gradient ``(B, F, U, D)``, both without gradient through h
    """
    difference = fixed.unsqueeze(2) - updated.unsqueeze(1)
    squared_distance = difference.square().sum(dim=-1)
    median = squared_distance.detach().flatten(1).median(dim=1).values
    bandwidth = (median / math.log(fixed.shape[1] + 1)).clamp(min=MIN_BANDWIDTH).view(-1, 1, 1)
    kernel = th.exp(-squared_distance / bandwidth)
    return kernel, (kernel / bandwidth).unsqueeze(-1) * (-2.0 * difference)


def stein_direction(fixed: th.Tensor, updated: th.Tensor, score: th.Tensor) -> th.Tensor:
    """
    Where to move particles so that their distance to the target density falls fastest (P17, eq. 13), ``(B, U, D)``.

    :param fixed: particles that the expectation runs over, ``(B, F, D)``
    :param updated: particles to move, ``(B, U, D)``
    :param score: gradient of the log-density at the fixed ones, ``(B, F, D)``
    """
    kernel, kernel_gradient = rbf_kernel(fixed, updated)
    attraction = th.einsum("bfu,bfd->bud", kernel, score) / fixed.shape[1]
    return attraction + kernel_gradient.mean(dim=1)


def squashed_stein_direction(
    fixed: th.Tensor, updated: th.Tensor, log_density: Callable[[th.Tensor], th.Tensor], squash: Squash
) -> th.Tensor:
    """
    Where to move particles before the tanh, towards a density of the actions: :func:`stein_direction` there.

    :param fixed: u of the fixed particles, ``(B, F, D)``
    :param updated: u of the particles to move, ``(B, U, D)``
    :param log_density: of actions ``(B, F, D)``, up to a constant, ``(B, F)``
    :return: direction in the coordinates of ``squash``, ``(B, U, D)``, without gradient
    """
    fixed, updated = squash.coordinates(fixed), squash.coordinates(updated)

    def total_log_density(x: th.Tensor) -> th.Tensor:
        return (log_density(squash.actions(x)) + squash.log_volume(x)).sum()

    return stein_direction(fixed, updated, _gradient(total_log_density, fixed)).detach()


def _gradient(function: Callable[[th.Tensor], th.Tensor], at: th.Tensor) -> th.Tensor:
    """Gradient of a scalar function of a tensor."""
    if th.compiler.is_compiling():
        return th.func.grad(function)(at)
    # torch.func refuses networks that count something in the forward pass, as batch normalisation does
    with th.enable_grad():
        variable = at.detach().requires_grad_()
        return th.autograd.grad(function(variable), variable)[0]


def stein_loss(pre_tanh: th.Tensor, direction: th.Tensor, squash: Squash) -> th.Tensor:
    """
    A loss whose gradient moves the sampler along the Stein direction (P17, eq. 14); its value means nothing.

    :param pre_tanh: u of the updated particles, differentiable, ``(B, U, D)``
    :param direction: where to move them in the coordinates of ``squash``, ``(B, U, D)``
    """
    return -(direction * squash.coordinates(pre_tanh)).sum(dim=-1).mean()
