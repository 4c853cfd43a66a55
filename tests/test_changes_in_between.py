"""What a user changes between two calls of ``learn()``, or in a callback, counts from then on."""

import copy
import inspect
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    DICTIONARY,
    VECTOR,
    SpacesEnv,
    every_algorithm,
    flat_parameters,
    make,
    n_updates,
    refused,
    several_agents,
)
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.checks.replaced import hooks_of_users
from sb3_sac_variants.common.gradient_step import engine_choice, updater
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.common.gradient_step.engine import (
    CompiledEngine,
    EagerEngine,
    Engine,
    EngineUnavailableError,
)
from sb3_sac_variants.common.gradient_step.engine_choice import FallbackEngine

needs_compiler = pytest.mark.skipif(compile_unsupported() is not None, reason="no C++ compiler")


def go_on(model: Any, steps: int = 20) -> None:
    model.learn(steps, reset_num_timesteps=False)


def vector(module: nn.Module) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(module.parameters()).detach().clone()


# ---------------------------------------------------------------- networks and optimisers


def freeze(model: Any, frozen: bool = True) -> None:
    for parameter in model.critic.q_networks.layers[0].parameters():
        parameter.requires_grad_(not frozen)


@every_algorithm
def test_parameters_frozen_and_thawed(algorithm: type) -> None:
    model = make(algorithm)
    model.learn(20)
    first, last = model.critic.q_networks.layers[0], model.critic.q_networks.layers[-1]
    freeze(model)
    before = vector(first), vector(last)
    go_on(model)
    assert th.equal(vector(first), before[0])
    assert not th.equal(vector(last), before[1])
    freeze(model, frozen=False)
    go_on(model)
    assert not th.equal(vector(first), before[0])


@every_algorithm
def test_a_network_frozen_as_a_whole(algorithm: type) -> None:
    model = make(algorithm)
    model.learn(20)
    name = next(iter(model.updater.learners))  # the actor, or the critic where the policy has no parameters
    network = getattr(model, name)
    network.requires_grad_(False)
    before = {each: vector(getattr(model, each)) for each in model.updater.learners}
    go_on(model)
    after = {each: vector(getattr(model, each)) for each in model.updater.learners}
    assert [each for each in after if not th.equal(after[each], before[each])] == [*model.updater.learners][1:]
    network.requires_grad_(True)
    go_on(model)
    assert not th.equal(vector(network), before[name])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [SACv1, SACv2])
def test_a_compiled_network_frozen_and_thawed(algorithm: type) -> None:
    models = []
    for engine in ("eager", "compile"):
        model = make(algorithm, engine=engine)
        model.learn(20)
        for frozen in (True, False):
            model.actor.requires_grad_(not frozen)
            go_on(model, 5)
            freeze(model, frozen)
            go_on(model, 5)
        models.append(model)
    for key, value in flat_parameters(models[0]).items():
        th.testing.assert_close(flat_parameters(models[1])[key], value, rtol=1e-3, atol=1e-5, msg=key)


class FreezesAt(BaseCallback):
    """
    :param step: at which it freezes a layer
    """

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            freeze(self.model)
            self.frozen_at = vector(self.model.critic.q_networks.layers[0])
        return True


def test_parameters_frozen_by_a_callback() -> None:
    model, callback = make(SACv2), FreezesAt(15)
    model.learn(40, callback=callback)
    assert th.equal(vector(model.critic.q_networks.layers[0]), callback.frozen_at)


def test_a_new_optimizer_is_the_one_that_steps() -> None:
    model = make(SACv2)
    model.learn(20)
    model.actor.optimizer = th.optim.SGD(model.actor.parameters(), lr=0.1)
    before = vector(model.actor)
    go_on(model)
    assert not th.equal(vector(model.actor), before)
    assert model.actor_learner.optimizer is model.actor.optimizer
    assert float(model.actor.optimizer.param_groups[0]["lr"]) == model.learning_rate


def test_a_new_layer_needs_a_new_optimizer() -> None:
    model = make(SACv2)
    model.learn(20)
    model.actor.mu = nn.Linear(16, 2)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters())
    before = vector(model.actor.mu)
    go_on(model)
    assert not th.equal(vector(model.actor.mu), before)
    model.actor.optimizer = th.optim.Adam(model.critic.parameters())
    with pytest.raises(ValueError, match=r"optimizer of the actor .*model\.actor\.optimizer = "):
        go_on(model)


def test_a_new_target_network_follows() -> None:
    model = make(SACv2)
    model.learn(20)
    model.policy.critic_target = model.critic_target = copy.deepcopy(model.critic_target)
    before = vector(model.critic_target)
    go_on(model)
    assert not th.equal(vector(model.critic_target), before)


class ChangesAt(BaseCallback):
    """
    :param step: at which it changes the model
    :param change: how
    """

    def __init__(self, step: int, change: Callable[[Any], None]):
        super().__init__()
        self.step, self.change = step, change

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.change(self.model)
        return True


def followed_network(model: Any) -> tuple[str, str]:
    """Names of a network that a target follows, and of the target."""
    return next(iter(model.tracked_networks.items()))


def replace_target(model: Any) -> None:
    target = followed_network(model)[1]
    new = copy.deepcopy(getattr(model, target))
    setattr(model, target, new)
    setattr(model.policy, target, new)
    move_last_layer(new)


def replace_network(model: Any) -> None:
    name = followed_network(model)[0]
    new = copy.deepcopy(getattr(model, name))
    new.optimizer = th.optim.Adam(new.parameters())
    setattr(model, name, new)
    setattr(model.policy, name, new)
    move_last_layer(new)


def replace_last_layer(model: Any) -> None:
    network = getattr(model, followed_network(model)[0])
    stacked = network.value_network if isinstance(model, SACv1) else network.q_networks
    name = [*stacked._modules][-1]
    setattr(stacked, name, copy.deepcopy(stacked._modules[name]))
    network.optimizer = th.optim.Adam(network.parameters())
    move_last_layer(network)


def move_last_layer(network: nn.Module) -> None:
    with th.no_grad():
        [*network.parameters()][-1].fill_(50.0)


@pytest.mark.parametrize("algorithm", [SACv1, SACv2, SQL, MASAC])
@pytest.mark.parametrize("replace", [replace_target, replace_network, replace_last_layer])
def test_targets_follow_what_a_callback_has_replaced(algorithm: type, replace: Callable[[Any], None]) -> None:
    env = several_agents() if algorithm is MASAC else None
    model = make(algorithm, env, tau=0.5)
    model.learn(40, callback=ChangesAt(20, replace))
    online, target = (getattr(model, name) for name in followed_network(model))
    th.testing.assert_close(vector(target), vector(online), rtol=0.01, atol=0.1)
    if isinstance(model, SQL):  # whose actor climbs and acts by the critics
        assert model.actor.critic is model.critic is model._action_kind.critic


def test_a_layer_without_parameters_that_a_callback_has_replaced() -> None:
    model = make(SACv2)

    def replace(model: Any) -> None:
        model.updater.engine.mark = True  # a compiled one takes layers for granted
        model.actor.latent_pi[1] = nn.Sigmoid()

    seen: list[tuple[np.ndarray, np.ndarray]] = []
    store = model._store_transition

    def spy(buffer: Any, action: np.ndarray, *args: Any) -> None:
        seen.append((model._last_obs, action))
        store(buffer, action, *args)

    model._store_transition = spy
    with th.no_grad():
        model.actor.log_std.weight.zero_()
        model.actor.log_std.bias.fill_(-20.0)
    model.learn(40, callback=ChangesAt(20, replace))
    assert not hasattr(model.updater.engine, "mark")
    np.testing.assert_allclose(model.predict(seen[-1][0], deterministic=True)[0], seen[-1][1], atol=0.05)


def test_a_layer_added_after_the_first_prediction_gets_its_mode() -> None:
    model = make(SACv2)
    obs = np.ones(3, np.float32)
    model.predict(obs)
    model.actor.latent_pi = nn.Sequential(*model.actor.latent_pi, nn.Dropout(0.5))
    assert len({float(model.predict(obs, deterministic=True)[0][0]) for _ in range(10)}) == 1
    model.critic.q_networks.add_module("dropout", nn.Dropout(0.5))
    assert len({float(model.q_value(obs, np.zeros(2))[0]) for _ in range(10)}) == 1


def test_the_state_of_an_optimizer_may_be_cleared() -> None:
    model = make(SACv2)
    model.learn(20)
    model.critic.optimizer.state.clear()
    assert not model.critic_learner.is_bound_to(model.critic)
    go_on(model, 5)
    assert {float(state["step"]) for state in model.critic.optimizer.state.values()} == {5.0}


def test_a_rate_set_by_hand_is_overwritten_by_the_schedule_as_in_sb3() -> None:
    model = make(SACv2, learning_rate=lambda progress: 1e-3 * (1 + progress))
    model.learn(20)
    for group in model.critic.optimizer.param_groups:
        group["lr"] = 0.0
    before = vector(model.critic)
    model.learn(20)
    assert not th.equal(vector(model.critic), before)
    assert float(model.critic.optimizer.param_groups[0]["lr"]) == pytest.approx(1e-3)


# ---------------------------------------------------------------- VecNormalize


def normalized(**kwargs: Any) -> VecNormalize:
    return VecNormalize(DummyVecEnv([SpacesEnv]), **kwargs)


def batch(model: Any) -> Any:
    model.replay_buffer.set_normalization(model.get_vec_normalize_env())
    return model.replay_buffer.draw(500)


def test_settings_of_the_normalisation_may_change() -> None:
    env = normalized(clip_obs=0.5)
    model = make(SACv2, env)
    model.learn(30)
    assert batch(model).observations.abs().max() == 0.5
    env.clip_obs, env.norm_reward = 0.25, False
    go_on(model)
    assert batch(model).observations.abs().max() == 0.25
    scale = np.sqrt(env.ret_rms.var + env.epsilon)
    raw = batch(model).rewards
    env.norm_reward = True
    assert batch(model).rewards.mean() == pytest.approx(float(raw.mean() / scale), rel=0.2)


def test_another_wrapper_has_its_own_settings() -> None:
    model = make(SACv2, normalized())
    model.learn(30)
    before = model.engine_signature()
    model.set_env(normalized(norm_obs=False))
    go_on(model)
    assert batch(model).observations.abs().max() <= 1.0
    assert model.engine_signature() != before
    model.set_env(normalized(norm_reward=False, clip_obs=0.1))
    go_on(model)
    assert batch(model).observations.abs().max() == pytest.approx(0.1)


class OwnNormalisation(VecNormalize):
    """Rewards of seven and doubled observations, whatever the statistics are."""

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        return np.full_like(reward, 7.0)

    def normalize_obs(self, obs: Any) -> Any:
        return {key: 2.0 * value for key, value in obs.items()} if isinstance(obs, dict) else 2.0 * obs


def test_a_normalisation_that_somebody_has_put_in_is_asked() -> None:
    env = normalized()
    model = make(SACv2, env).learn(20)
    env.normalize_reward = lambda reward: np.full_like(reward, 7.0)
    rewards: list[th.Tensor] = []
    update = model.update
    model.update = lambda batch, noise: (rewards.append(batch.rewards), update(batch, noise))[1]
    go_on(model)
    assert len(rewards) == 20
    assert (th.stack(rewards) == 7.0).all()


def test_rewards_of_agents_cannot_be_normalised_later() -> None:
    env = VecNormalize(several_agents(), norm_reward=False)
    model = make(MASAC, env).learn(10)
    env.norm_reward = True
    with pytest.raises(ValueError, match="norm_reward=True knows the mean"):
        go_on(model)


@pytest.mark.parametrize("switched_on", [True, False])
@pytest.mark.parametrize("kind", ["vector", "dictionary"])
def test_a_normalisation_of_the_users_own_is_asked(kind: str, switched_on: bool) -> None:
    space = VECTOR if kind == "vector" else DICTIONARY
    env = OwnNormalisation(
        DummyVecEnv([lambda: SpacesEnv(space)]), norm_obs_keys=None if kind == "vector" else ["vector"]
    )
    env.norm_obs = env.norm_reward = switched_on
    model = make(SACv2, env, "MlpPolicy" if kind == "vector" else "MultiInputPolicy")
    seen = []
    update = model.update
    model.update = lambda batch, noise: (seen.append(batch), update(batch, noise))[1]
    model.learn(20)
    assert all((one.rewards == 7.0).all() for one in seen)
    observations = [one.observations if kind == "vector" else one.observations["vector"] for one in seen]
    assert 1.0 < max(float(one.abs().max()) for one in observations) <= 2.0


@pytest.mark.parametrize("part", ["mu", "critic", "temperature"])
def test_parts_that_no_optimizer_steps_are_refused(part: str) -> None:
    model = make(SACv2).learn(20)
    if part == "mu":
        model.actor.mu = nn.Linear(model.actor.mu.in_features, model.actor.mu.out_features)
    elif part == "critic":
        layer = model.critic.q_networks.layers[0]
        layer.weight = nn.Parameter(layer.weight.detach().clone())
    else:
        model.temperature.log_ent_coef = nn.Parameter(th.zeros(1))
    with pytest.raises(ValueError, match=r"steps parameters that are not the .*make it a new one"):
        model.learn(5, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", [SACv1, SACv2, SQL, MASAC])
def test_a_target_entropy_is_looked_at_when_it_changes(algorithm: type) -> None:
    env = {MASAC: several_agents, SQL: lambda: "CartPole-v1"}.get(algorithm, SpacesEnv)()
    model = make(algorithm, env, ent_coef="auto").learn(10)
    expected, model.target_entropy = model.target_entropy, "auto"
    model.train(1, 4)
    assert model.target_entropy == expected
    for value in ("nonsense", None, float("nan"), 50.0):
        model.target_entropy = value
        with pytest.raises(ValueError, match=f"target_entropy={value}|target_entropy='nonsense'"):
            model.train(1, 4)


# ---------------------------------------------------------------- several agents


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_weight_of_the_cross_entropy_may_be_annealed(n_envs: int) -> None:
    model = make(MASAC, several_agents(n_envs), ce_coef=0.5)
    model.learn(20)
    before = model.engine_signature()
    model.ce_coef = 0.25
    go_on(model)
    assert model.cross_entropy.coefficient == 0.25
    assert model.engine_signature() == before
    model.ce_convention = "similarity"
    go_on(model)
    assert model.cross_entropy.coefficient == -0.25
    assert model.engine_signature() != before


def test_the_weight_of_the_cross_entropy_stays_where_a_captured_graph_reads_it() -> None:
    model = make(MASAC, several_agents(), ce_coef=0.5).learn(20)
    before, memory = model.engine_signature(), model.cross_entropy.coefficient.data_ptr()
    model.ce_coef = -0.1
    with th.inference_mode():
        model.soft_value(model.observation_space.sample())
    model.ce_coef = 0.25
    model.train(1)
    assert model.engine_signature() == before
    assert (model.cross_entropy.coefficient.data_ptr(), model.cross_entropy.coefficient) == (memory, 0.25)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_update_follows_an_annealed_weight_of_the_cross_entropy() -> None:
    vectors = []
    for engine in ("eager", "compile"):
        model = make(MASAC, several_agents(), engine=engine, learning_rate=3e-2, ce_coef=0.5)
        model.learn(20)
        for step in range(12):  # more often than an update is compiled anew
            model.ce_coef = 0.4 - 0.02 * step
            go_on(model, 2)
        vectors.append(vector(model.policy))
    th.testing.assert_close(vectors[1], vectors[0], rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- particles


@pytest.mark.parametrize(
    ("name", "value"),
    [("ce_convention", "similarity"), ("ce_floor", "joint"), ("ce_center", True), ("ce_relative", True)],
)
def test_each_option_of_the_cross_entropy_may_change(name: str, value: Any) -> None:
    model = make(MASAC, several_agents(), ce_coef=0.1).learn(10)
    batch, noise = model.draw_batch(16)
    obs, alpha = batch.observations, model.temperature.value

    def value_of() -> th.Tensor:
        with th.no_grad():
            sample = model.actor.sample(obs, noise.actions)
            return model._value(model.critic.min_q(obs, sample), obs, sample, alpha)[0]

    setattr(model, name, value)
    before = value_of()
    model._take_settings()
    assert not th.allclose(value_of(), before)


def test_the_number_of_particles_may_change() -> None:
    model = make(SQL)
    model.learn(20)
    before = model.engine_signature()
    model.n_value_particles = 7
    go_on(model)
    assert model.draw_noise(4).value_particles.shape == (4, 7, 2)
    assert model.engine_signature() != before
    model.squash_gradient = "action"
    go_on(model)
    model.squash_gradient = "tanh"
    with pytest.raises(ValueError, match="squash_gradient='tanh' is not known"):
        go_on(model)


# ---------------------------------------------------------------- engines


class Step:
    """A gradient step that counts its calls, and depends on a constant."""

    def __init__(self) -> None:
        self.total, self.constant = th.zeros(()), 1.0

    def draw(self, batch_size: int) -> tuple[th.Tensor]:
        return (th.ones(batch_size),)

    def step(self, x: th.Tensor) -> None:
        self.total += (x * self.constant).mean()


@pytest.mark.slow
@needs_compiler
def test_a_constant_that_keeps_changing_ends_in_the_eager_engine() -> None:
    def run(make_engine: Callable[[Step], Engine], limit: int) -> Step:
        step = Step()
        engine = make_engine(step)
        with th._dynamo.config.patch(recompile_limit=limit):
            for constant in range(5):
                step.constant = float(constant)
                engine.run(2, 4, lambda: None)
        return step

    def compiled(step: Step) -> Engine:
        return CompiledEngine(step.draw, step.step, True)

    def auto(step: Step) -> Engine:
        options: dict[str, Any] = {"device": th.device("cpu"), "draw_on_device": True, "fullgraph": True}
        return engine_choice.make_engine("auto", step.draw, step.step, planned_steps=1e6, **options)

    with pytest.raises(EngineUnavailableError, match=r"has changed too often\): pass engine='eager'"):
        run(compiled, 2)
    own_limit = 8 if "recompile_limit" in inspect.signature(th.compile).parameters else 2
    with pytest.warns(UserWarning, match="has changed too often.*going on with engine='eager'"):
        step = run(auto, own_limit)
    assert step.total == 2 * sum(range(5))


class FailsAt(Engine):
    """
    Does two steps of each run and then fails, once so many runs are over; as a capture does after its warm-up.

    :param step: what it does
    :param run: which run fails
    """

    name = "failing"

    def __init__(self, step: Step, run: int):
        super().__init__(step.draw, step.step, True)
        self.runs = run

    def run(self, gradient_steps: int, batch_size: int, signature: Any) -> None:
        self.runs -= 1
        for self.done in range(gradient_steps):
            if self.runs < 0 and self.done == 2:
                raise EngineUnavailableError("cannot capture")
            self.step(*self.draw(batch_size))


@pytest.mark.parametrize("run", [0, 3])
def test_no_step_is_done_twice_where_the_eager_engine_takes_over(run: int) -> None:
    step = Step()
    engine = FallbackEngine(FailsAt(step, run), EagerEngine(step.draw, step.step, True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            engine.run(4, 8, lambda: None)
    assert step.total == 20
    assert [str(one.message) for one in caught] == [
        "engine='auto' chose 'failing', which failed (EngineUnavailableError: cannot capture): going on with "
        "engine='eager'"
    ]


def test_an_error_of_the_users_own_is_not_taken_for_one_of_the_engine() -> None:
    step = Step()
    first = EagerEngine(step.draw, step.step, True)
    engine = FallbackEngine(first, EagerEngine(step.draw, step.step, True))
    engine.run(1, 4, lambda: None)

    def draw(batch_size: int) -> tuple[th.Tensor]:
        raise KeyError("mine")

    first.draw = draw
    with pytest.raises(KeyError, match="mine"):
        engine.run(1, 4, lambda: None)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The numbers of gradient steps that engines are chosen for; all are eager ones."""
    found: list[float] = []

    def spy(*args: Any, planned_steps: float, **kwargs: Any) -> Engine:
        found.append(planned_steps)
        return engine_choice.make_engine("eager", *args[1:], planned_steps=planned_steps, **kwargs)

    monkeypatch.setattr(updater, "make_engine", spy)
    return found


def test_auto_counts_updates_by_hand(plans: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(updater, "COMPILE_PAYS_FROM", 10)
    model = make(SACv2, engine="auto", learning_starts=8).learn(8)
    for _ in range(6):
        model.train(3, batch_size=4)
    assert plans == [3, 12]
    another = make(SACv2, engine="auto", learning_starts=8).learn(8)
    another.train(20, batch_size=4)
    assert plans == [3, 12, 20]
    model.save_checkpoint(tmp_path)
    resumed = SACv2.load_checkpoint(tmp_path, SpacesEnv())
    resumed.set_logger(model.logger)
    resumed.train(3, batch_size=4)
    assert plans == [3, 12, 20, 18 + 3]


def test_auto_counts_updates_by_hand_of_a_copy_that_a_callback_made(plans: list[float]) -> None:
    copies: list[Any] = []
    make(SACv2, engine="auto", learning_starts=8).learn(
        12, lambda names, _: copies.append(copy.deepcopy(names["self"])) or True
    )
    copies[-1].train(40, batch_size=4)
    assert plans[-1] >= 40


def test_auto_chooses_again_where_more_is_planned(
    plans: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(updater, "COMPILE_PAYS_FROM", 100)
    model = make(SACv2, engine="auto", learning_starts=0)
    for _ in range(5):
        go_on(model, 30)  # 30, 60, 90, 120, 150 updates
    assert plans == [30, 120]
    model.learn(200)
    assert plans == [30, 120]
    # A model that was loaded to train it a little more does not pay for compiling, however long it was trained before
    model.save(tmp_path / "model")
    loaded = SACv2.load(tmp_path / "model", SpacesEnv())
    go_on(loaded, 30)
    assert plans == [30, 120, 30]


def test_parameters_with_hooks_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    model = make(SACv2, engine="compile")
    next(model.critic.parameters()).register_hook(calls.append)
    with pytest.raises(EngineUnavailableError, match=r"critic has a gradient hook.*pass engine='eager'"):
        model.learn(20)
    model.engine, model.verbose = "auto", 1
    monkeypatch.setattr(engine_choice, "COMPILE_PAYS_FROM", 1)
    go_on(model)
    assert calls
    assert "Using the eager engine (a parameter of the critic has a gradient hook" in capsys.readouterr().out


@needs_compiler
@pytest.mark.parametrize("name", ["critic", "critic_target", "critic.q_networks", "actor.mu"])
@pytest.mark.parametrize("kind", ["forward", "full_backward"])
def test_networks_with_hooks_are_not_compiled(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled update would call the hook while it is compiled, and never again."""
    model, calls = make(SACv2, engine="compile", learning_starts=30), []
    module = model.policy.get_submodule(name)
    if kind == "full_backward" and name == "critic_target":
        pytest.skip("targets have no gradients")
    handle = getattr(module, f"register_{kind}_hook")(lambda *_: calls.append(0))
    with pytest.raises(EngineUnavailableError, match=rf"a {type(module).__name__} has a hook; pass engine="):
        model.learn(32)
    monkeypatch.setattr(engine_choice, "COMPILE_PAYS_FROM", 0)
    model.engine = "auto"
    with pytest.warns(UserWarning, match=r"goes on with 'eager', not 'compile': .* has a hook"):
        model.learn(40)
    assert len(calls) >= 10
    handle.remove()
    model.actor.register_forward_hook(lambda *_: None)  # of itself: an update does not call it
    model.updater.bind(model._networks())
    assert not model.updater._unsupported_engines()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_hooks_of_torch_may_be_compiled() -> None:
    layer = nn.utils.weight_norm(nn.Linear(2, 2))
    assert layer._forward_pre_hooks
    assert not hooks_of_users(layer)


def test_the_engine_may_be_changed() -> None:
    model = make(SACv2, engine="eager")
    model.learn(20)
    model.engine = "cudagraph"
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match=r"engine='cudagraph' cannot run on device='cpu'"):
            go_on(model)
    model.engine = "eager"
    go_on(model)
    assert isinstance(model.updater.engine, EagerEngine)


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        *[(SACv2, name) for name in ("engine", "precision", "ent_coef_loss", "update_order")],
        *[(SACv1, name) for name in ("policy_gradient", "policy_q")],
        (MASAC, "ce_obs"),
    ],
)
def test_a_choice_is_looked_at_when_it_changes(algorithm: type, name: str) -> None:
    model = make(algorithm, several_agents() if algorithm is MASAC else None)
    model.learn(10)
    setattr(model, name, "nonsense")
    with pytest.raises(ValueError, match=f"{name}='nonsense' is not known: pass one of "):
        go_on(model)


def rates_in_use(model: Any) -> list[float]:
    networks = (model.actor, model.critic)
    optimizers = [network.optimizer for network in networks] + [model.ent_coef_optimizer]
    return [float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers]


def test_learning_rates_that_are_set_are_used_and_saved(tmp_path: Path) -> None:
    model = make(SACv2, SpacesEnv(), qf_learning_rate=1e-3)
    model.learn(12)
    model.learning_rate, model.qf_learning_rate = np.float32(0.5), lambda progress: 0.25
    model.ent_coef_learning_rate = 0.125
    go_on(model, 4)
    assert rates_in_use(model) == [0.5, 0.25, 0.125]
    model.qf_learning_rate = 2.0
    go_on(model, 4)
    assert rates_in_use(model) == [0.5, 2.0, 0.125]
    model.lr_schedule = lambda progress: 0.75  # as in SB3: until an argument is set
    go_on(model, 4)
    assert rates_in_use(model) == [0.75, 2.0, 0.125]
    model.qf_learning_rate = 1.0
    go_on(model, 4)
    assert rates_in_use(model) == [0.75, 1.0, 0.125]
    model.learning_rate, model.qf_learning_rate = 0.0625, 2.0
    go_on(model, 4)
    assert rates_in_use(model) == [0.0625, 2.0, 0.125]
    model.save_checkpoint(tmp_path / "checkpoint")
    model.save(tmp_path / "model")
    for again in (SACv2.load_checkpoint(tmp_path / "checkpoint", SpacesEnv()), SACv2.load(tmp_path / "model")):
        again.set_env(model.env)
        go_on(again, 24)
        assert rates_in_use(again) == [0.0625, 2.0, 0.125]


@pytest.mark.parametrize("name", ["learning_rate", "qf_learning_rate", "ent_coef_learning_rate"])
@pytest.mark.parametrize("later", [-1.0, float("nan"), None, "x"])
def test_a_schedule_is_looked_at_as_it_goes_on(name: str, later: Any) -> None:
    model = make(SACv2, **{name: lambda progress: 1e-3 if progress > 0.5 else later})
    with pytest.raises(ValueError, match=rf"{name}.*pass a number at least 0"):
        model.learn(40)
    assert model.num_timesteps == 20


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        *[("learning_rate", value, "pass a number at least 0") for value in (-1.0, None, "x")],
        ("qf_learning_rate", -1.0, "pass a number at least 0"),
        *[("gradient_steps", value, "pass an integer at least -1") for value in (1.5, -3, None)],
        *[("learning_starts", value, "pass an integer at least 0") for value in (-5, "10", None)],
        ("sde_sample_freq", 0, "pass an integer at least 1"),
        ("use_sde_at_warmup", "no", "pass True or False"),
        ("use_sde", True, "make a new model"),
    ],
)
@pytest.mark.parametrize("verbose", [0, 1])
def test_what_says_when_to_update_is_looked_at_when_it_changes(
    name: str, value: Any, remedy: str, verbose: int
) -> None:
    model = make(SACv2, make_vec_env(SpacesEnv, 2), verbose=verbose)
    model.learn(20)
    before = vector(model.policy)
    setattr(model, name, value)
    with refused(ValueError, name, value, remedy):
        go_on(model)
    assert th.equal(vector(model.policy), before)


def test_exploration_that_networks_are_not_made_for_is_refused() -> None:
    model = make(SQL, SpacesEnv(action_space=spaces.Discrete(3)))
    model.use_sde = True
    with pytest.raises(ValueError, match="use_sde=True has no effect on networks made with use_sde=False: make a new"):
        model.learn(20)


def test_updates_by_hand_are_whole() -> None:
    model = make(SACv2)
    model.learn(20)
    for steps in (1.5, -1, None):
        with refused(ValueError, "gradient_steps", steps, "pass an integer at least 0"):
            model.train(steps)


def test_a_schedule_that_reaches_zero_may_be_overrun() -> None:
    # SB3 counts on below zero with the steps of several environments, and would learn in the wrong direction
    model = make(SACv2, make_vec_env(SpacesEnv, 3), learning_rate=lambda progress: 1e-3 * progress)
    model.learn(100)
    assert model.num_timesteps == 102
    assert float(model.actor.optimizer.param_groups[0]["lr"]) == 0


def test_a_schedule_may_be_negative_by_rounding() -> None:
    model = make(SACv2, learning_rate=lambda progress: 1e-3 if progress > 0.5 else -1e-16)
    model.learn(40)
    assert rates_in_use(model) == [0.0, 0.0, 0.0]


def test_noise_that_is_none_is_refused() -> None:
    model = make(SACv2)
    model.action_noise = 0.1
    with pytest.raises(TypeError, match=r"action_noise=0\.1 is a float: pass an ActionNoise"):
        model.learn(20)


def test_noise_that_is_set_later_on_discrete_actions_is_refused() -> None:
    model = make(SQL, SpacesEnv(action_space=spaces.Discrete(3)))
    model.action_noise = NormalActionNoise(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match="cannot be added to actions of Discrete"):
        model.learn(20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("tau", 1.5), ("tau", float("nan")), ("gamma", -0.1), ("gamma", "0.9"), ("reward_scale", 0)],
        *[("target_update_interval", 0), ("target_update_interval", 2.0), ("batch_size", 0), ("batch_size", 2.5)],
    ],
)
def test_a_number_is_looked_at_when_it_changes(name: str, value: Any) -> None:
    model = make(SACv2)
    model.learn(20)
    before = vector(model.policy)
    setattr(model, name, value)
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} is not allowed: pass ")):
        go_on(model)
    assert th.equal(vector(model.policy), before)


def test_the_loss_of_the_temperature_may_be_changed() -> None:
    alphas = []
    for first, second in (("alpha", "log_alpha"), ("log_alpha", "log_alpha"), ("alpha", "alpha")):
        model = make(SACv2, ent_coef="auto_0.1", ent_coef_loss=first, learning_rate=0.05, learning_starts=10)
        model.learn(10)  # no update yet
        before = model.engine_signature()
        model.ent_coef_loss = second
        assert (model.engine_signature() != before) == (first != second)
        go_on(model)
        alphas.append(model.log_ent_coef.exp().item())
    assert alphas[0] == alphas[1] != alphas[2]


class Constants:
    """What a network of the user's may read that is no attribute of its own."""

    scale = 0.5


CONSTANTS = Constants()
TABLE = {"scale": 0.5}
SCALE = 0.5


class Scaled(BaseFeaturesExtractor):
    """With a value that subclasses inherit."""

    inherited = 0.5


class ReadsConstants(Scaled):
    """Features that depend on values outside of the network."""

    scale = 0.5

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, 4)
        self.layer = nn.Linear(observation_space.shape[0], 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations) * (
            self.scale + self.inherited + Constants.scale + CONSTANTS.scale + TABLE["scale"] + SCALE
        )


class ReadsConstantsItself(SACv2):
    """With a value of its class in the update."""

    bonus = 0.5

    def bootstrap_q(self, *args: Any) -> th.Tensor:
        return super().bootstrap_q(*args) + self.bonus


@every_algorithm
def test_a_subclass_may_change_what_the_critics_minimise(algorithm: type) -> None:
    class Unmoved(algorithm):
        def critic_loss(self, *args: Any) -> Any:
            loss, reported = super().critic_loss(*args)
            return 0.0 * loss, reported

    model = make(Unmoved)
    actor, critic = vector(model.actor), vector(model.critic)
    model.learn(20)
    assert not th.equal(vector(model.actor), actor)
    th.testing.assert_close(vector(model.critic), critic, rtol=0, atol=0)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("where", ["class", "inherited", "other class", "algorithm", "table", "module"])
def test_a_compiled_update_takes_values_of_classes_and_modules(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = []
    for engine in ("eager", "compile"):
        policy_kwargs = {"net_arch": [8], "features_extractor_class": ReadsConstants}
        model = make(ReadsConstantsItself, engine=engine, learning_rate=3e-2, policy_kwargs=policy_kwargs)
        model.learn(20)
        with monkeypatch.context() as patch:
            if where == "table":
                patch.setitem(TABLE, "scale", 3.0)
            elif where == "module":
                patch.setitem(globals(), "SCALE", 3.0)
            elif where == "inherited":
                patch.setattr(Scaled, "inherited", 3.0)
            elif where == "algorithm":
                patch.setattr(ReadsConstantsItself, "bonus", 3.0)
            else:
                patch.setattr(ReadsConstants if where == "class" else Constants, "scale", 3.0)
            go_on(model, 5)
        vectors.append(vector(model.policy))
    th.testing.assert_close(vectors[1], vectors[0], rtol=1e-3, atol=1e-5)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_update_of_soft_q_learning_takes_another_squash_gradient() -> None:
    vectors = []
    for engine in ("eager", "compile"):
        model = make(SQL, engine=engine, learning_rate=3e-2)
        model.learn(20)
        model.squash_gradient = "action"
        go_on(model, 5)
        vectors.append(vector(model.policy))
    th.testing.assert_close(vectors[1], vectors[0], rtol=1e-3, atol=1e-5)


@every_algorithm
def test_a_copy_has_an_engine_of_its_own(algorithm: type) -> None:
    model = make(algorithm)
    model.learn(20)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.updater.engine is None
        before, before_of_copy = flat_parameters(model), flat_parameters(copied)
        copied.set_env(DummyVecEnv([SpacesEnv]))
        go_on(copied)
        assert all(th.equal(value, before[name]) for name, value in flat_parameters(model).items())
        assert any(not th.equal(value, before_of_copy[name]) for name, value in flat_parameters(copied).items())


@needs_compiler
@pytest.mark.slow
def test_a_copy_of_a_compiled_model_trains_itself() -> None:
    model = make(SACv2, engine="compile")
    model.learn(20)
    before = flat_parameters(model)
    copied = copy.deepcopy(model)
    go_on(copied)
    assert all(th.equal(value, before[name]) for name, value in flat_parameters(model).items())
    assert any(not th.equal(value, before[name]) for name, value in flat_parameters(copied).items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(model))


def test_updates_are_counted_from_where_the_steps_are() -> None:
    model = make(SACv2, learning_starts=0)
    recorded: list[float] = []
    model.learn(100)
    record = model.logger.record

    def spy(key: str, value: Any, exclude: Any = None) -> None:
        if key == "train/update_to_data":
            recorded.append(value)
        record(key, value, exclude)

    model.logger.record = spy
    model.dump_logs()
    model.learn(100, log_interval=1)
    assert all(0.5 < ratio <= 1.0 for ratio in recorded)
    go_on(model, 50)
    model.dump_logs()
    assert recorded[-1] == 1.0


@pytest.mark.parametrize("train_freq", [8, (8, "step"), (1, "episode")])
def test_train_freq_between_two_calls_counts(train_freq: Any) -> None:
    model = make(SACv2, learning_starts=0).learn(10)
    model.train_freq = train_freq
    go_on(model, 16)
    assert n_updates(model) == 10 + 2
    model.train_freq = "often"
    with refused(ValueError, "train_freq", "often", "pass a number of steps"):
        go_on(model)


def test_the_optimiser_of_the_temperature_can_be_replaced() -> None:
    steps = []

    class Counted(th.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            steps.append(None)
            return super().step(closure)

    model = make(SACv2, learning_starts=0).learn(10)
    model.ent_coef_optimizer = Counted([model.log_ent_coef], lr=0.1)
    before = model.log_ent_coef.item()
    go_on(model, 5)
    assert len(steps) == 5
    assert model.log_ent_coef.item() != before
    with pytest.raises(AttributeError, match=r"ent_coef_optimizer: ent_coef=0.1 is fixed"):
        make(SACv2, ent_coef=0.1).ent_coef_optimizer = model.ent_coef_optimizer


# ---------------------------------------------------------------- whose networks, and whose methods


def shifted(network: Any) -> Any:
    """A copy of an actor or a policy, whose mean action is as high as it can be."""
    other = copy.deepcopy(network)
    getattr(other, "actor", other).mu.bias.data.fill_(3.0)
    return other


def same_networks(model: Any) -> bool:
    return all(network is getattr(model.policy, name) for name, network in model._networks().items())


@pytest.mark.parametrize("trained", [False, True])
def test_a_policy_that_was_put_in_is_trained_and_acts(trained: bool) -> None:
    model = make(SACv2, SpacesEnv(), learning_starts=0)
    if trained:
        go_on(model)
    model.policy = policy = shifted(model.policy)
    go_on(model)
    assert model.actor is policy.actor
    assert model.critic_target is policy.critic_target
    assert same_networks(model)
    assert (model.replay_buffer.actions[model.replay_buffer.pos - 15 : model.replay_buffer.pos] > 0.8).mean() > 0.8


def test_an_actor_that_was_put_in_is_saved_and_asked(tmp_path: Path) -> None:
    model = make(SACv2)
    go_on(model)
    actor = shifted(model.actor)
    actor.optimizer = th.optim.Adam(actor.parameters(), lr=3e-4)
    model.actor = actor
    model.save(tmp_path / "model")
    obs = np.zeros(VECTOR.shape, dtype=np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    assert (expected > 0.8).all()
    np.testing.assert_array_equal(SACv2.load(tmp_path / "model").predict(obs, deterministic=True)[0], expected)
    model.critic_target = copy.deepcopy(model.critic_target)
    go_on(model)
    assert model.actor is actor
    assert same_networks(model)


def test_aliases_can_be_extended() -> None:
    class Mine(SACv2):
        def _create_aliases(self) -> None:
            super()._create_aliases()
            self.features = self.policy.actor.features_extractor

    model = make(Mine)
    assert model.features is model.actor.features_extractor
    model.policy = shifted(model.policy)
    model._create_aliases()
    assert same_networks(model)


def test_methods_that_updates_do_not_call_are_refused() -> None:
    class Rates(SACv2):
        def _update_learning_rate(self, optimizers: Any) -> None: ...

    with pytest.raises(
        TypeError, match=r"^Rates\._update_learning_rate\(\) would have no effect: pass learning_rate, qf"
    ):
        make(Rates)

    class Trains(Rates):
        def train(self, gradient_steps: int, batch_size: int = 64) -> None:
            self._update_learning_rate([])

    make(Trains).learn(10)
    model = make(SACv2)
    own = model.actor.action_log_prob
    model.actor.action_log_prob = lambda obs: own(obs)
    with pytest.raises(TypeError, match=r"action_log_prob\(\) would have no effect: updates call sample\(obs, noise\)"):
        go_on(model)
    sample = model.actor.sample
    model.actor.sample = lambda obs, noise: sample(obs, noise)
    go_on(model)


def test_a_logger_of_another_kind() -> None:
    class Own:
        def __init__(self) -> None:
            self.recorded: dict[str, Any] = {}
            self.dumps = 0

        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            self.recorded[key] = value

        def dump(self, step: int = 0) -> None:
            self.dumps += 1

    model, logger = make(SACv2), Own()
    model.set_logger(logger)
    model.learn(20, log_interval=1)
    assert logger.dumps > 0
    assert np.isfinite(logger.recorded["train/critic_loss"])


def test_a_policy_class_where_the_usual_name_is_gone() -> None:
    class Mine(SACv2):
        policy_aliases = {"Mine": SACv2.policy_aliases["MlpPolicy"]}  # noqa: RUF012

    make(Mine, policy=SACv2.policy_aliases["MlpPolicy"])  # type: ignore[arg-type]
    make(Mine, policy="Mine")


def test_a_learned_temperature_is_not_switched_off() -> None:
    model = make(SACv2)
    for name in ("log_ent_coef", "ent_coef_optimizer"):
        with pytest.raises(ValueError, match=rf"^{name}=None cannot make the learned ent_coef='auto' a fixed one"):
            setattr(model, name, None)
    with pytest.raises(TypeError, match=r"ent_coef_optimizer=0.1 is a float: pass an optimiser of \[log_ent_coef\]"):
        model.ent_coef_optimizer = 0.1
    model.learn(20)
