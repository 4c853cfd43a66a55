"""Hindsight experience replay and n-step returns."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import SpacesEnv, every_algorithm, goal_env, make, n_updates, refused, rows_at
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants import SACv2


def hindsight(algorithm: type, env: Any = None, **kwargs: Any) -> Any:
    """
    :param algorithm: class
    :param env: a goal environment
    :param kwargs: arguments of the algorithm; ``replay_buffer_kwargs`` among them
    :return: a model with hindsight experience replay
    """
    arguments = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 12, "gradient_steps": -1, **kwargs}
    return make(algorithm, goal_env() if env is None else env, "MultiInputPolicy", **arguments)


# ---------------------------------------------------------------- hindsight experience replay


@pytest.mark.thin(3)
@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
@pytest.mark.parametrize("n_envs", [1, 2])
@every_algorithm
def test_hindsight(algorithm: type, n_envs: int, strategy: str) -> None:
    kwargs = {"goal_selection_strategy": strategy, "n_sampled_goal": 3, "copy_info_dict": n_envs == 2}
    model = hindsight(algorithm, make_vec_env(goal_env, n_envs), replay_buffer_kwargs=kwargs).learn(40)
    assert n_updates(model) > 20
    assert model.replay_buffer.her_ratio == 0.75
    batch = model.replay_buffer.sample(200)
    own_goal = (batch.observations["desired_goal"] == 1).all(dim=1)
    assert 0 < own_goal.float().mean() < 1  # the goal of the environment is all ones; others are from hindsight
    reached = (batch.next_observations["achieved_goal"] == batch.next_observations["desired_goal"]).all(dim=1)
    assert th.equal(batch.rewards.squeeze(1) == 0, reached)
    assert reached[~own_goal].any()


@every_algorithm
def test_updates_see_relabelled_goals(algorithm: type, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hindsight(algorithm)
    seen: list[Any] = []
    update = model.update

    def spy(batch: Any, noise: Any) -> Any:
        seen.append(batch)
        return update(batch, noise)

    monkeypatch.setattr(model, "update", spy)
    model.learn(40)
    goals = th.cat([batch.observations["desired_goal"] for batch in seen])
    assert (goals != 1).any()
    assert all(th.equal(batch.discounts, th.full((4, 1), model.gamma)) for batch in seen)


@every_algorithm
def test_hindsight_learns_before_an_episode_ended(algorithm: type) -> None:
    with pytest.raises(RuntimeError, match="Unable to sample before the end of the first episode"):
        hindsight(algorithm, learning_starts=0).learn(20)


@every_algorithm
def test_hindsight_with_normalised_observations(algorithm: type) -> None:
    env = VecNormalize(make_vec_env(goal_env, 2), norm_obs_keys=[], norm_reward=True)
    model = hindsight(algorithm, env).learn(40)
    raw = model.replay_buffer.sample(100).rewards
    assert set(raw.unique().tolist()) <= {-1.0, 0.0}
    assert model.replay_buffer.sample(100, env).rewards.min() != -1


@every_algorithm
def test_hindsight_from_images(algorithm: type) -> None:
    from stable_baselines3.common.envs import BitFlippingEnv

    env = BitFlippingEnv(n_bits=4, continuous=True, image_obs_space=True, channel_first=False)
    kwargs = {"features_extractor_kwargs": {"cnn_output_dim": 4}}
    model = hindsight(algorithm, env, policy_kwargs=kwargs).learn(20)
    assert n_updates(model) > 0


# ---------------------------------------------------------------- n-step returns


class Counting(SpacesEnv):
    """
    The observation is the number of the step, the reward ten to its power.

    :param kwargs: as :class:`SpacesEnv`
    """

    def __init__(self, **kwargs: Any):
        super().__init__(spaces.Box(0, 100, (1,)), **kwargs)

    def reset(self, **kwargs: Any) -> Any:
        _, info = super().reset(**kwargs)
        return np.zeros(1, dtype=np.float32), info

    def step(self, action: np.ndarray) -> Any:
        _, _, terminated, truncated, info = super().step(action)
        return np.full(1, self.steps, dtype=np.float32), 10.0 ** (self.steps - 1), terminated, truncated, info


@pytest.mark.parametrize("truncate", [False, True])
@every_algorithm
def test_n_step_returns(algorithm: type, truncate: bool) -> None:
    gamma = 0.5
    env = Counting(episode_length=5, truncate=truncate)
    model = make(algorithm, env, n_steps=3, gamma=gamma, learning_starts=12).learn(12)
    seen: list[Any] = []
    model.update = lambda batch, noise: (
        seen.append(batch) or {name: th.zeros(()) for name in model.updater.metrics.names}
    )
    model.train(1, 500)
    (batch,) = seen
    for start, after, reward, done, discount in zip(
        batch.observations, batch.next_observations, batch.rewards, batch.dones, batch.discounts, strict=True
    ):
        # Three steps, unless the episode ends before, or the buffer does (at step 2 of the third episode)
        steps = int(after.item() - start.item())
        assert 1 <= steps <= 3
        assert steps == 3 or after.item() in (5, 2)
        assert reward.item() == pytest.approx(sum(gamma**k * 10.0 ** (start.item() + k) for k in range(steps)))
        assert discount.item() == pytest.approx(gamma**steps)
        assert done.item() == (after.item() == 5 and not truncate)


@every_algorithm
def test_n_step_returns_train(algorithm: type) -> None:
    model = make(algorithm, VecNormalize(make_vec_env(SpacesEnv, 2)), n_steps=4, gradient_steps=-1).learn(40)
    assert n_updates(model) > 20
    assert model.n_steps == 4


@every_algorithm
def test_n_step_buffer_of_the_user(algorithm: type) -> None:
    kwargs = {"n_steps": 2, "gamma": 0.9}
    model = make(algorithm, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=kwargs).learn(20)
    discounts = model.draw_batch(100)[0].discounts
    assert set(np.round(discounts.unique().numpy(), 4)) <= {np.float32(0.9), np.float32(0.81)}


@every_algorithm
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 5, "replay_buffer_class": NStepReplayBuffer}, "n_steps=5 and 3 of the replay buffer contradict"),
        (
            {"gamma": 0.9, "replay_buffer_class": NStepReplayBuffer},
            "gamma=0.9 and 0.99 of the replay buffer",
        ),
        ({"n_steps": 5, "replay_buffer_kwargs": {"n_steps": 2}}, "n_steps=5 and 2 of the replay buffer contradict"),
        ({"n_steps": 5, "replay_buffer_kwargs": {"gamma": 0.5}}, "gamma=0.99 and 0.5 of the replay buffer contradict"),
        ({"n_steps": 5, "optimize_memory_usage": True}, "optimize_memory_usage=True does not go with n-step returns"),
        ({"replay_buffer_class": ReplayBuffer, "optimize_memory_usage": True}, "leave replay_buffer_class out"),
    ],
    ids=str,
)
def test_what_contradicts_n_step_returns_is_refused(algorithm: type, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(algorithm, **arguments)


@every_algorithm
def test_n_step_returns_follow_gamma(algorithm: type) -> None:
    model = make(algorithm, n_steps=3, gamma=0.9).learn(20)
    model.gamma = 0.5
    model.train(1, 4)
    assert set(model.draw_batch(100)[0].discounts.unique().tolist()) <= {0.5, 0.25, 0.125}


def test_n_step_returns_of_the_users_buffer_follow_gamma() -> None:
    model = make(SACv2, replay_buffer_class=NStepReplayBuffer).learn(20)
    model.gamma = 0.5
    model.train(1, 4)
    assert set(model.draw_batch(100)[0].discounts.unique().tolist()) <= {0.5, 0.25, 0.125}


def test_a_gamma_that_the_buffers_own_holds_up_is_refused(tmp_path: Path) -> None:
    kwargs = {"n_steps": 2, "gamma": 0.9}
    model = make(SACv2, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=kwargs).learn(20)
    model.save(tmp_path / "model")
    SACv2.load(tmp_path / "model", SpacesEnv(), gamma=0.8).learn(20)  # as passed
    model.gamma = 0.5
    with refused(ValueError, "gamma", 0.5, "no effect on n-step returns of replay_buffer_kwargs="):
        model.train(1, 4)
    model.replay_buffer.gamma = 0.5
    model.train(1, 4)


def test_n_step_returns_do_not_run_on_into_what_follows_a_loaded_buffer(tmp_path: Path) -> None:
    model = make(SACv2, SpacesEnv(episode_length=100), n_steps=3).learn(10)
    model.save_replay_buffer(tmp_path / "buffer")
    model.learn(3, reset_num_timesteps=False)
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(10, reset_num_timesteps=False)  # in the same episode, but three steps later
    batch = rows_at(model.replay_buffer, np.array([8, 9, 10]))
    rewards = model.replay_buffer.rewards[:, 0]
    expected = [rewards[8] + 0.99 * rewards[9], rewards[9], rewards[10:13] @ [1, 0.99, 0.99**2]]
    np.testing.assert_allclose(batch.rewards.flatten(), expected, rtol=1e-5)
    np.testing.assert_allclose(batch.discounts.flatten(), [0.99**2, 0.99, 0.99**3], rtol=1e-5)
    assert not batch.dones.any()


@every_algorithm
def test_the_buffer_of_the_user_comes_back(algorithm: type, tmp_path: Path) -> None:
    kwargs = {"n_steps": 2, "gamma": 0.99}
    model = make(algorithm, replay_buffer_class=NStepReplayBuffer, replay_buffer_kwargs=kwargs).learn(20)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer.n_steps == 2


@every_algorithm
def test_one_step_is_the_ordinary_return(algorithm: type) -> None:
    model = make(algorithm, n_steps=1, gamma=0.7).learn(10)
    assert th.equal(model.draw_batch(5)[0].discounts, th.full((5, 1), 0.7))


class OtherRewards(BitFlippingEnv):
    """Each step that does not reach the goal costs a hundred times as much."""

    def compute_reward(self, *args: Any) -> np.ndarray:
        return 100 * np.asarray(super().compute_reward(*args))


@pytest.mark.parametrize("how", ["set_env", "deepcopy", "pickle"])
def test_relabelled_rewards_are_those_of_the_present_environment(how: str) -> None:
    model = hindsight(SACv2).learn(20)
    if how != "set_env":
        model = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    model.set_env(OtherRewards(n_bits=5, continuous=True))
    model.learn(20, reset_num_timesteps=False)
    buffer = model.replay_buffer
    relabelled = buffer._get_virtual_samples(np.arange(25, 35), np.zeros(10, int))
    assert set(relabelled.rewards.flatten().tolist()) <= {-100.0, 0.0}
    assert relabelled.rewards.min() == -100


def test_other_n_steps_after_construction_are_refused() -> None:
    for before, after in ((1, 3), (3, 1), (3, 5)):
        model = make(SACv2, n_steps=before).learn(12)
        model.n_steps = after
        with refused(ValueError, "n_steps", after, f"no effect on a replay buffer made with {before}: make a new"):
            model.learn(5, reset_num_timesteps=False)
    own = {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": {"n_steps": 3}}
    make(SACv2, **own).learn(12)  # a buffer with steps of its own, as before
