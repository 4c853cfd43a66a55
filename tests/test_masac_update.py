"""A whole update of MASAC against another one, written agent by agent with plain layers and autograd, in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from agents import KINDS, both_kinds, env_of, make
from float64 import to_double
from stable_baselines3.common.logger import Logger
from torch.nn import functional as F

from sb3_sac_variants import MASAC
from sb3_sac_variants.common.equations.types import Batch, Noise
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.masac.losses import agent_policy_improvement, agent_soft_value

needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))

#: batch, agents, numbers in an observation and in a continuous action, discrete actions
B, N, OBS, ACT, ACTIONS = 6, 3, 4, 2, KINDS["discrete"]["n_actions"]
GAMMA, TAU, RATE, ALPHA = 0.9, 0.1, 2.0**-6, 0.25

#: what is checked beyond the defaults
VARIANTS: dict[str, dict[str, Any]] = {
    "no_cross_entropy": {},
    "shared_actor": {"policy_kwargs": {"net_arch": [8], "share_actor": True}},
    "shared_critic": {"policy_kwargs": {"net_arch": [8], "share_critic": True}, "ce_coef": 0.2},
    "apart": {"ce_coef": 0.2},
    "together": {"ce_coef": 0.1, "ce_convention": "similarity"},
    "jointly_floored": {"ce_coef": 0.1, "ce_convention": "similarity", "ce_floor": "joint_0.2"},
    "without_a_floor": {"ce_coef": 0.1, "ce_convention": "similarity", "ce_floor": "none"},
    "in_my_place": {"ce_coef": 0.2, "ce_obs": "own"},
    "in_my_place_with_a_shared_actor": {
        "ce_coef": -0.1,
        "ce_obs": "own",
        "policy_kwargs": {"net_arch": [8], "share_actor": True},
    },
    "relative_and_centered": {"ce_coef": 0.5, "ce_relative": True, "ce_center": True},
    "fixed_temperature": {"ent_coef": ALPHA, "ce_coef": 0.2, "reward_scale": 3.0},
    "three_critics": {"policy_kwargs": {"net_arch": [8, 6], "n_critics": 3}},
    "linear": {"policy_kwargs": {"net_arch": []}, "ce_coef": 0.1},
}
#: what one kind of actions has no use for: a joint density, and densities without a bound
REFUSED = {("discrete", "jointly_floored"), ("continuous", "without_a_floor")}


def model_of(kind: str, **kwargs: Any) -> MASAC:
    arguments = {"ent_coef": f"auto_{ALPHA}", "gamma": GAMMA, "tau": TAU, "learning_rate": RATE, "net_arch": [8]}
    model = make(env_of(kind, N, OBS, ACT), **{**arguments, **kwargs})
    model.critic_target_tracker.configure(TAU, 1, 0)  # as train() does
    return model


def batch_and_noise(kind: str, dtype: th.dtype = th.float64) -> tuple[Batch, Noise]:
    rng = np.random.default_rng(3)
    obs, next_obs = (th.tensor(rng.normal(size=(B, N, OBS)), dtype=dtype) for _ in range(2))
    actions = th.tensor(rng.integers(0, ACTIONS, (B, N)))
    if kind == "continuous":
        actions = th.tensor(rng.uniform(-1, 1, (B, N * ACT)), dtype=dtype)
    dones = th.tensor(rng.random((B, 1)) < 0.3, dtype=dtype)
    rewards, discounts = th.tensor(rng.normal(size=(B, N)), dtype=dtype), th.full((B, N), GAMMA, dtype=dtype)
    shape = (B, N, ACT) if kind == "continuous" else (B, N)
    noise = (th.tensor(rng.normal(size=shape), dtype=dtype) for _ in range(2))
    return Batch(obs, actions, next_obs, dones, rewards, discounts), Noise(*noise)


class PlainAgents:
    """
    The algorithm once more, one network and one agent after the other.

    :param model: where the weights come from
    """

    def __init__(self, model: MASAC):
        self.model = model
        self.actors = self.unstack(model.actor.networks)
        self.critics = self.by_agent(self.unstack(model.critic.q_networks))
        self.targets = self.by_agent(self.unstack(model.critic_target.q_networks))
        self.log_alpha = [th.tensor(math.log(ALPHA), dtype=th.float64, requires_grad=True) for _ in range(N)]

    @staticmethod
    def unstack(networks: Any) -> list[list[th.Tensor]]:
        layers = networks.stacked
        return [
            [tensor[n].detach().clone().requires_grad_() for layer in layers for tensor in (layer.weight, layer.bias)]
            for n in range(layers[0].weight.shape[0])
        ]

    def by_agent(self, networks: list[list[th.Tensor]]) -> list[list[list[th.Tensor]]]:
        """Networks of agent i as the element i, which are the same for all if they share them."""
        if self.model.policy.share_critic:
            return [networks] * N
        return [networks[i::N] for i in range(N)]

    @staticmethod
    def mlp(parameters: list[th.Tensor], x: th.Tensor) -> th.Tensor:
        for index in range(0, len(parameters), 2):
            x = x @ parameters[index] + parameters[index + 1]
            x = x if index == len(parameters) - 2 else F.relu(x)
        return x

    @staticmethod
    def identity(agent: int, n: int) -> th.Tensor:
        return F.one_hot(th.tensor(agent), N).double().expand(n, -1)

    def actor_output(self, agent: int, obs: th.Tensor) -> th.Tensor:
        """What an agent's actor computes at an observation of its own."""
        if self.model.policy.share_actor:
            return self.mlp(self.actors[0], th.cat([obs, self.identity(agent, len(obs))], dim=1))
        return self.mlp(self.actors[agent], obs)

    def others(self, agent: int, obs: th.Tensor) -> list[tuple[int, th.Tensor]]:
        """The other agents, and the observations at which the cross-entropy asks them."""
        place = self.model.ce_obs
        return [(j, obs[:, agent if place == "own" else j]) for j in range(N) if j != agent]

    def beta(self, alpha: float) -> float:
        beta = self.model.ce_coef * (alpha if self.model.ce_relative else 1)
        return beta if self.model.ce_convention == "objective" else -beta

    def update(self, batch: Batch, noise: Noise) -> dict[str, float]:
        model, alphas = self.model, [x.exp().item() for x in self.log_alpha]
        obs, next_obs = batch.observations, batch.next_observations
        losses = {"critic_loss": 0.0, "actor_loss": 0.0, "ent_coef_loss": 0.0, "entropy": 0.0}
        drawn = [self.draw(i, next_obs, noise.next_actions) for i in range(N)]
        targets = []
        for i in range(N):
            value = self.value(self.targets[i], i, next_obs, drawn, alphas[i])
            not_over = 1 - batch.dones[:, 0]
            targets.append((model.reward_scale * batch.rewards[:, i] + GAMMA * not_over * value).detach())
        for i in range(N):
            for network in self.critics[i]:
                loss = 0.5 * F.mse_loss(self.q_of_stored(network, i, batch), targets[i])
                losses["critic_loss"] += loss.item()
                loss.backward()
        self.step(self.critics)
        actor_loss = th.zeros((), dtype=th.float64)
        drawn = [self.draw(i, obs, noise.actions) for i in range(N)]
        for i in range(N):
            actor_loss = actor_loss - self.value(self.critics[i], i, obs, drawn, alphas[i]).mean()
        entropies = [self.entropy(i, obs, drawn[i]).detach() for i in range(N)]
        actor_loss.backward()
        self.step(self.actors)
        losses["actor_loss"] = actor_loss.item()
        losses["entropy"] = sum(entropy.item() for entropy in entropies) / N
        losses["entropy_min"] = min(entropy.item() for entropy in entropies)
        losses["ent_coef_max"] = max(alphas)
        if model.temperature.learned:
            for log_alpha, entropy in zip(self.log_alpha, entropies, strict=True):
                loss = -log_alpha.exp() * (model.target_entropy - entropy)
                losses["ent_coef_loss"] += loss.item()
                loss.backward()
            self.step(self.log_alpha)
        for leader, follower in zip(flat(self.critics), flat(self.targets), strict=True):
            follower.data.lerp_(leader.data, TAU)
        return losses

    @staticmethod
    def step(networks: Any) -> None:
        """The first step of Adam."""
        optimizer = th.optim.Adam(flat(networks), lr=RATE)
        optimizer.step()
        optimizer.zero_grad()

    def assert_same_as(self, model: MASAC) -> None:
        other = type(self)(model)
        for name in ("actors", "critics", "targets"):
            mine, theirs = flat(getattr(self, name)), flat(getattr(other, name))
            for index, (one, two) in enumerate(zip(mine, theirs, strict=True)):
                th.testing.assert_close(two, one, rtol=1e-5, atol=1e-7, msg=lambda t, n=name, k=index: f"{n} {k}: {t}")


class ContinuousAgents(PlainAgents):
    """Draws an action and its log-probability."""

    def policy(self, agent: int, obs: th.Tensor) -> th.distributions.TransformedDistribution:
        output = self.actor_output(agent, obs)
        mean, log_std = output[:, :ACT], output[:, ACT:]
        return th.distributions.TransformedDistribution(
            th.distributions.Normal(mean, log_std.clamp(-20, 2).exp()), th.distributions.TanhTransform(cache_size=1)
        )

    def draw(self, agent: int, obs: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        distribution = self.policy(agent, obs[:, agent])
        base = distribution.base_dist
        action = distribution.transforms[0](base.mean + base.stddev * noise[:, agent])
        return action, distribution.log_prob(action).sum(dim=1)

    def bonus(self, agent: int, obs: th.Tensor, action: th.Tensor, alpha: float) -> th.Tensor:
        beta = self.beta(alpha)
        kind, _, share = self.model.ce_floor.partition("_")
        eps = float(share or 0.05)
        total = th.zeros(B, dtype=th.float64)
        for other, where in self.others(agent, obs):
            distribution = self.policy(other, where).base_dist
            frozen = th.distributions.Normal(distribution.mean.detach(), distribution.stddev.detach())
            density = (frozen.log_prob(th.atanh(action)) - th.log(1 - action**2)).exp()
            if kind == "joint":
                log_prob = ((1 - eps) * density.prod(dim=1) + eps / 2**ACT).log()
            else:
                log_prob = ((1 - eps) * density + eps / 2).log().sum(dim=1)
            total = total - beta * (log_prob.clamp(max=2.0 * ACT) if beta < 0 else log_prob)
        return total - total.detach().mean() if self.model.ce_center else total

    def q(self, network: list[th.Tensor], agent: int, obs: th.Tensor, actions: list[th.Tensor]) -> th.Tensor:
        order, identity = range(N), []
        if self.model.policy.share_critic:
            order, identity = [*range(agent, N), *range(agent)], [self.identity(agent, B)]
        joint = [*(obs[:, j] for j in order), *(actions[j] for j in order), *identity]
        return self.mlp(network, th.cat(joint, dim=1))[:, 0]

    def q_of_stored(self, network: list[th.Tensor], agent: int, batch: Batch) -> th.Tensor:
        return self.q(network, agent, batch.observations, list(batch.actions.view(B, N, ACT).unbind(1)))

    def value(self, networks: Any, agent: int, obs: th.Tensor, drawn: list[Any], alpha: float) -> th.Tensor:
        """Soft value with the cross-entropy, at the drawn actions."""
        actions = [action if j == agent else action.detach() for j, (action, _) in enumerate(drawn)]
        min_q = th.stack([self.q(network, agent, obs, actions) for network in networks]).min(dim=0).values
        action, log_prob = drawn[agent]
        return min_q - alpha * log_prob + self.bonus(agent, obs, action, alpha)

    def entropy(self, agent: int, obs: th.Tensor, drawn: Any) -> th.Tensor:
        return -drawn[1].mean()


class DiscreteAgents(PlainAgents):
    """Draws the number of an action, and sums over all of them where it can."""

    def policy(self, agent: int, obs: th.Tensor) -> th.Tensor:
        """Log-probabilities of the agent's actions at an observation of its own."""
        return self.actor_output(agent, obs).log_softmax(dim=1)

    def draw(self, agent: int, obs: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """The first action up to which the probabilities sum to the noise's rank among normal numbers."""
        probabilities = self.policy(agent, obs[:, agent]).exp().detach()
        ranks = th.distributions.Normal(0.0, 1.0).cdf(noise[:, agent])
        return th.stack([(p.cumsum(0) >= rank).nonzero()[0, 0] for p, rank in zip(probabilities, ranks, strict=True)])

    def q(self, network: list[th.Tensor], agent: int, obs: th.Tensor, actions: list[th.Tensor]) -> th.Tensor:
        """Q at all of the agent's actions."""
        order = [(agent + k) % N for k in range(N)]
        inputs = [obs[:, j] for j in order] + [F.one_hot(actions[j], ACTIONS).double() for j in order[1:]]
        if self.model.policy.share_critic:
            inputs.append(self.identity(agent, len(obs)))
        return self.mlp(network, th.cat(inputs, dim=1))

    def q_of_stored(self, network: list[th.Tensor], agent: int, batch: Batch) -> th.Tensor:
        stored = list(batch.actions.unbind(1))
        return self.q(network, agent, batch.observations, stored)[range(B), stored[agent]]

    def value(self, networks: Any, agent: int, obs: th.Tensor, drawn: list[Any], alpha: float) -> th.Tensor:
        """Soft value with the cross-entropy, action by action."""
        q = th.stack([self.q(network, agent, obs, drawn) for network in networks]).min(dim=0).values
        log_prob, beta = self.policy(agent, obs[:, agent]), self.beta(alpha)
        eps = 0.0 if self.model.ce_floor == "none" else 0.05
        bonus = th.zeros_like(log_prob)
        for other, where in self.others(agent, obs):
            density = self.policy(other, where).exp().detach()
            bonus = bonus - beta * ((1 - eps) * density + eps / ACTIONS).log()
        if self.model.ce_center:
            bonus = bonus - (log_prob.exp() * bonus).sum(dim=1).mean().detach()
        return sum(log_prob[:, a].exp() * (q[:, a] - alpha * log_prob[:, a] + bonus[:, a]) for a in range(ACTIONS))

    def entropy(self, agent: int, obs: th.Tensor, drawn: Any) -> th.Tensor:
        log_prob = self.policy(agent, obs[:, agent])
        return -(log_prob.exp() * log_prob).sum(dim=1).mean()


def plain_agents(kind: str, model: MASAC) -> Any:
    return (ContinuousAgents if kind == "continuous" else DiscreteAgents)(model)


def flat(value: Any) -> list[th.Tensor]:
    """All tensors in lists of lists, those that are in several once."""
    found = [value] if isinstance(value, th.Tensor) else [tensor for part in value for tensor in flat(part)]
    return [*dict.fromkeys(found)]


@pytest.mark.parametrize(
    ("kind", "variant"), [(kind, name) for kind in KINDS for name in VARIANTS if (kind, name) not in REFUSED]
)
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_update_is_that_of_agents_one_by_one(kind: str, variant: str) -> None:
    model = to_double(model_of(kind, **VARIANTS[variant]))
    batch, noise = batch_and_noise(kind)
    plain = plain_agents(kind, model)
    expected = plain.update(batch, noise)
    with th.no_grad():
        metrics = model.update(batch, noise)
    unlogged = set() if model.temperature.learned else {"ent_coef_loss"}
    assert expected.keys() - metrics.keys() == unlogged
    for name in expected.keys() - unlogged:
        assert metrics[name].item() == pytest.approx(expected[name], rel=1e-6), name
    plain.assert_same_as(model)
    if model.temperature.learned:
        assert model.log_ent_coef.tolist() == pytest.approx([x.item() for x in plain.log_alpha], rel=1e-6)


@pytest.mark.parametrize("share_critic", [False, True])
def test_gradient_of_a_q_reaches_its_own_agents_action_only(share_critic: bool) -> None:
    model = to_double(model_of("continuous", policy_kwargs={"share_critic": share_critic}))
    batch, noise = batch_and_noise("continuous")
    actions = batch.actions.view(B, N, ACT)
    own = model.actor.sample(batch.observations, noise.actions)._replace(actions=actions.clone().requires_grad_())
    values = model.critic.min_q_of_own_action(batch.observations, own)
    th.testing.assert_close(values, model.critic.min_q(batch.observations, own))
    for i in range(N):
        gradient = th.autograd.grad(values[:, i].sum(), own.actions, retain_graph=True)[0]
        free = actions.clone().requires_grad_()
        everything = th.autograd.grad(model.critic.evaluate(batch.observations, free).amin(dim=0)[:, i].sum(), free)[0]
        th.testing.assert_close(gradient[:, i], everything[:, i])
        assert everything.abs().amin(dim=(0, 2)).gt(0).all()
        assert not gradient[:, [j for j in range(N) if j != i]].any()


@both_kinds
def test_agents_without_a_term_between_them_learn_as_if_alone(kind: str) -> None:
    """Another agent's rewards are no concern of an agent's critics, actor and temperature."""
    batch, noise = batch_and_noise(kind, th.float32)
    changed = batch._replace(rewards=batch.rewards * th.tensor([1.0, 1.0, -5.0]))
    one, other = updated(kind, batch, noise), updated(kind, changed, noise)
    for agent, same in ((0, True), (1, True), (2, False)):
        for networks in ("critics", "actors"):
            left, right = (flat(getattr(plain, networks)[agent]) for plain in (one, other))
            assert all(th.equal(a, b) for a, b in zip(left, right, strict=True)) == same


def updated(kind: str, batch: Batch, noise: Noise) -> PlainAgents:
    model = model_of(kind)
    with th.no_grad():
        model.update(batch, noise)
    return plain_agents(kind, model)


def test_policies_of_others_are_constants_in_the_cross_entropy() -> None:
    """With the Q-functions at zero and no entropy, agent i's gradient is that of its own action only."""
    model = to_double(model_of("continuous", ce_coef=1.0, ent_coef=0.0))
    batch, noise = batch_and_noise("continuous")
    for parameter in model.critic.parameters():
        parameter.data.zero_()
    plain = ContinuousAgents(model)
    total = th.zeros((), dtype=th.float64)
    for i in range(N):
        action, _ = plain.draw(i, batch.observations, noise.actions)
        total = total - plain.bonus(i, batch.observations, action, 0.0).mean()
    total.backward()
    alpha, sample = model.temperature.value, model.actor.sample(batch.observations, noise.actions)
    log_densities = model.actor.log_densities(batch.observations, sample, "theirs")
    bonus = model.cross_entropy.bonus(log_densities, sample.weights, alpha)
    q_values = model.critic.min_q_of_own_action(batch.observations, sample)
    agent_policy_improvement(agent_soft_value(q_values, sample, alpha, bonus)).backward()
    expected = [tensor.grad for actor in plain.actors for tensor in actor]
    found = [
        tensor
        for n in range(N)
        for layer in model.actor.networks.stacked
        for tensor in (layer.weight.grad[n], layer.bias.grad[n])
    ]
    for one, two in zip(found, expected, strict=True):
        th.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- engines


def trained(kind: str, engine: str, device: str, **kwargs: Any) -> Any:
    model = make(env_of(kind, N, OBS, ACT), engine=engine, device=device, batch_size=8, **kwargs)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    for _ in range(50):
        obs, next_obs = (rng.normal(size=(1, N, OBS)).astype(np.float32) for _ in range(2))
        info = {"agent_rewards": rng.normal(size=N)}
        action = rng.integers(0, ACTIONS, (1, N))
        if kind == "continuous":
            action = rng.uniform(-1, 1, (1, N, ACT)).astype(np.float32)
        model.replay_buffer.add(obs, next_obs, action, np.zeros(1), rng.random(1) < 0.1, [info])
    for gradient_steps in (1, 4, 2):
        th.manual_seed(gradient_steps)
        model.train(gradient_steps, batch_size=8)
    return model


def assert_engines_agree(kind: str, engine: str, device: str = "cpu", **kwargs: Any) -> None:
    reference, model = (trained(kind, name, device, **kwargs) for name in ("eager", engine))
    one, two = (th.nn.utils.parameters_to_vector(each.policy.parameters()).cpu() for each in (reference, model))
    th.testing.assert_close(two, one, rtol=1e-4, atol=2e-6)
    assert model.updater.metrics.means() == pytest.approx(reference.updater.metrics.means(), rel=1e-3, abs=1e-4)
    th.testing.assert_close(model.log_ent_coef.cpu(), reference.log_ent_coef.cpu())


ENGINE_VARIANTS = ["no_cross_entropy", "shared_critic", "in_my_place_with_a_shared_actor"]


@needs_compiler
@pytest.mark.slow
@both_kinds
@pytest.mark.parametrize("variant", ENGINE_VARIANTS)
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_compiled_update_computes_the_eager_numbers(kind: str, variant: str) -> None:
    assert_engines_agree(kind, "compile", **VARIANTS[variant])


@pytest.mark.cuda
@both_kinds
@pytest.mark.parametrize("engine", ["cudagraph", "compile"])
@pytest.mark.parametrize("variant", ENGINE_VARIANTS)
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_cuda_engines_compute_the_eager_numbers(kind: str, engine: str, variant: str) -> None:
    assert_engines_agree(kind, engine, "cuda", **VARIANTS[variant])
