"""
The Stein sampler: its formulas against loops, and the squash term against densities that are known.

A Stein direction is right if it vanishes on particles that already have the target density. Such particles are made
here without any sampler, as quantiles of the density.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch as th

from sb3_sac_variants.sql.svgd import (
    MIN_BANDWIDTH,
    SQUASH_GRADIENTS,
    rbf_kernel,
    squashed_stein_direction,
    stein_direction,
    stein_loss,
)

LogDensity = Callable[[th.Tensor], th.Tensor]


def gaussian(actions: th.Tensor, mean: float, std: float) -> th.Tensor:
    return -0.5 * ((actions - mean) / std).square().sum(dim=-1)


#: log-densities of actions on [-1, 1], up to a constant
DENSITIES: dict[str, LogDensity] = {
    "uniform": lambda a: 0.0 * a.sum(dim=-1),
    "one mode": lambda a: gaussian(a, 0.3, 0.2),
    "two modes": lambda a: th.logaddexp(math.log(0.3) + gaussian(a, -0.5, 0.2), math.log(0.7) + gaussian(a, 0.5, 0.2)),
    "border": lambda a: 3.0 * a.sum(dim=-1),
}


def quantiles(log_density: LogDensity, n: int = 400) -> th.Tensor:
    """n actions that divide the mass of a density on [-1, 1] evenly, ``(1, n, 1)``."""
    grid = th.linspace(-1.0, 1.0, 200_001, dtype=th.float64)
    density = log_density(grid.unsqueeze(1)).exp()
    mass = th.cumulative_trapezoid(density, grid).numpy()
    where = (np.arange(n) + 0.5) / n * mass[-1]
    return th.tensor(np.interp(where, mass, grid[1:].numpy())).view(1, n, 1)


def direction_at(actions: th.Tensor, log_density: LogDensity, squash_gradient: str) -> th.Tensor:
    """Stein direction in the coordinates of the action, so that the forms can be compared."""
    squash, u = SQUASH_GRADIENTS[squash_gradient], th.atanh(actions)
    direction = squashed_stein_direction(u, u, log_density, squash)
    return direction * (1 - actions.square()) if squash_gradient == "pre_tanh" else direction


# ---------------------------------------------------------------- which squash term


@pytest.mark.parametrize("density", DENSITIES)
def test_particles_with_the_right_density_are_left_in_place(density):
    actions = quantiles(DENSITIES[density])
    assert direction_at(actions, DENSITIES[density], "pre_tanh").abs().max() < 0.01


@pytest.mark.parametrize("squash_gradient", ["action", "none"])
@pytest.mark.parametrize("density", ["uniform", "border"])
def test_the_other_forms_push_them_away(density, squash_gradient):
    actions = quantiles(DENSITIES[density])
    direction = direction_at(actions, DENSITIES[density], squash_gradient)
    assert direction.abs().max() > 0.3
    at_border = direction[0, -1, 0].item()
    assert at_border < 0 if squash_gradient == "action" else at_border > 0


@pytest.mark.parametrize("density", DENSITIES)
def test_the_authors_form_is_at_rest_at_a_density_that_vanishes_at_the_border(density):
    """Which says what it samples: the target times 1 - a^2."""
    target = DENSITIES[density]
    tilted = quantiles(lambda a: target(a) + (1 - a.square()).log().sum(dim=-1))
    assert direction_at(tilted, target, "action").square().mean().sqrt() < 0.02
    assert direction_at(quantiles(target), target, "action").square().mean().sqrt() > 0.1


@pytest.mark.parametrize(("squash_gradient", "second_moment"), [("pre_tanh", 1 / 3), ("action", 1 / 5)])
def test_trained_sampler_of_a_uniform_density(squash_gradient, second_moment):
    """E[a^2] is 1/3 for the uniform density and 1/5 for 3/4 (1 - a^2)."""
    th.manual_seed(0)
    squash = SQUASH_GRADIENTS[squash_gradient]
    sampler = th.nn.Sequential(th.nn.Linear(1, 32), th.nn.ReLU(), th.nn.Linear(32, 1))
    optimizer = th.optim.Adam(sampler.parameters(), lr=3e-3)
    moments = []
    for step in range(300):
        noise = th.randn(8, 32, 1)
        u = noise + sampler(noise)
        direction = squashed_stein_direction(u[:, :16].detach(), u[:, 16:].detach(), DENSITIES["uniform"], squash)
        optimizer.zero_grad()
        stein_loss(u[:, 16:], direction, squash).backward()
        optimizer.step()
        if step >= 150:
            moments.append(th.tanh(u.detach()).square().mean().item())
    assert np.mean(moments) == pytest.approx(second_moment, abs=0.03)


# ---------------------------------------------------------------- the formulas


def test_kernel_and_its_gradient(rng):
    fixed, updated = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 5, 3))
    kernel, gradient = rbf_kernel(th.tensor(fixed), th.tensor(updated))
    assert kernel.shape == (2, 4, 5)
    assert gradient.shape == (2, 4, 5, 3)
    for b in range(2):
        squared = ((fixed[b, :, None] - updated[b, None]) ** 2).sum(axis=-1)
        # Of an even number of distances torch takes the lower one of the two in the middle
        bandwidth = np.sort(squared.ravel())[(squared.size - 1) // 2] / math.log(5)
        np.testing.assert_allclose(kernel[b].numpy(), np.exp(-squared / bandwidth), rtol=1e-12)
        for i, j, d in np.ndindex(4, 5, 3):
            ends = []
            for sign in (1, -1):
                moved = fixed[b, i].copy()
                moved[d] += sign * 1e-5
                ends.append(np.exp(-((moved - updated[b, j]) ** 2).sum() / bandwidth))
            assert gradient[b, i, j, d].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_bandwidth_is_each_states_own_and_has_a_floor():
    fixed = th.stack([th.zeros(3, 1), th.tensor([[0.0], [1.0], [5.0]])])
    kernel, gradient = rbf_kernel(fixed, fixed + 1e-3)
    np.testing.assert_allclose(kernel[0].numpy(), math.exp(-1e-6 / MIN_BANDWIDTH), rtol=1e-5)
    assert th.isfinite(gradient).all()
    assert kernel[1, 0, 2] < kernel[1, 0, 1] < kernel[1, 0, 0]


def test_no_gradient_flows_through_the_bandwidth():
    fixed = th.randn(1, 4, 2, dtype=th.float64, requires_grad=True)
    updated = th.randn(1, 3, 2, dtype=th.float64)
    kernel, gradient = rbf_kernel(fixed, updated)
    (by_autograd,) = th.autograd.grad(kernel.sum(), fixed)
    th.testing.assert_close(by_autograd, gradient.sum(dim=2).detach())


def test_stein_direction(rng):
    fixed, updated, score = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 4, 3))
    kernel, gradient = (x.numpy() for x in rbf_kernel(th.tensor(fixed), th.tensor(updated)))
    direction = stein_direction(th.tensor(fixed), th.tensor(updated), th.tensor(score)).numpy()
    for b, j in np.ndindex(2, 5):
        expected = sum(kernel[b, i, j] * score[b, i] + gradient[b, i, j] for i in range(4)) / 4
        np.testing.assert_allclose(direction[b, j], expected, rtol=1e-12)


@pytest.mark.parametrize("squash_gradient", SQUASH_GRADIENTS)
def test_score_of_each_form(rng, squash_gradient):
    """With one fixed particle at x and one updated there too, kernel and gradient are 1 and 0: the score is left."""
    u = th.tensor(rng.normal(size=(3, 1, 2)))
    actions = th.tanh(u)
    energy_gradient = -(actions - 0.3) / 0.2**2
    expected = {
        "pre_tanh": (1 - actions.square()) * energy_gradient - 2 * actions,
        "action": energy_gradient - 2 * actions / (1 - actions.square() + 1e-6),
        "none": energy_gradient,
    }[squash_gradient]
    direction = squashed_stein_direction(u, u, lambda a: gaussian(a, 0.3, 0.2), SQUASH_GRADIENTS[squash_gradient])
    th.testing.assert_close(direction, expected)


@pytest.mark.parametrize("squash_gradient", SQUASH_GRADIENTS)
def test_loss_descends_along_the_direction(squash_gradient):
    u = th.randn(2, 3, 4, dtype=th.float64, requires_grad=True)
    direction = th.randn(2, 3, 4, dtype=th.float64)
    (gradient,) = th.autograd.grad(stein_loss(u, direction, SQUASH_GRADIENTS[squash_gradient]), u)
    slope = 1.0 if squash_gradient == "pre_tanh" else 1 - th.tanh(u).square()
    th.testing.assert_close(gradient, -direction * slope / 6)
