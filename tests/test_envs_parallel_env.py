"""The PettingZoo adapter, on a scripted environment: spaces, rewards, ends of episodes, vector wrappers, bad input."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from agents import make as make_masac
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from helpers import ALGORITHMS
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_sac_variants import MASAC
from sb3_sac_variants.envs import ParallelEnvAdapter

AGENTS = ("left", "middle", "right")


class Corridor:
    """
    A ParallelEnv by its methods: agent k sees (its position, k), moves by its action and earns k times its position.

    ``ends`` maps a step to the agents that terminate and those that are truncated in it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5, "name": "corridor"}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, ends=None, agents=AGENTS, observation_spaces=None, action_spaces=None):
        self.possible_agents = list(agents)
        self.agents = []
        self.ends = {4: ((), self.possible_agents)} if ends is None else ends
        self.observation_spaces = observation_spaces or {
            agent: spaces.Box(np.array([-9, 0]), np.array([9 + k, 3]), dtype=np.float32)
            for k, agent in enumerate(agents)
        }
        self.action_spaces = action_spaces or {agent: spaces.Box(-1, 1, (1,), dtype=np.float32) for agent in agents}
        self.rng = np.random.default_rng()
        self.infos = {agent: {} for agent in agents}
        self.received = []
        self.closed = False

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def observe(self):
        # In another order than possible_agents, which nothing in PettingZoo forbids.
        return {
            agent: np.array([self.position[agent], self.possible_agents.index(agent)], dtype=np.float32)
            for agent in reversed(self.agents)
        }

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.options = options
        self.agents = self.possible_agents[:]
        self.position = {agent: self.rng.uniform(-1, 1) for agent in self.agents}
        self.steps = 0
        return self.observe(), self.infos

    def step(self, actions):
        self.received.append(actions)
        self.steps += 1
        for agent, action in actions.items():
            self.position[agent] += float(np.ravel(action)[0])
        terminating, truncating = self.ends.get(self.steps, ((), ()))
        observations = self.observe()
        rewards = {agent: self.position[agent] * self.possible_agents.index(agent) for agent in observations}
        terminations = {agent: agent in terminating for agent in self.agents}
        truncations = {agent: agent in truncating for agent in self.agents}
        self.agents = [agent for agent in self.agents if not (terminations[agent] or truncations[agent])]
        return observations, rewards, terminations, truncations, self.infos

    def render(self):
        return np.full((4, 4, 3), self.steps, dtype=np.uint8)

    def close(self):
        self.closed = True


def actions(*values):
    return np.array(values, dtype=np.float32)[:, None]


@pytest.mark.filterwarnings("error")
def test_gymnasium_checker_passes_without_a_warning():
    # Without a spec the checker cannot try other render modes, and says so.
    gymnasium_check_env(ParallelEnvAdapter(Corridor()), skip_render_check=True)


def test_sb3_checker_complains_of_the_shape_only():
    with pytest.warns(UserWarning, match="unconventional shape") as warnings:
        sb3_check_env(ParallelEnvAdapter(Corridor()), skip_render_check=False)
    assert len(warnings) == 1


def test_spaces_stack_the_agents_bounds():
    env = ParallelEnvAdapter(Corridor())
    assert env.agents == AGENTS
    assert env.n_agents == 3
    low, high = np.array([[-9, 0], [-9, 0], [-9, 0]]), np.array([[9, 3], [10, 3], [11, 3]])
    assert env.observation_space == spaces.Box(low, high, dtype=np.float32)
    assert env.action_space == spaces.Box(-1, 1, (3, 1), dtype=np.float32)


def test_a_step_by_hand():
    env = ParallelEnvAdapter(Corridor())
    start, info = env.reset(seed=0)
    assert start.shape == (3, 2)
    assert start[:, 1].tolist() == [0, 1, 2]
    assert info == {}

    observation, reward, terminated, truncated, info = env.step(actions(0.5, -0.25, 1.0))
    np.testing.assert_allclose(observation, np.add(start, [[0.5, 0], [-0.25, 0], [1.0, 0]]), rtol=1e-6)
    assert observation.dtype == np.float32
    agent_rewards = observation[:, 0] * [0, 1, 2]
    assert info["agent_rewards"].dtype == np.float32
    np.testing.assert_allclose(info["agent_rewards"], agent_rewards, rtol=1e-6)
    assert isinstance(reward, float)
    assert reward == pytest.approx(agent_rewards.mean(), rel=1e-6)
    assert (terminated, truncated) == (False, False)
    assert set(info) == {"agent_rewards", "mean_reward"}


def test_actions_reach_their_agents_as_copies():
    inside = Corridor()
    env = ParallelEnvAdapter(inside)
    env.reset()
    given = actions(0.1, 0.2, 0.3)
    env.step(given)
    given[:] = 0
    assert list(inside.received[0]) == list(AGENTS)
    assert [float(action[0]) for action in inside.received[0].values()] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("terminating", "truncating", "expected"),
    [
        (AGENTS, (), (True, False)),
        ((), AGENTS, (False, True)),
        (AGENTS, AGENTS, (True, False)),
        (AGENTS[:1], AGENTS[1:], (False, True)),
        (AGENTS[:2], AGENTS, (False, True)),
    ],
)
def test_ends_of_episodes(terminating, truncating, expected):
    env = ParallelEnvAdapter(Corridor(ends={2: (terminating, truncating)}))
    for _ in range(2):
        env.reset()
        assert env.step(actions(0, 0, 0))[2:4] == (False, False)
        assert env.step(actions(0, 0, 0))[2:4] == expected
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            env.step(actions(0, 0, 0))


def test_seed_and_options_reach_the_environment_inside():
    inside = Corridor()
    env = ParallelEnvAdapter(inside)
    first, _ = env.reset(seed=5, options={"level": 2})
    assert inside.options == {"level": 2}
    second, _ = env.reset()
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, env.reset()[0])
    assert not np.array_equal(first, second)


def test_agents_infos_are_passed_on_as_copies():
    inside = Corridor()
    inside.infos = {"left": {"hits": 1}}
    env = ParallelEnvAdapter(inside)
    expected = {"left": {"hits": 1}, "middle": {}, "right": {}}
    assert env.reset()[1] == {"agent_infos": expected}
    info = env.step(actions(0, 0, 0))[4]
    inside.infos["left"]["hits"] = 2
    assert info["agent_infos"] == expected


def test_rendering_metadata_and_close():
    inside = Corridor()
    env = ParallelEnvAdapter(inside)
    assert env.render_mode == "rgb_array"
    assert env.metadata == Corridor.metadata
    env.reset()
    env.step(actions(0, 0, 0))
    assert (env.render() == 1).all()
    env.close()
    assert inside.closed


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_are_as_good_as_those_of_the_environment_inside(duplicate):
    env = ParallelEnvAdapter(Corridor())
    env.reset(seed=0)
    twin = duplicate(env)
    np.testing.assert_array_equal(env.step(actions(0.1, 0.2, 0.3))[0], twin.step(actions(0.1, 0.2, 0.3))[0])
    np.testing.assert_array_equal(env.reset()[0], twin.reset()[0])


def test_a_single_agent_and_other_dtypes():
    box = {"solo": spaces.Box(-2, 2, (2,), dtype=np.float64)}
    actions_box = {"solo": spaces.Box(-1, 1, (1,), dtype=np.float64)}
    env = ParallelEnvAdapter(Corridor(agents=("solo",), observation_spaces=box, action_spaces=actions_box))
    assert env.observation_space == spaces.Box(-2, 2, (1, 2), dtype=np.float64)
    observation, _ = env.reset()
    assert observation.dtype == np.float64
    inside = env.parallel_env
    env.step(np.array([[0.5]], dtype=np.float32))
    assert inside.received[0]["solo"].dtype == np.float64


def test_monitor_and_vector_environments():
    venv = DummyVecEnv([lambda: Monitor(ParallelEnvAdapter(Corridor())) for _ in range(2)])
    venv = VecNormalize(venv, gamma=0.9)
    venv.seed(0)
    assert venv.reset().shape == (2, 3, 2)
    rewards = np.zeros(2)
    for step in range(1, 5):
        observations, _, dones, infos = venv.step(np.full((2, 3, 1), 0.1 * step, dtype=np.float32))
        assert observations.shape == (2, 3, 2)
        assert np.stack([info["agent_rewards"] for info in infos]).shape == (2, 3)
        rewards += venv.get_original_reward()
        np.testing.assert_allclose(
            venv.get_original_reward(), [info["agent_rewards"].mean() for info in infos], rtol=1e-5
        )
    assert dones.all()
    for info, total in zip(infos, rewards, strict=True):
        assert info["TimeLimit.truncated"]
        assert info["terminal_observation"].shape == (3, 2)
        assert info["episode"]["l"] == 4
        assert info["episode"]["r"] == pytest.approx(total, rel=1e-4)


class TestAgentsComingAndGoing:
    @pytest.mark.parametrize("ends", [{1: (AGENTS[1:2], ())}, {1: ((), AGENTS[1:2])}])
    def test_an_agent_that_ends_before_the_others(self, ends):
        env = ParallelEnvAdapter(Corridor(ends=ends))
        env.reset()
        with pytest.raises(RuntimeError, match=r"only \['middle'\] ended.*different times.*keep_absent=True"):
            env.step(actions(0, 0, 0))

    @pytest.mark.parametrize(
        ("last", "terminated"), [((("left", "right"), ()), True), (((), ("left", "right")), False)]
    )
    def test_an_agent_that_has_left_is_kept_as_zeros(self, last, terminated):
        env = ParallelEnvAdapter(Corridor(ends={1: (AGENTS[1:2], ()), 3: last}), keep_absent=True)
        env.reset(seed=0)
        observation, _, *ends, info = env.step(actions(0, 0.5, 0))
        assert ends == [False, False]
        assert observation[1].tolist() == [np.float32(env.parallel_env.position["middle"]), 1]  # its own last one
        assert info["agent_rewards"][1] == np.float32(env.parallel_env.position["middle"]) != 0
        assert info["agent_terminations"].tolist() == [False, True, False]
        assert info["agent_truncations"].tolist() == [False] * 3
        observation, reward, *ends, info = env.step(actions(0, 0, 1))
        assert not {"agent_terminations", "agent_truncations"} & set(info)
        assert info["mean_reward"] == reward
        assert ends == [False, False]
        assert env.parallel_env.received[-1].keys() == {"left", "right"}
        assert observation[1].tolist() == [0, 0]
        assert observation[2, 1] == 2
        assert info["agent_rewards"][1] == 0
        assert reward == pytest.approx(2 * env.parallel_env.position["right"] / 3)
        observation, _, ended, truncated, info = env.step(actions(0, 0, 0))
        assert (ended, truncated) == (terminated, not terminated)
        assert info["agent_terminations" if terminated else "agent_truncations"].tolist() == [True, False, True]
        assert env.observation_space.contains(observation)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(actions(0, 0, 0))
        assert env.reset()[0][1, 1] == 1

    def test_an_episode_of_agents_that_leave_one_by_one_is_truncated_if_one_was(self):
        ends = {1: (("left",), ()), 2: ((), ("middle",)), 3: (("right",), ())}
        env = ParallelEnvAdapter(Corridor(ends=ends), keep_absent=True)
        env.reset()
        assert [env.step(actions(0, 0, 0))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]

    def test_zero_is_in_the_space_of_agents_that_are_kept(self):
        spaces_ = {agent: spaces.Box(np.array([1, 0]), np.array([9, 3]), dtype=np.float32) for agent in AGENTS}
        env = ParallelEnvAdapter(Corridor(observation_spaces=spaces_), keep_absent=True)
        assert env.observation_space.low[:, 0].tolist() == [0, 0, 0]
        assert env.observation_space.high[:, 0].tolist() == [9, 9, 9]

    def test_an_agent_that_comes_back(self):
        class Returning(Corridor):
            def step(self, actions):
                results = super().step(actions)
                self.agents = list(AGENTS)
                return results

        env = ParallelEnvAdapter(Returning(ends={1: (AGENTS[1:2], ())}), keep_absent=True)
        env.reset()
        env.step(actions(0, 0, 0))
        with pytest.raises(RuntimeError, match=r"\['middle'\] came back after they had left"):
            env.step(actions(0, 0, 0))

    def test_masac_learns_with_agents_that_leave(self):
        ends = {2: (AGENTS[1:2], ()), 5: ((), ("left", "right"))}
        model = make_masac(ParallelEnvAdapter(Corridor(ends=ends), keep_absent=True)).learn(40)
        assert model.num_timesteps == 40

    @pytest.mark.parametrize("result", range(4))
    def test_an_agent_that_vanishes_without_a_word(self, result):
        class Leaky(Corridor):
            def step(self, actions):
                results = super().step(actions)
                del results[result]["right"]
                return results

        env = ParallelEnvAdapter(Leaky())
        env.reset()
        name = ("observations", "rewards", "terminations", "truncations")[result]
        with pytest.raises(RuntimeError, match=rf"no {name} for \['right'\]"):
            env.step(actions(0, 0, 0))

    @pytest.mark.parametrize("reward", [np.ones(1), "one", [1.0, 2.0]], ids=str)
    def test_a_reward_that_is_no_number(self, reward):
        class Odd(Corridor):
            def step(self, actions):
                results = super().step(actions)
                results[1]["left"] = reward
                return results

        env = ParallelEnvAdapter(Odd())
        env.reset()
        with pytest.raises(ValueError, match=r"(?s)gave rewards=\{.*\}: let its step\(\) give one number"):
            env.step(actions(0, 0, 0))

    def test_an_agent_that_comes_late(self):
        class Late(Corridor):
            def reset(self, seed=None, options=None):
                observations, infos = super().reset(seed, options)
                return {agent: value for agent, value in observations.items() if agent != "left"}, infos

        with pytest.raises(RuntimeError, match=r"reset\(\) gave no observations for \['left'\]"):
            ParallelEnvAdapter(Late()).reset()


class TestBadInput:
    @pytest.mark.parametrize(
        "action", [np.zeros(3), np.zeros((1, 3, 1)), np.zeros((2, 1)), 0.0, [[0], [np.nan], [0]], [[0], [np.inf], [0]]]
    )
    def test_action(self, action):
        env = ParallelEnvAdapter(Corridor())
        env.reset()
        with pytest.raises(ValueError, match=r"action must be finite and of shape \(n_agents, d\) = \(3, 1\)"):
            env.step(action)

    def test_fractions_where_the_space_is_of_integers(self):
        whole = {agent: spaces.Box(-9, 9, (2,), np.int64) for agent in AGENTS}
        env = ParallelEnvAdapter(Corridor(observation_spaces=whole))
        with pytest.raises(ValueError, match=r"gave observations of float\d+, and its observation_space says int64"):
            env.reset()

    def test_step_before_reset(self):
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            ParallelEnvAdapter(Corridor()).step(actions(0, 0, 0))

    @pytest.mark.parametrize("thing", [None, "simple_spread", gym.make("Pendulum-v1"), Corridor])
    def test_no_parallel_env(self, thing):
        with pytest.raises(TypeError, match="must be a PettingZoo ParallelEnv"):
            ParallelEnvAdapter(thing)

    def test_an_aec_env(self):
        class InTurn(Corridor):
            def agent_iter(self):
                return iter(self.agents)

        with pytest.raises(TypeError, match=r"AECEnv.*aec_to_parallel"):
            ParallelEnvAdapter(InTurn())

    def test_no_agents(self):
        with pytest.raises(ValueError, match="no possible_agents"):
            ParallelEnvAdapter(Corridor(agents=()))

    @pytest.mark.parametrize(
        ("kind", "space", "remedy"),
        [
            ("action", spaces.Discrete(5, start=1), "number the actions from 0"),
            ("action", spaces.MultiDiscrete([2, 2]), "Box or Discrete"),
            ("action", spaces.Box(0, 1, (2, 2)), "flatten"),
            ("action", spaces.Box(0, 5, (1,), dtype=np.int64), "real numbers"),
            ("observation", spaces.Discrete(5), "encode"),
            ("observation", spaces.Dict(a=spaces.Box(0, 1, (2,))), "encode"),
            ("observation", spaces.Box(0, 255, (8, 8, 3), dtype=np.uint8), "flatten"),
            ("observation", spaces.Box(0, 1, ()), "flatten"),
        ],
    )
    def test_unfit_spaces(self, kind, space, remedy):
        unfit = {f"{kind}_spaces": dict.fromkeys(AGENTS, space)}
        with pytest.raises(ValueError, match=f"agent 'left' has the {kind} space .*{remedy}") as caught:
            ParallelEnvAdapter(Corridor(**unfit))
        assert str(space) in str(caught.value)

    @pytest.mark.parametrize("kind", ["observation", "action"])
    @pytest.mark.parametrize(
        ("other", "what"),
        [
            (spaces.Box(0, 1, (3,)), r"size for all agents.*pad the smaller ones:\n.*ParallelEnvAdapter\n.*pad=True\)"),
            (spaces.Box(0, 1, (2,), dtype=np.float64), "kind and dtype for all agents"),
        ],
    )
    def test_mixed_spaces(self, kind, other, what):
        mixed = dict.fromkeys(AGENTS, spaces.Box(0, 1, (2,))) | {"middle": other}
        with pytest.raises(ValueError, match=f"(?s){kind} spaces must have the same {what}") as caught:
            ParallelEnvAdapter(Corridor(**{f"{kind}_spaces": mixed}))
        for agent in AGENTS:
            assert f"{agent!r}: {mixed[agent]}" in str(caught.value)

    @pytest.mark.parametrize("pad", [False, True])
    def test_discrete_beside_continuous_actions(self, pad):
        mixed = dict.fromkeys(AGENTS, spaces.Box(0, 1, (2,))) | {"middle": spaces.Discrete(2)}
        with pytest.raises(ValueError, match="same kind and dtype"):
            ParallelEnvAdapter(Corridor(action_spaces=mixed), pad=pad)


class TestDiscreteActions:
    SPACES = dict.fromkeys(AGENTS, spaces.Discrete(3))

    def test_numbers_reach_their_agents(self):
        inside = Corridor(action_spaces=self.SPACES)
        env = ParallelEnvAdapter(inside)
        assert env.action_space == spaces.MultiDiscrete([3, 3, 3])
        gymnasium_check_env(env, skip_render_check=True)
        start, _ = env.reset()
        observation, *_ = env.step(np.array([2, 0, 1]))
        assert inside.received[-1] == {"left": 2, "middle": 0, "right": 1}
        np.testing.assert_allclose(observation[:, 0] - start[:, 0], [2, 0, 1], rtol=1e-6)

    @pytest.mark.parametrize("action", [[0, 1], [0, 1, 3], [-1, 0, 0], [0.5, 0, 0], 0, [[0, 1, 2]]])
    def test_what_is_no_number_of_an_action(self, action):
        env = ParallelEnvAdapter(Corridor(action_spaces=self.SPACES))
        env.reset()
        with pytest.raises(ValueError, match=r"whole numbers from 0 to 2, of shape \(n_agents,\) = \(3,\)"):
            env.step(np.array(action))


class TestPadding:
    """One agent has a shorter vector, or fewer actions, than the others."""

    def test_observations_get_zeros_at_their_end(self):
        longer = spaces.Box(-9, 9, (3,), dtype=np.float32)

        class Uneven(Corridor):
            def observe(self):
                observations = super().observe()
                return observations | {"right": np.append(observations["right"], np.float32(5))}

        inside = Uneven()
        inside.observation_spaces["right"] = longer
        env = ParallelEnvAdapter(inside, pad=True)
        assert env.observation_space.shape == (3, 3)
        assert env.observation_space.low[:, 2].tolist() == [0, 0, -9]
        observation, _ = env.reset(seed=0)
        assert observation[:, 2].tolist() == [0, 0, 5]
        assert observation in env.observation_space
        assert env.step(actions(0, 0, 0))[0][:, 2].tolist() == [0, 0, 5]

    @pytest.mark.parametrize("pad", [False, True])
    @pytest.mark.parametrize("size", [1, 3])
    def test_an_observation_that_contradicts_its_space_is_refused(self, size, pad):
        class Contradicting(Corridor):
            def observe(self):
                return super().observe() | {"middle": np.zeros(size, np.float32)}

        env = ParallelEnvAdapter(Contradicting(), pad=pad)
        with pytest.raises(ValueError, match=rf"gave 'middle' an observation of shape \({size},\), .* says \(2,\)"):
            env.reset()

    def test_superfluous_numbers_of_an_action_are_dropped(self):
        uneven = {agent: spaces.Box(0, 2, (size,)) for agent, size in zip(AGENTS, (1, 2, 1), strict=True)}
        inside = Corridor(action_spaces=uneven)
        env = ParallelEnvAdapter(inside, pad=True)
        # of those of whom has them, so that agents that are alike but for their number have the same bounds
        assert env.action_space.low.tolist() == [[0, 0]] * 3
        assert env.action_space.high.tolist() == [[2, 2]] * 3
        env.reset()
        env.step(np.arange(6).reshape(3, 2) / 10)
        received = {agent: np.round(action, 3).tolist() for agent, action in inside.received[0].items()}
        assert received == {"left": [0.0], "middle": pytest.approx([0.2, 0.3]), "right": pytest.approx([0.4])}

    def test_an_action_that_an_agent_does_not_have_is_its_action_0(self):
        uneven = {agent: spaces.Discrete(n) for agent, n in zip(AGENTS, (2, 4, 3), strict=True)}
        inside = Corridor(action_spaces=uneven)
        with pytest.raises(ValueError, match="pad=True"):
            ParallelEnvAdapter(inside)
        env = ParallelEnvAdapter(inside, pad=True)
        assert env.action_space == spaces.MultiDiscrete([4, 4, 4])
        env.reset()
        for action, expected in (([1, 3, 2], [1, 3, 2]), ([2, 3, 3], [0, 3, 0])):
            env.step(np.array(action))
            assert list(inside.received[-1].values()) == expected

    @pytest.mark.parametrize("continuous", [False, True])
    @pytest.mark.parametrize("name", ["simple_tag_v3", "simple_speaker_listener_v4"])
    def test_unlike_agents_of_mpe2_train(self, name, continuous):
        module = pytest.importorskip(f"mpe2.{name}")
        inside = module.parallel_env(continuous_actions=continuous, max_cycles=10)
        with pytest.raises(ValueError, match="pad=True"):
            ParallelEnvAdapter(inside)
        model = make_masac(Monitor(ParallelEnvAdapter(inside, pad=True))).learn(30)
        assert len(model.ep_info_buffer) == 3
        batch = model.replay_buffer.sample(50)
        assert np.isfinite(batch.observations.numpy()).all()
        assert batch.rewards.shape == (50, model.n_agents)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, MASAC])
def test_an_environment_of_pettingzoo_as_it_is_hears_of_the_adapter(algorithm):
    with pytest.raises(TypeError, match=r"env=.*PettingZoo environment.*ParallelEnvAdapter\(env\).*IndependentAgents"):
        algorithm("MlpPolicy", Corridor())
