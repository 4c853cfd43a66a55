"""The rollout's short cuts: the same numbers as by the long way, and everything a user can hook into still there."""

import copy
import functools
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from agents import AgentsEnv
from gymnasium import spaces
from helpers import (
    ACTION,
    DICTIONARY,
    IMAGE,
    VECTOR,
    NormalizingExtractor,
    SpacesEnv,
    as_arrays,
    assert_same_parameters,
    every_algorithm,
    make,
    n_updates,
    several,
    several_agents,
)
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from torch import nn

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.algorithm import rollout
from sb3_sac_variants.common.checks.data import DivergedError, check_finite, check_observation
from sb3_sac_variants.common.checks.validation import LARGEST
from sb3_sac_variants.common.gradient_step.engine import EngineUnavailableError
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor
from sb3_sac_variants.common.networks.discrete import StackedDiscreteCritic
from sb3_sac_variants.common.networks.fast_inference import fast_inference
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.sac_v2 import MlpPolicy
from sb3_sac_variants.sql.policies import MlpPolicy as MlpPolicyOfSQL

# ---------------------------------------------------------------- the fast actor

DISCRETE = spaces.Discrete(4)
#: algorithm, policy, observations, actions, arguments
ACTORS: dict[str, tuple[type, str, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "Gaussian": (SACv2, "MlpPolicy", VECTOR, ACTION, {"net_arch": [16, 8]}),
    "tanh units": (SACv2, "MlpPolicy", VECTOR, ACTION, {"policy_kwargs": {"activation_fn": nn.Tanh}}),
    "no hidden layer": (SACv2, "MlpPolicy", VECTOR, ACTION, {"net_arch": []}),
    "gSDE": (SACv2, "MlpPolicy", VECTOR, ACTION, {"use_sde": True}),
    "images": (SACv2, "CnnPolicy", IMAGE, ACTION, {}),
    "dictionaries": (SACv2, "MultiInputPolicy", DICTIONARY, ACTION, {}),
    "one-hot observations": (SACv2, "MlpPolicy", spaces.Discrete(5), ACTION, {}),
    "extractor of the user": (
        SACv2,
        "MlpPolicy",
        VECTOR,
        ACTION,
        {"policy_kwargs": {"features_extractor_class": NormalizingExtractor}},
    ),
    "mixture": (
        SACv1,
        "MlpPolicy",
        VECTOR,
        ACTION,
        {"policy_kwargs": {"n_components": 3}, "policy_gradient": "likelihood_ratio"},
    ),
    "Stein sampler": (SQL, "MlpPolicy", VECTOR, ACTION, {}),
    "categorical": (SACv2, "MlpPolicy", VECTOR, DISCRETE, {}),
    "softmax": (SQL, "MlpPolicy", VECTOR, DISCRETE, {}),
}


def acting(kind: str) -> tuple[Any, Any]:
    """
    :param kind: key of ``ACTORS``
    :return: a model of that kind, as in a rollout, and observations of five environments
    """
    algorithm, policy, observations, actions, kwargs = ACTORS[kind]
    model = make(algorithm, SpacesEnv(observations, actions), policy, **kwargs)
    model.policy.set_training_mode(False)
    samples = [observations.sample() for _ in range(5)]
    if isinstance(samples[0], dict):
        stacked: Any = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    else:
        stacked = np.stack(samples)
    return model, obs_as_tensor(stacked, model.device)


def act(actor: Callable[..., th.Tensor], obs: Any, **kwargs: Any) -> th.Tensor:
    """
    :param actor: what to call
    :param obs: observations
    :param kwargs: of the call
    :return: its actions, for always the same random numbers
    """
    th.manual_seed(7)
    with th.no_grad():
        return actor(obs, **kwargs)


@pytest.mark.parametrize("kind", ACTORS)
def test_a_lean_actor_acts_as_the_actor(kind: str) -> None:
    model, obs = acting(kind)
    double = fast_inference(model.actor)
    assert double is not model.actor
    for _ in range(2):
        assert th.equal(act(double, obs), act(model.actor, obs))
        assert th.equal(act(double, obs, deterministic=True), act(model.actor, obs, deterministic=True))
        if kind == "gSDE":
            model.actor.reset_noise(5)
        # It has to see what the learning makes of the parameters, in place or not
        before = act(double, obs)
        with th.no_grad():
            for parameter in model.policy.parameters():
                parameter.add_(0.02 * th.randn_like(parameter))
            for module in model.policy.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    if type(module) is nn.Linear:
                        setattr(module, name, nn.Parameter(1.1 * parameter))
        if "softmax" not in kind and "categorical" not in kind:
            assert not th.equal(act(double, obs), before)


@pytest.mark.parametrize("kind", ["Gaussian", "images", "Stein sampler", "softmax"])
def test_a_copied_model_acts_by_its_own_parameters(kind: str) -> None:
    model, obs = acting(kind)
    model.actor_and_double = model.actor, fast_inference(model.actor)
    for twin in (copy.deepcopy(model), pickle.loads(cloudpickle.dumps(model))):
        actor, double = twin.actor_and_double
        with th.no_grad():
            for parameter in twin.policy.parameters():
                parameter.zero_()
        assert th.equal(act(double, obs), act(actor, obs))
        with th.no_grad():
            assert sum(parameter.abs().sum() for parameter in model.policy.parameters()) > 0


@pytest.mark.parametrize("kind", ["forward", "pre", "global"])
@pytest.mark.parametrize("hooked", ["actor", "actor.latent_pi", "actor.latent_pi.0", "actor.mu"])
def test_hooks_of_modules_are_called(hooked: str, kind: str) -> None:
    model = make(SACv2)
    module = model.policy.get_submodule(hooked)
    calls: list[bool] = []

    def hook(called: nn.Module, *_: Any) -> None:
        if called is module:
            calls.append(th.is_grad_enabled())

    if kind == "global":
        handle = nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = module.register_forward_hook(hook) if kind == "forward" else module.register_forward_pre_hook(hook)
    model.train = lambda gradient_steps, batch_size: None
    try:
        model.learn(12)
    finally:
        handle.remove()
    assert calls == [False] * 7


class CountingActor(SquashedGaussianActor):
    """An actor of the user's own, which keeps something on itself and turns the actions round."""

    calls = 0

    def forward(self, obs: Any, deterministic: bool = False) -> th.Tensor:
        self.calls += 1
        return -super().forward(obs, deterministic)


def test_a_layer_that_comes_twice_is_called_twice() -> None:
    activation = nn.Tanh()
    layers = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2), activation)
    inputs = th.randn(5, 3)
    assert th.equal(fast_inference(layers)(inputs), layers(inputs))


def test_an_actor_of_the_user_is_called_itself() -> None:
    model = make(SACv2)
    model.actor.__class__ = CountingActor
    model.train = lambda gradient_steps, batch_size: None
    model.learn(12)
    assert model.actor.calls == 7
    obs = th.zeros(1, 3)
    assert th.equal(act(fast_inference(model.actor), obs), -act(super(CountingActor, model.actor).forward, obs))


def test_a_forward_put_on_the_instance_is_called() -> None:
    model = make(SACv2)
    model.actor.forward = lambda obs: th.full((len(obs), 2), 0.25)
    model.train = lambda gradient_steps, batch_size: None
    model.learn(12)
    assert np.array_equal(model.env.get_attr("actions")[0][5:], np.full((7, 2), 0.25))


# ---------------------------------------------------------------- the same run as by the long way


def long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    :param monkeypatch: undoes what this does: take the ordinary actor, and SB3's way of storing and unscaling
    """
    monkeypatch.setattr(rollout, "fast_inference", lambda actor: actor)
    for algorithm in (SACv1, SACv2, SQL):
        monkeypatch.setattr(algorithm, "_store_transition", SAC._store_transition)
        monkeypatch.setattr(algorithm.policy_aliases["MlpPolicy"], "unscale_action", BasePolicy.unscale_action)


@pytest.mark.thin(5)
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "normalised", "stored once", "truncated"])
@every_algorithm
def test_same_run_as_by_the_long_way(algorithm: type, kind: str, n_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for short in (True, False):
        if not short:
            long_way(monkeypatch)
        env: Any = several(n_envs, truncate=kind == "truncated", episode_length=6)
        if kind == "normalised":
            env = VecNormalize(env, clip_obs=1.5)
        model = make(algorithm, env, optimize_memory_usage=kind == "stored once", gradient_steps=-1)
        runs.append(model.learn(45))
        model.learn(2 * n_envs, reset_num_timesteps=False)  # from the observation that was the last
    assert_same_parameters(*runs)
    positions = th.arange(runs[0].replay_buffer.size() - 1)
    stored = [as_arrays(run.replay_buffer.gather(positions * n_envs)) for run in runs]
    np.testing.assert_equal(*stored)


def test_unscaled_actions_are_those_of_sb3_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for scale in 10.0 ** np.arange(-3, 4):
            low = (scale * rng.standard_normal(2)).astype(dtype)
            space = spaces.Box(low, low + (scale * rng.exponential(size=2)).astype(dtype), dtype=dtype)
            policy = make(SACv2, SpacesEnv(action_space=space)).policy
            scaled = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
            expected = BasePolicy.unscale_action(policy, scaled)
            actions = policy.unscale_action(scaled)
            assert actions.dtype == expected.dtype
            assert np.array_equal(actions, expected)


# ---------------------------------------------------------------- what a user can hook into


@every_algorithm
def test_callbacks_see_the_locals_of_sb3(algorithm: type) -> None:
    seen = []
    for model in (make(algorithm, several()), SAC("MlpPolicy", several(), learning_starts=5)):
        names: dict[str, Any] = {}

        def callback(names_now: dict[str, Any], _: Any, names: dict[str, Any] = names) -> bool:
            names.update(names_now)
            return True

        model.learn(12, callback=callback, log_interval=3)
        assert names["num_collected_steps"] == 1
        assert names["replay_buffer"] is model.replay_buffer
        assert names["new_obs"].shape == (2, 3)
        seen.append({name: type(value).__name__ for name, value in names.items() if name not in ("self", "callback")})
    ours, theirs = seen
    ours["replay_buffer"] = theirs["replay_buffer"]
    assert ours.items() >= theirs.items()


def counted(method: Any, calls: list[str]) -> Any:
    @functools.wraps(method)
    def counts(*args: Any, **kwargs: Any) -> Any:
        calls.append(method.__name__)
        return method(*args, **kwargs)

    return counts


@pytest.mark.parametrize("name", ["predict", "policy.predict", "policy._predict", "policy.obs_to_tensor"])
@pytest.mark.parametrize("of", ["object", "subclass"])
def test_what_users_wrap_is_called(name: str, of: str) -> None:
    """``functools.wraps`` makes it look like the method that it wraps."""
    model, calls = make(SACv2), []
    owner, name = (model.policy, name.partition(".")[2]) if "." in name else (model, name)
    if of == "object":
        setattr(owner, name, counted(getattr(owner, name), calls))
    else:
        own = counted(getattr(type(owner), name), calls)
        owner.__class__ = type("Mine", (type(owner),), {name: own, "__module__": type(owner).__module__})
    model.learn(12)
    assert len(calls) == 7


@pytest.mark.parametrize("name", ["predict", "policy.predict", "policy._predict", "policy.obs_to_tensor"])
def test_what_users_put_in_during_the_training_is_called_until_it_is_taken_out(name: str) -> None:
    model, calls = make(SACv2), []
    owner, name = (model.policy, name.partition(".")[2]) if "." in name else (model, name)

    class Exchanges(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 10:
                setattr(owner, name, counted(getattr(owner, name), calls))
            if self.num_timesteps == 16:
                delattr(owner, name)
            return True

    model.learn(20, callback=Exchanges())
    assert len(calls) == 6


def test_hooks_on_the_critics_are_called() -> None:
    model, calls = make(SACv2), []
    for name in ("critic", "critic_target", "critic.q_networks"):
        module = model.policy.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.learn(12)
    assert calls == ["critic_target", *["critic.q_networks", "critic"] * 2] * 7
    seen: list[Any] = []
    model.critic.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    obs, actions = th.zeros(4, 3), th.zeros(4, 2)
    values = model.critic.evaluate(obs, actions)
    ((inputs, output),) = seen
    assert inputs[0] is obs
    assert th.equal(th.stack(output), values)


@pytest.mark.parametrize("algorithm", [SACv2, SQL])
def test_a_forward_of_ones_own_counts_in_updates(algorithm: Any) -> None:
    usual, watched, calls = make(algorithm), make(algorithm), []
    for critic in (watched.critic, watched.critic_target):
        forward = critic.forward
        critic.forward = lambda *inputs, forward=forward: (calls.append(len(inputs)), forward(*inputs))[1]
    usual.set_random_seed(0)
    usual.learn(12)
    watched.set_random_seed(0)
    watched.learn(12)
    assert calls == [2] * 7 * 3
    assert_same_parameters(usual, watched)
    scaled = make(algorithm)
    forward_of_target = scaled.critic_target.forward
    scaled.critic_target.forward = lambda *inputs: tuple(q - 10 for q in forward_of_target(*inputs))
    scaled.learn(200)
    assert scaled.q_value(*watched_state(scaled))[0] < usual.learn(200).q_value(*watched_state(usual))[0] - 0.1
    watched.engine = "compile"
    with pytest.raises(EngineUnavailableError, match=r"Critic has a forward\(\) of its own put on it"):
        watched.learn(8)


def watched_state(model: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, *model.observation_space.shape)), np.zeros((1, *model.action_space.shape))


#: algorithms on discrete actions and with several agents, whose critics are asked for other values than by forward()
OTHER_CRITICS: dict[str, tuple[Any, Callable[[], Any], dict[str, Any]]] = {
    "SACv2 discrete": (SACv2, lambda: "CartPole-v1", {}),
    "SQL discrete": (SQL, lambda: "CartPole-v1", {}),
    "MASAC": (MASAC, AgentsEnv, {}),
    "MASAC, shared": (MASAC, AgentsEnv, {"share_critic": True}),
    "MASAC discrete": (MASAC, lambda: AgentsEnv(n_actions=5), {}),
    "MASAC discrete, shared": (MASAC, lambda: AgentsEnv(n_actions=5), {"share_critic": True}),
}


@pytest.mark.parametrize("name", OTHER_CRITICS)
def test_hooks_on_critics_of_discrete_actions_and_of_several_agents_count_in_every_value(name: str) -> None:
    algorithm, env, policy_kwargs = OTHER_CRITICS[name]
    model = make(algorithm, env(), policy_kwargs={"net_arch": [8], **policy_kwargs}).learn(12)
    batch, _ = model.draw_batch(6)
    obs = batch.observations

    def values() -> list[th.Tensor]:
        with th.enable_grad():
            sample = model.actor.sample(obs, th.zeros(model.actor.noise_shape(6)))
            found = [model.critic.evaluate(obs, batch.actions), model.critic.sample_q(obs, sample)]
            if algorithm is MASAC:
                own = model.critic.min_q_of_own_action(obs, sample)
                assert_close(own, model.critic.min_q(obs, sample))
                found += [own, *th.autograd.grad(own.sum(), list(model.actor.parameters()), allow_unused=True)]
        return [value.detach() for value in found if value is not None]

    usual = values()
    model.critic.register_forward_hook(lambda _, inputs, output: tuple(2.0 * q for q in output))
    for before, after in zip(usual, values(), strict=True):
        assert_close(2.0 * before, after)
    if algorithm is SQL:  # acts by its critics
        q_values = 2.0 * usual[1].amin(dim=0) / model.actor.ent_coef
        assert_close(model.actor.log_prob(obs), th.log_softmax(q_values, dim=1))
    model.learn(12, reset_num_timesteps=False)


@pytest.mark.parametrize("method", ["values", "forward"])
def test_soft_q_learning_acts_by_critics_of_the_users_own(method: str) -> None:
    class Critic(StackedDiscreteCritic):
        def values(self, obs: Any) -> th.Tensor:
            return super().values(obs) * (0.0 if method == "values" else 1.0)

        def forward(self, obs: Any, actions: th.Tensor) -> tuple[th.Tensor, ...]:
            q_values = super().forward(obs, actions)
            return tuple(0.0 * q for q in q_values) if method == "forward" else q_values

    class Policy(MlpPolicyOfSQL):
        def make_critic(self, features_extractor: Any = None) -> Any:
            return Critic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)

    model = make(SQL, "CartPole-v1", Policy).learn(20)
    assert model.actor.log_prob(th.ones(1, 4)).exp().tolist() == [[0.5, 0.5]]


def assert_close(one: th.Tensor, other: th.Tensor) -> None:
    th.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_hook_registered_in_between_is_called() -> None:
    calls: list[int] = []

    class HooksAt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 20:
                self.model.actor.register_forward_hook(lambda *_: calls.append(self.num_timesteps))
            return True

    make(SACv2).learn(30, callback=HooksAt())
    assert calls == list(range(20, 30))


@every_algorithm
def test_overridden_steps_of_the_loop(algorithm: type) -> None:
    class Mine(algorithm):  # type: ignore[misc, valid-type]
        def _sample_action(self, learning_starts: int, action_noise: Any = None, n_envs: int = 1) -> Any:
            action, buffer_action = super()._sample_action(learning_starts, action_noise, n_envs)
            return np.zeros_like(action), np.zeros_like(buffer_action)

        def _store_transition(
            self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
        ) -> None:
            super()._store_transition(replay_buffer, buffer_action, new_obs, reward + 10.0, dones, infos)

        def _update_info_buffer(self, infos: Any, dones: Any = None) -> None:
            super()._update_info_buffer([{**info, "episode": {"r": 5.0, "l": 1, "t": 0.0}} for info in infos], dones)

    env = SpacesEnv()
    model = make(Mine, env).learn(25)
    assert not np.any(env.actions)
    assert not model.replay_buffer.actions[:25].any()
    assert (model.replay_buffer.rewards[:25] == 10.0).all()
    assert [info["r"] for info in model.ep_info_buffer] == [5.0] * 25


class Keeping:
    """A buffer of the user's own does as it likes with what it is given."""

    def add(self, obs: Any, next_obs: Any, *args: Any) -> None:
        super().add(obs, next_obs, *args)  # type: ignore[misc]
        next_obs[...] = np.nan


class KeepingBuffer(Keeping, ReplayBuffer):
    pass


class KeepingTensorBuffer(Keeping, TensorReplayBuffer):
    pass


@pytest.mark.parametrize("buffer", [KeepingBuffer, KeepingTensorBuffer])
def test_a_buffer_of_the_user_owns_what_it_is_given(buffer: type) -> None:
    model = make(SACv2, replay_buffer_class=buffer).learn(25)
    assert np.isfinite(model.replay_buffer.observations[:25]).all()


def test_observations_of_another_type_are_stored_as_float32() -> None:
    space = spaces.Box(-1, 1, (2, 3), np.float64)
    buffer = TensorReplayBuffer(10, space, spaces.Discrete(3), "cpu", n_envs=2)
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, 2, 2, 3))
    buffer.add(np.asfortranarray(obs), next_obs, np.array([2, 1]), np.ones(2), np.array([True, False]), [{}, {}])
    batch = buffer.gather(th.arange(2))
    assert np.array_equal(batch.observations, obs.astype(np.float32))
    assert np.array_equal(batch.next_observations, next_obs.astype(np.float32))
    assert batch.actions.tolist() == [[2], [1]]
    assert batch.dones.tolist() == [[1.0], [0.0]]


def test_a_copied_policy_has_a_training_mode_of_its_own() -> None:
    model = make(SACv2).learn(8)
    model.policy.set_training_mode(False)
    twin = copy.deepcopy(model.policy)
    twin.set_training_mode(True)
    assert (twin.training, model.policy.training) == (True, False)
    assert twin.actor.latent_pi[0].training
    assert not model.actor.latent_pi[0].training


# ---------------------------------------------------------------- the guard before the buffer


class Turned(VecEnvWrapper):
    """Gives observations of other shapes than its space says, as a vectorised environment of one's own may."""

    def __init__(self, turn_first: bool, space: spaces.Space = VECTOR):
        super().__init__(DummyVecEnv([lambda: SpacesEnv(space)] * 2))
        self.turn_first = turn_first

    def _turned(self, obs: Any) -> Any:
        return {**obs, "image": np.swapaxes(obs["image"], 1, 3)} if isinstance(obs, dict) else obs[:, None]

    def reset(self) -> Any:
        return self._turned(self.venv.reset()) if self.turn_first else self.venv.reset()

    def step_wait(self) -> Any:
        obs, *others = self.venv.step_wait()
        return (self._turned(obs), *others)


@pytest.mark.parametrize("turn_first", [True, False])
def test_observations_of_another_shape_are_refused(turn_first: bool) -> None:
    """Of as many numbers they would be learned from in another order."""
    model = make(SACv2, Turned(turn_first))
    with pytest.raises(
        ValueError, match=r"observation of 2 environments has shape \(2, 1, 3\), and Box.* wants \(2, 3\)"
    ):
        model.learn(10)


def test_images_with_their_axes_in_another_order_are_refused() -> None:
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 40, 36), np.uint8)})
    model = make(SACv2, Turned(False, space), "MultiInputPolicy")
    with pytest.raises(ValueError, match=r"observation\['image'\] of 2 environments has shape \(2, 36, 40, 3\)"):
        model.learn(10)


def test_a_last_observation_of_another_shape_is_refused() -> None:
    class Last(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()

        def step_wait(self) -> Any:
            *others, infos = self.venv.step_wait()
            for info in infos:
                if "terminal_observation" in info:
                    info["terminal_observation"] = info["terminal_observation"][:1]
            return (*others, infos)

    model = make(SACv2, Last(DummyVecEnv([SpacesEnv])))
    with pytest.raises(
        ValueError, match=r"terminal observation of environment 0 has shape \(1,\), and Box.* wants \(3,\)"
    ):
        model.learn(20)


def test_a_last_observation_that_is_still_a_dictionary_is_refused() -> None:
    class Extracted(VecEnvWrapper):
        """As ``VecExtractDictObs`` of SB3's documentation."""

        def __init__(self, venv: Any):
            super().__init__(venv, observation_space=VECTOR)

        def reset(self) -> Any:
            return self.venv.reset()["vector"]

        def step_wait(self) -> Any:
            obs, *others = self.venv.step_wait()
            return (obs["vector"], *others)

    model = make(SACv2, Extracted(DummyVecEnv([lambda: SpacesEnv(DICTIONARY)])))
    with pytest.raises(
        ValueError, match=r"environment 0 is a dictionary of \[.*'vector'.* wants \(3,\): .* changes infos"
    ):
        model.learn(20)


def test_a_part_of_the_last_observation_that_is_missing_is_named() -> None:
    class Forgetful(SpacesEnv):
        def step(self, action: Any) -> Any:
            observation, *rest, over, truncated, info = super().step(action)
            if over:
                del observation["vector"]
            return observation, *rest, over, truncated, info

    model = make(SACv2, DummyVecEnv([lambda: SpacesEnv(DICTIONARY), lambda: Forgetful(DICTIONARY)]), "MultiInputPolicy")
    with pytest.raises(ValueError, match=r"terminal observation of environment 1 has no 'vector', and Dict.* wants it"):
        model.learn(50)


def test_the_error_of_a_diverged_network_goes_through_a_pickle() -> None:
    error = DivergedError("MlpPolicy", 5)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.policy, again.step) == (str(error), "MlpPolicy", 5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_finite_passes(dtype: type) -> None:
    largest = min(float(np.finfo(dtype).max), LARGEST)
    check_finite("x", np.array([[largest, -largest], [0.0, 1.0]], dtype=dtype), 0)
    check_finite("x", np.full((3, 2, 2), 7, dtype=np.uint8), 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_infinite_in_few_digits_does_not(dtype: type) -> None:
    bad = np.array([[1.0], [np.inf]], dtype)
    with pytest.raises(ValueError, match="x of environment 1 at step 4"):
        check_finite("x", bad, 4)
    with pytest.raises(ValueError, match="is not finite: pass finite numbers"):
        check_observation(bad)


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, -np.inf], [1e39, -1e39], [0.0, -1e300]])
def test_what_is_not_finite_does_not(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="x of environment 1 at step 4"):
        check_finite("x", np.array([[1.0, 2.0], bad]), 4)


# ---------------------------------------------------------------- what users put between observation and action


class Counted(MlpPolicy):
    """Counts how often it is asked."""

    calls = 0

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        type(self).calls += 1
        return super()._predict(observation, deterministic)


class Still(SACv2):
    """Does nothing, whatever it has learned."""

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        return np.zeros((len(observation), 2), np.float32), None


def test_a_policy_of_the_user_is_asked() -> None:
    model = make(SACv2, policy=Counted)
    model.learn(20)
    assert Counted.calls == 20 - model.learning_starts


def test_a_predict_of_the_user_is_asked() -> None:
    env = SpacesEnv()
    make(Still, env).learn(20)
    assert any(action.any() for action in env.actions[:5])
    assert not any(action.any() for action in env.actions[5:])


# ---------------------------------------------------------------- action noise


@pytest.mark.parametrize(
    ("shape", "good"), [((2,), True), ((1,), True), ((3,), False), ((2, 2), False), ((1, 2), False)]
)
@pytest.mark.parametrize("n_envs", [1, 2, 3])
def test_shape_of_the_action_noise(shape: tuple[int, ...], good: bool, n_envs: int) -> None:
    noise = NormalActionNoise(np.zeros(shape), 0.1 * np.ones(shape))
    env = DummyVecEnv([SpacesEnv] * n_envs)
    if good:
        model = make(SACv2, env, action_noise=noise, gradient_steps=-1)
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        model.learn(0)
        assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
        model.learn(30)
        return
    message = rf"(?s)action_noise=.* shape {re.escape(str(shape))}.*actions have \(2,\)"
    with pytest.raises(ValueError, match=message):
        make(SACv2, env, action_noise=noise)
    model = make(SACv2, env)
    model.action_noise = noise
    with pytest.raises(ValueError, match=message):
        model.learn(30)


@pytest.mark.parametrize("n_envs", [2, 3])
def test_shape_of_the_action_noise_of_several_agents(n_envs: int) -> None:
    # With three environments NumPy would add one environment's noise to one agent in all of them
    env = several_agents(n_envs)
    with pytest.raises(ValueError, match=r"shape \(5,\), and actions have \(3, 5\)"):
        make(MASAC, env, action_noise=NormalActionNoise(np.zeros(5), np.ones(5)))
    make(MASAC, env, action_noise=NormalActionNoise(np.zeros((3, 5)), np.ones((3, 5))), gradient_steps=-1).learn(30)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_noise_for_another_number_of_environments(before: int, after: int, tmp_path: Path) -> None:
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.1 * np.ones(2))
    model = make(SACv2, DummyVecEnv([SpacesEnv] * before), action_noise=noise, gradient_steps=-1)
    model.learn(30)
    model.save(tmp_path / "model")
    loaded = SACv2.load(tmp_path / "model", DummyVecEnv([SpacesEnv] * after))
    loaded.learn(30)
    assert np.shape(loaded.action_noise()) == ((after, 2) if after > 1 else (2,))


class Lists(DummyVecEnv):
    """Gives rewards and ends of episodes as lists."""

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        return observations, rewards.tolist(), dones.tolist(), infos


def test_rewards_and_ends_in_lists() -> None:
    model = make(SACv2, Lists([SpacesEnv, SpacesEnv]), gradient_steps=-1)
    model.learn(60)
    assert n_updates(model) > 40


def test_no_gradient_clings_to_the_exploration_matrix() -> None:
    # It would hold a node that is bound to a stream, and no CUDA graph could be captured
    model = make(SACv2, use_sde=True)
    assert not model.actor.action_dist.exploration_mat.requires_grad
    model.learn(20)
    assert not model.actor.action_dist.exploration_mat.requires_grad
    assert not model.actor.action_dist.exploration_matrices.requires_grad
    assert all(parameter.requires_grad for parameter in model.actor.parameters())
