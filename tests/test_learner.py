"""The gradient step: eager and functional form against torch.optim, whom gradients reach, and targets."""

import copy
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, make, n_updates
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_sac_variants import SACv1, SACv2
from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.gradient_step.adam import is_plain_adam
from sb3_sac_variants.common.gradient_step.learner import Learner
from sb3_sac_variants.common.gradient_step.targets import TargetTracker, target_copy
from sb3_sac_variants.common.networks.critics import stacked_mlp

# A power of two, which the learner's float32 tensor holds exactly
RATE = 2.0**-7


def network(seed: int = 0) -> nn.Sequential:
    th.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def data(step: int) -> th.Tensor:
    return th.tensor(np.random.default_rng(step).normal(size=(7, 3)))


def loss_of(step: int) -> Callable[[nn.Module], th.Tensor]:
    return lambda module: (module(data(step)) - 0.3).square().mean()


def learner_of(module: nn.Module, optimizer_class: type[th.optim.Optimizer] = th.optim.Adam, **kwargs: Any) -> Learner:
    module.optimizer = optimizer_class(module.parameters(), **{"lr": RATE, **kwargs})
    return Learner(module, "network")


def widen(learner: Learner) -> None:
    """
    Rate and step count of the functional form in float64: they are float32 as in torch.optim, where torch computes the
    bias correction from them in float64 nevertheless.
    """
    optimizer = learner.optimizer
    learner.lr = th.tensor(optimizer.param_groups[0]["lr"], dtype=th.float64)
    for parameter in learner.parameters:
        optimizer.state[parameter]["step"] = optimizer.state[parameter]["step"].double()


def assert_same(one: nn.Module, other: nn.Module, atol: float = 0.0) -> None:
    for (name, left), right in zip(one.named_parameters(), other.parameters(), strict=True):
        th.testing.assert_close(left, right, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


OPTIMIZERS: dict[str, tuple[type[th.optim.Optimizer], dict[str, Any]]] = {
    "Adam": (th.optim.Adam, {}),
    "Adam with other betas and eps": (th.optim.Adam, {"betas": (0.7, 0.95), "eps": 1e-3}),
    "Adam with weight decay": (th.optim.Adam, {"weight_decay": 0.1}),
    "AMSGrad": (th.optim.Adam, {"amsgrad": True}),
    "AdamW": (th.optim.AdamW, {"weight_decay": 0.1}),
    "RMSprop": (th.optim.RMSprop, {"momentum": 0.5}),
    "SGD": (th.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adamax": (th.optim.Adamax, {}),
}


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch_optim(name, functional):
    optimizer_class, kwargs = OPTIMIZERS[name]
    learner = learner_of(network(), optimizer_class, **kwargs)
    assert learner.plain_adam == (name in ("Adam", "Adam with other betas and eps"))
    minimize = learner.minimize_functional if functional else learner.minimize
    if functional and learner.plain_adam:
        widen(learner)
    reference = network()
    optimizer = optimizer_class(reference.parameters(), **{"lr": RATE, **kwargs})
    for step in range(6):
        if step == 3:  # the rate changes under way
            learner.set_learning_rate(RATE / 4)
            optimizer.param_groups[0]["lr"] = RATE / 4
        expected = loss_of(step)(reference)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        value = minimize(loss_of(step))
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert not value.requires_grad
        assert_same(learner.module, reference, atol=1e-12)


def test_functional_steps_in_float32_are_those_of_torch_optim():
    learner, reference = learner_of(network().float()), network().float()
    optimizer = th.optim.Adam(reference.parameters(), lr=RATE)

    def loss(module: nn.Module) -> th.Tensor:
        return (module(x) - 0.3).square().mean()

    for step in range(30):
        x = data(step).float()
        optimizer.zero_grad()
        loss(reference).backward()
        optimizer.step()
        learner.minimize_functional(loss)
    assert_same(learner.module, reference, atol=2e-6)


def test_eager_and_functional_steps_share_the_optimizers_state():
    mixed, eager = learner_of(network()), learner_of(network())
    for step in range(6):
        (mixed.minimize if step % 2 else mixed.minimize_functional)(loss_of(step))
        eager.minimize(loss_of(step))
    assert_same(mixed.module, eager.module, atol=1e-7)
    for left, right in zip(mixed.parameters, eager.parameters, strict=True):
        for key, value in eager.optimizer.state[right].items():
            th.testing.assert_close(mixed.optimizer.state[left][key], value, rtol=1e-6, atol=1e-9)
        assert mixed.optimizer.state[left]["step"].item() == 6


def test_functional_steps_pass_by_what_the_loss_does_not_depend_on_and_nothing_else():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.clipped, self.idle = (nn.Parameter(th.full((3,), 2.0)) for _ in range(3))

    def loss(module: Any) -> th.Tensor:
        return module.used.square().sum() + module.clipped.clamp(max=1.0).sum()  # a gradient of zero is none of None

    eager, mixed = (learner_of(Parts(), th.optim.AdamW, weight_decay=0.1) for _ in range(2))
    for step in range(4):
        eager.minimize(loss)
        (mixed.minimize_functional if step else mixed.minimize)(loss)
    assert_same(mixed.module, eager.module, atol=1e-7)
    assert (mixed.module.idle == 2.0).all()
    assert (mixed.module.clipped < 2.0).all()  # by weight decay


class Sample(NamedTuple):
    """A tuple with names, as losses return beside their value."""

    first: th.Tensor
    second: th.Tensor


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
def test_what_a_loss_returns_beside_its_value_comes_back_without_gradients(functional):
    learner = learner_of(network())
    minimize = learner.minimize_functional if functional else learner.minimize

    def loss(module: nn.Module) -> tuple[th.Tensor, Any]:
        output = module(data(0))
        return output.square().mean(), Sample(output, output + 1)

    expected = learner.module(data(0)).detach()
    value, sample = minimize(loss)
    assert isinstance(sample, Sample)
    assert not any(tensor.requires_grad for tensor in (value, *sample))
    th.testing.assert_close(sample.second, expected + 1)
    # Lists and dictionaries
    _, found = minimize(lambda module: (module(data(1)).mean(), {"output": [module(data(1)), None]}))
    output, nothing = found["output"]
    assert not output.requires_grad
    assert nothing is None
    # A tensor alone
    expected = learner.module(data(1)).detach()
    value, output = minimize(lambda module: (module(data(1)).mean(), module(data(1))))
    th.testing.assert_close(output, expected)
    assert not output.requires_grad


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
def test_a_value_evaluated_before_serves_the_loss_after(functional):
    learner, whole = learner_of(network()), learner_of(network())
    if functional:
        widen(learner)
    evaluate = learner.evaluate_functional if functional else learner.evaluate
    minimize = learner.minimize_functional if functional else learner.minimize

    def sample(module: nn.Module, step: int) -> PolicySample:
        values = module(data(step))
        return PolicySample(None, values, values.exp())  # as of a discrete policy

    def loss(given: PolicySample) -> tuple[th.Tensor, Any]:
        return (given.log_prob * given.weights - 0.3).square().mean(), Sample(given.log_prob, given.weights)

    for step in range(3):
        with th.no_grad():  # as all of an update is
            evaluation = evaluate(lambda module: sample(module, step))  # noqa: B023
            assert evaluation.value.actions is None
            assert not evaluation.value.log_prob.requires_grad
            value, auxiliary = minimize(loss, evaluation)
            expected, expected_auxiliary = whole.minimize(lambda module: loss(sample(module, step)))  # noqa: B023
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        assert not value.requires_grad
        th.testing.assert_close(auxiliary, expected_auxiliary, rtol=1e-12, atol=1e-12)
        assert_same(learner.module, whole.module, atol=1e-12)


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
def test_a_loss_may_return_a_sample_without_actions(functional):
    # As the samples of a discrete policy are, which stand for all actions
    learner = learner_of(network())
    minimize = learner.minimize_functional if functional else learner.minimize

    def loss(module: nn.Module) -> tuple[th.Tensor, PolicySample]:
        values = module(th.ones(2, 3, dtype=th.float64))
        return values.square().mean(), PolicySample(None, values, values.exp())

    _, sample = minimize(loss)
    assert isinstance(sample, PolicySample)
    assert sample.actions is None
    assert not sample.log_prob.requires_grad


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
def test_gradients_never_reach_another_module(functional):
    actor, critic = learner_of(network(0)), learner_of(network(1))
    before = [parameter.clone() for parameter in critic.parameters]

    def loss(module: nn.Module) -> th.Tensor:  # through the critic, as the loss of a policy goes
        return critic.module(th.cat([module(data(0)), data(0)[:, :1]], dim=1)).mean()

    with th.no_grad():
        expected = actor.module[2].weight.clone()
        (actor.minimize_functional if functional else actor.minimize)(loss)
    assert not th.equal(actor.module[2].weight, expected)
    for parameter, old in zip(critic.parameters, before, strict=True):
        assert parameter.grad is None
        assert parameter.requires_grad
        assert th.equal(parameter, old)


@pytest.mark.parametrize("algorithm", [SACv1, SACv2])
def test_each_loss_of_an_update_moves_only_its_own_network(monkeypatch, algorithm):
    model = make(algorithm, ent_coef="auto")
    model.learn(6)
    names = [*model.updater.learners, *model.updater.trackers]
    moved: dict[str, list[str]] = {}

    def watch(name: str, owner: Any, method: str) -> None:
        original = getattr(owner, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = {other: [p.clone() for p in getattr(model, other).parameters()] for other in names}
            alpha = model.log_ent_coef.clone()
            result = original(*args, **kwargs)
            moved[name] = [
                other for other in names if not all(map(th.equal, before[other], getattr(model, other).parameters()))
            ]
            if not th.equal(alpha, model.log_ent_coef):
                moved[name].append("temperature")
            return result

        monkeypatch.setattr(owner, method, watched)

    for name, learner in model.updater.learners.items():
        watch(name, learner, "minimize")
    watch("temperature", model.temperature.learner, "minimize")
    for name, tracker in model.updater.trackers.items():
        watch(name, tracker, "step")
    model.train(1, 4)
    assert moved == {name: [name] for name in [*names, "temperature"]}


# ---------------------------------------------------------------- parameters that take no part


class PartlyUsed(FlattenExtractor):
    """As pretrained extractors are: one layer is frozen, one belongs to a head that is not used."""

    def __init__(self, observation_space: Any, freeze: bool = True):
        super().__init__(observation_space)
        self.backbone = nn.Linear(3, 3)
        self.backbone.requires_grad_(not freeze)
        self.unused_head = nn.Linear(3, 3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.backbone(super().forward(observations))


@pytest.mark.parametrize("freeze_later", [False, True])
@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
def test_frozen_and_unused_parameters_stay_as_they_are(monkeypatch, functional, freeze_later):
    kwargs = {"features_extractor_class": PartlyUsed, "features_extractor_kwargs": {"freeze": not freeze_later}}
    model = make(SACv2, policy_kwargs=kwargs)
    networks = [getattr(model, name) for name in model.updater.learners]
    if freeze_later:
        for network_ in networks:
            network_.features_extractor.backbone.requires_grad_(False)
    if functional:
        monkeypatch.setattr(th.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr(th.compiler, "disable", lambda function: function)
    before = [[p.clone() for p in network_.parameters()] for network_ in networks]
    model.learn(10)
    for network_, old in zip(networks, before, strict=True):
        for (name, parameter), was in zip(network_.named_parameters(), old, strict=True):
            assert th.equal(parameter, was) == ("backbone" in name or "unused" in name), name


# ---------------------------------------------------------------- options


def test_only_plain_adam_is_replaced_by_its_formula():
    parameters = [nn.Parameter(th.zeros(2))]
    assert is_plain_adam(th.optim.Adam(parameters))
    for option in ("weight_decay", "amsgrad", "maximize"):
        assert not is_plain_adam(th.optim.Adam(parameters, **{option: True}))
    assert not is_plain_adam(th.optim.AdamW(parameters))

    class Custom(th.optim.Adam):
        pass

    assert not is_plain_adam(Custom(parameters))


def test_hooks_of_the_optimizer_are_called():
    module = network()
    module.optimizer = th.optim.Adam(module.parameters(), lr=RATE)
    calls = []
    module.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    learner = Learner(module, "network")
    for step in range(2):
        learner.minimize(loss_of(step))
    assert len(calls) == 2


def test_state_that_was_loaded_behind_the_learners_back_is_stepped_on():
    trained, fresh = learner_of(network()), learner_of(network())
    for learner in (trained, fresh):
        learner.minimize(loss_of(0))
    for step in range(1, 3):
        trained.minimize(loss_of(step))
    fresh.module.load_state_dict(trained.module.state_dict())
    fresh.optimizer.load_state_dict(copy.deepcopy(trained.optimizer.state_dict()))
    for learner in (trained, fresh):
        learner.minimize(loss_of(3))
    assert_same(trained.module, fresh.module)


def test_options_that_were_loaded_behind_the_learners_back_count():
    learner, reference = learner_of(network()), network()
    optimizer = th.optim.Adam(reference.parameters(), lr=RATE, weight_decay=0.1)
    learner.minimize(loss_of(0))
    learner.module.load_state_dict(reference.state_dict())
    learner.optimizer.load_state_dict(optimizer.state_dict())
    learner.minimize(loss_of(1))
    loss_of(1)(reference).backward()
    optimizer.step()
    assert_same(learner.module, reference, atol=1e-9)


def test_the_rate_that_is_set_is_the_rate_whatever_was_loaded_before():
    learner = learner_of(network())
    for rate in (RATE, RATE / 2, RATE / 2, RATE):
        learner.set_learning_rate(rate)
        assert learner.lr.item() == pytest.approx(rate)
    state = copy.deepcopy(learner.optimizer.state_dict())
    state["param_groups"][0]["lr"] = 10 * RATE
    learner.optimizer.load_state_dict(state)
    learner.refresh()
    assert learner.lr.item() == pytest.approx(10 * RATE)
    learner.set_learning_rate(RATE)
    assert learner.lr.item() == pytest.approx(RATE)


def test_loading_an_optimizers_state_needs_but_a_refresh():
    trained, fresh = learner_of(network()), learner_of(network())
    for step in range(3):
        trained.minimize(loss_of(step))
    fresh.module.load_state_dict(trained.module.state_dict())
    fresh.optimizer.load_state_dict(copy.deepcopy(trained.optimizer.state_dict()))  # torch loads no copies
    fresh.refresh()
    trained.set_learning_rate(RATE / 2)
    fresh.set_learning_rate(RATE / 2)
    for learner in (trained, fresh):
        learner.minimize(loss_of(3))
    assert_same(trained.module, fresh.module)


def test_a_state_made_before_the_network_moved_follows_it():
    """Adagrad makes its state at once, and SB3 moves a policy to its device afterwards; "meta" stands in for a GPU."""
    module = nn.Linear(3, 2, device="meta")
    module.optimizer = th.optim.Adagrad(module.parameters(), lr=RATE)
    for state in module.optimizer.state.values():
        state["sum"] = th.zeros(state["sum"].shape)
    learner = Learner(module, "critic")
    for parameter in learner.parameters:
        assert learner.optimizer.state[parameter]["sum"].device == parameter.device
        assert learner.optimizer.state[parameter]["step"].device.type == "cpu"  # it is counted there


@pytest.mark.parametrize(("optimizer_class", "name"), [(th.optim.Adam, "exp_avg_sq"), (th.optim.RMSprop, "square_avg")])
def test_averages_that_nobody_can_see_become_zero(optimizer_class, name):
    learner = learner_of(network().float(), optimizer_class)
    learner.minimize(lambda module: module(data(0).float()).square().mean())
    state = learner.optimizer.state[learner.parameters[0]]
    values = th.tensor([1e-45, -1e-39, 1e-31, -1e-29, 0.5, -0.0, th.nan, th.inf, -th.inf])
    state[name].view(-1)[:9] = values
    steps = float(state["step"])
    others = {key: value.clone() for key, value in state.items() if key != name}
    learner.flush_denormals()
    expected = th.tensor([0.0, 0.0, 0.0, -1e-29, 0.5, 0.0, th.nan, th.inf, -th.inf])
    th.testing.assert_close(state[name].view(-1)[:9], expected, rtol=0, atol=0, equal_nan=True)
    assert all(th.equal(state[key], value) for key, value in others.items())
    assert float(state["step"]) == steps == 1.0


def denormals(model: Any) -> int:
    """
    :param model: a model
    :return: how many numbers in the state of its optimisers are too small to be normal ones
    """
    states = [state for learner in model.updater.learners.values() for state in learner.optimizer.state.values()]
    values = th.cat([value.flatten().abs() for state in states for value in state.values()])
    return int(((values > 0) & (values < th.finfo(values.dtype).tiny)).sum())


@pytest.mark.slow
def test_a_dead_unit_does_not_slow_down_the_training(monkeypatch):
    models = []
    for flushed in (False, True):
        if not flushed:
            monkeypatch.setattr(Learner, "flush_denormals", lambda learner: None)
        model = make(SACv2, buffer_size=20, learning_starts=0, train_freq=1000).learn(10)
        model.train(1, batch_size=4)
        with th.no_grad():  # gradients were not zero up to now, and are from now on
            model.actor.latent_pi[0].bias[:3] = -1e3
            model.critic.q_networks.layers[0].bias[:, :, :3] = -1e3
        for gradient_steps in (500, 100, 1, 400):
            model.train(gradient_steps, batch_size=4)
        models.append(model)
        monkeypatch.undo()
    assert [denormals(model) > 0 for model in models] == [True, False]
    assert_same(models[0].policy, models[1].policy)
    assert n_updates(models[0]) == n_updates(models[1])


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(("tau", "interval"), [(0.005, 1), (0.25, 1), (0.25, 3), (1.0, 1), (1.0, 4)])
def test_target_tracker_follows_by_the_persistent_counter(tau, interval):
    online, target = network(0), network(1)
    tracker = TargetTracker(online, target)
    done = 0
    for gradient_steps in (1, 1, 2, 1, 5, 1, 1):  # each one call of train()
        tracker.configure(tau, interval, done)
        for _ in range(gradient_steps):
            with th.no_grad():
                for parameter in online.parameters():
                    parameter += 0.1
            done += 1
            expected = [parameter.clone() for parameter in target.parameters()]
            if done % interval == 0:
                expected = [(1 - tau) * old + tau * new for old, new in zip(expected, online.parameters(), strict=True)]
            tracker.step()
            for parameter, value in zip(target.parameters(), expected, strict=True):
                exact = tau == 1 or done % interval != 0
                th.testing.assert_close(parameter.data, value.data, rtol=0, atol=0 if exact else 1e-14)


def test_target_tracker_goes_on_counting_in_a_resumed_run():
    online, target = network(0), network(1)
    tracker = TargetTracker(online, target)  # as after loading: a new object
    tracker.configure(1.0, 5, steps=13)
    tracker.step()
    assert not th.equal(online[0].weight, target[0].weight)
    tracker.step()
    assert_same(online, target)


def test_all_networks_are_searched_for_denormal_numbers(monkeypatch):
    """After every 64 gradient steps of the run, however many a call of ``train()`` does."""
    model, searched = make(SACv1, gradient_steps=50), []
    monkeypatch.setattr(
        Learner, "flush_denormals", lambda self: searched.append((self.name, model.updater.updates_since_load))
    )
    model.learn(10)
    assert n_updates(model) == 250
    assert searched == [(name, 64 * (i + 1)) for i in range(3) for name in model.updater.learners]


@pytest.mark.parametrize("interval", [1, 2])
def test_target_tracker_keeps_a_mask(interval):
    online = nn.Linear(2, 2)
    online.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))  # minus infinity above
    target = target_copy(online)
    tracker = TargetTracker(online, target)
    tracker.configure(0.01, interval, 0)
    for _ in range(2):
        tracker.step()
        assert th.equal(target.mask, online.mask)


@pytest.mark.parametrize("interval", [1, 2])
def test_target_tracker_copies_running_statistics(interval):
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    target = target_copy(online)
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert not target.training
    tracker = TargetTracker(online, target)
    tracker.configure(0.01, interval, 0)
    for step in range(1, 5):
        online(th.randn(8, 3))
        before = target[1].running_mean.clone()
        tracker.step()
        expected = online[1].running_mean if step % interval == 0 else before
        assert th.equal(target[1].running_mean, expected)


@pytest.mark.parametrize("algorithm", [SACv1, SACv2])
def test_targets_begin_as_exact_copies_without_optimizers(algorithm):
    model = make(algorithm)
    for online, target in model.tracked_networks.items():
        online, target = getattr(model, online), getattr(model, target)
        assert all(map(th.equal, online.parameters(), target.parameters()))
        assert not any(parameter.requires_grad for parameter in target.parameters())
        assert not hasattr(target, "optimizer")
        assert not {id(p) for p in online.parameters()} & {id(p) for p in target.parameters()}


class WithWrapper(BaseFeaturesExtractor):
    """Features of a layer that ``copy.deepcopy`` cannot copy, or whose copy is not quite one."""

    wrapper: Callable[[nn.Module], Any]

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space, 8)
        self.layers = type(self).wrapper(nn.Linear(3, 8))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


class WeightNorm(WithWrapper):
    wrapper = nn.utils.weight_norm


class Scripted(WithWrapper):
    @staticmethod
    def wrapper(layer: nn.Module) -> Any:
        return th.jit.script(nn.Sequential(layer, nn.Dropout(0.5)))


@pytest.mark.filterwarnings("ignore")  # torch calls both deprecated
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("extractor", [WeightNorm, Scripted])
def test_targets_of_networks_that_cannot_be_deep_copied(algorithm: type, extractor: type) -> None:
    model = make(algorithm, policy_kwargs={"features_extractor_class": extractor})
    for online, target in model.tracked_networks.items():
        online, target = getattr(model, online), getattr(model, target)
        assert all(map(th.equal, online.parameters(), target.parameters()))
        assert not any(parameter.requires_grad for parameter in target.parameters())
        assert not {id(p) for p in online.parameters()} & {id(p) for p in target.parameters()}
    model.learn(20)
    obs = np.ones(3, np.float32)
    assert len({float(model.predict(obs, deterministic=True)[0][0]) for _ in range(10)}) == 1


def test_a_target_that_cannot_be_deep_copied_draws_no_random_numbers() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    layer.lock = threading.Lock()  # type: ignore[assignment]
    state = th.get_rng_state()
    target = target_copy(layer, lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    assert_same(target, layer)
    assert th.equal(th.get_rng_state(), state)
    with pytest.raises(TypeError, match="cannot pickle"):
        target_copy(layer)


# ---------------------------------------------------------------- stacked networks


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("net_arch", [[], [4], [4, 6]])
@pytest.mark.parametrize("output_dim", [1, 2])
def test_stacked_networks_are_independent_networks(n, net_arch, output_dim):
    th.manual_seed(0)
    stacked = stacked_mlp(n, 3, output_dim, net_arch, nn.Tanh).double()
    outputs = stacked(data(0))
    assert outputs.shape == (n, 7, output_dim)
    for index in range(n):
        value = data(0)
        for layer in stacked.layers:
            value = value @ layer.weight[index] + layer.bias[index, 0] if hasattr(layer, "weight") else layer(value)
        th.testing.assert_close(outputs[index], value, rtol=1e-12, atol=1e-14)
        (gradient,) = th.autograd.grad(outputs[index].sum(), stacked.layers[0].weight, retain_graph=True)
        assert gradient[index].any()
        assert not th.cat([gradient[:index], gradient[index + 1 :]]).any()


def test_stacked_networks_begin_as_torch_begins_linear_layers():
    th.manual_seed(0)
    layer = stacked_mlp(50, 16, 8, [], nn.ReLU).layers[0]
    for tensor in (layer.weight, layer.bias):
        assert tensor.abs().max() <= 0.25  # 1 / sqrt(16)
        assert tensor.std().item() == pytest.approx(0.25 / np.sqrt(3), rel=0.1)


class HasIdleHead(nn.Module):
    """A network with a layer that no output depends on at first."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.idle, self.needs_it = network(), nn.Linear(3, 2).double(), False

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        return self.network(inputs) + (self.idle(inputs).sum() if self.needs_it else 0.0)


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
@pytest.mark.parametrize("name", ["Adam with weight decay", "AdamW"])
def test_weight_decay_passes_by_parameters_without_a_gradient(name: str, functional: bool) -> None:
    optimizer_class, kwargs = OPTIMIZERS[name]
    module = HasIdleHead()
    before = copy.deepcopy(module)
    learner = learner_of(module, optimizer_class, **kwargs)
    minimize = learner.minimize_functional if functional else learner.minimize
    minimize(loss_of(0))
    minimize(loss_of(1))
    assert_same(module.idle, before.idle)
    assert not th.equal(module.network[0].weight, before.network[0].weight)
    module.needs_it = True  # the output depends on it from now on
    minimize(loss_of(2))
    assert not th.equal(module.idle.weight, before.idle.weight)


class ChannelsLast(BaseFeaturesExtractor):
    """A convolution of images whose channels come last, whose gradient torch lays out in that order."""

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space, 8)
        self.convolution, self.linear = nn.Conv2d(4, 2, 3), nn.Linear(2 * 6 * 6, 8)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        images = observations.view(-1, 8, 8, 4).permute(0, 3, 1, 2)
        return self.linear(th.relu(self.convolution(images)).flatten(1))


@pytest.mark.parametrize("functional", [False, True], ids=["eager", "functional"])
def test_parameters_that_adam_has_stepped_less_often(functional: bool) -> None:
    module, reference = network(), network()
    learner, optimizer = learner_of(module), th.optim.Adam(reference.parameters(), lr=RATE)
    for step in range(9):
        for each in (module, reference):
            each[0].requires_grad_(not 2 < step < 6)
        if not learner.is_bound_to(module):
            learner.bind(module)
        optimizer.zero_grad()
        loss_of(step)(reference).backward()
        optimizer.step()
        (learner.minimize_functional if functional else learner.minimize)(loss_of(step))
    assert not learner.plain_adam
    assert_same(module, reference, atol=1e-8)


@pytest.mark.parametrize("optimizer_class", [th.optim.Adam, th.optim.AdamW])
def test_gradients_come_in_the_memory_order_of_their_parameters(optimizer_class: type[th.optim.Optimizer]) -> None:
    extractor = ChannelsLast(gym.spaces.Box(-1.0, 1.0, (256,)))
    reference = copy.deepcopy(extractor)
    learner = learner_of(extractor, optimizer_class, lr=1e-2)
    optimizer = optimizer_class(reference.parameters(), lr=1e-2)
    inputs = th.randn(16, 256)
    for _ in range(3):
        learner.minimize(lambda module: module(inputs).square().mean())
        optimizer.zero_grad()
        reference(inputs).square().mean().backward()
        optimizer.step()
    assert_same(extractor, reference, atol=1e-6)
    assert all(parameter.grad.stride() == parameter.stride() for parameter in extractor.parameters())


@pytest.mark.parametrize("damage", ["size", "stride", "missing", "step"])
@pytest.mark.parametrize("name", ["Adam", "AMSGrad", "SGD"])
def test_a_state_of_other_parameters_is_not_stepped_with(name: str, damage: str) -> None:
    """Fused kernels read and write as if it were of these, beyond its end."""
    optimizer_class, kwargs = OPTIMIZERS[name]
    learner = learner_of(network(), optimizer_class, **{**kwargs, "fused": True})
    learner.minimize(loss_of(0))
    average = "momentum_buffer" if name == "SGD" else "max_exp_avg_sq" if name == "AMSGrad" else "exp_avg"
    state = learner.optimizer.state[learner.parameters[0]]
    if damage == "size":
        state[average] = th.zeros(1, dtype=th.float64)
    elif damage == "stride":  # taken over, as a tensor of the parameter's own layout
        state[average] = th.zeros(1, dtype=th.float64).expand(learner.parameters[0].shape)
        learner.refresh()
        assert state[average].stride() == learner.parameters[0].stride()
        learner.minimize(loss_of(1))
        return
    elif name == "SGD":  # which counts no steps
        return
    elif damage == "missing":
        del state["exp_avg"]
    else:
        state["step"] = th.zeros(2)
    with pytest.raises(
        ValueError, match=r"the state of the network's optimizer has shapes .*: take that of a model with"
    ):
        learner.refresh()
    learner.refresh()  # without it
    learner.minimize(loss_of(1))
