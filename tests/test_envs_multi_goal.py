"""The multi-goal environment: dynamics, reward, episodes, rendering, checkers, bad input."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_sac_variants.envs import MultiGoalEnv, register_envs

register_envs()


def started_at(position, **kwargs):
    env = MultiGoalEnv(**kwargs)
    env.reset(seed=0, options={"position": position})
    return env


@pytest.mark.filterwarnings("error")
def test_both_checkers_pass_without_a_warning():
    gymnasium_check_env(gym.make("MultiGoal-v0").unwrapped)
    sb3_check_env(gym.make("MultiGoal-v0", render_mode="rgb_array"), skip_render_check=False)


def test_spaces():
    env = MultiGoalEnv()
    assert env.observation_space == gym.spaces.Box(-7.0, 7.0, shape=(2,), dtype=np.float32)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float32)
    assert sorted(map(tuple, env.goals.tolist())) == [(-5, 0), (0, -5), (0, 5), (5, 0)]
    with pytest.raises(ValueError, match="read-only"):
        env.goals[0] = 0


def test_a_step_by_hand():
    env = started_at((1.0, 2.0))
    observation, reward, terminated, truncated, info = env.step(np.array([0.5, -0.25], dtype=np.float32))
    np.testing.assert_array_equal(observation, np.array([1.5, 1.75], dtype=np.float32))
    # Nearest is (0, 5): 1.5^2 + 3.25^2 = 12.8125, against 3.5^2 + 1.75^2 = 15.3125 for (5, 0).
    assert reward == pytest.approx(-30 * (0.25 + 0.0625) - 12.8125)
    assert (terminated, truncated) == (False, False)
    assert info == {"is_success": False, "goal": 2}


def test_the_costs_are_weighed_by_their_arguments():
    env = started_at((4.5, 0.0), goal_reward=1.0, action_cost=2.0, distance_cost=0.5, goal_radius=0.75)
    _, reward, terminated, _, _ = env.step(np.array([0.0, 0.5], dtype=np.float32))
    assert terminated  # at a distance of 0.7071
    assert reward == pytest.approx(1.0 - 2.0 * 0.25 - 0.5 * 0.5)


@pytest.mark.parametrize("index", range(4))
def test_reaching_a_goal_ends_the_episode(index):
    goal = MultiGoalEnv.goals[index]
    env = started_at(goal * 0.7)
    stay = np.zeros(2, dtype=np.float32)
    _, outside, terminated, _, info = env.step(stay)
    assert not terminated
    assert outside == pytest.approx(-(1.5**2))
    _, inside, terminated, truncated, info = env.step(np.sign(goal).astype(np.float32))
    assert (terminated, truncated) == (True, False)
    assert inside == pytest.approx(10 - 30 - 0.5**2)
    assert info == {"is_success": True, "goal": index}
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(stay)


def test_the_rim_of_a_goal_is_outside():
    env = started_at((4.0, 0.0))
    assert not env.step(np.zeros(2, dtype=np.float32))[2]
    assert env.step(np.array([0.01, 0.0], dtype=np.float32))[2]


def test_walls_and_speed_limit():
    env = started_at((6.5, -6.9))
    observation, reward, *_ = env.step(np.array([3.0, -3.0], dtype=np.float32))
    np.testing.assert_array_equal(observation, np.array([7.0, -7.0], dtype=np.float32))
    # The cost is that of the clipped action, (1, -1).
    assert reward == pytest.approx(-30 * 2 - (4 + 49))


def test_the_observation_is_a_copy():
    env = started_at((1.0, 1.0))
    observation, *_ = env.step(np.zeros(2, dtype=np.float32))
    observation += 100
    assert env.step(np.zeros(2, dtype=np.float32))[0].tolist() == [1.0, 1.0]


def test_position_cost_is_vectorised_and_in_step_with_the_reward():
    env = MultiGoalEnv(action_cost=0.0, distance_cost=0.3, goal_reward=0.0)
    positions = np.random.default_rng(0).uniform(-7, 7, size=(4, 5, 2)).astype(np.float32)
    goals, distances = env.nearest_goal(positions)
    costs = env.position_cost(positions)
    assert goals.shape == distances.shape == costs.shape == (4, 5)
    for where in np.ndindex(4, 5):
        env.reset(options={"position": positions[where]})
        _, reward, _, _, info = env.step(np.zeros(2, dtype=np.float32))
        assert reward == pytest.approx(-costs[where])
        assert info["goal"] == goals[where]
        assert distances[where] == pytest.approx(np.linalg.norm(positions[where] - env.goals, axis=1).min())


def test_the_four_goals_are_equivalent():
    """The environment looks the same after a quarter turn: the reason why a policy has four modes at the centre."""
    returns = []
    for direction in MultiGoalEnv.goals / 5:
        env = started_at((0.0, 0.0))
        total, terminated = 0.0, False
        while not terminated:
            _, reward, terminated, _, _ = env.step(0.5 * direction)
            total += reward
        returns.append(total)
    np.testing.assert_allclose(returns, returns[0])


def test_seeds_and_starts():
    env = MultiGoalEnv()
    first, _ = env.reset(seed=3)
    second, _ = env.reset()
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    starts = np.array([env.reset()[0] for _ in range(2000)])
    np.testing.assert_allclose(starts.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(starts.std(axis=0), 0.1, rtol=0.1)
    assert MultiGoalEnv(init_std=0.0).reset()[0].tolist() == [0.0, 0.0]


def test_registered_episodes_last_thirty_steps():
    env = gym.make("MultiGoal-v0", goal_reward=5.0)
    assert env.unwrapped.goal_reward == 5.0
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, dtype=np.float32))[2:4] for _ in range(30)]
    assert ends == [(False, False)] * 29 + [(False, True)]


def test_positions_are_kept_for_rendering_only():
    for mode, kept in ((None, 1), ("rgb_array", 6)):
        env = gym.make("MultiGoal-v0", render_mode=mode)
        env.reset(seed=0)
        for _ in range(5):
            env.step(np.zeros(2, np.float32))
        assert len(env.unwrapped._path) == kept


def test_copies_go_on_from_the_same_state():
    env = started_at((1.0, 2.0), render_mode="rgb_array")
    env.render()
    action = np.array([0.5, 0.5], dtype=np.float32)
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    expected = env.step(action)
    for twin in twins:
        observation, *rest = twin.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert tuple(rest) == expected[1:]
        np.testing.assert_array_equal(twin.render(), env.render())
    np.testing.assert_array_equal(twins[0].reset()[0], twins[1].reset()[0])


class TowardsGoal:
    """A policy that makes for one goal; what evaluate_policy asks of a model."""

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.clip(MultiGoalEnv.goals[3] - observation, -1, 1), state


def test_vector_environments_and_monitor():
    venv = make_vec_env("MultiGoal-v0", n_envs=3, seed=0)
    observations = venv.reset()
    assert observations.shape == (3, 2)
    assert len(np.unique(observations, axis=0)) == 3
    returns, lengths = evaluate_policy(TowardsGoal(), venv, n_eval_episodes=6, return_episode_rewards=True)
    assert set(lengths) <= {4, 5}
    assert np.all(np.isfinite(returns))


class TestRendering:
    def frame(self, position, **kwargs):
        return started_at(position, render_mode="rgb_array", **kwargs).render()

    def blue(self, frame):
        """Rows and columns of the point's pixels."""
        return np.argwhere((frame == (40, 80, 180)).all(axis=-1))

    def test_frames_are_images_of_their_own(self):
        env = started_at((0.0, 0.0), render_mode="rgb_array")
        frame = env.render()
        assert frame.shape == (480, 480, 3)
        assert frame.dtype == np.uint8
        expected = frame.copy()
        frame[:] = 0
        np.testing.assert_array_equal(env.render(), expected)

    @pytest.mark.parametrize("position", [(0, 0), (3, 0), (0, 3), (-7, 7), (7, -7)])
    def test_the_point_is_where_it_is(self, position):
        row, column = self.blue(self.frame(position)).mean(axis=0)
        pixels = 480 / 15.4
        assert column == pytest.approx((position[0] + 7.7) * pixels - 0.5, abs=0.6)
        assert row == pytest.approx((7.7 - position[1]) * pixels - 0.5, abs=0.6)

    def test_the_path_is_drawn_and_forgotten_at_reset(self):
        env = started_at((-2.0, 1.0), render_mode="rgb_array")
        still = len(self.blue(env.render()))
        for _ in range(3):
            env.step(np.array([1.0, 0.0], dtype=np.float32))
        assert len(self.blue(env.render())) > still + 100
        env.reset(options={"position": (-2.0, 1.0)})
        assert len(self.blue(env.render())) == still

    def test_the_goal_radius_is_seen(self):
        orange = [(self.frame((0, 0), goal_radius=r) == (250, 190, 120)).all(axis=-1).sum() for r in (0.5, 1.0)]
        # The red centre, of radius 4 pixels, takes the same from both.
        assert (orange[1] + 4 * 50) / (orange[0] + 4 * 50) == pytest.approx(4, rel=0.05)

    def test_without_a_render_mode_a_warning(self):
        env = started_at((0.0, 0.0))
        with pytest.warns(UserWarning, match="rgb_array"):
            assert env.render() is None

    def test_before_reset(self):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            MultiGoalEnv(render_mode="rgb_array").render()

    def test_a_window_comes_from_gymnasium(self, monkeypatch):
        pytest.importorskip("pygame")
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        with pytest.warns(UserWarning, match="HumanRendering"):
            env = gym.make("MultiGoal-v0", render_mode="human")
        env.metadata["render_fps"] = 10_000
        env.reset(seed=0)
        env.step(np.zeros(2, dtype=np.float32))
        assert env.render() is None
        env.close()


class TestBadInput:
    @pytest.mark.parametrize("name", ["goal_reward", "action_cost", "distance_cost", "goal_radius", "init_std"])
    @pytest.mark.parametrize(
        ("value", "error"),
        [
            (-1, ValueError),
            (float("nan"), ValueError),
            (float("inf"), ValueError),
            (10**400, ValueError),
            ("1", TypeError),
            (None, TypeError),
            (True, TypeError),
        ],
    )
    def test_numbers(self, name, value, error):
        with pytest.raises(error, match=f"{name} must be .* got {value!r}"):
            MultiGoalEnv(**{name: value})

    def test_zero_radius(self):
        with pytest.raises(ValueError, match="goal_radius=0"):
            MultiGoalEnv(goal_radius=0)

    @pytest.mark.parametrize("render_mode", ["human", "ansi"])
    def test_render_mode(self, render_mode):
        with pytest.raises(ValueError, match=f"{render_mode}.*gymnasium.make"):
            MultiGoalEnv(render_mode=render_mode)

    @pytest.mark.parametrize("position", [(8.0, 0.0), (0.0,), (0, 0, 0), (float("nan"), 0.0), "here", None, 1.0])
    def test_start(self, position):
        with pytest.raises(ValueError, match="position must be two numbers"):
            MultiGoalEnv().reset(options={"position": position})

    def test_options(self):
        with pytest.raises(ValueError, match=r"unknown keys \['start'\]"):
            MultiGoalEnv().reset(options={"start": (0, 0)})

    @pytest.mark.parametrize("action", [0.5, [0.1, 0.2, 0.3], [[0.1, 0.2]], [float("nan"), 0.0], [np.inf, 0.0]])
    def test_action(self, action):
        env = started_at((0.0, 0.0))
        with pytest.raises(ValueError, match="action must be two finite numbers"):
            env.step(np.array(action, dtype=np.float32))

    def test_step_before_reset(self):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            MultiGoalEnv().step(np.zeros(2, dtype=np.float32))
