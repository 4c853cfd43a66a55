"""A whole update of MASAC against another one, written agent by agent with plain layers and autograd, in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from agents import AgentsEnv, make
from float64 import to_double
from stable_baselines3.common.logger import Logger
from torch.nn import functional as F

from sb3_sac_variants import MASAC
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.masac.losses import agent_policy_improvement, agent_soft_value
from sb3_sac_variants.masac.masac import Noise

needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported()))
needs_cuda = pytest.mark.skipif(not th.cuda.is_available(), reason="no CUDA device")

B, N, OBS, ACT = 6, 3, 4, 2
GAMMA, TAU, RATE, ALPHA = 0.9, 0.1, 2.0**-6, 0.25

#: what is checked beyond the defaults
VARIANTS: dict[str, dict[str, Any]] = {
    "no_cross_entropy": {},
    "shared_actor": {"policy_kwargs": {"net_arch": [8], "share_actor": True}},
    "shared_critic": {"policy_kwargs": {"net_arch": [8], "share_critic": True}, "ce_coef": 0.2},
    "apart": {"ce_coef": 0.2},
    "together_jointly_floored": {"ce_coef": 0.1, "ce_convention": "similarity", "ce_floor": "joint_0.2"},
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


def model_of(**kwargs: Any) -> MASAC:
    arguments = {"ent_coef": f"auto_{ALPHA}", "gamma": GAMMA, "tau": TAU, "learning_rate": RATE, "net_arch": [8]}
    model = make(AgentsEnv(N, OBS, ACT), **{**arguments, **kwargs})
    model.critic_target_tracker.configure(TAU, 1, 0)  # as train() does
    return model


def batch_and_noise(dtype: th.dtype = th.float64) -> tuple[Batch, Noise]:
    rng = np.random.default_rng(3)
    arrays = [
        rng.normal(size=(B, N, OBS)),
        rng.uniform(-1, 1, (B, N * ACT)),
        rng.normal(size=(B, N, OBS)),
        (rng.random((B, 1)) < 0.3).astype(float),
        rng.normal(size=(B, N)),
        np.full((B, N), GAMMA),
    ]
    noise = [rng.normal(size=(B, N, ACT)) for _ in range(2)]
    return Batch(*(th.tensor(x, dtype=dtype) for x in arrays)), Noise(*(th.tensor(x, dtype=dtype) for x in noise))


class PlainAgents:
    """
    The algorithm once more, with a list of layers for each network and one optimiser for each agent's networks.

    :param model: where the weights come from
    """

    def __init__(self, model: MASAC):
        self.model = model
        self.shared = model.policy.share_actor
        self.actors = self.unstack(model.actor.networks)
        critics = self.unstack(model.critic.q_networks)
        self.shared_critic = model.policy.share_critic
        self.critics = self.by_agent(critics)
        self.targets = self.by_agent(self.unstack(model.critic_target.q_networks))
        self.log_alpha = [th.tensor(math.log(ALPHA), dtype=th.float64, requires_grad=True) for _ in range(N)]

    @staticmethod
    def unstack(networks: Any) -> list[list[th.Tensor]]:
        layers = [layer for layer in networks.layers if hasattr(layer, "weight")]
        return [
            [
                tensor.detach().clone().requires_grad_()
                for layer in layers
                for tensor in (layer.weight[n].T, layer.bias[n, 0])
            ]
            for n in range(layers[0].weight.shape[0])
        ]

    def by_agent(self, networks: list[list[th.Tensor]]) -> list[list[list[th.Tensor]]]:
        """Networks of agent i as the element i, which are the same for all if they share them."""
        if self.shared_critic:
            return [networks] * N
        return [networks[i::N] for i in range(N)]

    @staticmethod
    def mlp(parameters: list[th.Tensor], x: th.Tensor) -> th.Tensor:
        for index in range(0, len(parameters), 2):
            x = F.linear(x, parameters[index], parameters[index + 1])
            x = x if index == len(parameters) - 2 else F.relu(x)
        return x

    def policy(self, agent: int, obs: th.Tensor) -> th.distributions.TransformedDistribution:
        if self.shared:
            identity = F.one_hot(th.tensor(agent), N).double().expand(len(obs), -1)
            output = self.mlp(self.actors[0], th.cat([obs, identity], dim=1))
        else:
            output = self.mlp(self.actors[agent], obs)
        mean, log_std = output[:, :ACT], output[:, ACT:]
        return th.distributions.TransformedDistribution(
            th.distributions.Normal(mean, log_std.clamp(-20, 2).exp()), th.distributions.TanhTransform(cache_size=1)
        )

    def act(self, agent: int, obs: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        distribution = self.policy(agent, obs[:, agent])
        base = distribution.base_dist
        u = base.mean + base.stddev * noise[:, agent]
        action = distribution.transforms[0](u)
        return action, distribution.log_prob(action).sum(dim=1)

    def bonus(self, agent: int, obs: th.Tensor, action: th.Tensor, alpha: float) -> th.Tensor:
        model = self.model
        beta = model.ce_coef * (alpha if model.ce_relative else 1)
        beta = beta if model.ce_convention == "objective" else -beta
        kind, _, share = model.ce_floor.partition("_")
        eps = float(share or 0.05)
        total = th.zeros(B, dtype=th.float64)
        for other in set(range(N)) - {agent}:
            where = obs[:, agent] if model.ce_obs == "own" else obs[:, other]
            distribution = self.policy(other, where).base_dist
            frozen = th.distributions.Normal(distribution.mean.detach(), distribution.stddev.detach())
            u = th.atanh(action)
            density = (frozen.log_prob(u) - th.log(1 - action**2)).exp()
            if kind == "joint":
                log_prob = ((1 - eps) * density.prod(dim=1) + eps / 2**ACT).log()
            else:
                log_prob = ((1 - eps) * density + eps / 2).log().sum(dim=1)
            total = total - beta * (log_prob.clamp(max=2.0 * ACT) if beta < 0 else log_prob)
        return total - total.detach().mean() if model.ce_center else total

    def joint(self, agent: int, obs: th.Tensor, actions: list[th.Tensor]) -> th.Tensor:
        if not self.shared_critic:
            return th.cat([obs.flatten(1), *actions], dim=1)
        order = [*range(agent, N), *range(agent)]
        identity = F.one_hot(th.tensor(agent), N).double().expand(B, -1)
        return th.cat([*(obs[:, j] for j in order), *(actions[j] for j in order), identity], dim=1)

    def min_q(self, networks: list[list[th.Tensor]], joint: th.Tensor) -> th.Tensor:
        return th.stack([self.mlp(network, joint)[:, 0] for network in networks]).min(dim=0).values

    def update(self, batch: Batch, noise: Noise) -> dict[str, float]:
        model, alphas = self.model, [x.exp().item() for x in self.log_alpha]
        losses = {"critic_loss": 0.0, "actor_loss": 0.0, "ent_coef_loss": 0.0, "entropy": 0.0}
        next_actions, next_log_probs = zip(
            *(self.act(i, batch.next_observations, noise.next_actions) for i in range(N)), strict=True
        )
        targets = []
        for i in range(N):
            value = self.min_q(self.targets[i], self.joint(i, batch.next_observations, list(next_actions)))
            value = value - alphas[i] * next_log_probs[i]
            value = value + self.bonus(i, batch.next_observations, next_actions[i], alphas[i])
            not_over = 1 - batch.dones[:, 0]
            targets.append((model.reward_scale * batch.rewards[:, i] + GAMMA * not_over * value).detach())
        stored = list(batch.actions.view(B, N, ACT).unbind(1))
        for i in range(N):
            for network in self.critics[i]:
                q = self.mlp(network, self.joint(i, batch.observations, stored))[:, 0]
                loss = 0.5 * F.mse_loss(q, targets[i])
                losses["critic_loss"] += loss.item()
                loss.backward()
        networks = [network for agent in self.critics[: 1 if self.shared_critic else N] for network in agent]
        for network in networks:
            optimizer = th.optim.Adam(network, lr=RATE)
            optimizer.step()
            optimizer.zero_grad()
        actor_loss, log_probs = th.zeros((), dtype=th.float64), []
        drawn = [self.act(i, batch.observations, noise.actions) for i in range(N)]
        for i, (action, log_prob) in enumerate(drawn):
            actions = [a if j == i else a.detach() for j, (a, _) in enumerate(drawn)]
            value = self.min_q(self.critics[i], self.joint(i, batch.observations, actions)) - alphas[i] * log_prob
            actor_loss = actor_loss - (value + self.bonus(i, batch.observations, action, alphas[i])).mean()
            log_probs.append(log_prob.detach())
        optimizer = th.optim.Adam([tensor for actor in self.actors for tensor in actor], lr=RATE)
        optimizer.zero_grad()
        actor_loss.backward()
        optimizer.step()
        losses["actor_loss"] = actor_loss.item()
        for i in range(N):
            losses["entropy"] -= log_probs[i].mean().item() / N
            if not model.temperature.learned:
                continue
            loss = -(self.log_alpha[i].exp() * (log_probs[i] - ACT)).mean()
            losses["ent_coef_loss"] += loss.item()
            optimizer = th.optim.Adam([self.log_alpha[i]], lr=RATE)
            loss.backward()
            optimizer.step()
        own = slice(0, 1 if self.shared_critic else N)
        for leader, follower in zip(flat(self.critics[own]), flat(self.targets[own]), strict=True):
            follower.data.lerp_(leader.data, TAU)
        return losses

    def assert_same_as(self, model: MASAC) -> None:
        other = PlainAgents(model)
        for name in ("actors", "critics", "targets"):
            mine, theirs = flat(getattr(self, name)), flat(getattr(other, name))
            for index, (one, two) in enumerate(zip(mine, theirs, strict=True)):
                th.testing.assert_close(two, one, rtol=1e-5, atol=1e-7, msg=lambda t, n=name, k=index: f"{n} {k}: {t}")


def flat(value: Any) -> list[th.Tensor]:
    return [value] if isinstance(value, th.Tensor) else [tensor for part in value for tensor in flat(part)]


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


@pytest.mark.parametrize("share_critic", [False, True])
def test_gradient_of_a_q_reaches_its_own_agents_action_only(share_critic: bool) -> None:
    model = to_double(model_of(policy_kwargs={"share_critic": share_critic}))
    batch, noise = batch_and_noise()
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


def test_agents_without_a_term_between_them_learn_as_if_alone() -> None:
    """Another agent's rewards are no concern of an agent's critics, actor and temperature."""
    batch, noise = batch_and_noise(th.float32)
    changed = batch._replace(rewards=batch.rewards * th.tensor([1.0, 1.0, -5.0]))
    one, other = updated(batch, noise), updated(changed, noise)
    for agent, same in ((0, True), (1, True), (2, False)):
        for networks in ("critics", "actors"):
            left, right = (flat(getattr(plain, networks)[agent]) for plain in (one, other))
            assert all(th.equal(a, b) for a, b in zip(left, right, strict=True)) == same


def updated(batch: Batch, noise: Noise) -> PlainAgents:
    model = model_of()
    with th.no_grad():
        model.update(batch, noise)
    return PlainAgents(model)


def test_policies_of_others_are_constants_in_the_cross_entropy() -> None:
    """With the Q-functions at zero and no entropy, agent i's gradient is that of its own action only."""
    model = to_double(model_of(ce_coef=1.0, ent_coef=0.0))
    batch, noise = batch_and_noise()
    for parameter in model.critic.parameters():
        parameter.data.zero_()
    plain = PlainAgents(model)
    total = th.zeros((), dtype=th.float64)
    for i in range(N):
        action, _ = plain.act(i, batch.observations, noise.actions)
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
        for tensor in (layer.weight.grad[n].T, layer.bias.grad[n, 0])
    ]
    for one, two in zip(found, expected, strict=True):
        th.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------- engines


def trained(engine: str, device: str, **kwargs: Any) -> Any:
    model = make(AgentsEnv(N, OBS, ACT), engine=engine, device=device, batch_size=8, **kwargs)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    for _ in range(50):
        obs, next_obs = (rng.normal(size=(1, N, OBS)).astype(np.float32) for _ in range(2))
        info = {"agent_rewards": rng.normal(size=N)}
        action = rng.uniform(-1, 1, (1, N, ACT)).astype(np.float32)
        model.replay_buffer.add(obs, next_obs, action, np.zeros(1), rng.random(1) < 0.1, [info])
    for gradient_steps in (1, 4, 2):
        th.manual_seed(gradient_steps)
        model.train(gradient_steps, batch_size=8)
    return model


def assert_engines_agree(engine: str, device: str = "cpu", **kwargs: Any) -> None:
    reference, model = trained("eager", device, **kwargs), trained(engine, device, **kwargs)
    one, two = (th.nn.utils.parameters_to_vector(each.policy.parameters()).cpu() for each in (reference, model))
    th.testing.assert_close(two, one, rtol=1e-4, atol=2e-6)
    assert model.updater.metrics.means() == pytest.approx(reference.updater.metrics.means(), rel=1e-3, abs=1e-4)
    th.testing.assert_close(model.log_ent_coef.cpu(), reference.log_ent_coef.cpu())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["no_cross_entropy", "shared_critic", "in_my_place_with_a_shared_actor"])
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_compiled_update_computes_the_eager_numbers(variant: str) -> None:
    assert_engines_agree("compile", **VARIANTS[variant])


@needs_cuda
@pytest.mark.parametrize("engine", ["cudagraph", "compile"])
@pytest.mark.parametrize("variant", ["no_cross_entropy", "shared_critic", "in_my_place_with_a_shared_actor"])
@pytest.mark.filterwarnings("ignore:ce_coef")
def test_cuda_engines_compute_the_eager_numbers(engine: str, variant: str) -> None:
    assert_engines_agree(engine, "cuda", **VARIANTS[variant])
