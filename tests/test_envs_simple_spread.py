"""SimpleSpread-v3 through the adapter, its facts and its registration."""

import copy
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3 import SAC
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

import sb3_sac_variants.envs as envs
from sb3_sac_variants.envs import IndependentAgents, SimpleSpreadEnv, register_envs

register_envs()


@pytest.fixture(autouse=True)
def mpe2():
    return pytest.importorskip("mpe2", reason='needs the extra "multiagent"')


@pytest.fixture
def env(mpe2):
    return gym.make("SimpleSpread-v3")


def rewards_from(observations, local_ratio):
    """
    The rewards as the reference has them, from nothing but the agents' observations.

    :param observations: Of three agents, (3, 18): velocity, position, landmarks, other agents, channel
    :param local_ratio: Share of the collisions
    :return: Rewards, shape (3,)
    """
    to_landmarks = np.linalg.norm(observations[:, 4:10].reshape(3, 3, 2), axis=-1)
    to_others = np.linalg.norm(observations[:, 10:14].reshape(3, 2, 2), axis=-1)
    everyones = -to_landmarks.min(axis=0).sum()
    own = -(to_others < 0.3).sum(axis=1)
    return (1 - local_ratio) * everyones + local_ratio * own


class TestFacts:
    def test_spaces(self, env):
        assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (3, 18), dtype=np.float32)
        assert env.action_space == gym.spaces.Box(0.0, 1.0, (3, 5), dtype=np.float32)
        assert env.unwrapped.agents == ("agent_0", "agent_1", "agent_2")

    @pytest.mark.parametrize("n_agents", [1, 2, 5])
    def test_spaces_of_other_numbers_of_agents(self, mpe2, n_agents):
        env = SimpleSpreadEnv(N=n_agents)
        assert env.observation_space.shape == (n_agents, 6 * n_agents)
        assert env.reset()[0] in env.observation_space

    @pytest.mark.parametrize("local_ratio", [0.5, 0.0, 0.8])
    def test_rewards_silence_and_truncation(self, local_ratio):
        env = gym.make("SimpleSpread-v3", local_ratio=local_ratio)
        env.action_space.seed(0)
        n_collisions = 0
        for episode in range(5):
            observation, _ = env.reset(seed=episode)
            assert (observation[:, -4:] == 0).all()
            for step in range(1, 26):
                observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
                expected = rewards_from(observation, local_ratio)
                np.testing.assert_allclose(info["agent_rewards"], expected, rtol=1e-5)
                assert reward == pytest.approx(expected.mean(), rel=1e-5)
                assert (observation[:, -4:] == 0).all()
                assert (terminated, truncated) == (False, step == 25)
                n_collisions += int((np.ptp(expected) > 0) or local_ratio == 0)
        assert n_collisions > 0  # or the test would not have seen the local reward

    def test_only_two_differences_of_an_action_matter(self, env):
        rng = np.random.default_rng(0)
        action = rng.uniform(0.2, 0.8, size=(3, 5)).astype(np.float32)
        shift = np.array([0.15, 0.1, 0.1, -0.2, -0.2], dtype=np.float32)
        results = []
        for other in (action, action + shift):
            env.reset(seed=0)
            results.append(env.step(other)[0])
        np.testing.assert_allclose(*results, atol=1e-6)
        env.reset(seed=0)
        assert not np.allclose(env.step(action + np.eye(5, dtype=np.float32)[1] * 0.2)[0], results[0], atol=1e-3)

    def test_discrete_actions_are_pushes_in_four_directions(self):
        env = gym.make("SimpleSpread-v3", continuous_actions=False)
        assert env.action_space == gym.spaces.MultiDiscrete([5, 5, 5])
        velocities = []
        for action in range(5):
            env.reset(seed=0)
            velocities.append(env.step(np.full(3, action))[0][0, :2])
        still, *pushed = velocities
        assert (still == 0).all()
        assert sorted(np.sign(pushed).astype(int).tolist()) == [[-1, 0], [0, -1], [0, 1], [1, 0]]

    def test_arguments_reach_mpe2(self):
        env = gym.make("SimpleSpread-v3", N=2, max_cycles=3, num_agent_neighbors=1, benchmark_data=True)
        env.reset()
        ends = [env.step(env.action_space.sample()) for _ in range(3)]
        assert [end[3] for end in ends] == [False, False, True]
        assert set(ends[0][4]["agent_infos"]) == {"agent_0", "agent_1"}
        assert "benchmark_data" in ends[0][4]["agent_infos"]["agent_1"]

    def test_success_terminates_where_asked_for(self):
        env = SimpleSpreadEnv(N=2, terminate_on_success=True)
        env.reset(seed=0)
        world = env.parallel_env.unwrapped.world
        for agent, landmark, place in zip(world.agents, world.landmarks, (-0.5, 0.5), strict=True):
            agent.state.p_pos[:] = landmark.state.p_pos[:] = place
        assert env.step(np.zeros((2, 5), dtype=np.float32))[2:4] == (True, False)

    @pytest.mark.slow
    @pytest.mark.parametrize(("policy", "expected"), [("random", -76.8), ("still", -73.8)])
    def test_returns_of_simple_policies(self, env, policy, expected):
        """Sums over the agents. Standard deviation of an episode about 25, of 400 episodes' mean 1.2."""
        rng = np.random.default_rng(0)
        total = 0.0
        for episode in range(400):
            env.reset(seed=episode)
            truncated = False
            while not truncated:
                action = rng.random((3, 5), dtype=np.float32) if policy == "random" else np.zeros((3, 5), np.float32)
                _, _, _, truncated, info = env.step(action)
                total += float(info["agent_rewards"].sum())
        assert total / 400 == pytest.approx(expected, abs=6)


class TestCheckers:
    def test_gymnasium_complains_of_the_infinite_observations_only(self):
        with pytest.warns(UserWarning, match=r"Box observation space .* value is -?infinity") as warnings:
            gymnasium_check_env(gym.make("SimpleSpread-v3", render_mode="rgb_array").unwrapped)
        assert len(warnings) == 2

    def test_sb3_complains_of_the_shape_and_the_action_bounds_only(self):
        with pytest.warns(UserWarning, match=r"unconventional shape|normalized Box action space") as warnings:
            sb3_check_env(gym.make("SimpleSpread-v3", render_mode="rgb_array"), skip_render_check=False)
        assert len(warnings) == 2


def roll_out(env, n_steps=60):
    """Observations and rewards of a seeded run over several episodes."""
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=7)[0]]
    for _ in range(n_steps):
        observation, reward, _, truncated, _ = env.step(rng.random((3, 5), dtype=np.float32))
        seen += [observation, reward]
        if truncated:
            seen.append(env.reset()[0])
    return np.concatenate([np.ravel(item) for item in seen])


def test_a_seed_fixes_everything(env):
    run = roll_out(env)
    np.testing.assert_array_equal(run, roll_out(env))
    np.testing.assert_array_equal(run, roll_out(SimpleSpreadEnv()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_start_anew_from_the_same_arguments(duplicate):
    env = SimpleSpreadEnv(N=2, max_cycles=2, local_ratio=0.1, render_mode="rgb_array")
    env.reset(seed=0)
    twin = duplicate(env)
    assert twin.render_mode == "rgb_array"
    assert twin.n_agents == 2
    with pytest.raises(gym.error.ResetNeeded):
        twin.step(np.zeros((2, 5), dtype=np.float32))
    twin.reset(seed=0)
    action = np.full((2, 5), 0.3, dtype=np.float32)
    assert twin.step(action)[1] == env.step(action)[1]
    assert twin.step(action)[3]


class TestRendering:
    def test_frames(self):
        env = gym.make("SimpleSpread-v3", render_mode="rgb_array")
        frames = []
        for seed in (0, 0, 1):
            env.reset(seed=seed)
            frames.append(env.render())
        assert frames[0].shape == (700, 700, 3)
        assert frames[0].dtype == np.uint8
        np.testing.assert_array_equal(frames[0], frames[1])
        assert (frames[0] != frames[2]).any()
        env.close()
        env.close()

    def test_closing_one_leaves_the_others_alone(self):
        one, other = (gym.make("SimpleSpread-v3", render_mode="rgb_array") for _ in range(2))
        one.reset(seed=0)
        other.reset(seed=0)
        one.close()
        assert other.render().any()

    def test_a_window_shows_one_frame_a_step(self, monkeypatch):
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        with pytest.warns(UserWarning, match="HumanRendering"):
            env = gym.make("SimpleSpread-v3", render_mode="human")
        drawn = []
        inside = env.unwrapped.parallel_env.unwrapped
        draw = inside.draw
        monkeypatch.setattr(inside, "draw", lambda: drawn.append(draw()))
        env.reset(seed=0)
        for _ in range(2):
            env.step(env.action_space.sample())
            env.render()
        env.close()
        assert len(drawn) == 3


class TestStableBaselines3:
    @pytest.mark.slow
    def test_processes_and_a_single_one_agree(self):
        """Started from the class, which unlike the id needs no registration in the new process."""
        kwargs = {"render_mode": "rgb_array"}
        parallel = make_vec_env(SimpleSpreadEnv, n_envs=2, seed=3, vec_env_cls=SubprocVecEnv, env_kwargs=kwargs)
        serial = make_vec_env("SimpleSpread-v3", n_envs=2, seed=3)
        try:
            np.testing.assert_array_equal(parallel.reset(), serial.reset())
            rng = np.random.default_rng(0)
            for _ in range(26):
                action = rng.random((2, 3, 5), dtype=np.float32)
                (*results, infos), (*expected, expected_infos) = parallel.step(action), serial.step(action)
                for one, other in zip(results, expected, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-6)  # DummyVecEnv keeps rewards in float32
                for one, other in zip(infos, expected_infos, strict=True):
                    np.testing.assert_array_equal(one["agent_rewards"], other["agent_rewards"])
            assert parallel.render().shape == (1400, 700, 3)
        finally:
            parallel.close()

    def test_stock_sac_trains_saves_loads_and_is_evaluated(self, tmp_path):
        venv = VecNormalize(make_vec_env("SimpleSpread-v3", n_envs=2, seed=0), norm_reward=False)
        model = SAC("MlpPolicy", venv, learning_starts=50, batch_size=16, policy_kwargs={"net_arch": [16]}, seed=0)
        model.learn(120)
        episodes = list(model.ep_info_buffer)
        assert {episode["l"] for episode in episodes} == {25}
        model.save(tmp_path / "model")
        loaded = SAC.load(tmp_path / "model", env=venv)
        observation = venv.reset()
        action, _ = loaded.predict(observation, deterministic=True)
        assert action.shape == (2, 3, 5)
        np.testing.assert_array_equal(action, model.predict(observation, deterministic=True)[0])
        mean_return, _ = evaluate_policy(loaded, venv, n_eval_episodes=2)
        assert -200 < mean_return < 0


class TestRegistration:
    def test_ids_and_limits(self):
        assert gym.spec("MultiGoal-v0").max_episode_steps == 30
        assert gym.spec("SimpleSpread-v3").max_episode_steps is None

    @pytest.mark.filterwarnings("error")
    def test_registering_again_changes_nothing(self):
        before = dict(gym.registry)
        register_envs()
        assert gym.registry == before

    def test_a_users_own_registration_stays(self, monkeypatch):
        monkeypatch.delitem(gym.registry, "SimpleSpread-v3")
        gym.register("SimpleSpread-v3", entry_point="mine:Env")
        register_envs()
        assert gym.spec("SimpleSpread-v3").entry_point == "mine:Env"

    def test_importing_and_registering_needs_gymnasium_only(self):
        """Loaded by itself, without the package around it: `envs` imports nothing of ours, nor torch, nor an extra."""
        code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {envs.__file__!r})  # finds its submodules next to it
alone = sys.modules["alone"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alone)
alone.register_envs()
import gymnasium
assert gymnasium.spec("SimpleSpread-v3") and gymnasium.spec("MultiGoal-v0")
unwanted = ("sb3_sac_variants", "torch", "stable_baselines3", "mpe2", "pettingzoo", "pygame", "matplotlib")
print(*[name for name in unwanted if name in sys.modules])
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.split() == []

    def test_entry_points_exist(self):
        for name in ("MultiGoal-v0", "SimpleSpread-v3"):
            assert type(gym.make(name).unwrapped).__name__ == gym.spec(name).entry_point.split(":")[1]


class TestBadInput:
    @pytest.mark.parametrize("name", ["mpe2", "pettingzoo"])
    def test_a_missing_extra(self, monkeypatch, name):
        for module in [module for module in sys.modules if module.split(".")[0] == "mpe2"]:
            monkeypatch.delitem(sys.modules, module)
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
        for make in (SimpleSpreadEnv, lambda: gym.make("SimpleSpread-v3")):
            with pytest.raises(ImportError, match=r'pip install "sb3-sac-variants\[multiagent\]"'):
                make()

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"N": 0}, ValueError, "N=0 must be at least 1"),
            ({"N": 2.0}, TypeError, "N must be a whole number, got 2.0"),
            ({"max_cycles": 0}, ValueError, "max_cycles=0 must be at least 1"),
            ({"max_cycles": True}, TypeError, "max_cycles must be a whole number"),
            ({"local_ratio": 1.5}, ValueError, r"local_ratio=1.5 must be in \[0, 1\]"),
            ({"local_ratio": float("nan")}, ValueError, "local_ratio=nan"),
            ({"local_ratio": "half"}, TypeError, "local_ratio must be a number"),
            ({"render_mode": "ansi"}, ValueError, "render_mode='ansi'.*gymnasium.make"),
            ({"render_mode": "human"}, ValueError, "render_mode='human'.*gymnasium.make"),
            ({"n_agents": 3}, TypeError, "n_agents"),
        ],
    )
    def test_arguments(self, kwargs, error, message):
        with pytest.raises(error, match=message):
            SimpleSpreadEnv(**kwargs)


# ---------------------------------------------------------------- its agents as environments


def test_attributes_of_the_environment_of_each_agent() -> None:
    env = IndependentAgents(make_vec_env("SimpleSpread-v3", 2))
    assert env.env_is_wrapped(Monitor) == [True] * 6
    assert env.env_is_wrapped(Monitor, indices=[5]) == [True]
    assert len(env.get_attr("render_mode")) == 6
    env.set_attr("mark", "first", indices=[0, 2])
    env.set_attr("mark", "second", indices=4)
    assert env.get_attr("mark") == ["first"] * 3 + ["second"] * 3
    assert env.get_attr("mark", indices=[1, 3]) == ["first", "second"]
    env.reset()
    assert len(env.env_method("get_wrapper_attr", "mark")) == 6
    assert env.env_method("get_wrapper_attr", "mark", indices=[3]) == ["second"]


def test_normalisation_goes_outside() -> None:
    with pytest.raises(ValueError, match=r"VecNormalize\(IndependentAgents\(venv\)\)"):
        IndependentAgents(VecNormalize(make_vec_env("SimpleSpread-v3", 2)))
