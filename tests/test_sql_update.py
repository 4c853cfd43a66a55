"""Soft Q-learning's update: V from proposed actions, targets, the policy's step, and a task with a known answer."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import VECTOR, SpacesEnv, make
from scipy.integrate import trapezoid
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SQL
from sb3_sac_variants.common.equations.losses import energy_based_policy, importance_sampled_soft_value, soft_value
from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.sql.policies import uniform_particles

DISCRETE = spaces.Discrete(4)


class DiscreteEnv(SpacesEnv):
    """Random observations; action k pays k."""

    def __init__(self, observation_space: spaces.Space = VECTOR):
        super().__init__(observation_space, DISCRETE)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps == self.episode_length, False, {}


def filled(env: gym.Env, **kwargs: Any) -> Any:
    """A model with random transitions in its replay buffer."""
    model = make(SQL, env, **kwargs)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    for _ in range(50):
        obs, next_obs = rng.normal(size=(2, 1, 3)).astype(np.float32)
        action = (
            rng.uniform(-1, 1, (1, 2)) if isinstance(model.action_space, spaces.Box) else rng.integers(4, size=(1, 1))
        )
        model.replay_buffer.add(obs, next_obs, action, rng.normal(size=1), rng.random(1) < 0.2, [{}])
    return model


# ---------------------------------------------------------------- values


def test_value_from_all_discrete_actions_is_the_logsumexp(rng):
    q, alpha = th.tensor(rng.normal(size=(3, 4))), 0.3
    everything = PolicySample(None, th.full((3, 4), math.log(1 / 4)).double(), th.full((3, 4), 1 / 4).double())
    value = importance_sampled_soft_value(q, everything, th.tensor([alpha]).double())
    th.testing.assert_close(value, alpha * th.logsumexp(q / alpha, dim=1, keepdim=True))
    policy = energy_based_policy(q, everything, th.tensor([alpha]).double())
    th.testing.assert_close(policy.weights, th.softmax(q / alpha, dim=1))
    th.testing.assert_close(policy.log_prob, th.log_softmax(q / alpha, dim=1))


@pytest.mark.parametrize("dim", [1, 2])
def test_value_from_particles_approaches_the_integral(rng, dim):
    """Q = -|a|^2: V = alpha dim log(integral of exp(-a^2/alpha) over [-1, 1])."""
    alpha = 0.2
    exact = alpha * dim * math.log(math.sqrt(math.pi * alpha) * math.erf(1 / math.sqrt(alpha)))
    particles = uniform_particles(th.tensor(rng.uniform(-1, 1, (1, 200_000, dim))))
    value = importance_sampled_soft_value(-particles.actions.square().sum(dim=2), particles, th.tensor([alpha]))
    assert value.item() == pytest.approx(exact, abs=2e-3)


def test_the_energy_based_policys_value_is_that_value(rng):
    """V = E_pi[Q - alpha log pi] for pi = exp((Q - V)/alpha), also when both are estimated from the same particles."""
    q, alpha = th.tensor(rng.normal(size=(3, 10))), th.tensor([0.3]).double()
    particles = uniform_particles(th.tensor(rng.uniform(-1, 1, (3, 10, 2))))
    policy = energy_based_policy(q, particles, alpha)
    th.testing.assert_close(policy.weights.sum(dim=1), th.ones(3).double())
    th.testing.assert_close(soft_value(q, policy, alpha), importance_sampled_soft_value(q, particles, alpha))


def test_particles_of_a_state_are_evaluated_with_its_own_features(rng):
    model = make(SQL)
    obs = th.tensor(rng.normal(size=(3, 3)), dtype=th.float32)
    particles = uniform_particles(th.tensor(rng.uniform(-1, 1, (3, 5, 2)), dtype=th.float32))
    together = model.critic.sample_q(obs, particles)
    assert together.shape == (2, 3, 5)
    for k in range(5):
        one = model.critic.evaluate(obs, particles.actions[:, k])
        th.testing.assert_close(together[:, :, k], one.squeeze(2), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- the update


@pytest.mark.parametrize("env", [SpacesEnv(), DiscreteEnv()], ids=["Box", "Discrete"])
def test_critic_loss_by_loops(env):
    alpha, scale = 0.4, 3.0
    model = filled(env, ent_coef=alpha, reward_scale=scale, policy_kwargs={"n_critics": 3})
    model.train(3, batch_size=4)  # so that target and online critics differ
    batch, noise = model.draw_batch(4)
    with th.no_grad():
        values = []
        for b in range(4):
            obs = batch.next_observations[b : b + 1]
            if isinstance(model.action_space, spaces.Box):
                q = [min(model.critic_target(obs, a[None])).item() for a in noise.value_particles[b]]
                values.append(alpha * (np.log(np.mean(np.exp(np.array(q) / alpha))) + 2 * math.log(2)))
            else:
                q = [min(model.critic_target(obs, th.tensor([[a]]))).item() for a in range(4)]
                values.append(alpha * np.log(np.sum(np.exp(np.array(q) / alpha))))
        target = scale * batch.rewards.numpy() + 0.99 * (1 - batch.dones.numpy()) * np.array(values)[:, None]
        online = [q.numpy() for q in model.critic(batch.observations, batch.actions)]
        expected = sum(0.5 * np.mean((q - target) ** 2) for q in online)
        metrics = model.update(batch, noise)
    assert metrics["critic_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert metrics["q_mean"].item() == pytest.approx(np.mean(online), rel=1e-4, abs=1e-6)


def test_actor_follows_the_stein_direction():
    model = filled(SpacesEnv(), policy_kwargs={"optimizer_class": th.optim.SGD}, learning_rate=1.0, n_svgd_particles=6)
    batch, noise = model.draw_batch(4)
    obs, before = batch.observations, [p.detach().clone() for p in model.actor.parameters()]
    options = model.particle_options
    assert (options.n_updated, options.n_svgd_particles - options.n_updated) == (3, 3)
    model.critic_learner.set_learning_rate(0.0)  # the direction is taken after the critics' step
    with th.no_grad():
        model.update(batch, noise)
    moved = [p.detach() - b for p, b in zip(model.actor.parameters(), before, strict=True)]
    for parameter, value in zip(model.actor.parameters(), before, strict=True):
        parameter.data = value
    u = model.actor.pre_tanh(obs, noise.sampler)
    updated, fixed = u[:, :3], u[:, 3:].detach().requires_grad_()
    q = model.critic.min_q(obs, uniform_particles(th.tanh(fixed)))
    score = th.autograd.grad((q + (1 - th.tanh(fixed).square()).log().sum(dim=2)).sum(), fixed)[0]
    direction = th.zeros(4, 3, 2)
    for b in range(4):
        distance = (fixed[b, :, None] - updated[b, None]).square().sum(dim=2).detach()
        h = distance.flatten().sort().values[4] / math.log(4)
        for j in range(3):
            kernel = th.exp(-distance[:, j : j + 1] / h)
            repulsion = 2 * (updated[b, j] - fixed[b]) / h * kernel
            direction[b, j] = (kernel * score[b] + repulsion).mean(dim=0).detach()
    gradients = th.autograd.grad((direction * updated).sum() / 12, list(model.actor.parameters()))
    for step, gradient in zip(moved, gradients, strict=True):
        th.testing.assert_close(step, gradient, rtol=1e-3, atol=1e-5)


def test_hard_copies_every_so_many_gradient_steps():
    model = filled(SpacesEnv(), tau=1.0, target_update_interval=3)
    weight, target = model.critic.q_networks.layers[0].weight, model.critic_target.q_networks.layers[0].weight
    for step in range(1, 8):
        model.train(1, batch_size=4)
        assert th.equal(weight, target) == (step % 3 == 0)


@pytest.mark.parametrize("loss", ["fixed", "auto"])
def test_discrete_actor_is_the_softmax_of_q_at_the_present_temperature(loss):
    model = filled(DiscreteEnv(), ent_coef=0.5 if loss == "fixed" else "auto_0.5", learning_rate=1e-2)
    assert not list(model.actor.parameters())
    assert set(model.updater.learners) == {"critic"}
    model.train(5, batch_size=4)
    alpha = model.temperature.value
    assert (alpha.item() == 0.5) == (loss == "fixed")
    obs = th.randn(3, 3)
    expected = th.softmax(model.critic.values(obs).amin(dim=0) / alpha, dim=1)
    th.testing.assert_close(model.actor.sample(obs, th.empty(3, 0)).weights, expected)


def test_fixed_and_updated_particles_follow_the_ratio():
    model = filled(SpacesEnv(), n_value_particles=7, n_svgd_particles=10, svgd_update_ratio=0.3)
    assert model.particle_options.n_updated == 3
    noise = model.draw_noise(4)
    assert noise.value_particles.shape == (4, 7, 2)
    assert noise.sampler.shape == (4, 10, 2)
    assert noise.value_particles.abs().max() <= 1
    assert not th.equal(noise.value_particles[0], noise.value_particles[1])


# ---------------------------------------------------------------- a task with a known answer


def one_step_reward(actions: np.ndarray) -> np.ndarray:
    """Two modes, at -0.6 and 0.4, of unequal mass."""
    return np.log(sum(w * np.exp(-0.5 * ((actions - m) / 0.2) ** 2) for w, m in ((0.3, -0.6), (0.7, 0.4))) + 0.03)


@pytest.mark.slow
def test_one_step_task_gives_the_boltzmann_policy_and_its_log_partition_function():
    env = SpacesEnv(VECTOR, spaces.Box(-1.0, 1.0, (1,)))
    model = make(SQL, env, n_svgd_particles=16, learning_rate=2e-3, buffer_size=1000, net_arch=[128, 128])
    model.set_logger(Logger(None, []))
    rng, obs = np.random.default_rng(0), np.ones((1, 3), dtype=np.float32)
    for action in rng.uniform(-1, 1, (1000, 1)):
        model.replay_buffer.add(obs, obs, action[None], one_step_reward(action), np.ones(1), [{}])
    model.train(500, batch_size=64)

    grid = np.linspace(-1, 1, 2001)
    density = np.exp(one_step_reward(grid))
    assert model.soft_value(obs)[0] == pytest.approx(math.log(trapezoid(density, grid)), abs=0.1)
    at = np.array([-0.6, -0.1, 0.4])
    np.testing.assert_allclose(model.q_value(np.ones((3, 3)), at[:, None]), one_step_reward(at), atol=0.3)
    actions, _ = model.predict(np.ones((4000, 3), dtype=np.float32), deterministic=False)
    left = trapezoid(np.where(grid < -0.1, density, 0), grid) / trapezoid(density, grid)
    assert (actions < -0.1).mean() == pytest.approx(left, abs=0.1)
    best, _ = model.predict(obs, deterministic=True)
    assert best.item() == pytest.approx(0.4, abs=0.15)


class OneStep(gym.Env):
    """A bandit whose only state is 1; after it comes -1, where nothing is ever learned."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return -np.ones(1, dtype=np.float32), 0.5 * float(action), True, False, {}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_temperature_is_that_of_the_states_and_not_of_terminal_ones(seed: int) -> None:
    arguments: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 32, "tau": 0.05, "learning_starts": 20}
    model = make(SQL, OneStep(), ent_coef="auto_0.5", seed=seed, **arguments)
    model.learn(520)
    with th.no_grad():
        log_prob = model.actor.log_prob(th.ones(1, 1))
    entropy = -(log_prob.exp() * log_prob).sum().item()
    assert entropy == pytest.approx(model.target_entropy, abs=0.02)  # 0.7 log 3: a temperature of 0.436
    assert model.log_ent_coef.exp().item() == pytest.approx(0.4355, abs=0.02)
    model.updater.metrics.reset()
    model.train(1, 32)
    assert model.updater.metrics.means()["entropy"] == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("q", [3.0e4, 3.0e5, 3.0e7])
def test_a_policy_of_large_q_values_keeps_its_digits(q: float) -> None:
    everything = PolicySample(None, th.full((1, 3), -math.log(3.0)), th.full((1, 3), 1 / 3))
    alpha = th.tensor([0.01])
    policy = energy_based_policy(th.full((1, 3), q), everything, alpha)
    th.testing.assert_close(policy.weights, th.full((1, 3), 1 / 3))
    th.testing.assert_close(policy.log_prob, th.full((1, 3), -math.log(3.0)))
    value = importance_sampled_soft_value(th.full((1, 3), q), everything, alpha)
    assert value.item() == pytest.approx(q + 0.01 * math.log(3.0), rel=1e-6)
