"""Agents as environments of their own."""

import gymnasium as gym
import numpy as np
import pytest
from agents import AgentsEnv, several
from gymnasium import spaces
from helpers import SpacesEnv
from helpers import make as make_single
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_sac_variants import MASAC, SACv2
from sb3_sac_variants.envs import IndependentAgents, ParallelEnvAdapter

#: the bounds of two agents
UNLIKE = spaces.Box(np.array([[-1.0], [0.0]], np.float32), np.ones((2, 1), np.float32))


def test_each_agent_gets_its_own_rows_and_reward() -> None:
    joint, split = several(2, episode_length=3), IndependentAgents(several(2, episode_length=3))
    for env in (joint, split):
        env.seed(0)
    assert split.num_envs == 6
    assert split.observation_space.shape == (4,)
    np.testing.assert_array_equal(split.reset(), joint.reset().reshape(6, 4))
    rng = np.random.default_rng(0)
    for step in range(4):
        actions = rng.uniform(-1, 1, (6, 2)).astype(np.float32)
        observations, _, dones, infos = joint.step(actions.reshape(2, 3, 2))
        own, rewards, own_dones, own_infos = split.step(actions)
        np.testing.assert_array_equal(own, observations.reshape(6, 4))
        np.testing.assert_array_equal(rewards, np.concatenate([info["agent_rewards"] for info in infos]))
        assert own_dones.tolist() == np.repeat(dones, 3).tolist() == [step == 2] * 6
        for env in range(6):
            last, own_last = (each.get("terminal_observation") for each in (infos[env // 3], own_infos[env]))
            assert (last is None) == (own_last is None) == (step != 2)
            if last is not None:
                np.testing.assert_array_equal(own_last, last[env % 3])


def test_a_single_agents_algorithm_learns_for_all() -> None:
    env = IndependentAgents(several(2, targets=[0.5, 0.5, 0.5], action_dim=1, episode_length=1))
    arguments = {"ent_coef": 0.01, "learning_rate": 1e-2, "batch_size": 32, "buffer_size": 3000}
    model = make_single(SACv2, env, gradient_steps=4, **arguments).learn(1200)
    assert model.replay_buffer.sample(10).observations.shape == (10, 4)
    actions, _ = model.predict(env.reset(), deterministic=True)
    assert np.abs(actions - 0.5).mean() < 0.2
    assert -0.1 < evaluate_policy(model, env, n_eval_episodes=12)[0] < 0


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: SpacesEnv(), r"observation_space=.*ParallelEnvAdapter"),
        (lambda: SpacesEnv(AgentsEnv().observation_space, spaces.Box(-1.0, 1.0, (2,))), r"action_space=.*Adapter"),
        (lambda: SpacesEnv(AgentsEnv(2).observation_space, UNLIKE), "bounds"),
        (lambda: SpacesEnv(AgentsEnv(4).observation_space, AgentsEnv(2).action_space), "different numbers of agents"),
    ],
    ids=["observation", "action", "bounds", "numbers"],
)
def test_spaces_without_like_agents_are_refused(env, message) -> None:
    with pytest.raises(ValueError, match=message):
        IndependentAgents(DummyVecEnv([env]))


class WithoutAgentRewards(AgentsEnv):
    """An environment whose agents' rewards are its own affair."""

    def step(self, action):
        return *super().step(action)[:-1], {"other": 1}


def test_missing_agent_rewards_are_named_with_the_remedy() -> None:
    env = IndependentAgents(DummyVecEnv([WithoutAgentRewards]))
    env.reset()
    with pytest.raises(
        ValueError, match=r"(?s)info has no 'agent_rewards', only \[.*'other'.*\]: .*ParallelEnvAdapter"
    ):
        env.step(np.zeros((3, 2)))


class UnequalRewards(AgentsEnv):
    """One reward too many in one environment, one too few in another: together there are as many as agents."""

    def step(self, action):
        *results, _ = super().step(action)
        return *results, {"agent_rewards": np.zeros(4 if self.np_random_seed == 9 else 2)}


def test_rewards_never_reach_another_agent() -> None:
    env = IndependentAgents(DummyVecEnv([UnequalRewards, UnequalRewards]))
    env.seed(9)  # and 10
    env.reset()
    with pytest.raises(ValueError, match=r"=array\(\[0., 0., 0., 0.\]\) must be 3 numbers"):
        env.step(np.zeros((6, 2)))


class ManyOptions(AgentsEnv):
    """Remembers the options of its last reset."""

    def reset(self, *, seed=None, options=None):
        self.options = options
        return super().reset(seed=seed)


def test_options_and_seeds_are_those_of_each_environment() -> None:
    env = IndependentAgents(DummyVecEnv([ManyOptions, ManyOptions]))
    assert env.seed(5) == [5, 5, 5, 6, 6, 6]
    for options, expected in [
        ([{"of": 0}] * 3 + [{"of": 1}] * 3, [{"of": 0}, {"of": 1}]),
        ({"of": 2}, [{"of": 2}] * 2),
        (None, [None] * 2),
    ]:
        env.set_options(options)
        env.reset()
        assert env.venv.get_attr("options") == expected


@pytest.mark.parametrize("options", [[{}], [{"of": 0}, {"of": 1}] * 3, [{}] * 9], ids=len)
def test_options_that_agents_do_not_share_are_refused(options) -> None:
    env = IndependentAgents(DummyVecEnv([ManyOptions, ManyOptions]))
    with pytest.raises(ValueError, match=r"options=.* must be 6 dictionaries, the same for the 3 agents"):
        env.set_options(options)


def test_a_single_environment_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"venv=.*AgentsEnv.* is no VecEnv: pass DummyVecEnv\(\[lambda: env\]\)"):
        IndependentAgents(AgentsEnv())


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("name", ["simple_tag_v3", "simple_speaker_listener_v4"])
def test_padded_agents_share_a_policy(name: str, continuous: bool) -> None:
    """Their observations have unlike bounds, zero where one is padded."""
    module = pytest.importorskip(f"mpe2.{name}")
    inside = module.parallel_env(continuous_actions=continuous, max_cycles=10)
    env = IndependentAgents(DummyVecEnv([lambda: Monitor(ParallelEnvAdapter(inside, pad=True))]))
    model = make_single(SACv2, env, gradient_steps=-1).learn(20 * env.n_agents)
    assert len(model.ep_info_buffer) == 2 * env.n_agents
    assert all(observation in env.observation_space for observation in env.reset())


def test_the_space_of_an_observation_holds_every_agents() -> None:
    low, high = np.array([[-1, 0], [-2, 1]], np.float32), np.array([[1, 0], [0, 3]], np.float32)
    split = IndependentAgents(DummyVecEnv([lambda: SpacesEnv(spaces.Box(low, high), AgentsEnv(2).action_space)]))
    assert split.observation_space == spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32))


# ---------------------------------------------------------------- each agent's own end


class Ending:
    """
    A ParallelEnv of two agents, each of which observes the step and earns 1.

    :param terminates: step in which the first one terminates
    :param truncated: whether it is truncated instead; the second one is, in step 6
    """

    possible_agents = ("first", "second")

    def __init__(self, terminates: int, truncated: bool = False):
        self.last, self.truncated = terminates, truncated

    def observation_space(self, agent):
        return spaces.Box(0, 9, (1,))

    def action_space(self, agent):
        return spaces.Box(-1, 1, (1,))

    def observe(self):
        return {agent: np.full(1, 1 + self.steps, np.float32) for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.agents, self.steps = list(self.possible_agents), 0
        return self.observe(), {}

    def step(self, actions):
        self.steps += 1
        observations, rewards = self.observe(), dict.fromkeys(self.agents, 1.0)
        end = {"first": self.steps == self.last, "second": self.steps == 6}
        terminations = {agent: end[agent] and agent == "first" and not self.truncated for agent in self.agents}
        truncations = {agent: end[agent] and not terminations[agent] for agent in self.agents}
        self.agents = [agent for agent in self.agents if not end[agent]]
        return observations, rewards, terminations, truncations, {}

    def close(self):
        pass


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("last", [2, 6])
def test_an_agents_own_end_ends_its_episode(last: int, truncated: bool, normalized: bool) -> None:
    adapted = ParallelEnvAdapter(Ending(last, truncated), keep_absent=last < 6)
    env = IndependentAgents(DummyVecEnv([lambda: Monitor(adapted)]))
    model = make_single(SACv2, VecNormalize(env) if normalized else env, learning_starts=50).learn(24)
    buffer = model.replay_buffer
    now, after = buffer.observations[:12, :, 0], buffer.next_observations[:12, :, 0]
    there = list(range(1, last + 1))
    gone = [0] * (6 - last)
    np.testing.assert_allclose(now[:, 0], 2 * (there + gone), atol=1e-5)
    np.testing.assert_allclose(after[:, 0], 2 * ([step + 1 for step in there] + gone), atol=1e-5)
    np.testing.assert_allclose(after[:, 1], 2 * list(range(2, 8)), atol=1e-5)
    assert buffer.rewards[:6, 0].tolist() == [1.0] * last + gone
    ends = buffer.dones[:6]
    assert np.flatnonzero(ends[:, 0]).tolist() == sorted({last - 1, 5})
    assert np.flatnonzero(ends[:, 1]).tolist() == [5]
    assert buffer.timeouts[last - 1, 0] == truncated  # and no target bootstraps where it has terminated
    assert buffer.timeouts[5, 1] == 1
    assert len(model.ep_info_buffer) == 4  # two joint episodes, for two agents


# ---------------------------------------------------------------- wrappers that change the mean reward


class Scaled(gym.Wrapper):
    """Knows that there are several agents."""

    def step(self, action):
        observation, reward, *ends, info = super().step(action)
        return observation, 5 * reward, *ends, {**info, "agent_rewards": 5 * info["agent_rewards"]}


def wrapped(wrapper):
    return DummyVecEnv([lambda: Monitor(wrapper(ParallelEnvAdapter(Ending(6))))])


@pytest.mark.parametrize("algorithm", [SACv2, MASAC])
def test_a_wrapper_that_changes_the_mean_reward_only_is_refused(algorithm) -> None:
    for wrapper in (
        lambda env: gym.wrappers.TransformReward(env, lambda reward: -5 * reward),
        gym.wrappers.NormalizeReward,
    ):
        env = wrapped(wrapper)
        model = make_single(algorithm, IndependentAgents(env) if algorithm is SACv2 else env)
        with pytest.raises(
            ValueError, match=r"a wrapper made reward=.* of 1\.0, .*change those inside, in the Petting"
        ):
            model.learn(20)
    env = wrapped(Scaled)
    model = make_single(algorithm, IndependentAgents(env) if algorithm is SACv2 else env).learn(20)
    assert (model.replay_buffer.rewards[:5] == 5).all()


class Cancelling(Ending):
    """Rewards whose mean is not that of the rounded ones."""

    def step(self, actions):
        observations, _, *rest = super().step(actions)
        return observations, {"first": 1e7, "second": 0.1 - 1e7}, *rest


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_rounding_is_no_change(vec_env) -> None:
    """DummyVecEnv rounds rewards to single precision, SubprocVecEnv does not."""
    env = vec_env([lambda: ParallelEnvAdapter(Cancelling(6))])
    model = make_single(MASAC, VecNormalize(env, norm_reward=False)).learn(20)
    assert model.replay_buffer.rewards[:5, 0].tolist() == [[1e7, -1e7]] * 5
    env.close()
