"""Actor, critics and target entropies of discrete actions."""

import math
import re
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_sac_variants.common.checks.validation import check_discrete_start
from sb3_sac_variants.common.equations.losses import (
    expectation,
    likelihood_ratio_policy_improvement,
    policy_entropy,
    soft_policy_improvement,
    soft_value,
)
from sb3_sac_variants.common.gradient_step.target_entropy import (
    RUNAWAY_FACTOR,
    TemperatureMonitor,
    parse_target_entropy,
)
from sb3_sac_variants.common.networks.discrete import DiscreteActor, StackedDiscreteCritic
from sb3_sac_variants.common.networks.preprocessing import one_hot

OBSERVATIONS = spaces.Box(-1.0, 1.0, (3,), dtype=np.float32)
ACTIONS = spaces.Discrete(4)
ALPHA = th.tensor([0.3])


def actor() -> DiscreteActor:
    return DiscreteActor(OBSERVATIONS, ACTIONS, [8], FlattenExtractor(OBSERVATIONS), 3)


def critic(n_critics: int = 2) -> StackedDiscreteCritic:
    extractor = FlattenExtractor(OBSERVATIONS)
    return StackedDiscreteCritic(
        OBSERVATIONS, ACTIONS, [8], extractor, 3, n_critics=n_critics, share_features_extractor=False
    )


@pytest.fixture
def obs() -> th.Tensor:
    th.manual_seed(0)
    return th.randn(5, 3)


def test_sample_is_all_actions_with_their_probabilities(obs):
    network = actor()
    sample = network.sample(obs, th.empty(network.noise_shape(5)))
    assert sample.actions is None
    th.testing.assert_close(sample.weights.sum(dim=1), th.ones(5))
    th.testing.assert_close(sample.weights, th.softmax(network.logits(obs), dim=1))
    th.testing.assert_close(sample.log_prob, sample.weights.log())
    assert policy_entropy(sample) <= math.log(4)


def test_actions_are_drawn_by_their_probabilities(obs):
    network, state = actor(), obs[:1]
    with th.no_grad():
        network.logits[-1].bias.copy_(th.tensor([0.0, 1.0, 2.0, -1.0]))
        probabilities = network.log_prob(state).exp()[0].numpy()
        drawn = network(state.expand(20_000, -1))
        best = network(state, deterministic=True)
    frequencies = np.bincount(drawn.numpy(), minlength=4) / 20_000
    # Four standard deviations of a frequency
    np.testing.assert_allclose(frequencies, probabilities, atol=4 * math.sqrt(0.25 / 20_000))
    assert best.item() == probabilities.argmax() == 2
    assert drawn.dtype == th.int64


def test_policy_loss_is_a_sum_over_actions_not_a_mean(obs):
    """A mean over batch and actions would be a |A|-th of it."""
    network, q = actor(), th.randn(5, 4)
    sample = network.sample(obs, th.empty(5, 0))
    expected = 0.0
    for b in range(5):
        p = th.softmax(network.logits(obs[b]), dim=0)
        expected += (p * (ALPHA * p.log() - q[b])).sum() / 5
    th.testing.assert_close(soft_policy_improvement(q, sample, ALPHA), expected)


def test_likelihood_ratio_has_the_same_gradient(obs):
    """Summed over all actions, the score function's gradient is that of the exact expectation, with any baseline."""
    network, q, baseline = actor(), th.randn(5, 4), th.randn(5, 1)
    parameters = list(network.parameters())
    exact = soft_policy_improvement(q, network.sample(obs, th.empty(5, 0)), ALPHA)
    fixed = network.sample(obs, th.empty(5, 0), reparameterize=False)
    ratio = likelihood_ratio_policy_improvement(q, baseline, fixed, ALPHA)
    for one, other in zip(th.autograd.grad(exact, parameters), th.autograd.grad(ratio, parameters), strict=True):
        assert one.abs().max() > 0
        th.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_critics", [1, 2, 3])
def test_critics_give_all_actions_or_the_one_taken(obs, n_critics):
    network, sample = critic(n_critics), actor().sample(obs, th.empty(5, 0))
    values = network.values(obs)
    assert values.shape == (n_critics, 5, 4)
    th.testing.assert_close(network.sample_q(obs, sample), values)
    th.testing.assert_close(network.min_q(obs, sample), values.min(dim=0).values)
    actions = th.tensor([[0], [3], [1], [1], [2]])
    taken = network(obs, actions)
    assert len(taken) == n_critics
    for i, b in np.ndindex(n_critics, 5):
        assert taken[i][b, 0] == values[i, b, actions[b, 0]]
    th.testing.assert_close(network.evaluate(obs, actions.float()), th.stack(taken))


def test_critics_differ_from_one_another(obs):
    values = critic(2).values(obs)
    assert (values[0] - values[1]).abs().max() > 1e-3


def test_value_is_an_exact_expectation(obs):
    sample, q = actor().sample(obs, th.empty(5, 0)), critic().values(obs).amin(dim=0)
    entropies = -expectation(sample, sample.log_prob)
    th.testing.assert_close(soft_value(q, sample, ALPHA), expectation(sample, q) + ALPHA * entropies)


# ---------------------------------------------------------------- target entropy


@pytest.mark.parametrize(
    ("target_entropy", "space", "expected"),
    [
        ("auto", spaces.Discrete(2), 0.7 * math.log(2)),
        ("auto", spaces.Discrete(18), 0.7 * math.log(18)),
        ("auto_0.89", spaces.Discrete(6), 0.89 * math.log(6)),
        ("auto_1", spaces.Discrete(6), math.log(6)),
        (0.5, spaces.Discrete(2), 0.5),
        ("0.5", spaces.Discrete(2), 0.5),
        ("auto", spaces.Box(-1, 1, (3,)), -3.0),
        (-1.5, spaces.Box(-1, 1, (3,)), -1.5),
    ],
)
def test_target_entropy(target_entropy, space, expected):
    assert parse_target_entropy(target_entropy, space) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("target_entropy", "space", "message"),
    [
        ("auto_0", spaces.Discrete(3), "target_entropy='auto_0' cannot be reached: .* up to log|A| = 1.099; pass"),
        ("auto_1.1", spaces.Discrete(3), "target_entropy='auto_1.1' cannot be reached"),
        ("auto_-0.5", spaces.Discrete(3), "target_entropy='auto_-0.5' cannot be reached"),
        (0.0, spaces.Discrete(3), "target_entropy=0.0 cannot be reached"),
        (-3.0, spaces.Discrete(3), "target_entropy=-3.0 cannot be reached"),
        (1.2, spaces.Discrete(3), "target_entropy=1.2 cannot be reached"),
        (math.nan, spaces.Discrete(3), "target_entropy=nan cannot be reached"),
        ("auto_x", spaces.Discrete(3), "target_entropy='auto_x' is not an entropy: pass 'auto', 'auto_<ratio>'"),
        ("auto_0_5", spaces.Discrete(3), "target_entropy='auto_0_5' is not an entropy"),
        (True, spaces.Discrete(3), "target_entropy=True is not an entropy"),
        ("automatic", spaces.Discrete(3), "target_entropy='automatic' is not an entropy"),
        (None, spaces.Discrete(3), "target_entropy=None is not an entropy"),
        ("auto_0.9", spaces.Box(-1, 1, (2,)), "target_entropy='auto_0.9' is not an entropy: pass 'auto' or a number"),
        (1.5, spaces.Box(-1, 1, (2,)), "target_entropy=1.5 cannot be reached: .* up to dim(A) log 2 = 1.386"),
        (-math.inf, spaces.Box(-1, 1, (2,)), "target_entropy=-inf cannot be reached"),
    ],
)
def test_target_entropies_that_no_policy_has_are_refused(target_entropy, space, message):
    pattern = ".*".join(re.escape(part) for part in message.split(".*"))
    with pytest.raises(ValueError, match=pattern):
        parse_target_entropy(target_entropy, space)


@pytest.mark.parametrize("initial", [0.01, 1.0, 20.0])
def test_a_temperature_that_runs_away_is_remarked_once(initial):
    watch, bound = TemperatureMonitor(initial), RUNAWAY_FACTOR * max(initial, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.check({}, 0.6)  # no update since the last time
        watch.check({"ent_coef": 0.9 * bound, "entropy": 0.1}, 0.6)
        watch.check({"ent_coef": 9.0 * bound, "entropy": 0.7}, 0.6)  # on its way down
    with pytest.warns(UserWarning, match=r"runs away: ent_coef is .* below target_entropy=0\.6.*Pass a lower"):
        watch.check({"ent_coef": 1.1 * bound, "entropy": 0.5}, 0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.check({"ent_coef": 2.0 * bound, "entropy": 0.5}, 0.6)


def test_actions_that_do_not_start_at_zero_are_refused():
    check_discrete_start(spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"starts at 2.*TransformAction"):
        check_discrete_start(spaces.Discrete(3, start=2))


def test_one_hot_vectors_are_those_of_torch_where_they_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = th.tensor([[0, 3], [2, 1]])
    monkeypatch.setattr(th.compiler, "is_compiling", lambda: True)
    assert th.equal(one_hot(numbers, 4).long(), th.nn.functional.one_hot(numbers, 4))
