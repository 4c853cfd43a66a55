"""
Tasks whose answer is known: what was learned is compared with it, not with another implementation.

In an episode of one step with reward r(s, a), Q(s, a) = r(s, a), the optimal policy is the Boltzmann distribution
exp(r(s, a) / alpha) / Z(s) and V(s) = alpha log Z(s). The rewards here are made from a density p(a|s) that the policy
can represent: r(s, a) = alpha log p(a|s) + v(s), so that the optimal policy is p and V is v.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import GAUSSIAN, assert_same_parameters, flat_parameters, make, n_updates, set_progress
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SACv1, SACv2

ALPHA = 0.5
STATES = np.array([[-1.0], [1.0]], dtype=np.float32)
STD = 0.5


class OneStep(gym.Env):
    """Never stepped: transitions are put into the replay buffer."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)  # scaled to [-1, 1] for the networks


def gaussian(u: np.ndarray, mean: np.ndarray | float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def one_peak(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A squashed Gaussian, with a mean that depends on the state; actions in (-1, 1)."""
    return gaussian(np.arctanh(action), 0.5 * state, STD) / (1 - action**2)


def two_peaks(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A squashed mixture, 0.3 on one side and 0.7 on the other, which changes places with the state."""
    u = np.arctanh(action) * state
    return (0.3 * gaussian(u, -0.9, 0.4) + 0.7 * gaussian(u, 0.9, 0.4)) / (1 - action**2)


def value(state: np.ndarray) -> np.ndarray:
    return 1 + 0.5 * state


def reward(density: Any, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    # Cut off where the density is too low to matter: a network cannot follow it to minus infinity
    return np.maximum(ALPHA * np.log(density(state, action) + 1e-300), -3.0) + value(state)


def two_rates(progress_remaining: float) -> float:
    """To arrive, and to settle."""
    return 1e-2 if progress_remaining > 0.5 else 1e-3


def learn(algorithm: type, density: Any, gradient_steps: int, **arguments: Any) -> Any:
    """
    :param algorithm: class of the algorithm
    :param density: p(a|s)
    :param gradient_steps: gradient steps
    :param arguments: of the algorithm
    :return: a model that has learned from uniformly drawn states and actions
    """
    n = 4000
    defaults = {"net_arch": [32, 32], "buffer_size": n, "batch_size": 64, "learning_rate": two_rates}
    model = make(algorithm, OneStep(), **{**defaults, **arguments})
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    for _ in range(n):
        state = STATES[rng.integers(2)]
        action = rng.uniform(-0.9999, 0.9999, 1)
        done, infos = np.array([True]), [{}]
        model.replay_buffer.add(state[None], state[None], action[None], reward(density, state, action), done, infos)
    th.manual_seed(0)
    half = gradient_steps // 2
    model.train(half, model.batch_size)
    set_progress(0.0, model)
    model.train(gradient_steps - half, model.batch_size)
    return model


def learned_density(model: Any, state: np.ndarray) -> np.ndarray:
    """
    :return: the policy's density in 40 bins of [-1, 1]
    """
    samples = 40_000
    with th.no_grad():
        noise = th.randn(model.actor.noise_shape(samples), generator=th.Generator().manual_seed(0))
        actions = model.actor.sample(th.as_tensor(state).expand(samples, 1), noise).actions
    return np.histogram(actions.numpy(), bins=40, range=(-1, 1), density=True)[0]


def assert_boltzmann(model: Any, density: Any, scale: float = 1.0) -> None:
    """
    :param model: what was learned
    :param density: the optimal policy
    :param scale: rewards in units of the reward that was given
    """
    actions = np.linspace(-0.99975, 0.99975, 4000)
    np.testing.assert_allclose(model.soft_value(STATES), scale * value(STATES)[:, 0], atol=0.15 * scale)
    for state in STATES:
        exact = density(state, actions)
        in_bins = exact.reshape(40, 100).mean(axis=1)
        total_variation = 0.5 * np.abs(learned_density(model, state) - in_bins).sum() * 0.05
        assert total_variation < 0.12
        # Where the policy goes; the environment's actions are twice those of the networks
        q_values = model.q_value(np.tile(state, (len(actions), 1)), 2 * actions[:, None])
        error = np.abs(q_values - scale * reward(density, state, actions))
        assert np.average(error, weights=exact) < 0.15 * scale


@pytest.mark.parametrize(
    ("algorithm", "as_reward_scale"),
    [
        (SACv1, True),
        (SACv2, False),
        pytest.param(SACv1, False, marks=pytest.mark.slow),
        pytest.param(SACv2, True, marks=pytest.mark.slow),
    ],
)
def test_policy_value_and_q_of_a_single_step(algorithm, as_reward_scale):
    """With alpha as the temperature, and as the scale 1/alpha of the rewards at temperature one: the same policy."""
    scale = 1 / ALPHA if as_reward_scale else 1.0
    model = learn(algorithm, one_peak, 500, ent_coef=1.0 if as_reward_scale else ALPHA, reward_scale=scale)
    assert_boltzmann(model, one_peak, scale)
    for state in STATES:
        mean, log_std, _ = model.actor.get_action_dist_params(th.as_tensor(state[None]))
        assert mean.item() == pytest.approx(0.5 * state.item(), abs=0.1)
        assert log_std.exp().item() == pytest.approx(STD, abs=0.1)


def test_likelihood_ratio_learns_the_same_policy():
    assert_boltzmann(learn(SACv1, one_peak, 500, ent_coef=ALPHA, policy_gradient="likelihood_ratio"), one_peak)


@pytest.mark.slow
def test_mixture_finds_both_peaks_in_their_proportion():
    policy_kwargs = {"n_components": 3}
    arguments = {"policy_gradient": "likelihood_ratio", "policy_kwargs": policy_kwargs, "batch_size": 256}
    assert_boltzmann(learn(SACv1, two_peaks, 2500, ent_coef=ALPHA, **arguments), two_peaks)


@pytest.mark.thin(2)
@pytest.mark.parametrize("algorithm", GAUSSIAN)
def test_learned_temperature_reaches_its_target_entropy(algorithm):
    """Here the optimal temperature is ALPHA when the target is the entropy of p."""
    actions = np.linspace(-0.99975, 0.99975, 4000)
    density = one_peak(STATES[0], actions)
    entropy = np.average(-np.log(density), weights=density)
    arguments = {"ent_coef": "auto_0.1", "target_entropy": float(entropy)}
    model = learn(algorithm, one_peak, 500, **arguments)
    assert model.log_ent_coef.exp().item() == pytest.approx(ALPHA, abs=0.1)
    model.updater.metrics.reset()
    model.train(50, 64)
    metrics = model.updater.metrics.means()
    assert metrics["entropy"] == pytest.approx(entropy, abs=0.08)
    assert metrics["ent_coef"] == pytest.approx(ALPHA, abs=0.1)


# ---------------------------------------------------------------- the end of an episode


class Constant(gym.Env):
    """
    A reward of one at each step, always in the same state.

    :param truncate: whether each step ends the episode by truncation, not termination
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, truncate: bool):
        self.truncate = truncate

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, dtype=np.float32), 1.0, not self.truncate, self.truncate, {}


@pytest.mark.thin(3)
@pytest.mark.parametrize(("truncate", "q"), [(True, 2.0), (False, 1.0)], ids=["truncation", "termination"])
@pytest.mark.parametrize("algorithm", GAUSSIAN)
def test_values_go_on_through_truncation_and_not_through_termination(algorithm, truncate, q):
    # 1 / (1 - gamma) = 2
    arguments = {"gamma": 0.5, "ent_coef": 0.0, "tau": 0.2, "learning_rate": 5e-3, "gradient_steps": 8}
    model = make(algorithm, Constant(truncate), batch_size=16, **arguments)
    model.learn(50)
    state = np.zeros((1, 1), dtype=np.float32)
    action, _ = model.predict(state, deterministic=True)
    assert model.q_value(state, action)[0] == pytest.approx(q, abs=0.1)
    assert model.soft_value(state)[0] == pytest.approx(q, abs=0.1)


# ---------------------------------------------------------------- counters and seeds


class TargetWatch(BaseCallback):
    """Notes after how many gradient steps the targets changed, and whether they were then copies."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[int] = []
        self.copies: list[bool] = []

    def _parameters(self, names: Any) -> th.Tensor:
        parameters = [p for name in names for p in getattr(self.model, name).parameters()]
        return th.nn.utils.parameters_to_vector(parameters).detach().clone()

    def _on_rollout_start(self) -> None:  # after each train()
        target = self._parameters(self.model.tracked_networks.values())
        if self.n_calls > 0 and not th.equal(target, self.last):
            self.changes.append(n_updates(self.model))
            self.copies.append(th.equal(target, self._parameters(self.model.tracked_networks)))
        self.last = target

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("algorithm", GAUSSIAN)
def test_targets_are_copied_every_so_many_gradient_steps_of_the_whole_run(algorithm, tmp_path):
    model = make(algorithm, tau=1.0, target_update_interval=4, gradient_steps=1, learning_starts=0)
    watch = TargetWatch()
    model.learn(11, callback=watch)
    assert watch.changes == [4, 8]
    assert all(watch.copies)
    # Calls of learn(), and loading, do not begin anew
    model.learn(4, callback=(watch := TargetWatch()), reset_num_timesteps=False)
    assert watch.changes == [12]
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env())
    loaded.learn(8, callback=(watch := TargetWatch()), reset_num_timesteps=False)
    assert watch.changes == [16, 20]


@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("algorithm", GAUSSIAN)
def test_same_seed_same_run(algorithm, use_sde):
    runs = [make(algorithm, seed=seed, use_sde=use_sde).learn(40) for seed in (1, 1, 2)]
    assert n_updates(runs[0]) > 30
    assert_same_parameters(runs[0], runs[1])
    left, right = flat_parameters(runs[0]), flat_parameters(runs[2])
    assert not any(th.equal(left[name], right[name]) for name in left if name.startswith("/policy/actor.mu"))
