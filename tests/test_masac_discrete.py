"""MASAC on discrete actions: a whole update against another one written agent by agent, and the model around it."""

import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from agents import AgentsEnv, make, several
from float64 import to_double
from gymnasium import spaces
from helpers import SpacesEnv, assert_same_parameters, flat_parameters, refused
from helpers import make as make_single
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from torch.nn import functional as F

from sb3_sac_variants import MASAC, SACv2
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.gradient_step.engine import compile_unsupported
from sb3_sac_variants.envs import IndependentAgents, MatrixGameEnv
from sb3_sac_variants.masac.masac import Noise

needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
needs_cuda = pytest.mark.skipif(not th.cuda.is_available(), reason="no CUDA device")

B, N, OBS, ACTIONS = 6, 3, 4, 5
GAMMA, TAU, RATE, ALPHA = 0.9, 0.1, 2.0**-6, 0.25

VARIANTS: dict[str, dict[str, Any]] = {
    "no_cross_entropy": {},
    "shared_actor": {"policy_kwargs": {"net_arch": [8], "share_actor": True}},
    "shared_critic": {"policy_kwargs": {"net_arch": [8], "share_critic": True}, "ce_coef": 0.2},
    "apart": {"ce_coef": 0.2},
    "together_without_a_floor": {"ce_coef": 0.1, "ce_convention": "similarity", "ce_floor": "none"},
    "in_my_place": {"ce_coef": 0.2, "ce_obs": "own"},
    "in_my_place_shared": {"ce_coef": -0.1, "ce_obs": "own", "policy_kwargs": {"share_actor": True}},
    "relative_and_centered": {"ce_coef": 0.5, "ce_relative": True, "ce_center": True},
    "fixed_temperature": {"ent_coef": ALPHA, "ce_coef": 0.2, "reward_scale": 3.0},
    "three_critics": {"policy_kwargs": {"net_arch": [8, 6], "n_critics": 3}},
}


def discrete(n_agents: int = N, **kwargs: Any) -> AgentsEnv:
    return AgentsEnv(n_agents, OBS, n_actions=ACTIONS, **kwargs)


def model_of(**kwargs: Any) -> MASAC:
    arguments = {"ent_coef": f"auto_{ALPHA}", "gamma": GAMMA, "tau": TAU, "learning_rate": RATE, "net_arch": [8]}
    model = make(discrete(), **{**arguments, **kwargs})
    model.critic_target_tracker.configure(TAU, 1, 0)  # as train() does
    return model


def batch_and_noise(n: int = B) -> tuple[Batch, Noise]:
    rng = np.random.default_rng(3)
    obs, next_obs = (th.tensor(rng.normal(size=(n, N, OBS))) for _ in range(2))
    actions = th.tensor(rng.integers(0, ACTIONS, (n, N)))
    dones = th.tensor((rng.random((n, 1)) < 0.3).astype(float))
    rewards, discounts = th.tensor(rng.normal(size=(n, N))), th.full((n, N), GAMMA).double()
    noise = [th.tensor(rng.normal(size=(n, N))) for _ in range(2)]
    return Batch(obs, actions, next_obs, dones, rewards, discounts), Noise(*noise)


class PlainAgents:
    """
    The algorithm once more, one network, one agent and one action after the other.

    :param model: where the weights come from
    """

    def __init__(self, model: MASAC):
        self.model = model
        self.actors = self.unstack(model.actor.networks)
        self.critics = self.unstack(model.critic.q_networks)
        self.targets = self.unstack(model.critic_target.q_networks)
        self.log_alpha = [th.tensor(math.log(ALPHA), dtype=th.float64, requires_grad=True) for _ in range(N)]

    @staticmethod
    def unstack(networks: Any) -> list[list[th.Tensor]]:
        layers = networks.stacked
        return [
            [tensor[n].detach().clone().requires_grad_() for layer in layers for tensor in (layer.weight, layer.bias)]
            for n in range(layers[0].weight.shape[0])
        ]

    @staticmethod
    def mlp(parameters: list[th.Tensor], x: th.Tensor) -> th.Tensor:
        for index in range(0, len(parameters), 2):
            x = x @ parameters[index] + parameters[index + 1]
            x = x if index == len(parameters) - 2 else F.relu(x)
        return x

    def policy(self, agent: int, obs: th.Tensor) -> th.Tensor:
        """Log-probabilities of the agent's actions at an observation of its own."""
        if self.model.policy.share_actor:
            identity = F.one_hot(th.tensor(agent), N).double().expand(len(obs), -1)
            return self.mlp(self.actors[0], th.cat([obs, identity], dim=1)).log_softmax(dim=1)
        return self.mlp(self.actors[agent], obs).log_softmax(dim=1)

    def draw(self, agent: int, obs: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """The first action up to which the probabilities sum to the noise's rank among normal numbers."""
        probabilities = self.policy(agent, obs[:, agent]).exp().detach()
        ranks = th.distributions.Normal(0.0, 1.0).cdf(noise[:, agent])
        return th.stack([(p.cumsum(0) >= rank).nonzero()[0, 0] for p, rank in zip(probabilities, ranks, strict=True)])

    def all_q(self, networks: list[list[th.Tensor]], agent: int, obs: th.Tensor, actions: list[th.Tensor]) -> Any:
        """Q of each critic at all of the agent's actions."""
        order = [(agent + k) % N for k in range(N)]
        inputs = [obs[:, j] for j in order] + [F.one_hot(actions[j], ACTIONS).double() for j in order[1:]]
        if self.model.policy.share_critic:
            inputs.append(F.one_hot(th.tensor(agent), N).double().expand(len(obs), -1))
            own = networks
        else:
            own = networks[agent::N]
        return th.stack([self.mlp(network, th.cat(inputs, dim=1)) for network in own])

    def value(self, q: th.Tensor, agent: int, obs: th.Tensor, alpha: float) -> th.Tensor:
        """Soft value with the cross-entropy, action by action."""
        model, log_prob = self.model, self.policy(agent, obs[:, agent])
        beta = model.ce_coef * (alpha if model.ce_relative else 1)
        beta = beta if model.ce_convention == "objective" else -beta
        eps = 0.0 if model.ce_floor == "none" else 0.05
        bonus = th.zeros_like(log_prob)
        for other in set(range(N)) - {agent}:
            where = obs[:, agent] if model.ce_obs == "own" else obs[:, other]
            density = self.policy(other, where).exp().detach()
            bonus = bonus - beta * ((1 - eps) * density + eps / ACTIONS).log()
        if model.ce_center:
            bonus = bonus - (log_prob.exp() * bonus).sum(dim=1).mean().detach()
        return sum(log_prob[:, a].exp() * (q[:, a] - alpha * log_prob[:, a] + bonus[:, a]) for a in range(ACTIONS))

    def update(self, batch: Batch, noise: Noise) -> dict[str, float]:
        model, alphas = self.model, [x.exp().item() for x in self.log_alpha]
        obs, next_obs = batch.observations, batch.next_observations
        losses = {"critic_loss": 0.0, "actor_loss": 0.0, "ent_coef_loss": 0.0, "entropy": 0.0}
        next_actions = [self.draw(i, next_obs, noise.next_actions) for i in range(N)]
        stored = list(batch.actions.unbind(1))
        for i in range(N):
            next_q = self.all_q(self.targets, i, next_obs, next_actions).min(dim=0).values
            value = self.value(next_q, i, next_obs, alphas[i])
            target = model.reward_scale * batch.rewards[:, i] + GAMMA * (1 - batch.dones[:, 0]) * value
            q_values = self.all_q(self.critics, i, obs, stored)
            loss = sum(0.5 * F.mse_loss(q[range(len(obs)), stored[i]], target.detach()) for q in q_values)
            losses["critic_loss"] += loss.item()
            loss.backward()
        self.step(self.critics)
        actor_loss, excess = th.zeros((), dtype=th.float64), []
        drawn = [self.draw(i, obs, noise.actions) for i in range(N)]
        for i in range(N):
            q = self.all_q(self.critics, i, obs, drawn).min(dim=0).values
            actor_loss = actor_loss - self.value(q, i, obs, alphas[i]).mean()
            log_prob = self.policy(i, obs[:, i]).detach()
            entropy = -(log_prob.exp() * log_prob).sum(dim=1).mean()
            losses["entropy"] += entropy.item() / N
            excess.append(model.target_entropy - entropy)
        actor_loss.backward()
        self.step(self.actors)
        losses["actor_loss"] = actor_loss.item()
        for i in range(N):
            if model.temperature.learned:
                loss = -self.log_alpha[i].exp() * excess[i]
                losses["ent_coef_loss"] += loss.item()
                loss.backward()
                self.step([[self.log_alpha[i]]])
        for leader, follower in zip(chain(*self.critics), chain(*self.targets), strict=True):
            follower.data.lerp_(leader.data, TAU)
        return losses

    @staticmethod
    def step(networks: list[list[th.Tensor]]) -> None:
        """The first step of Adam."""
        optimizer = th.optim.Adam([tensor for network in networks for tensor in network], lr=RATE)
        optimizer.step()
        optimizer.zero_grad()

    def assert_same_as(self, model: MASAC) -> None:
        other = PlainAgents(model)
        for name in ("actors", "critics", "targets"):
            mine, theirs = chain(*getattr(self, name)), chain(*getattr(other, name))
            for index, (one, two) in enumerate(zip(mine, theirs, strict=True)):
                th.testing.assert_close(two, one, rtol=1e-5, atol=1e-7, msg=lambda t, n=name, k=index: f"{n} {k}: {t}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_update_is_that_of_agents_one_by_one(variant: str) -> None:
    model = to_double(model_of(**VARIANTS[variant]))
    batch, noise = batch_and_noise()
    plain = PlainAgents(model)
    expected = plain.update(batch, noise)
    with th.no_grad():
        metrics = model.update(batch, noise)
    for name, value in expected.items():
        if name in metrics:
            assert metrics[name].item() == pytest.approx(value, rel=1e-6), name
    plain.assert_same_as(model)
    if model.temperature.learned:
        assert model.log_ent_coef.tolist() == pytest.approx([x.item() for x in plain.log_alpha], rel=1e-6)


def test_drawn_actions_are_as_frequent_as_their_probabilities() -> None:
    model = model_of()
    obs = th.randn(1, N, OBS, generator=th.Generator().manual_seed(1)).expand(20_000, -1, -1)
    with th.no_grad():
        sample = model.actor.sample(obs, th.randn(20_000, N, generator=th.Generator().manual_seed(0)))
    frequencies = F.one_hot(sample.actions, ACTIONS).double().mean(dim=0)
    th.testing.assert_close(frequencies, sample.weights[0].double(), atol=0.015, rtol=0)
    extremes = model.actor.sample(obs[:2], th.tensor([[-40.0] * N, [40.0] * N])).actions
    assert extremes.tolist() == [[0] * N, [ACTIONS - 1] * N]


def test_a_q_does_not_depend_on_the_agents_own_action() -> None:
    model = model_of()
    batch, _ = batch_and_noise()
    obs, actions = batch.observations.float(), batch.actions
    changed = actions.clone()
    changed[:, 0] = (changed[:, 0] + 1) % ACTIONS
    with th.no_grad():
        one, other = model.critic.values(obs, actions), model.critic.values(obs, changed)
    assert th.equal(one[:, :, 0], other[:, :, 0])
    assert (one[:, :, 1:] != other[:, :, 1:]).any(dim=3).all()


# ---------------------------------------------------------------- engines


def trained(engine: str, device: str = "cpu", **kwargs: Any) -> MASAC:
    model = make(discrete(), engine=engine, device=device, batch_size=8, learning_starts=1000, **kwargs).learn(50)
    model.set_logger(Logger(None, []))
    for gradient_steps in (1, 4, 2):
        th.manual_seed(gradient_steps)
        model.train(gradient_steps, batch_size=8)
    return model


def assert_engines_agree(engine: str, device: str = "cpu", **kwargs: Any) -> None:
    reference, model = trained("eager", device, **kwargs), trained(engine, device, **kwargs)
    one, two = (th.nn.utils.parameters_to_vector(each.policy.parameters()).cpu() for each in (reference, model))
    th.testing.assert_close(two, one, rtol=1e-4, atol=2e-6)
    th.testing.assert_close(model.log_ent_coef.cpu(), reference.log_ent_coef.cpu())


ENGINE_VARIANTS = ["no_cross_entropy", "shared_critic", "in_my_place_shared"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("variant", ENGINE_VARIANTS)
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_compiled_update_computes_the_eager_numbers(variant: str) -> None:
    assert_engines_agree("compile", **VARIANTS[variant])


@needs_cuda
@pytest.mark.parametrize("engine", ["cudagraph", "compile"])
@pytest.mark.parametrize("variant", ENGINE_VARIANTS)
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_cuda_engines_compute_the_eager_numbers(engine: str, variant: str) -> None:
    assert_engines_agree(engine, "cuda", **VARIANTS[variant])


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("n_agents", [1, 2, 3, 20])
@pytest.mark.parametrize("shared", [False, True])
def test_any_number_of_agents_learns(n_agents: int, shared: bool) -> None:
    kwargs = {"share_actor": shared, "share_critic": shared}
    model = make(discrete(n_agents), policy_kwargs=kwargs, ce_coef=0.01)
    before = flat_parameters(model)
    model.learn(8)
    after = flat_parameters(model)
    unchanged = [name for name in before if th.equal(before[name], after[name]) and not name.endswith("/lr")]
    assert not unchanged
    assert all(th.isfinite(value).all() for value in after.values())
    assert model.log_ent_coef.shape == (n_agents,)
    obs = np.zeros((2, n_agents, OBS), dtype=np.float32)
    assert model.q_value(obs, model.predict(obs)[0]).size == 2 * n_agents


@pytest.mark.parametrize(
    ("target", "expected"), [("auto", 0.7 * math.log(5)), ("auto_0.3", 0.3 * math.log(5)), (1.5, 1.5)]
)
@pytest.mark.parametrize("n_agents", [1, 3])
def test_target_entropy_is_a_fraction_of_the_uniform_policys(target: Any, expected: float, n_agents: int) -> None:
    assert make(discrete(n_agents), target_entropy=target).target_entropy == pytest.approx(expected)


@pytest.mark.parametrize("target", [-1.0, 0.0, 1.7, "auto_1.1", "auto_x"])
def test_an_entropy_that_no_policy_has_is_refused(target: Any) -> None:
    with refused(ValueError, "target_entropy", target, "pass 'auto'"):
        make(discrete(), target_entropy=target)


def test_predict_gives_numbers_of_actions_for_one_or_many_observations() -> None:
    env = discrete()
    model = make(env)
    obs = np.stack([env.observation_space.sample() for _ in range(5)])
    for deterministic in (False, True):
        actions, _ = model.predict(obs, deterministic=deterministic)
        assert actions.shape == (5, N)
        assert all(env.action_space.contains(action) for action in actions)
        assert model.predict(obs[0], deterministic=deterministic)[0].shape == (N,)
    with th.no_grad():
        likely = model.actor.log_prob(th.tensor(obs)).argmax(dim=2).numpy()
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], likely)


def test_values_are_those_of_each_agent() -> None:
    model = make(discrete(), ent_coef=0.5, ce_coef=0.1)
    obs = np.random.default_rng(0).normal(size=(4, N, OBS)).astype(np.float32)
    actions, _ = model.predict(obs)
    tensors = th.tensor(obs), th.tensor(actions)
    with th.no_grad():
        q = model.critic.values(*tensors).amin(dim=0)
        own = q.gather(2, tensors[1].unsqueeze(2)).squeeze(2)
        probabilities = model.actor.log_prob(tensors[0]).exp()
    np.testing.assert_allclose(model.q_value(obs, actions), own.numpy(), rtol=1e-5)
    # The exact value of agent 0, over all joint actions of the others
    bonus = -0.1 * (0.95 * probabilities[:, 1:] + 0.05 / ACTIONS).log().sum(dim=1)
    exact = th.zeros(4)
    for first, second in np.ndindex(ACTIONS, ACTIONS):
        joint = th.tensor([0, first, second]).expand(4, -1)
        with th.no_grad():
            q = model.critic.values(tensors[0], joint).amin(dim=0)[:, 0]
        weight = probabilities[:, 1, first] * probabilities[:, 2, second]
        own = probabilities[:, 0]
        exact += weight * (own * (q - 0.5 * own.log() + bonus)).sum(dim=1)
    np.testing.assert_allclose(model.soft_value(obs, n_samples=500)[:, 0], exact.numpy(), atol=5e-3)


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_replay_keeps_numbers_of_actions_and_each_agents_reward(optimize_memory_usage: bool) -> None:
    env = several(2, n_actions=ACTIONS, truncate=True)
    model = make(env, optimize_memory_usage=optimize_memory_usage, gradient_steps=-1).learn(40)
    batch = model.replay_buffer.sample(200)
    assert batch.actions.dtype == th.int64
    points = np.linspace(-1, 1, ACTIONS)[batch.actions.numpy()]
    np.testing.assert_allclose(batch.rewards.numpy(), -np.square(points - np.linspace(-0.5, 0.5, 3)), atol=1e-6)
    assert not batch.dones.any()


def test_it_learns_each_agents_best_action() -> None:
    env = Monitor(discrete(2, targets=[-1.0, 0.5], episode_length=1))
    model = make(env, ent_coef=0.05, learning_rate=1e-2, batch_size=32, buffer_size=1000).learn(300)
    obs = np.stack([env.observation_space.sample() for _ in range(20)])
    actions, _ = model.predict(obs, deterministic=True)
    assert (actions == [0, 3]).all()
    assert evaluate_policy(model, env, n_eval_episodes=3)[0] == pytest.approx(0)


def test_processes_run_as_one_process_does() -> None:
    runs = []
    for make_env in (DummyVecEnv, lambda functions: SubprocVecEnv(functions, start_method="fork")):
        env = make_env([lambda length=length: discrete(episode_length=length) for length in (3, 5)])
        runs.append(make(VecNormalize(env, norm_reward=False), gradient_steps=-1, ce_coef=0.1).learn(20))
        env.close()
    assert_same_parameters(*runs)


def test_a_loaded_model_acts_and_learns_as_the_saved_one(tmp_path: Path) -> None:
    options = {"ce_coef": 0.05, "ce_floor": "none", "ce_relative": True, "target_entropy": "auto_0.5"}
    model = make(discrete(), policy_kwargs={"share_critic": True}, **options).learn(12)
    model.save(tmp_path / "model")
    loaded = MASAC.load(tmp_path / "model", discrete())
    assert_same_parameters(model, loaded)
    assert loaded.ce_floor == "none"
    assert loaded.target_entropy == model.target_entropy
    model.save_replay_buffer(tmp_path / "buffer")
    loaded.load_replay_buffer(tmp_path / "buffer")
    for each in (model, loaded):
        each.set_logger(Logger(None, []))
        th.manual_seed(0)
        each.train(3, batch_size=4)
    assert_same_parameters(model, loaded)
    model.policy.save(tmp_path / "policy")
    alone = type(model.policy).load(tmp_path / "policy")
    obs = np.ones((3, OBS), dtype=np.float32)
    assert np.array_equal(model.predict(obs, deterministic=True)[0], alone.predict(obs, deterministic=True)[0])


def test_a_run_resumed_from_a_checkpoint_goes_on_exactly(tmp_path: Path) -> None:
    def fresh() -> DummyVecEnv:
        return DummyVecEnv([lambda: discrete(episode_length=7)])

    whole = make(fresh(), ce_coef=0.1).learn(13)
    whole.save_checkpoint(tmp_path / "run")
    whole.learn(12, reset_num_timesteps=False)
    resumed = MASAC.load_checkpoint(tmp_path / "run", fresh()).learn(12, reset_num_timesteps=False)
    assert_same_parameters(whole, resumed)


def test_a_single_agents_algorithm_learns_for_all() -> None:
    env = IndependentAgents(several(2, n_actions=ACTIONS))
    assert env.action_space == spaces.Discrete(ACTIONS)
    model = make_single(SACv2, env, gradient_steps=-1).learn(60)
    assert model.replay_buffer.sample(10).actions.shape == (10, 1)
    assert evaluate_policy(model, env, n_eval_episodes=6)[0] < 0


# ---------------------------------------------------------------- why there is a floor by default


def log_odds_after_driving_each_other_apart(ce_floor: str) -> float:
    """
    Two agents of two actions that nothing but the cross-entropy tells apart, with beta = 1.5 alpha.

    :param ce_floor: argument of MASAC
    :return: of the first action against the second, the larger one of both agents
    """
    env = MatrixGameEnv(np.zeros((2, 2)))
    arguments = {"ent_coef": 0.2, "ce_coef": 0.3, "learning_rate": 0.02, "batch_size": 16, "net_arch": [16]}
    model = make(env, ce_floor=ce_floor, learning_starts=100, **arguments).learn(50)
    model.set_logger(Logger(None, []))
    model.train(400, batch_size=16)
    with th.no_grad():
        log_prob = model.actor.log_prob(th.ones(1, 2, 1))[0]
    return (log_prob[:, 0] - log_prob[:, 1]).abs().max().item()


def test_a_floor_bounds_what_agents_do_to_each_other() -> None:
    """Each one's best log-odds are -beta/alpha times the other's: without a floor they grow as long as one trains."""
    bound = 1.5 * math.log((0.95 + 0.025) / 0.025)
    assert log_odds_after_driving_each_other_apart("product") < bound + 0.1
    assert log_odds_after_driving_each_other_apart("none") > 2 * bound


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "actions",
    [
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiDiscrete([3, 3], start=[1, 1]),
        spaces.MultiDiscrete([[3, 3], [3, 3]]),
    ],
    ids=str,
)
def test_agents_with_unlike_actions_are_refused(actions: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"(?s)action_space=.*same actions, numbered from 0.*ParallelEnvAdapter"):
        make(SpacesEnv(spaces.Box(-1.0, 1.0, (2, 3)), actions))


def test_what_is_for_continuous_actions_is_refused() -> None:
    with pytest.raises(ValueError, match="action_noise"):
        make(discrete(), action_noise=NormalActionNoise(np.zeros(N), np.ones(N)))
    with refused(ValueError, "ce_floor", "none", "pass 'product' or 'joint'"):
        make(ce_floor="none")
