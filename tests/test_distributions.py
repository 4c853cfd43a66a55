"""
The policies' densities against numerical integration, sampling against the densities, gradients against exact ones.

All in float64, in a single state. Where an expectation is compared, the noise is a grid of quantiles of equal weight
(midpoint rule), not a random draw: what is left is the error of the rule, not Monte Carlo noise.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch as th
from float64 import AnyFloatExtractor
from gymnasium import spaces
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_sac_variants.common.equations.losses import likelihood_ratio_policy_improvement, soft_policy_improvement
from sb3_sac_variants.common.networks.actors import (
    ONE_PRODUCT_FROM,
    SquashedGaussianActor,
    gaussian_log_prob,
    linear_heads,
    log_det_tanh,
)
from sb3_sac_variants.sac_v1.policies import GaussianMixtureActor

OBSERVATION_SPACE = spaces.Box(-1.0, 1.0, (2,))
STATE = th.tensor([[0.3, -0.8]], dtype=th.float64)
ALPHA = 0.4


def make_actor(
    action_dim: int, n_components: int = 1, use_sde: bool = False, dtype: th.dtype = th.float64, **kwargs
) -> SquashedGaussianActor:
    th.manual_seed(3)
    action_space = spaces.Box(-1.0, 1.0, (action_dim,))
    arguments = (OBSERVATION_SPACE, action_space, [6], AnyFloatExtractor(OBSERVATION_SPACE), 2, th.nn.Tanh)
    if n_components > 1:
        actor = GaussianMixtureActor(*arguments, n_components=n_components)
    else:
        actor = SquashedGaussianActor(*arguments, use_sde=use_sde, **kwargs)
    return actor.to(dtype)


def set_gaussian(actor: SquashedGaussianActor, mean: list[float], std: list[float]) -> None:
    """Make mean and standard deviation the same in all states: their gradients are those of the biases."""
    for layer, value in ((actor.mu, mean), (actor.log_std, np.log(std))):
        th.nn.init.zeros_(layer.weight)
        layer.bias.data = th.tensor(value, dtype=th.float64)


def set_mixture(actor: GaussianMixtureActor, weights: list[float], means: list[float], stds: list[float]) -> None:
    set_gaussian(actor, means, stds)
    th.nn.init.zeros_(actor.component_logits.weight)
    actor.component_logits.bias.data = th.tensor(np.log(weights), dtype=th.float64)


def gaussian(action_dim: int) -> SquashedGaussianActor:
    actor = make_actor(action_dim)
    set_gaussian(actor, [0.4, -0.2][:action_dim], [0.7, 0.5][:action_dim])
    return actor


def gsde(action_dim: int) -> SquashedGaussianActor:
    actor = make_actor(action_dim, use_sde=True, log_std_init=-0.7)
    actor.log_std.data += 0.3 * th.randn_like(actor.log_std)
    return actor


def mixture(action_dim: int) -> GaussianMixtureActor:
    actor = make_actor(action_dim, n_components=3)
    means = [-0.8, 0.1, 0.9] if action_dim == 1 else [-0.8, 0.3, 0.1, -0.6, 0.9, 0.5]
    stds = [0.3, 0.6, 0.4] if action_dim == 1 else [0.3, 0.5, 0.6, 0.4, 0.4, 0.3]
    set_mixture(actor, [0.25, 0.15, 0.6], means, stds)
    return actor


POLICIES = pytest.mark.parametrize("make", [gaussian, gsde, mixture])


def noise_for(actor: SquashedGaussianActor, u: th.Tensor, column: float = 0.0) -> th.Tensor:
    """
    :param actor: a policy
    :param u: actions before the tanh, ``(N, action_dim)``
    :param column: noise that picks the component of a mixture
    :return: for each of them the noise that makes the policy take it in STATE, ``(N, *noise_shape(1))``
    """
    if isinstance(actor, GaussianMixtureActor):
        log_weights, means, log_stds = actor.mixture(STATE)
        uniform = 0.5 * math.erfc(-column / math.sqrt(2))
        component = int((uniform > log_weights.exp().cumsum(1)[0, :-1]).sum())
        noise = (u - means[0, component]) / log_stds[0, component].exp()
        return th.cat([noise, th.full((len(u), 1), column, dtype=th.float64)], dim=1).unsqueeze(1)
    mean, log_std, kwargs = actor.get_action_dist_params(STATE)
    if actor.use_sde:
        direction = kwargs["latent_sde"][0].unsqueeze(1) * actor.get_std()  # d u / d noise
        return (u - mean).unsqueeze(1) * direction / direction.square().sum(dim=0)
    return ((u - mean) / log_std.exp()).unsqueeze(1)


def sample(actor: SquashedGaussianActor, noise: th.Tensor, **kwargs) -> tuple[th.Tensor, th.Tensor]:
    """
    :param noise: as :func:`noise_for` gives it
    :return: an action ``(N, action_dim)`` and its log-probability ``(N,)`` in STATE for each
    """
    if actor.use_sde:  # one exploration matrix for a whole batch: so one batch for each
        actions, log_prob = th.func.vmap(lambda n: actor.sample(STATE, n, **kwargs)[:2])(noise)
        return actions.squeeze(1), log_prob.reshape(-1)
    result = actor.sample(STATE.expand(len(noise), -1), noise.squeeze(1), **kwargs)
    return result.actions, result.log_prob.squeeze(1)


def action_grid(action_dim: int, n: int) -> tuple[th.Tensor, float]:
    """
    :return: midpoints of the cells of [-1, 1]^action_dim, and the volume of a cell
    """
    points = (th.arange(n, dtype=th.float64) + 0.5) * 2 / n - 1
    return th.cartesian_prod(*[points] * action_dim).view(-1, action_dim), (2 / n) ** action_dim


def density_on_grid(actor: SquashedGaussianActor, action_dim: int, n: int) -> tuple[th.Tensor, th.Tensor, float]:
    """
    :return: actions, their densities, volume of a cell
    """
    grid, volume = action_grid(action_dim, n)
    with th.no_grad():
        actions, log_prob = sample(actor, noise_for(actor, th.atanh(grid)))
    th.testing.assert_close(actions, grid, rtol=0, atol=1e-12)
    return grid, log_prob.exp(), volume


# ---------------------------------------------------------------- densities


@POLICIES
@pytest.mark.parametrize(("action_dim", "n"), [(1, 20_000), (2, 300)])
def test_density_integrates_to_one(make, action_dim, n):
    _, density, volume = density_on_grid(make(action_dim), action_dim, n)
    assert density.sum().item() * volume == pytest.approx(1, abs=2e-5)


@POLICIES
@pytest.mark.parametrize("action_dim", [1, 2])
def test_samples_follow_the_density(make, action_dim):
    n_samples, bins = 40_000, 20
    actor = make(action_dim)
    generator = th.Generator().manual_seed(0)
    noise = th.randn((n_samples, *actor.noise_shape(1)), generator=generator, dtype=th.float64)
    with th.no_grad():
        actions, log_prob = sample(actor, noise)
    grid, density, volume = density_on_grid(actor, action_dim, 400 if action_dim == 2 else 20_000)
    probability = density * volume
    edges = [np.linspace(-1, 1, bins + 1)] * action_dim
    observed, _ = np.histogramdd(actions.numpy(), edges)
    expected, _ = np.histogramdd(grid.numpy(), edges, weights=n_samples * probability.numpy())
    seen = expected > 10
    assert seen.sum() > 10
    chi_squared = ((observed - expected)[seen] ** 2 / expected[seen]).sum()
    freedom = seen.sum() - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom)
    # Moments, and the entropy: the log-probability is that of the action it comes with
    for value, integrand in (
        (actions, grid),
        (actions.square(), grid.square()),
        (-log_prob.unsqueeze(1), -density.clamp(min=1e-300).log().unsqueeze(1)),
    ):
        error = value.mean(dim=0) - (probability.unsqueeze(1) * integrand).sum(dim=0)
        assert (error.abs() < 5 * value.std(dim=0) / math.sqrt(n_samples) + 1e-4).all()


def test_log_prob_of_the_squashed_gaussian_in_closed_form():
    actor = gaussian(2)
    noise = th.tensor([[0.5, -1.2], [2.0, 0.1]], dtype=th.float64)
    result = actor.sample(STATE.expand(2, -1), noise)
    for row in range(2):
        log_prob = 0.0
        for dim, (mean, std) in enumerate([(0.4, 0.7), (-0.2, 0.5)]):
            u = mean + std * noise[row, dim].item()
            assert result.actions[row, dim].item() == pytest.approx(math.tanh(u), rel=1e-14)
            log_prob -= 0.5 * ((u - mean) / std) ** 2 + math.log(std * math.sqrt(2 * math.pi))
            log_prob -= math.log(1 - math.tanh(u) ** 2)
        assert result.log_prob[row, 0].item() == pytest.approx(log_prob, rel=1e-12)
    assert th.equal(result.weights, th.ones_like(result.log_prob))


def test_gaussian_log_prob_agrees_with_torch():
    th.manual_seed(0)
    value, mean, log_std = th.randn(3, 4, 5, dtype=th.float64)
    expected = th.distributions.Normal(mean, log_std.exp()).log_prob(value).sum(dim=1)
    th.testing.assert_close(gaussian_log_prob(value, mean, log_std), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, ONE_PRODUCT_FROM - 1, ONE_PRODUCT_FROM, 300])
def test_last_layers_in_one_product_are_the_layers(n):
    layers = [th.nn.Linear(4, width).double() for width in (3, 3, 1)]
    latent = th.randn(n, 4, dtype=th.float64, requires_grad=True)
    parameters = [latent, *(parameter for layer in layers for parameter in layer.parameters())]
    together, alone = linear_heads(latent, *layers), [layer(latent) for layer in layers]
    loss = [sum(output.square().sum() * (k + 1) for k, output in enumerate(outputs)) for outputs in (together, alone)]
    for left, right in zip(together, alone, strict=True):
        th.testing.assert_close(left, right, rtol=0, atol=1e-14)
    for left, right in zip(*(th.autograd.grad(value, parameters) for value in loss), strict=True):
        th.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


class Doubled(th.nn.Linear):
    def forward(self, inputs: th.Tensor) -> th.Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize("kind", ["hook", "subclass", "no bias", "parametrized", "own forward"])
def test_last_layers_that_are_more_than_they_seem_are_called(kind):
    heads = [th.nn.Linear(4, 3), Doubled(4, 3) if kind == "subclass" else th.nn.Linear(4, 3, bias=kind != "no bias")]
    if kind == "hook":
        heads[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    if kind == "parametrized":
        th.nn.utils.parametrizations.weight_norm(heads[1])
    if kind == "own forward":
        heads[1].forward = lambda inputs: 3 * inputs[:, :3]  # type: ignore[method-assign]
    latent = th.randn(2 * ONE_PRODUCT_FROM, 4)
    for left, right in zip(linear_heads(latent, *heads), [head(latent) for head in heads], strict=True):
        th.testing.assert_close(left, right, rtol=0, atol=0)


def test_standard_deviations_are_bounded_as_in_sb3():
    actor = gaussian(2)
    for bias, bound in ((-100.0, LOG_STD_MIN), (100.0, LOG_STD_MAX)):
        with th.no_grad():
            actor.log_std.bias.fill_(bias)
            assert (actor.get_action_dist_params(th.zeros(4, 2, dtype=actor.dtype))[1] == bound).all()


def test_gsde_explores_with_one_matrix_for_the_batch():
    actor = gsde(2)
    observations = th.rand(7, 2, dtype=th.float64)
    noise = th.randn(actor.noise_shape(7), dtype=th.float64)
    result = actor.sample(observations, noise)
    mean, _, kwargs = actor.get_action_dist_params(observations)
    expected = th.tanh(mean + kwargs["latent_sde"] @ (noise * actor.get_std()))
    th.testing.assert_close(result.actions, expected)


@pytest.mark.parametrize("full_std", [True, False])
@pytest.mark.parametrize("use_expln", [True, False])
def test_gsde_options_keep_the_density_normalised(full_std, use_expln):
    actor = make_actor(1, use_sde=True, log_std_init=-0.2, full_std=full_std, use_expln=use_expln)
    actor.log_std.data += 0.5 * th.randn_like(actor.log_std)  # of both signs: both branches of expln
    _, density, volume = density_on_grid(actor, 1, 20_000)
    assert density.sum().item() * volume == pytest.approx(1, abs=2e-5)


# ---------------------------------------------------------------- mixture


def test_mixture_picks_components_with_their_weights():
    weights, n = [0.1, 0.0001, 0.55, 0.3499], 50_000
    actor = make_actor(1, n_components=4)
    set_mixture(actor, weights, [-1.2, -0.4, 0.4, 1.2], [1e-3] * 4)
    noise = th.randn(actor.noise_shape(n), generator=th.Generator().manual_seed(0), dtype=th.float64)
    actions = actor.sample(STATE.expand(n, -1), noise).actions
    component = (th.atanh(actions) - th.tensor([-1.2, -0.4, 0.4, 1.2], dtype=th.float64)).abs().argmin(dim=1)
    for k, weight in enumerate(weights):
        frequency = (component == k).double().mean().item()
        assert abs(frequency - weight) < 5 * math.sqrt(weight * (1 - weight) / n)


def test_mixture_noise_beyond_the_last_float_picks_the_last_component():
    actor = make_actor(1, n_components=3)
    noise = th.tensor([[0.0, 40.0], [0.0, -40.0]], dtype=th.float64)
    actions = actor.sample(STATE.expand(2, -1), noise).actions
    _, means, _ = actor.mixture(STATE)
    th.testing.assert_close(actions, th.tanh(means[0, [2, 0]]))


def test_mixture_log_prob_does_not_depend_on_the_component_that_was_picked():
    actor = mixture(2)
    u = th.tensor([[0.2, 0.4], [-1.0, 0.3]], dtype=th.float64)
    picked = [sample(actor, noise_for(actor, u, column)) for column in (-3.0, -0.5, 3.0)]
    for actions, log_prob in picked[1:]:
        th.testing.assert_close(actions, picked[0][0])
        th.testing.assert_close(log_prob, picked[0][1])


def test_mixture_of_equal_components_is_the_gaussian():
    actor = make_actor(2, n_components=3)
    set_mixture(actor, [0.2, 0.5, 0.3], [0.4, -0.2] * 3, [0.7, 0.5] * 3)
    u = th.randn(5, 2, dtype=th.float64)
    th.testing.assert_close(sample(actor, noise_for(actor, u))[1], sample(gaussian(2), noise_for(gaussian(2), u))[1])


def test_mixture_refuses_to_be_reparameterised():
    actor = mixture(1)
    with pytest.raises(ValueError, match="likelihood_ratio"):
        actor.sample(STATE, th.zeros(actor.noise_shape(1), dtype=th.float64), reparameterize=True)


def test_deterministic_actions():
    th.testing.assert_close(gaussian(2)(STATE, deterministic=True), th.tanh(th.tensor([[0.4, -0.2]]).double()))
    th.testing.assert_close(mixture(1)(STATE, deterministic=True), th.tanh(th.tensor([[0.9]]).double()))
    actor = gsde(1)
    mean, _, _ = actor.get_action_dist_params(STATE)
    th.testing.assert_close(actor(STATE, deterministic=True), th.tanh(mean))


@pytest.mark.parametrize(("make", "dtype"), [(gaussian, th.float64), (mixture, th.float32)])
def test_rollout_takes_the_actions_of_the_update(make, dtype):
    actor, observations = make(2), STATE.expand(10, -1)
    th.manual_seed(0)
    with th.no_grad():
        rolled_out = actor(observations)
    th.manual_seed(0)
    noise = th.randn(actor.noise_shape(10), dtype=dtype)
    with th.no_grad():
        th.testing.assert_close(rolled_out, actor.sample(observations, noise).actions, rtol=1e-14, atol=0)


# ---------------------------------------------------------------- stability


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_log_det_tanh_is_exact_for_any_pre_tanh_action(dtype):
    sizes = [0.0, 1e-8, 1e-3, 0.5, 1.0, 3.0, 9.0, 20.0, 50.0, 88.0, 1e3, 1e4, 1e8, 1e30]
    u = th.tensor([[sign * size] for size in sizes for sign in (1, -1)], dtype=dtype, requires_grad=True)
    result = log_det_tanh(u)
    x = u.detach().double().abs().squeeze(1)
    expected = 2 * (math.log(2) - x - th.log1p(th.exp(-2 * x)))  # -2 log cosh x
    tolerance = 1e-6 if dtype == th.float32 else 1e-14
    th.testing.assert_close(result.double(), expected, rtol=tolerance, atol=4 * tolerance)
    (gradient,) = th.autograd.grad(result.sum(), u)
    th.testing.assert_close(gradient, -2 * th.tanh(u.detach()), rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize("use_mixture", [False, True])
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_saturated_policies_stay_finite(use_mixture, size):
    actor = make_actor(2, n_components=2 if use_mixture else 1, dtype=th.float32)
    observations = STATE.float().expand(2, -1)
    for sign in (1, -1):
        actor.mu.bias.data.fill_(sign * size)
        for log_std in (-1e3, 1e3):  # clipped to -20 and 2
            actor.log_std.bias.data.fill_(log_std)
            noise = th.ones(actor.noise_shape(2))
            result = actor.sample(observations, noise, reparameterize=not use_mixture)
            gradients = th.autograd.grad(result.log_prob.sum(), list(actor.parameters()), allow_unused=True)
            assert th.isfinite(result.log_prob).all()
            assert (result.actions.abs() <= 1).all()
            assert all(th.isfinite(gradient).all() for gradient in gradients if gradient is not None)


# ---------------------------------------------------------------- gradients


def numerical_gradient(function: Callable[[], float], parameter: th.Tensor, step: float = 1e-6) -> th.Tensor:
    gradient = th.zeros_like(parameter.data)
    flat, out = parameter.data.view(-1), gradient.view(-1)
    for index in range(len(flat)):
        value = flat[index].item()
        flat[index] = value + step
        above = function()
        flat[index] = value - step
        below = function()
        flat[index] = value
        out[index] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("make", [gaussian, gsde])
def test_reparameterised_gradient_is_that_of_action_and_log_prob(make):
    actor = make(2)
    th.manual_seed(0)
    for parameter in actor.parameters():
        parameter.data += 0.2 * th.randn_like(parameter)
    observations = th.rand(3, 2, dtype=th.float64)
    noise = th.randn(actor.noise_shape(3), dtype=th.float64)

    def loss() -> th.Tensor:
        result = actor.sample(observations, noise)
        return (ALPHA * result.log_prob - (3 * result.actions).sin().sum(dim=1, keepdim=True)).mean()

    parameters = list(actor.parameters())
    for parameter, gradient in zip(parameters, th.autograd.grad(loss(), parameters), strict=True):
        expected = numerical_gradient(lambda: loss().item(), parameter)
        th.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)
        assert expected.abs().max() > 1e-4


def q_function(actions: th.Tensor) -> th.Tensor:
    return (4 * actions).sin() - 2 * (actions - 0.3).square()


def objective(weights: np.ndarray, means: np.ndarray, stds: np.ndarray) -> float:
    """J = E[alpha log pi(a) - Q(a)] of a squashed mixture of Gaussians in 1-D, by integration over u."""
    u = np.linspace(-12, 12, 20_001)
    parts = weights * np.exp(-0.5 * ((u[:, None] - means) / stds) ** 2) / (stds * math.sqrt(2 * math.pi))
    density = parts.sum(axis=1)
    log_density = np.log(density + 1e-300) + 2 * np.log(np.cosh(u))
    q_values = q_function(th.from_numpy(np.tanh(u))).numpy()
    return float((density * (ALPHA * log_density - q_values)).sum() * (u[1] - u[0]))


def exact_gradient(logits: np.ndarray, means: np.ndarray, log_stds: np.ndarray) -> list[th.Tensor]:
    """Of J with respect to logits, means and log standard deviations."""
    values = [th.tensor(value) for value in (logits, means, log_stds)]

    def of() -> float:
        weights = np.exp(values[0].numpy() - np.log(np.exp(values[0].numpy()).sum()))
        return objective(weights, values[1].numpy(), np.exp(values[2].numpy()))

    return [numerical_gradient(of, value, 1e-5) for value in values]


def quantiles(n: int) -> th.Tensor:
    """Standard normal numbers of equal probability: midpoints of n quantiles."""
    return th.special.ndtri((th.arange(n, dtype=th.float64) + 0.5) / n)


@pytest.mark.parametrize("reparameterize", [True, False])
def test_both_gradients_of_the_gaussian_are_unbiased(reparameterize):
    mean, std = 0.4, 0.7
    actor = make_actor(1)
    set_gaussian(actor, [mean], [std])
    noise = quantiles(100_000).unsqueeze(1)
    result = actor.sample(STATE.expand(len(noise), -1), noise, reparameterize)
    assert result.actions.requires_grad == reparameterize
    alpha = th.tensor([ALPHA], dtype=th.float64)
    if reparameterize:
        loss = soft_policy_improvement(q_function(result.actions), result, alpha)
        assert loss.item() == pytest.approx(objective(np.ones(1), np.array([mean]), np.array([std])), abs=1e-4)
    else:
        baseline = th.full_like(result.log_prob, 0.7)  # any will do
        loss = likelihood_ratio_policy_improvement(q_function(result.actions), baseline, result, alpha)
    gradients = th.autograd.grad(loss, [actor.mu.bias, actor.log_std.bias])
    expected = exact_gradient(np.zeros(1), np.array([mean]), np.log([std]))[1:]
    for gradient, exact in zip(gradients, expected, strict=True):
        th.testing.assert_close(gradient, exact, rtol=2e-3, atol=2e-3)
        assert exact.abs().max() > 0.1


def test_likelihood_ratio_gradient_of_the_mixture_is_unbiased():
    weights, means, stds = [0.25, 0.15, 0.6], [-0.8, 0.1, 0.9], [0.3, 0.6, 0.4]
    actor = make_actor(1, n_components=3)
    set_mixture(actor, weights, means, stds)
    noise = th.cartesian_prod(quantiles(10_000), quantiles(20))  # weights are multiples of 1/20: exact
    result = actor.sample(STATE.expand(len(noise), -1), noise)
    baseline = th.full_like(result.log_prob, -0.5)
    alpha = th.tensor([ALPHA], dtype=th.float64)
    loss = likelihood_ratio_policy_improvement(q_function(result.actions), baseline, result, alpha)
    gradients = th.autograd.grad(loss, [actor.component_logits.bias, actor.mu.bias, actor.log_std.bias])
    for gradient, exact in zip(gradients, exact_gradient(np.log(weights), np.array(means), np.log(stds)), strict=True):
        th.testing.assert_close(gradient, exact, rtol=5e-3, atol=5e-3)
        assert exact.abs().min() > 0.01
