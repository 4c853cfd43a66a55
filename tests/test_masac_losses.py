"""Equations of several agents against their formulas, written once more with NumPy in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import refused
from scipy.integrate import trapezoid

from sb3_sac_variants.common.equations.losses import soft_bellman_error, soft_bellman_target
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.masac.cross_entropy import (
    CrossEntropy,
    Floor,
    floored_log_density,
    gaussian_densities,
    parse_floor,
    policy_divergence,
    sum_over_others,
)
from sb3_sac_variants.masac.losses import (
    JointSample,
    agent_policy_improvement,
    agent_soft_value,
    agent_temperature_loss,
    own_expectation,
)
from sb3_sac_variants.tabular import cross_entropy_bonus, jensen_shannon_divergence

B, N, D = 5, 3, 2
#: weights of one sampled action of each agent
ONES = th.ones(B, N, 1, dtype=th.float64)


def squashed_density(action: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Density of tanh(u), u ~ N(mean, std^2), at an action: that of u, over the slope of tanh."""
    u = np.arctanh(action)
    return np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)) / (1 - action**2)


@pytest.fixture
def policies(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Actions and policies of moderate size, where the plain formulas are exact enough."""
    shape = (B, N, D)
    return {"u": rng.normal(size=shape), "mean": rng.normal(size=shape), "std": rng.uniform(0.3, 2, shape)}


def pairwise(policies: dict[str, np.ndarray]) -> th.Tensor:
    tensors = {name: th.tensor(value) for name, value in policies.items()}
    return gaussian_densities(tensors["u"], tensors["mean"].unsqueeze(1), tensors["std"].log().unsqueeze(1))


def density_of(policies: dict[str, np.ndarray], b: int, i: int, j: int) -> np.ndarray:
    """pi^j_d(a^i_d) of each dimension."""
    return squashed_density(np.tanh(policies["u"][b, i]), policies["mean"][b, j], policies["std"][b, j])


def floored(density: np.ndarray, kind: str, share: float) -> float:
    if kind == "joint":
        return (1 - share) * density.prod() + share / 2 ** len(density)
    return math.prod((1 - share) * each + share / 2 for each in density)


def test_pairwise_densities_are_those_of_j_at_the_action_of_i(policies: dict[str, np.ndarray]) -> None:
    found = pairwise(policies).exp().squeeze(3).numpy()
    for b, i, j in np.ndindex(B, N, N):
        np.testing.assert_allclose(found[b, i, j], density_of(policies, b, i, j), rtol=1e-9)


def test_policies_may_differ_from_agent_to_agent(rng: np.random.Generator) -> None:
    """pi^j(.|o^i): another mean for each pair."""
    u, mean, std = rng.normal(size=(B, N, D)), rng.normal(size=(B, N, N, D)), rng.uniform(0.3, 2, (B, N, N, D))
    found = gaussian_densities(th.tensor(u), th.tensor(mean), th.tensor(std).log()).exp().squeeze(3).numpy()
    for b, i, j in np.ndindex(B, N, N):
        np.testing.assert_allclose(found[b, i, j], squashed_density(np.tanh(u[b, i]), mean[b, i, j], std[b, i, j]))


@pytest.mark.parametrize("kind", ["product", "joint"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_floors_mix_with_the_uniform_density(policies: dict[str, np.ndarray], kind: str, share: float) -> None:
    found = floored_log_density(pairwise(policies), Floor(kind, share)).exp().squeeze(3).numpy()
    for b, i, j in np.ndindex(B, N, N):
        assert found[b, i, j] == pytest.approx(floored(density_of(policies, b, i, j), kind, share), rel=1e-9)


@pytest.mark.parametrize("kind", ["product", "joint"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.1), (-2.0, 0.5), (0.0, 5.0), (6.0, 2.0)])
def test_a_floored_density_is_a_density(kind: str, mean: float, std: float) -> None:
    """Its integral over [-1, 1] is 1; in u, where the integrand is smooth, da = (1 - tanh(u)^2) du."""
    u = th.linspace(-40, 40, 400_001, dtype=th.float64)
    log_density = gaussian_densities(
        u.view(-1, 1, 1), th.full((len(u), 1, 1, 1), mean).double(), th.full((len(u), 1, 1, 1), math.log(std)).double()
    )
    floor = floored_log_density(log_density, Floor(kind, 0.05)).flatten().exp()
    assert th.trapezoid(floor / th.cosh(u) ** 2, u).item() == pytest.approx(1.0, abs=1e-6)


def test_two_dimensional_floors_are_densities() -> None:
    grid = th.linspace(-12, 12, 801, dtype=th.float64)
    u = th.cartesian_prod(grid, grid).unsqueeze(1)
    log_density = gaussian_densities(u, th.full((len(u), 1, 1, 2), 0.5).double(), th.zeros(len(u), 1, 1, 2).double())
    slope = (1 / th.cosh(u) ** 2).prod(dim=-1).flatten()
    for kind in ("product", "joint"):
        floor = floored_log_density(log_density, Floor(kind, 0.2)).flatten().exp() * slope
        integral = th.trapezoid(th.trapezoid(floor.view(801, 801), grid), grid)
        assert integral.item() == pytest.approx(1.0, abs=1e-5)


def test_the_product_keeps_the_gradient_that_the_joint_mixture_loses() -> None:
    """One dimension is far out; the other could still move."""
    gradients = {}
    for kind in ("product", "joint"):
        u = th.tensor([[[9.0, 0.5]]], dtype=th.float64, requires_grad=True)
        mean, log_std = th.zeros(1, 1, 1, 2).double(), th.full((1, 1, 1, 2), -1.0).double()
        floored_log_density(gaussian_densities(u, mean, log_std), Floor(kind, 0.05)).sum().backward()
        assert u.grad is not None
        gradients[kind] = u.grad[0, 0, 1].abs().item()
    assert gradients["product"] > 1
    assert gradients["joint"] < 1e-6


@pytest.mark.parametrize("far", [50.0, 1e4])
def test_densities_far_out_are_finite_with_finite_gradients(far: float) -> None:
    for kind in ("product", "joint"):
        u = th.tensor([[[far], [-far]]], requires_grad=True)
        mean, log_std = th.zeros(1, 1, 2, 1), th.full((1, 1, 2, 1), -20.0)
        value = floored_log_density(gaussian_densities(u, mean, log_std), Floor(kind, 0.05))
        value.sum().backward()
        assert u.grad is not None
        assert th.isfinite(value).all()
        assert th.isfinite(u.grad).all()


@pytest.mark.parametrize("convention", ["objective", "similarity"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("coefficient", [0.25, -0.25])
def test_bonus_is_its_formula(
    policies: dict[str, np.ndarray], convention: str, relative: bool, center: bool, coefficient: float
) -> None:
    policies["u"][0] = policies["mean"][0]  # so that some log-densities are beyond the limit:
    policies["mean"][0, 1:], policies["std"][0] = policies["mean"][0, 0], 0.01  # two agents agree, and are sure
    policies["u"][0] = policies["mean"][0]
    assert math.log(floored(density_of(policies, 0, 1, 2), "product", 0.1)) > 2 * D
    alpha = np.array([0.1, 0.5, 2.0])
    term = CrossEntropy(coefficient, convention, "product_0.1", center, relative)
    found = term.bonus(pairwise(policies), ONES, th.tensor(alpha)).squeeze(2).numpy()
    sign = 1 if convention == "objective" else -1
    expected = np.zeros((B, N))
    for b, i in np.ndindex(B, N):
        beta = sign * coefficient * (alpha[i] if relative else 1)
        for j in set(range(N)) - {i}:
            log_prob = math.log(floored(density_of(policies, b, i, j), "product", 0.1))
            expected[b, i] -= beta * (min(log_prob, 2 * D) if beta < 0 else log_prob)
    if center:
        expected -= expected.mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_without_a_coefficient_there_is_no_bonus(policies: dict[str, np.ndarray]) -> None:
    assert not CrossEntropy(0.0, "objective", "joint").bonus(pairwise(policies), ONES, th.ones(N)).any()


def test_ratio_is_the_share_of_the_temperature_that_agreement_costs() -> None:
    alpha = th.tensor([0.1, 0.4])
    assert CrossEntropy(-0.2, "objective", "joint").ratio(alpha).mean().item() == pytest.approx((2 + 0.5) / 2)
    assert CrossEntropy(0.2, "similarity", "joint", relative=True).ratio(alpha).mean().item() == pytest.approx(0.2)
    assert CrossEntropy(0.0, "objective", "joint").ratio(th.zeros(3)).mean().item() == 0


def test_sum_over_others_leaves_an_infinite_diagonal_out() -> None:
    values = th.tensor([[[math.inf, 1.0, 2.0], [3.0, -math.inf, 4.0], [5.0, 6.0, math.nan]]])
    assert sum_over_others(values.unsqueeze(3)).squeeze(2).tolist() == [[3.0, 7.0, 11.0]]


def test_divergence_estimates_jensen_and_shannons() -> None:
    """Two policies in one dimension, against the integral."""
    mean, std = np.array([-0.3, 0.8]), np.array([0.5, 0.9])
    n = 200_000
    rng = np.random.default_rng(0)
    u = mean + std * rng.normal(size=(n, 2))
    tensors = [th.tensor(np.broadcast_to(x, (n, 2)).copy())[:, None, :, None] for x in (mean, np.log(std))]
    found = policy_divergence(gaussian_densities(th.tensor(u).unsqueeze(2), *tensors), th.ones(n, 2, 1)).item()
    action = np.tanh(np.linspace(-8, 8, 200_001))
    p, q = (squashed_density(action, m, s) for m, s in zip(mean, std, strict=True))
    middle = (p + q) / 2
    exact = 0.5 * trapezoid(p * np.log(p / middle) + q * np.log(q / middle), action)
    assert found == pytest.approx(exact, abs=3e-3)


def test_divergence_lies_between_that_of_like_and_of_unlike_policies() -> None:
    def divergence(means: list[float]) -> float:
        mean = th.tensor(means).view(1, 1, -1, 1).expand(500, -1, -1, -1)
        u = mean.squeeze(1) + 0.1 * th.randn(mean.squeeze(1).shape, generator=th.Generator().manual_seed(0))
        log_density = gaussian_densities(u, mean, th.full_like(mean, math.log(0.1)))
        return policy_divergence(log_density, th.ones(500, len(means), 1)).item()

    assert divergence([0.2, 0.2, 0.2]) == pytest.approx(0, abs=1e-6)
    assert divergence([-3.0, 0.0, 3.0]) == pytest.approx(math.log(2))
    assert divergence([0.0, 0.0, 3.0]) == pytest.approx(math.log(2) * 2 / 3)
    assert divergence([0.0]) == 0


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("n_own", [1, 4])
def test_losses_are_their_formulas(rng: np.random.Generator, n_own: int) -> None:
    """At one sampled action of each agent, and over all of its actions."""
    q, log_prob, cross_entropy = (rng.normal(size=(B, N, n_own)) for _ in range(3))
    weights = rng.dirichlet(np.ones(n_own), (B, N))
    sample = JointSample(th.zeros(B, N), th.tensor(log_prob), th.tensor(weights))
    next_value = rng.normal(size=(B, N))
    rewards, dones = rng.normal(size=(B, N)), (rng.random((B, 1)) < 0.5).astype(float)
    critics, alpha = rng.normal(size=(2, B, N)), rng.uniform(0.1, 1, N)
    empty = th.zeros(B, 1)
    batch = Batch(empty, empty, empty, th.tensor(dones), th.tensor(rewards), th.full((B, N), 0.9).double())

    target = soft_bellman_target(batch, th.tensor(next_value), reward_scale=3.0).numpy()
    error, value_sum, alpha_loss = 0.0, 0.0, 0.0
    values = agent_soft_value(th.tensor(q), sample, th.tensor(alpha), th.tensor(cross_entropy))
    for b, i in np.ndindex(B, N):
        assert target[b, i] == pytest.approx(3 * rewards[b, i] + 0.9 * (1 - dones[b, 0]) * next_value[b, i])
        value = sum(
            weights[b, i, k] * (q[b, i, k] - alpha[i] * log_prob[b, i, k] + cross_entropy[b, i, k])
            for k in range(n_own)
        )
        assert values[b, i].item() == pytest.approx(value)
        value_sum += value
        error += sum((critics[k, b, i] - target[b, i]) ** 2 / 2 for k in range(2))
        alpha_loss -= alpha[i] * (weights[b, i] @ log_prob[b, i] - 2.0)
    assert soft_bellman_error(th.tensor(critics), th.tensor(target)).item() == pytest.approx(error / B)
    assert agent_policy_improvement(values).item() == pytest.approx(-value_sum / B)
    found = agent_temperature_loss(th.tensor(alpha), sample, -2.0)
    assert found.item() == pytest.approx(alpha_loss / B)


def zeros(*shape: int) -> th.Tensor:
    return th.zeros(shape)


def batch_with(**changes: th.Tensor) -> Batch:
    empty = zeros(B, 1)
    return Batch(empty, empty, empty, zeros(B, 1), zeros(B, N), zeros(B, N))._replace(**changes)


def sample_with(**changes: th.Tensor) -> JointSample:
    return JointSample(zeros(B, N), zeros(B, N, 4), zeros(B, N, 4))._replace(**changes)


WRONG_SHAPES: dict[str, Any] = {
    "q_values": lambda: agent_soft_value(zeros(B, N), sample_with(), zeros(N), zeros(B, N, 4)),
    "sample.log_prob": lambda: agent_soft_value(
        zeros(B, N, 4), sample_with(log_prob=zeros(B, N, 1)), zeros(N), zeros(B, N, 4)
    ),
    "bonus": lambda: agent_soft_value(zeros(B, N, 4), sample_with(), zeros(N), zeros(B, N, 1)),
    "weights": lambda: policy_divergence(zeros(B, N, N, 4, 1), zeros(B, N)),
    "values ": lambda: own_expectation(sample_with(), zeros(B, N)),
    "next_value": lambda: soft_bellman_target(batch_with(), zeros(B)),
    "batch.rewards": lambda: soft_bellman_target(batch_with(rewards=zeros(B, 1)), zeros(B, N)),
    "batch.discounts": lambda: soft_bellman_target(batch_with(discounts=zeros(B, 1)), zeros(B, N)),
    "batch.dones": lambda: soft_bellman_target(batch_with(dones=zeros(B)), zeros(B, N)),
    "target_q": lambda: soft_bellman_error(zeros(2, B, N), zeros(N)),
    "values": lambda: agent_policy_improvement(zeros(B)),
    "pre_tanh": lambda: gaussian_densities(zeros(B, N), zeros(B, 1, N, D), zeros(B, 1, N, D)),
    "mean": lambda: gaussian_densities(zeros(B, N, D), zeros(B, N, D), zeros(B, 1, N, D)),
    "log_std": lambda: gaussian_densities(zeros(B, N, D), zeros(B, 1, N, D), zeros(B, N, D)),
    "log_density": lambda: policy_divergence(zeros(B, N, N, D), zeros(B, N, 1)),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_wrong_shapes_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name.strip()} has shape .*expected"):
        WRONG_SHAPES[name]()


@pytest.mark.parametrize(
    ("text", "floor"),
    [("product", ("product", 0.05)), ("joint", ("joint", 0.05)), ("product_0.2", ("product", 0.2))],
)
def test_floors_by_name(text: str, floor: tuple[str, float]) -> None:
    assert parse_floor(text) == floor


@pytest.mark.parametrize("text", ["", "sum", "product_", "joint_0", "joint_1", "joint_x", "joint_0.5_2", None, 0.05])
@pytest.mark.parametrize("may_be_none", [False, True])
def test_unknown_floors_are_refused(text: Any, may_be_none: bool) -> None:
    with refused(ValueError, "ce_floor", text, "pass 'product' or 'joint'"):
        parse_floor(text, may_be_none)


def test_only_discrete_actions_do_without_a_floor() -> None:
    assert parse_floor("none", may_be_none=True).share == 0
    with refused(ValueError, "ce_floor", "none", "pass 'product' or 'joint'"):
        parse_floor("none")


# ---------------------------------------------------------------- discrete actions


@pytest.fixture
def probabilities(rng: np.random.Generator) -> np.ndarray:
    """Policies of three agents over four actions, shape (B, N, 4)."""
    return rng.dirichlet(np.ones(4), (B, N))


def densities(probabilities: np.ndarray) -> th.Tensor:
    return th.tensor(np.log(probabilities))[:, None, :, :, None].expand(-1, N, -1, -1, -1)


@pytest.mark.parametrize("coefficient", [0.25, -0.25])
@pytest.mark.parametrize("floor", ["none", "product_0.1", "joint_0.1"])
@pytest.mark.parametrize("center", [False, True])
def test_bonus_of_discrete_actions_is_the_oracles(
    probabilities: np.ndarray, coefficient: float, floor: str, center: bool
) -> None:
    term = CrossEntropy(coefficient, "objective", floor, center, n_actions=4)
    found = term.bonus(densities(probabilities), th.tensor(probabilities), th.ones(N).double()).numpy()
    by_agent = np.moveaxis(probabilities, 1, 0)
    for i in range(N):
        expected = cross_entropy_bonus(by_agent, i, coefficient, ce_floor=0.0 if floor == "none" else 0.1)
        if center:
            expected = expected - (probabilities[:, i] * expected).sum(axis=1).mean()
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-9, atol=1e-12)


def test_divergence_of_discrete_actions_is_the_oracles(probabilities: np.ndarray) -> None:
    found = policy_divergence(densities(probabilities), th.tensor(probabilities)).item()
    assert found == pytest.approx(jensen_shannon_divergence(np.moveaxis(probabilities, 1, 0)).mean())
