"""Several environments, and the wrappers of vectorised environments."""

import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    DICTIONARY,
    IMAGE,
    VECTOR,
    SpacesEnv,
    assert_same_parameters,
    every_algorithm,
    make,
    n_episodes,
    n_updates,
    rows_at,
    several,
)
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    sync_envs_normalization,
)

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.algorithm import maxent_algorithm


@every_algorithm
def test_processes_run_as_one_process_does(algorithm: type) -> None:
    runs = []
    for make_env in (DummyVecEnv, lambda functions: SubprocVecEnv(functions, start_method="fork")):
        env = make_env([lambda length=length: SpacesEnv(episode_length=length) for length in (4, 7)])
        model = make(algorithm, env, gradient_steps=-1).learn(30)
        runs.append(model)
        env.close()
    assert_same_parameters(*runs)


@every_algorithm
def test_episodes_that_end_at_different_times(algorithm: type) -> None:
    env = DummyVecEnv([lambda length=length: SpacesEnv(episode_length=length) for length in (4, 7, 100)])
    model = make(algorithm, VecMonitor(env), gradient_steps=-1).learn(3 * 28)
    assert n_episodes(model) == 7 + 4
    assert sorted(info["l"] for info in model.ep_info_buffer) == [4] * 7 + [7] * 4
    dones = th.stack([row.dones for row in (model.replay_buffer.gather(where(model, env)) for env in range(3))])
    assert dones.sum(dim=(1, 2)).tolist() == [7, 4, 0]


def where(model: Any, env: int) -> th.Tensor:
    """
    :param model: a model
    :param env: number of an environment
    :return: rows of all its transitions in the replay buffer
    """
    return th.arange(model.replay_buffer.size()) * model.n_envs + env


@every_algorithm
def test_few_updates_are_warned_of(algorithm: type) -> None:
    with pytest.warns(
        UserWarning, match=r"gradient_steps=1 with 4 environments .*0\.25 updates.*: pass gradient_steps=-1"
    ):
        make(algorithm, several(4), verbose=1).learn(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(algorithm, several(4)).learn(8)


# ---------------------------------------------------------------- VecNormalize


@pytest.mark.thin(2)
@pytest.mark.parametrize("kwargs", [{}, {"norm_reward": False}, {"norm_obs": False}, {"clip_obs": 0.5}], ids=str)
@every_algorithm
def test_raw_transitions_are_stored_and_normalised_ones_learned_from(algorithm: type, kwargs: dict[str, Any]) -> None:
    space = spaces.Box(3.0, 9.0, (3,))
    env = VecNormalize(several(observation_space=space, truncate=True), **kwargs)
    model = make(algorithm, env, gradient_steps=-1).learn(60)
    buffer = model.replay_buffer
    raw = buffer.sample(500)
    for observations in (raw.observations, raw.next_observations):
        assert 3 <= observations.min() < 4 < 8 < observations.max() <= 9
    assert raw.rewards.max() <= 0
    # The gradient step sees what VecNormalize would make of them now
    drawn: list[Any] = []
    model.update = lambda batch, noise: (
        drawn.append(batch) or {name: th.zeros(()) for name in model.updater.metrics.names}
    )
    model.updater.engine = None
    model.train(1, 500)
    (batch,) = drawn
    th.manual_seed(0)
    raw = buffer.sample(200)
    th.manual_seed(0)
    normal = buffer.sample(200, env)
    np.testing.assert_allclose(normal.observations, env.normalize_obs(raw.observations.numpy()), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        normal.next_observations, env.normalize_obs(raw.next_observations.numpy()), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(normal.rewards, env.normalize_reward(raw.rewards.numpy()), rtol=1e-4, atol=1e-5)
    for name in ("observations", "rewards"):
        assert getattr(batch, name).mean() == pytest.approx(getattr(normal, name).mean().item(), abs=0.5)


@every_algorithm
def test_terminal_observations_are_stored_raw(algorithm: type) -> None:
    space = spaces.Box(3.0, 9.0, (3,))
    last: list[np.ndarray] = []

    class Recorder(SpacesEnv):
        def step(self, action: np.ndarray) -> Any:
            result = super().step(action)
            if result[2] or result[3]:
                last.append(result[0])
            return result

    env = VecNormalize(DummyVecEnv([lambda: Recorder(space, episode_length=5)]))
    model = make(algorithm, env, learning_starts=100).learn(20)
    stored = model.replay_buffer.gather(th.arange(20))
    ended = stored.next_observations[stored.dones.squeeze(1) == 1]
    np.testing.assert_allclose(ended, last, rtol=1e-4)


@pytest.mark.parametrize("keys", [None, ["numbers"]])
@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_terminal_observations_of_whole_numbers_are_stored_exactly(dtype: type, truncate: bool, keys: Any) -> None:
    """Normalised and back again, a 1 is 0.9999999, and an array of whole numbers cuts that off to 0."""
    numbers = spaces.Box(0, 100, (6,), dtype)
    space = numbers if keys is None else spaces.Dict({"numbers": numbers})
    last: list[np.ndarray] = []

    class Recorder(SpacesEnv):
        def step(self, action: np.ndarray) -> Any:
            result = super().step(action)
            if result[2] or result[3]:
                last.append(result[0] if keys is None else result[0]["numbers"])
            return result

    env = VecNormalize(DummyVecEnv([lambda: Recorder(space, episode_length=5, truncate=truncate)]), norm_obs_keys=keys)
    policy = "MlpPolicy" if keys is None else "MultiInputPolicy"
    model = make(SACv2, env, policy, learning_starts=100).learn(50)
    stored = model.replay_buffer.next_observations
    ended = (stored if keys is None else stored["numbers"])[4:50:5, 0]
    np.testing.assert_array_equal(ended, last)


@pytest.mark.parametrize("buffer_class", [None, ReplayBuffer])
@every_algorithm
def test_buffers_normalise_alike(algorithm: type, buffer_class: type | None) -> None:
    model = make(
        algorithm,
        VecNormalize(several(1, truncate=True)),
        replay_buffer_class=buffer_class,
        replay_buffer_kwargs={"handle_timeout_termination": True},
    ).learn(40)
    rows = rows_at(model.replay_buffer, np.arange(40), model.get_vec_normalize_env())
    raw = rows_at(model.replay_buffer, np.arange(40))
    np.testing.assert_allclose(
        rows.observations, model.get_vec_normalize_env().normalize_obs(raw.observations.numpy()), atol=1e-5
    )
    np.testing.assert_allclose(
        rows.rewards, model.get_vec_normalize_env().normalize_reward(raw.rewards.numpy()), atol=1e-5
    )


@pytest.mark.parametrize("buffer_class", [None, DictReplayBuffer])
@every_algorithm
def test_normalised_parts_of_dictionaries(algorithm: type, buffer_class: type | None) -> None:
    env = VecNormalize(several(2, observation_space=DICTIONARY), norm_obs_keys=["vector"])
    kwargs = {"features_extractor_kwargs": {"cnn_output_dim": 4}}
    model = make(
        algorithm, env, "MultiInputPolicy", gradient_steps=-1, replay_buffer_class=buffer_class, policy_kwargs=kwargs
    ).learn(20)
    batch = model.replay_buffer.sample(100, env)
    assert batch.observations["image"].max() > 200
    assert batch.observations["vector"].abs().max() > 1


@every_algorithm
def test_statistics_follow_the_environment(algorithm: type) -> None:
    env = VecNormalize(several(observation_space=spaces.Box(3.0, 9.0, (3,))))
    model = make(algorithm, env, gradient_steps=-1).learn(20)
    np.testing.assert_allclose(env.obs_rms.mean, 6, atol=1)
    evaluation = VecNormalize(several(1, observation_space=spaces.Box(3.0, 9.0, (3,))), training=False)
    sync_envs_normalization(model.get_env(), evaluation)
    evaluate_policy(model, evaluation, n_eval_episodes=2, warn=False)
    np.testing.assert_array_equal(evaluation.obs_rms.mean, env.obs_rms.mean)
    assert model.replay_buffer.sample(100, env).observations.min() > -5
    env.obs_rms.mean += 100
    assert model.replay_buffer.sample(100, env).observations.max() == -10  # clipped


# ---------------------------------------------------------------- other wrappers


@pytest.mark.parametrize(
    ("make_env", "policy", "shape"),
    [
        (lambda: VecFrameStack(several(), 3), "MlpPolicy", (9,)),
        (lambda: VecNormalize(VecFrameStack(several(), 3)), "MlpPolicy", (9,)),
        (lambda: VecFrameStack(several(observation_space=IMAGE), 4), "CnnPolicy", (4, 36, 36)),
        (
            lambda: VecFrameStack(several(observation_space=spaces.Box(0, 255, (36, 36, 1), np.uint8)), 2),
            "CnnPolicy",
            (2, 36, 36),
        ),
        (lambda: VecExtractDictObs(several(observation_space=DICTIONARY), "vector"), "MlpPolicy", (3,)),
    ],
    ids=["stack", "normalised stack", "images", "images, channels last", "part of a dictionary"],
)
@pytest.mark.thin(3)
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@every_algorithm
def test_wrappers(
    algorithm: type, make_env: Callable[[], VecEnv], policy: str, shape: tuple[int, ...], optimize_memory_usage: bool
) -> None:
    kwargs = {"features_extractor_kwargs": {"features_dim": 4}} if policy == "CnnPolicy" else {}
    model = make(
        algorithm,
        make_env(),
        policy,
        gradient_steps=-1,
        optimize_memory_usage=optimize_memory_usage,
        policy_kwargs=kwargs,
    ).learn(16)
    assert model.replay_buffer.sample(5).next_observations.shape == (5, *shape)
    assert n_updates(model) > 4


@every_algorithm
def test_stacked_frames_follow_each_other(algorithm: type) -> None:
    model = make(algorithm, VecFrameStack(several(2, episode_length=5, truncate=True), 2), gradient_steps=-1).learn(40)
    batch = model.replay_buffer.sample(200)
    old, new = batch.observations[:, 3:], batch.next_observations[:, :3]
    assert th.equal(old, new)


@every_algorithm
def test_dictionaries_of_several_environments(algorithm: type) -> None:
    space = spaces.Dict({"vector": VECTOR, "mode": spaces.Discrete(3)})
    model = make(algorithm, several(3, observation_space=space), "MultiInputPolicy", gradient_steps=-1).learn(30)
    batch = model.replay_buffer.sample(50)
    assert {key: tuple(part.shape) for key, part in batch.observations.items()} == {"vector": (50, 3), "mode": (50, 1)}


@pytest.mark.parametrize(
    ("make_env", "policy"),
    [
        (lambda: VecFrameStack(VecNormalize(several()), 3), "MlpPolicy"),
        (lambda: VecNormalize(several(observation_space=spaces.Box(0, 255, (36, 40, 3), np.uint8)), norm_obs=False),
         "CnnPolicy"),
        (lambda: VecExtractDictObs(VecNormalize(several(observation_space=DICTIONARY), norm_obs_keys=["vector"]),
         "vector"), "MlpPolicy"),
    ],
    ids=["stack", "images, channels last", "part of a dictionary"],
)  # fmt: skip
@every_algorithm
def test_wrappers_outside_of_the_normalisation_that_change_the_shape_are_refused(
    algorithm: type, make_env: Callable[[], VecEnv], policy: str
) -> None:
    with pytest.raises(ValueError, match=r"VecNormalize gives observations of shape .* put VecNormalize outside"):
        make(algorithm, make_env(), policy)


@pytest.mark.parametrize("algorithm", [SACv1, SACv2, SQL])
def test_rewards_are_normalised_where_observations_are_numbers_of_states(algorithm: type) -> None:
    env = VecNormalize(make_vec_env("FrozenLake-v1", 2), norm_obs=False)
    model = make(algorithm, env, gradient_steps=-1).learn(60)
    assert n_episodes(model) > 0
    ended = model.replay_buffer.dones[: model.replay_buffer.pos] == 1
    states = model.replay_buffer.next_observations[: model.replay_buffer.pos].reshape(ended.shape)
    assert (states[ended] != 0).all()  # the last state of the episode, not the first of the next


def test_images_may_be_transposed_before_they_are_normalised() -> None:
    images = several(observation_space=spaces.Box(0, 255, (36, 40, 3), np.uint8))
    env = VecNormalize(VecTransposeImage(images), norm_obs=False)
    model = make(SACv2, env, "CnnPolicy", policy_kwargs={"features_extractor_kwargs": {"features_dim": 4}}).learn(16)
    assert model.replay_buffer.observations.shape[2:] == (3, 36, 40)


def test_environments_of_openai_gym_are_wrapped_as_by_sb3(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        pass

    monkeypatch.setitem(sys.modules, "gym", types.SimpleNamespace(Env=Old))
    monkeypatch.setattr(maxent_algorithm, "_patch_env", lambda env: SpacesEnv())
    assert make(SACv2, Old()).learn(12).num_timesteps == 12
    monkeypatch.setitem(sys.modules, "gym", types.SimpleNamespace())  # a module of the user's
    with pytest.raises(TypeError, match="pass a gymnasium environment"):
        make(SACv2, Old())
