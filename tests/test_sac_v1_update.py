"""
Whole updates of SACv1 in float64 against the paper's algorithm box, written once more: one network at a time, plain
autograd and torch.optim.Adam, loops over states, components and critics, and nothing of the package.
"""

import copy
import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from float64 import AnyFloatExtractor, to_double
from gymnasium import spaces
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SACv1
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.common.networks import actors

OBS_DIM, ACTION_DIM, B = 3, 2, 6
# Powers of two, which the float32 tensors of learners and trackers hold exactly
RATE, TAU = 2.0**-8, 2.0**-5


class Spaces(gym.Env):
    """Never stepped: only its spaces are looked at."""

    observation_space = spaces.Box(-1.0, 1.0, (OBS_DIM,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)


def make_model(**arguments: Any) -> SACv1:
    policy_kwargs = {
        "net_arch": [5, 4],
        "features_extractor_class": AnyFloatExtractor,
        **arguments.pop("policy_kwargs", {}),
    }
    arguments = {"learning_rate": RATE, "tau": TAU, "policy_kwargs": policy_kwargs, "buffer_size": 10, **arguments}
    model = SACv1("MlpPolicy", Spaces(), device="cpu", seed=0, engine="eager", **arguments)
    model.set_logger(Logger(None, []))
    return to_double(model)


Layers = list[tuple[th.Tensor, th.Tensor]]


def leaf(tensor: th.Tensor) -> th.Tensor:
    return tensor.detach().clone().requires_grad_()


def copies(layers: list[Any]) -> Layers:
    """Weights and biases ``(in, out)`` and ``(out,)`` of linear layers, as new leaves."""
    return [(leaf(layer.weight.T), leaf(layer.bias)) for layer in layers]


def linear_layers(module: th.nn.Module) -> list[th.nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, th.nn.Linear)]


def stacked_copies(networks: Any, index: int) -> Layers:
    """As :func:`copies`, of one of several networks that are evaluated together."""
    layers = [layer for layer in networks.layers if hasattr(layer, "weight")]
    return [(leaf(layer.weight[index]), leaf(layer.bias[index, 0])) for layer in layers]


def mlp(layers: Layers, x: th.Tensor) -> th.Tensor:
    for weight, bias in layers[:-1]:
        x = th.clamp(x @ weight + bias, min=0)
    return x @ layers[-1][0] + layers[-1][1]


class Reference:
    """Haarnoja et al. 2018, Algorithm 1.

    :param model: whose weights and arguments to begin with
    """

    def __init__(self, model: SACv1):
        self.policy_gradient, self.policy_q = model.policy_gradient, model.policy_q
        self.n_components = model.policy.n_components
        self.reward_scale, self.target_entropy = model.reward_scale, -float(ACTION_DIM)
        self.tau, self.interval, self.steps = model.tau, model.target_update_interval, 0
        heads = [model.actor.mu, model.actor.log_std]
        if self.n_components > 1:
            heads.append(model.actor.component_logits)
        self.trunk = copies(linear_layers(model.actor.latent_pi))
        self.heads = copies(heads)
        self.critics = [stacked_copies(model.critic.q_networks, index) for index in range(model.critic.n_critics)]
        self.value = stacked_copies(model.value_net.value_network, 0)
        self.target = stacked_copies(model.value_net_target.value_network, 0)
        learned = model.log_ent_coef is not None
        self.log_alpha = model.log_ent_coef.detach().clone().requires_grad_() if learned else None
        self.fixed_alpha = model.temperature.value.clone()
        flat = itertools.chain.from_iterable
        self.actor_optimizer = th.optim.Adam(flat([*self.trunk, *self.heads]), lr=RATE)
        self.critic_optimizers = [th.optim.Adam(flat(critic), lr=RATE) for critic in self.critics]
        self.value_optimizer = th.optim.Adam(flat(self.value), lr=RATE)
        self.alpha_optimizer = th.optim.Adam([self.log_alpha], lr=RATE) if learned else None

    def act(self, state: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param state: one state, ``(OBS_DIM,)``
        :param noise: its noise
        :return: its action and log-probability
        """
        hidden = state
        for weight, bias in self.trunk:
            hidden = th.clamp(hidden @ weight + bias, min=0)
        outputs = [hidden @ weight + bias for weight, bias in self.heads]
        means = outputs[0].view(self.n_components, ACTION_DIM)
        stds = outputs[1].clamp(-20, 2).exp().view(self.n_components, ACTION_DIM)
        component, weights = 0, [th.ones(())]
        if self.n_components > 1:
            weights = list(outputs[2].exp() / outputs[2].exp().sum())
            uniform, total = 0.5 * (1 + math.erf(noise[-1].item() / math.sqrt(2))), 0.0
            for component in range(self.n_components):
                total += weights[component].item()
                if uniform <= total:
                    break
        u = means[component] + stds[component] * noise[:ACTION_DIM]
        if self.policy_gradient == "likelihood_ratio":
            u = u.detach()
        density = 0.0
        for weight, mean, std in zip(weights, means, stds, strict=True):
            gaussian = 1.0
            for d in range(ACTION_DIM):
                gaussian = gaussian * th.exp(-((u[d] - mean[d]) ** 2) / (2 * std[d] ** 2)) / std[d]
            density = density + weight * gaussian / (2 * math.pi) ** (ACTION_DIM / 2)
        action = th.tanh(u)
        for d in range(ACTION_DIM):
            density = density / (1 - action[d] ** 2)
        return action, th.log(density)

    def step(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def update(self, batch: Batch, noise: th.Tensor) -> dict[str, float]:
        states = batch.observations.double()
        alpha = self.fixed_alpha if self.log_alpha is None else self.log_alpha.detach().exp()

        targets, losses = [], []
        for b in range(B):
            action, log_prob = self.act(states[b], noise[b])
            q_values = [mlp(critic, th.cat([states[b], action])) for critic in self.critics]
            targets.append((min(q_values) - alpha * log_prob).detach())
        value_loss = sum(0.5 * (mlp(self.value, states[b]) - targets[b]).squeeze() ** 2 for b in range(B)) / B
        self.step(self.value_optimizer, value_loss)

        critic_loss, q_mean = 0.0, 0.0
        for critic, optimizer in zip(self.critics, self.critic_optimizers, strict=True):
            loss = 0.0
            for b in range(B):
                future = mlp(self.target, batch.next_observations[b].double()).detach()
                y = self.reward_scale * batch.rewards[b] + (1 - batch.dones[b]) * batch.discounts[b] * future
                q = mlp(critic, th.cat([states[b], batch.actions[b]]))
                loss = loss + 0.5 * ((q - y) ** 2).squeeze() / B
                q_mean += q.item() / B / len(self.critics)
            critic_loss += loss.item()
            self.step(optimizer, loss)

        actor_loss, entropy = 0.0, 0.0
        for b in range(B):
            action, log_prob = self.act(states[b], noise[b])
            q_values = [mlp(critic, th.cat([states[b], action])) for critic in self.critics]
            q = q_values[0] if self.policy_q == "q1" else min(q_values)
            if self.policy_gradient == "reparameterized":
                losses.append(alpha * log_prob - q)
            else:
                losses.append(log_prob * (alpha * log_prob - q + mlp(self.value, states[b])).detach())
            entropy -= log_prob.item() / B
        actor_loss = sum(losses).squeeze() / B
        self.step(self.actor_optimizer, actor_loss)

        metrics = {"value_loss": value_loss.item(), "critic_loss": critic_loss, "actor_loss": actor_loss.item()}
        metrics |= {"ent_coef": alpha.item(), "entropy": entropy, "q_mean": q_mean}
        if self.log_alpha is not None:
            loss = -(self.log_alpha.exp() * (-entropy + self.target_entropy)).squeeze()
            metrics["ent_coef_loss"] = loss.item()
            self.step(self.alpha_optimizer, loss)

        self.steps += 1
        if self.steps % self.interval == 0:
            for layer, following in zip(self.value, self.target, strict=True):
                for new, old in zip(layer, following, strict=True):
                    old.data = (1 - self.tau) * old.data + self.tau * new.data
        return metrics

    def tensors(self) -> list[th.Tensor]:
        layers = [*self.trunk, *self.heads, *itertools.chain(*self.critics), *self.value, *self.target]
        return [*itertools.chain(*layers), *([] if self.log_alpha is None else [self.log_alpha])]

    def assert_same_weights(self, model: SACv1) -> None:
        for left, right in zip(Reference(model).tensors(), self.tensors(), strict=True):
            th.testing.assert_close(left, right, rtol=0, atol=1e-10)


def random_batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    obs, next_obs = (th.tensor(rng.uniform(-1, 1, (B, OBS_DIM)), dtype=th.float32) for _ in range(2))
    dones = th.tensor([[1.0], [0.0], [0.0], [1.0], [0.0], [0.0]], dtype=th.float64)
    discounts = th.tensor([[0.99], [0.99], [0.9], [0.9], [0.81], [0.99]], dtype=th.float64)
    actions = th.tensor(rng.uniform(-1, 1, (B, ACTION_DIM)))
    return Batch(obs, actions, next_obs, dones, th.tensor(rng.normal(size=(B, 1))), discounts)


MIXTURE = {"n_components": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"reward_scale": 5.0},
    "first Q": {"policy_q": "q1"},
    "fixed temperature": {"ent_coef": 0.25},
    "no entropy": {"ent_coef": 0.0},
    "learned temperature": {"ent_coef": "auto"},
    "likelihood ratio": {"policy_gradient": "likelihood_ratio"},
    "likelihood ratio, first Q, learned temperature": {
        "policy_gradient": "likelihood_ratio",
        "policy_q": "q1",
        "ent_coef": "auto",
    },
    "mixture": {"policy_gradient": "likelihood_ratio", "policy_kwargs": MIXTURE},
    "mixture, first Q, learned temperature": {
        "policy_gradient": "likelihood_ratio",
        "policy_q": "q1",
        "ent_coef": "auto",
        "policy_kwargs": MIXTURE,
    },
    "hard targets": {"tau": 1.0, "target_update_interval": 2},
    "three critics": {"policy_kwargs": {"n_critics": 3}},
}


@pytest.mark.parametrize("variant", ["paper", "mixture"])
def test_updates_are_those_of_the_paper_with_the_actors_last_layers_in_one_product(variant, monkeypatch):
    monkeypatch.setattr(actors, "ONE_PRODUCT_FROM", B)
    test_updates_are_those_of_the_paper(variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_are_those_of_the_paper(variant):
    model = make_model(**copy.deepcopy(VARIANTS[variant]))
    # Far enough from each other that the minimum over the critics is taken by each of them
    model.critic.q_networks.layers[-1].weight.data *= 4
    reference = Reference(model)
    for tracker in model.updater.trackers.values():
        tracker.configure(model.tau, model.target_update_interval, 0)
    for step in range(4):
        batch = random_batch(step)
        th.manual_seed(step)
        noise = th.randn(model.actor.noise_shape(B), dtype=th.float64)
        expected = reference.update(batch, noise)
        with th.no_grad():
            metrics = model.update(batch, noise)
        assert metrics.pop("td_error") is None
        assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, rel=1e-9, abs=1e-11)
        reference.assert_same_weights(model)


def test_the_policies_q_and_gradient_matter():
    """Otherwise the comparisons above would compare one thing several times."""
    trained = {}
    for variant in ("first Q", "paper", "likelihood ratio", "mixture"):
        model = make_model(**{**copy.deepcopy(VARIANTS[variant]), "reward_scale": 1.0})
        model.critic.q_networks.layers[-1].weight.data *= 4
        with th.no_grad():
            for step in range(2):
                th.manual_seed(step)
                noise = th.randn(model.actor.noise_shape(B), dtype=th.float64)
                model.update(random_batch(step), noise)
        trained[variant] = next(model.actor.parameters()).detach()
    for one, other in itertools.combinations(trained.values(), 2):
        assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("policy_gradient", ["reparameterized", "likelihood_ratio"])
def test_value_function_and_policy_share_one_evaluation_of_the_actor(monkeypatch, policy_gradient):
    model = make_model(policy_gradient=policy_gradient)
    samples = []
    sample = model.actor.sample
    monkeypatch.setattr(model.actor, "sample", lambda *args: samples.append(args) or sample(*args))
    noise = th.randn(model.actor.noise_shape(B), dtype=th.float64)
    with th.no_grad():
        model.update(random_batch(0), noise)
    assert len(samples) == 1


def test_actions_and_log_densities_of_a_mixture_by_sb3s_method() -> None:
    policy_kwargs = {"n_components": 3, "net_arch": [8]}
    actor = SACv1("MlpPolicy", Spaces(), policy_gradient="likelihood_ratio", policy_kwargs=policy_kwargs).actor
    observations = th.randn(500, OBS_DIM)
    actions, log_prob = actor.action_log_prob(observations)
    assert actions.shape == (500, ACTION_DIM)
    expected = actor.log_prob(th.atanh(actions.clamp(-1 + 1e-6, 1 - 1e-6)), *actor.mixture(observations))
    th.testing.assert_close(log_prob, expected, rtol=1e-2, atol=1e-2)


def test_the_value_for_inspection_is_evaluated_once() -> None:
    model = make_model()
    calls: list[int] = []
    model.value_net.register_forward_hook(lambda *_: calls.append(1))
    obs = np.zeros((4, OBS_DIM), dtype=np.float32)
    values = model.soft_value(obs)
    assert calls == [1]
    np.testing.assert_array_equal(values, model.value_net(th.zeros(4, OBS_DIM, dtype=th.float64)).detach()[:, 0])
