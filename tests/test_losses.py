"""
Every loss and its gradient against float64 NumPy: the value by plain loops over the batch, the gradient by central
differences of those loops or by hand, never by automatic differentiation.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_sac_variants.common.equations.losses import (
    expectation,
    likelihood_ratio_policy_improvement,
    policy_entropy,
    soft_bellman_error,
    soft_bellman_target,
    soft_policy_improvement,
    soft_value,
    soft_value_error,
    temperature_loss,
)
from sb3_sac_variants.common.equations.types import Batch, PolicySample

B = 5
ALPHA = 0.3
Arrays = dict[str, np.ndarray]


def numerical_gradient(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient


def assert_loss(
    loss: Callable[..., th.Tensor],
    reference: Callable[..., float],
    inputs: Arrays,
    gradients_of: tuple[str, ...],
) -> None:
    """
    :param loss: takes tensors by the names of the inputs
    :param reference: the same in NumPy
    :param inputs: float64 arrays
    :param gradients_of: inputs that gradients flow into; none may flow into the others
    """
    tensors = {name: th.tensor(value, dtype=th.float64, requires_grad=True) for name, value in inputs.items()}
    value = loss(**tensors)
    assert value.shape == ()
    assert value.item() == pytest.approx(reference(**inputs), rel=1e-12, abs=1e-13)
    gradients = th.autograd.grad(value, list(tensors.values()), allow_unused=True)
    for (name, array), gradient in zip(inputs.items(), gradients, strict=True):
        if name in gradients_of:
            expected = numerical_gradient(lambda x, name=name: reference(**{**inputs, name: x}), array)
            np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-9, err_msg=name)
            assert np.abs(expected).max() > 1e-3, f"the gradient of {name} vanishes: nothing was tested"
        else:
            assert gradient is None or not gradient.any(), f"a gradient flows into {name}"


def policy(rng: np.random.Generator, n_actions: int) -> Arrays:
    """A sampled action of weight one, or all of ``n_actions`` with their probabilities."""
    if n_actions == 1:
        return {"log_prob": rng.normal(size=(B, 1)), "weights": np.ones((B, 1))}
    probabilities = rng.dirichlet(np.ones(n_actions), size=B)
    return {"log_prob": np.log(probabilities), "weights": probabilities}


def as_sample(log_prob: th.Tensor, weights: th.Tensor) -> PolicySample:
    return PolicySample(None, log_prob, weights)


def as_batch(rng: np.random.Generator) -> tuple[Batch, Arrays]:
    arrays = {
        "rewards": rng.normal(size=(B, 1)),
        "dones": np.array([[0.0], [1.0], [0.0], [1.0], [0.0]]),
        "discounts": np.array([[0.9], [0.9], [0.81], [0.9], [0.729]]),
    }
    empty = th.zeros(B, 0)
    tensors = {name: th.tensor(value) for name, value in arrays.items()}
    return Batch(empty, empty, empty, tensors["dones"], tensors["rewards"], tensors["discounts"]), arrays


@pytest.fixture(params=[1, 3], ids=["sampled action", "all of 3 actions"])
def n_actions(request) -> int:
    return request.param


# ---------------------------------------------------------------- values


def test_expectation_weights_the_actions(rng, n_actions):
    arrays, values = policy(rng, n_actions), rng.normal(size=(B, n_actions))
    result = expectation(as_sample(**{k: th.tensor(v) for k, v in arrays.items()}), th.tensor(values))
    expected = [[sum(arrays["weights"][b, k] * values[b, k] for k in range(n_actions))] for b in range(B)]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13)


def test_soft_value(rng, n_actions):
    arrays, q = policy(rng, n_actions), rng.normal(size=(B, n_actions))
    sample = as_sample(**{name: th.tensor(value) for name, value in arrays.items()})
    result = soft_value(th.tensor(q), sample, th.tensor([ALPHA], dtype=th.float64))
    expected = np.zeros((B, 1))
    for b in range(B):
        for k in range(n_actions):
            expected[b, 0] += arrays["weights"][b, k] * (q[b, k] - ALPHA * arrays["log_prob"][b, k])
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12)


def test_soft_value_of_the_boltzmann_policy_is_the_log_partition_function(rng):
    q = rng.normal(size=(B, 4))
    weights = np.exp(q / ALPHA) / np.exp(q / ALPHA).sum(axis=1, keepdims=True)
    sample = as_sample(th.tensor(np.log(weights)), th.tensor(weights))
    result = soft_value(th.tensor(q), sample, th.tensor([ALPHA], dtype=th.float64))
    np.testing.assert_allclose(result.squeeze(1).numpy(), ALPHA * np.log(np.exp(q / ALPHA).sum(axis=1)), rtol=1e-12)


@pytest.mark.parametrize("reward_scale", [1.0, 5.0])
def test_soft_bellman_target(rng, reward_scale):
    batch, arrays = as_batch(rng)
    next_value = rng.normal(size=(B, 1))
    tensor = th.tensor(next_value, requires_grad=True)
    result = soft_bellman_target(batch, tensor, reward_scale)
    for b in range(B):
        future = 0.0 if arrays["dones"][b, 0] else arrays["discounts"][b, 0] * next_value[b, 0]
        assert result[b, 0].item() == pytest.approx(reward_scale * arrays["rewards"][b, 0] + future, rel=1e-13)
    assert not result.requires_grad


def test_policy_entropy(rng, n_actions):
    arrays = policy(rng, n_actions)
    log_prob = th.tensor(arrays["log_prob"], requires_grad=True)
    result = policy_entropy(as_sample(log_prob, th.tensor(arrays["weights"])))
    assert result.item() == pytest.approx(-(arrays["weights"] * arrays["log_prob"]).sum() / B, rel=1e-13)
    assert not result.requires_grad


# ---------------------------------------------------------------- losses and their gradients


@pytest.mark.parametrize("n_critics", [1, 2, 5])
def test_soft_bellman_error_sums_over_critics(rng, n_critics):
    def reference(q_values: np.ndarray, target_q: np.ndarray) -> float:
        total = 0.0
        for critic in range(n_critics):
            total += sum(0.5 * (q_values[critic, b, 0] - target_q[b, 0]) ** 2 for b in range(B)) / B
        return total

    inputs = {"q_values": rng.normal(size=(n_critics, B, 1)), "target_q": rng.normal(size=(B, 1))}
    assert_loss(soft_bellman_error, reference, inputs, ("q_values", "target_q"))


def test_soft_value_error(rng):
    def reference(values: np.ndarray, target_value: np.ndarray) -> float:
        return sum(0.5 * (values[b, 0] - target_value[b, 0]) ** 2 for b in range(B)) / B

    inputs = {"values": rng.normal(size=(B, 1)), "target_value": rng.normal(size=(B, 1))}
    assert_loss(soft_value_error, reference, inputs, ("values", "target_value"))


def test_soft_policy_improvement_sums_over_actions_and_averages_over_states(rng, n_actions):
    def loss(q_values: th.Tensor, log_prob: th.Tensor, weights: th.Tensor) -> th.Tensor:
        return soft_policy_improvement(q_values, as_sample(log_prob, weights), th.tensor([ALPHA], dtype=th.float64))

    def reference(q_values: np.ndarray, log_prob: np.ndarray, weights: np.ndarray) -> float:
        total = 0.0
        for b in range(B):
            total += sum(weights[b, k] * (ALPHA * log_prob[b, k] - q_values[b, k]) for k in range(n_actions))
        return total / B

    inputs = {"q_values": rng.normal(size=(B, n_actions)), **policy(rng, n_actions)}
    assert_loss(loss, reference, inputs, ("q_values", "log_prob", "weights"))


def test_soft_policy_improvement_vanishes_in_the_boltzmann_policy(rng):
    q = th.tensor(rng.normal(size=(B, 4)))
    logits = (q / ALPHA).requires_grad_()
    log_prob = th.log_softmax(logits, dim=1)
    loss = soft_policy_improvement(q, as_sample(log_prob, log_prob.exp()), th.tensor([ALPHA], dtype=th.float64))
    (gradient,) = th.autograd.grad(loss, logits)
    np.testing.assert_allclose(gradient.numpy(), 0, atol=1e-14)


def test_likelihood_ratio_weighs_the_score_with_the_advantage(rng):
    inputs = {name: rng.normal(size=(B, 1)) for name in ("q_values", "values", "log_prob")}

    def loss(q_values: th.Tensor, values: th.Tensor, log_prob: th.Tensor) -> th.Tensor:
        sample = as_sample(log_prob, th.ones_like(log_prob))
        return likelihood_ratio_policy_improvement(q_values, values, sample, th.tensor([ALPHA], dtype=th.float64))

    def reference(q_values: np.ndarray, values: np.ndarray, log_prob: np.ndarray) -> float:
        advantage = ALPHA * inputs["log_prob"] - inputs["q_values"] + inputs["values"]  # not differentiated
        return sum(log_prob[b, 0] * advantage[b, 0] for b in range(B)) / B

    assert_loss(loss, reference, inputs, ("log_prob",))


@pytest.mark.parametrize("kind", ["alpha", "log_alpha"])
def test_temperature_loss(rng, n_actions, kind):
    target_entropy = -1.5

    def loss(log_alpha: th.Tensor, log_prob: th.Tensor, weights: th.Tensor) -> th.Tensor:
        coefficient = log_alpha.exp() if kind == "alpha" else log_alpha
        return temperature_loss(coefficient, as_sample(log_prob, weights), target_entropy)

    def reference(log_alpha: np.ndarray, log_prob: np.ndarray, weights: np.ndarray) -> float:
        coefficient = np.exp(log_alpha[0]) if kind == "alpha" else log_alpha[0]
        total = 0.0
        for b in range(B):
            mean_log_prob = sum(weights[b, k] * log_prob[b, k] for k in range(n_actions))
            total += -coefficient * (mean_log_prob + target_entropy)
        return total / B

    inputs = {"log_alpha": np.array([np.log(ALPHA)]), **policy(rng, n_actions)}
    assert_loss(loss, reference, inputs, ("log_alpha",))


@pytest.mark.parametrize(("entropy", "direction"), [(2.0, -1), (-3.0, +1)])
def test_temperature_falls_above_the_target_entropy_and_rises_below(entropy, direction):
    alpha = th.tensor([ALPHA], requires_grad=True)
    sample = as_sample(th.full((B, 1), -entropy), th.ones(B, 1))
    (gradient,) = th.autograd.grad(temperature_loss(alpha, sample, -1.0), alpha)
    assert np.sign(-gradient.item()) == direction


# ---------------------------------------------------------------- shapes

ONE = th.zeros(B, 1)
FLAT = th.zeros(B)
ALL = th.zeros(B, B)
COEFFICIENT = th.tensor([ALPHA])


def batch_with(**changes: Any) -> Batch:
    return Batch(ONE, ONE, ONE, ONE, ONE, ONE)._replace(**changes)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: expectation(as_sample(ONE, ONE), FLAT), "values has shape (5,), expected (5, 1)"),
        (lambda: soft_value(FLAT, as_sample(ONE, ONE), COEFFICIENT), "q_values has shape (5,), expected (5, 1)"),
        # As many actions as states: each of these would broadcast into the right shape with wrong numbers
        (lambda: soft_value(FLAT, as_sample(ALL, ALL), COEFFICIENT), "q_values has shape (5,), expected (5, 5)"),
        (lambda: soft_value(ONE, as_sample(ALL, ALL), COEFFICIENT), "q_values has shape (5, 1), expected (5, 5)"),
        (lambda: soft_value(ALL, as_sample(ONE, ALL), COEFFICIENT), "q_values has shape (5, 5), expected (5, 1)"),
        (lambda: soft_value(ONE, as_sample(ONE, ALL), COEFFICIENT), "values has shape (5, 1), expected (5, 5)"),
        (lambda: soft_policy_improvement(FLAT, as_sample(ONE, ONE), COEFFICIENT), "q_values has shape (5,)"),
        (lambda: soft_bellman_target(batch_with(), FLAT), "next_value has shape (5,), expected ('any', 'any')"),
        (lambda: soft_bellman_target(batch_with(), ALL), "batch.rewards has shape (5, 1), expected (5, 5)"),
        (lambda: soft_bellman_target(batch_with(rewards=FLAT), ONE), "batch.rewards has shape (5,)"),
        (lambda: soft_bellman_target(batch_with(dones=FLAT), ONE), "batch.dones has shape (5,)"),
        (lambda: soft_bellman_target(batch_with(discounts=FLAT), ONE), "batch.discounts has shape (5,)"),
        (lambda: soft_bellman_error(th.zeros(2, B), ONE), "q_values has shape (2, 5), expected ('any', 5, 1)"),
        (lambda: soft_bellman_error(ONE, ONE), "q_values has shape (5, 1), expected ('any', 5, 1)"),
        (lambda: soft_bellman_error(th.zeros(2, B), FLAT), "target_q has shape (5,), expected ('any', 'any')"),
        (lambda: soft_value_error(FLAT, ONE), "values has shape (5,), expected (5, 1)"),
        (lambda: soft_value_error(FLAT, FLAT), "target_value has shape (5,), expected ('any', 1)"),
        (
            lambda: likelihood_ratio_policy_improvement(FLAT, ONE, as_sample(ONE, ONE), COEFFICIENT),
            "q_values has shape (5,)",
        ),
        (
            lambda: likelihood_ratio_policy_improvement(ONE, FLAT, as_sample(ONE, ONE), COEFFICIENT),
            "values has shape (5,), expected (5, 1)",
        ),
        (
            lambda: likelihood_ratio_policy_improvement(ONE, ONE, as_sample(FLAT, FLAT), COEFFICIENT),
            "sample.log_prob has shape (5,), expected (5, 1)",
        ),
        (
            lambda: likelihood_ratio_policy_improvement(ALL, ALL, as_sample(ALL, ALL), COEFFICIENT),
            "values has shape (5, 5), expected (5, 1)",
        ),
        (lambda: temperature_loss(COEFFICIENT, as_sample(FLAT, ONE), 0.0), "values has shape (5,), expected (5, 1)"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, named):
    with pytest.raises(ValueError, match=re.escape(named) + ".*broadcast"):
        call()
