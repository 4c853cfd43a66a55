"""Observation and action spaces of every kind that SB3's SAC takes, and the shapes of what predict() gives."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ACTION, DICTIONARY, IMAGE, VECTOR, SpacesEnv, every_algorithm, every_gaussian_algorithm, make
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_sac_variants.common.networks.preprocessing import TraceablePreprocessing

OBSERVATIONS: dict[str, spaces.Space] = {
    "Box": VECTOR,
    "Box of float64": spaces.Box(-10, 10, (3,), dtype=np.float64),
    "Box of integers": spaces.Box(-5, 5, (3,), dtype=np.int32),
    "Box of uint8": spaces.Box(0, 255, (4,), dtype=np.uint8),
    "Box without bounds": spaces.Box(-np.inf, np.inf, (3,), dtype=np.float32),
    "Box with two dimensions": spaces.Box(-1, 1, (3, 2)),
    "Box with one number": spaces.Box(-1, 1, (1,)),
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([2, 5, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "MultiBinary with two dimensions": spaces.MultiBinary((2, 3)),
    "Dict": DICTIONARY,
    "Dict of all kinds": spaces.Dict(
        {
            "box": spaces.Box(-1, 1, (2, 2), dtype=np.float64),
            "discrete": spaces.Discrete(3),
            "multi discrete": spaces.MultiDiscrete([2, 2]),
            "multi binary": spaces.MultiBinary(2),
        }
    ),
}

ACTIONS: dict[str, spaces.Box] = {
    "symmetric": ACTION,
    "wide": spaces.Box(-40, 40, (2,)),
    "not symmetric": spaces.Box(np.float32([2, -9]), np.float32([3, -1])),
    "one number": spaces.Box(0, 1, (1,)),
    "matrix": spaces.Box(np.float32([[-1, 0, 2], [5, -7, -1]]), np.float32([[1, 1, 3], [9, -6, 1]])),
    "float64": spaces.Box(-2, 2, (2,), dtype=np.float64),
    "three dimensions": spaces.Box(-1, 1, (2, 1, 2)),
}


def policy_for(space: spaces.Space) -> str:
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


def stack(observations: list[Any]) -> Any:
    """
    :param observations: single observations
    :return: the same as one batch
    """
    if isinstance(observations[0], dict):
        return {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    return np.stack(observations)


@pytest.mark.thin(2)
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("kind", OBSERVATIONS)
@every_algorithm
def test_observations(algorithm: type, kind: str, optimize_memory_usage: bool) -> None:
    space = OBSERVATIONS[kind]
    kwargs = {"policy_kwargs": {"features_extractor_kwargs": {"cnn_output_dim": 4}}} if space is DICTIONARY else {}
    env = SpacesEnv(space)
    model = make(algorithm, env, policy_for(space), optimize_memory_usage=optimize_memory_usage, **kwargs).learn(12)
    if space is not DICTIONARY:
        assert model.actor.features_extractor.features_dim == get_flattened_obs_dim(space)
    observations = [space.sample() for _ in range(3)]
    single = [model.predict(observation, deterministic=True)[0] for observation in observations]
    assert all(action.shape == (2,) for action in single)
    together, state = model.predict(stack(observations), deterministic=True)
    assert (together.shape, state) == ((3, 2), None)
    np.testing.assert_allclose(together, single, atol=1e-5)
    assert model.soft_value(stack(observations), n_samples=2).shape == (3,)
    assert model.q_value(stack(observations), together).shape == (3,)


@every_algorithm
def test_stored_observations_come_back(algorithm: type) -> None:
    for kind, space in OBSERVATIONS.items():
        seen: list[Any] = []

        class Recorder(SpacesEnv):
            def reset(self, seen: list[Any] = seen, **kwargs: Any) -> Any:
                observation, info = super().reset(**kwargs)
                seen.append(observation)
                return observation, info

        env = Recorder(space, episode_length=1, truncate=True)
        model = make(algorithm, env, policy_for(space), learning_starts=50).learn(8)
        stored = model.replay_buffer.gather(th.arange(8)).observations
        for key, part in stored.items() if isinstance(stored, dict) else [(None, stored)]:
            expected = np.stack([each if key is None else each[key] for each in seen[:8]])
            np.testing.assert_allclose(part.numpy().reshape(8, -1), expected.reshape(8, -1), rtol=1e-6, err_msg=kind)


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", ACTIONS)
@every_algorithm
def test_actions(algorithm: type, kind: str) -> None:
    space = ACTIONS[kind]
    env = SpacesEnv(action_space=space)  # which asserts that its actions are in the space
    model = make(algorithm, env).learn(20)
    assert len(env.actions) == 20
    shape, size = space.shape, int(np.prod(space.shape))
    assert model.replay_buffer.sample(3).actions.shape == (3, size)
    assert model.replay_buffer.sample(3).actions.abs().max() <= 1
    for deterministic in (False, True):
        one, _ = model.predict(VECTOR.sample(), deterministic=deterministic)
        several, _ = model.predict(np.zeros((4, 3), dtype=np.float32), deterministic=deterministic)
        assert (one.shape, several.shape) == (shape, (4, *shape))
        assert space.contains(one.astype(space.dtype))
        assert (several >= space.low).all()
        assert (several <= space.high).all()
        assert len(np.unique(several, axis=0)) == (1 if deterministic else 4)
    assert model.q_value(np.zeros((4, 3), dtype=np.float32), several).shape == (4,)
    if model.temperature.learned:
        assert model.target_entropy == -size


@every_gaussian_algorithm
def test_actions_reach_the_bounds(algorithm: type) -> None:
    """An actor that saturates acts at the bounds of the space, not at those of the tanh."""
    space = ACTIONS["matrix"]
    model = make(algorithm, SpacesEnv(action_space=space), learning_starts=0)
    with th.no_grad():
        model.actor.mu.bias.fill_(100.0)
    np.testing.assert_allclose(model.predict(VECTOR.sample(), deterministic=True)[0], space.high, rtol=1e-6)
    with th.no_grad():
        model.actor.mu.bias.fill_(-100.0)
    np.testing.assert_allclose(model.predict(VECTOR.sample(), deterministic=True)[0], space.low, rtol=1e-6)
    env = SpacesEnv(action_space=space)
    model.set_env(env)
    model.learn(1)
    np.testing.assert_allclose(env.actions[0], space.low, rtol=1e-6)


@every_algorithm
def test_predict_is_deterministic_on_request(algorithm: type) -> None:
    model = make(algorithm).learn(10)
    observation = VECTOR.sample()
    fixed = [model.predict(observation, deterministic=True)[0] for _ in range(3)]
    np.testing.assert_array_equal(fixed, [fixed[0]] * 3)
    drawn = [model.predict(observation)[0] for _ in range(3)]
    assert not np.array_equal(drawn[0], drawn[1])
    th.manual_seed(1)
    first = model.predict(observation)[0]
    th.manual_seed(1)
    np.testing.assert_array_equal(model.predict(observation)[0], first)


@every_algorithm
def test_predict_refuses_other_shapes(algorithm: type) -> None:
    model = make(algorithm)
    with pytest.raises(ValueError, match=r"Unexpected observation shape \(4,\)"):
        model.predict(np.zeros(4, dtype=np.float32))
    with pytest.raises(ValueError, match="mixing Gym API with SB3 VecEnv API"):
        model.predict((VECTOR.sample(), {}))


@pytest.mark.parametrize("wrong", [np.zeros(5), "left", None, {"other": np.zeros(3)}], ids=str)
@pytest.mark.parametrize(
    ("space", "policy"), [(VECTOR, "MlpPolicy"), (IMAGE, "CnnPolicy"), (DICTIONARY, "MultiInputPolicy")], ids=str
)
@every_algorithm
def test_observations_that_do_not_exist(algorithm: type, space: spaces.Space, policy: str, wrong: Any) -> None:
    model = make(algorithm, SpacesEnv(space), policy)
    for ask in (model.predict, model.soft_value, lambda observation: model.q_value(observation, np.zeros(2))):
        with pytest.raises(ValueError, match=r"(?s)observation=.* pass one observation of \w+\(.*, or several"):
            ask(wrong)


PREPROCESSED = {**OBSERVATIONS, "image": IMAGE, "image in [0, 1]": spaces.Box(0.0, 1.0, IMAGE.shape)}


@pytest.mark.parametrize("normalize_images", [True, False])
@pytest.mark.parametrize("kind", PREPROCESSED)
def test_observations_are_preprocessed_as_by_sb3(kind: str, normalize_images: bool) -> None:
    space = PREPROCESSED[kind]
    network = TraceablePreprocessing(space, ACTION, features_extractor=nn.Identity(), normalize_images=normalize_images)
    samples = [space.sample() for _ in range(6)]
    keys = list(space) if isinstance(space, spaces.Dict) else []
    obs = obs_as_tensor(
        {key: np.stack([sample[key] for sample in samples]) for key in keys} if keys else np.stack(samples), "cpu"
    )
    expected = preprocess_obs(obs, space, normalize_images=normalize_images)
    found = network.extract_features(obs, nn.Identity())
    for key in keys or [...]:
        th.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
