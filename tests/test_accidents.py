"""What may go wrong between environment, network and replay buffer, and what has to become of it."""

import contextlib
import warnings
from inspect import signature
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALGORITHMS, DICTIONARY, VECTOR, SpacesEnv, every_algorithm, goal_env, make, several
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_sac_variants import MASAC, SQL, SACv1, SACv2
from sb3_sac_variants.common.checks.data import DivergedError

NAN = float("nan")


class Counting(SpacesEnv):
    """
    Observations (episode, step, step): each is told from all others, and the next one is known.

    :param fails_at: step, counted over episodes, at which the environment fails
    :param kwargs: as :class:`SpacesEnv`
    """

    def __init__(self, fails_at: int | None = None, **kwargs: Any):
        super().__init__(spaces.Box(-1, 1e6, (3,)), **kwargs)
        self.fails_at, self.episode, self.count = fails_at, -1, 0

    def observation(self) -> np.ndarray:
        return np.array([self.episode, self.steps, self.steps], np.float32)

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        self.episode += 1
        return self.observation(), {}

    def step(self, action: np.ndarray) -> Any:
        _, *rest = super().step(action)
        self.count += 1
        if self.count == self.fails_at:
            raise ConnectionError("the simulator has died")
        return self.observation(), *rest


def transitions(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    :param model: a model that has learned in :class:`Counting`
    :return: observations and next observations of its replay buffer
    """
    buffer = model.replay_buffer
    if buffer.optimize_memory_usage and type(buffer) is ReplayBuffer:
        count = buffer.pos
        kept = ~buffer.dones[:count, 0].astype(bool)
        return buffer.observations[:count, 0][kept], buffer.observations[1 : count + 1, 0][kept]
    count = buffer.size()
    return buffer.observations[:count].reshape(-1, 3), buffer.next_observations[:count].reshape(-1, 3)


def assert_steps_follow_each_other(model: Any) -> None:
    now, after = transitions(model)
    np.testing.assert_allclose(after - now, np.tile([0, 1, 1], (len(now), 1)), atol=1e-4)


# ---------------------------------------------------------------- a stop in the middle of a step


class Stops(BaseCallback):
    """
    Ends the training at a step.

    :param step: which one
    :param error: raised, or None for an ordinary stop
    """

    def __init__(self, step: int, error: type[BaseException] | None = None):
        super().__init__()
        self.step, self.error = step, error

    def _on_step(self) -> bool:
        if self.n_calls == self.step and self.error is not None:
            raise self.error
        return self.n_calls != self.step


@pytest.mark.thin(5)
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("stop", ["callback", "episodes", "Ctrl-C", "environment"])
@every_algorithm
def test_no_step_is_made_up_after_a_stop(algorithm: type, stop: str, n_envs: int, optimize_memory_usage: bool) -> None:
    first = lambda: Counting(fails_at=14 if stop == "environment" else None)  # noqa: E731
    env = DummyVecEnv([first, *[Counting] * (n_envs - 1)])
    model = make(algorithm, env, optimize_memory_usage=optimize_memory_usage, buffer_size=200, gradient_steps=-1)
    callback: BaseCallback = Stops(14, KeyboardInterrupt if stop == "Ctrl-C" else None)
    if stop == "episodes":
        callback = StopTrainingOnMaxEpisodes(1)
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        model.learn(60, callback=None if stop == "environment" else callback)
    model.learn(40, reset_num_timesteps=False)
    assert_steps_follow_each_other(model)
    assert model.replay_buffer.size() >= 20


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("step", [1, 14, 20])
def test_the_episode_goes_on_after_a_callback_has_stopped_the_training(step: int, normalized: bool) -> None:
    """Only the step that was not stored is missing, also where it was an episode's last one."""
    env: Any = DummyVecEnv([lambda: Monitor(Counting(), allow_early_resets=False)])
    env = VecNormalize(env) if normalized else env
    model = make(SACv2, env).learn(60, callback=Stops(step))
    model.learn(40 - step, reset_num_timesteps=False)
    assert_steps_follow_each_other(model)
    expected = [[t // 10, t % 10, t % 10] for t in range(40) if t != step - 1]
    np.testing.assert_allclose(transitions(model)[0], expected, atol=1e-4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError])
def test_a_new_episode_begins_after_an_error(error: type[BaseException]) -> None:
    model = make(SACv2, Counting(episode_length=100))
    with contextlib.suppress(error):
        model.learn(60, callback=Stops(14, error))
    model.learn(3, reset_num_timesteps=False)
    assert transitions(model)[0][-3:, :2].tolist() == [[1, 0], [1, 1], [1, 2]]


class CollectsByItself(SACv2):
    """With a rollout of its own, as SB3's is written."""

    def collect_rollouts(
        self, env: Any, callback: Any, train_freq: Any, replay_buffer: Any, action_noise: Any = None,
        learning_starts: int = 0, log_interval: int | None = None,
    ) -> RolloutReturn:  # fmt: skip
        callback.on_rollout_start()
        actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
        new_obs, rewards, dones, infos = env.step(actions)
        self.num_timesteps += env.num_envs
        if not callback.on_step():
            return RolloutReturn(env.num_envs, 0, False)
        self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.on_rollout_end()
        return RolloutReturn(env.num_envs, 0, True)


def test_a_rollout_of_the_users_own_goes_on_from_one_learn_to_the_next() -> None:
    model = make(CollectsByItself, Counting(episode_length=100))
    for _ in range(3):
        model.learn(9, reset_num_timesteps=False)
    assert model.num_timesteps == 27
    assert_steps_follow_each_other(model)
    assert model._last_obs[0, 1] == 27
    assert model._can_go_on_exactly


@pytest.mark.parametrize("algorithm", [SACv2, CollectsByItself])
def test_updates_after_a_stop_do_not_undo_it(algorithm: Any) -> None:
    model = make(algorithm, Counting(episode_length=100)).learn(60, callback=Stops(14))
    model.train(3, 8)
    model.learn(20, reset_num_timesteps=False)
    assert_steps_follow_each_other(model)


@pytest.mark.parametrize("kind", ["n-step", "SB3, stored once", "SB3"])
def test_buffers_of_sb3_after_a_stop(kind: str) -> None:
    kwargs: dict[str, Any] = {"n_steps": 3} if kind == "n-step" else {"replay_buffer_class": ReplayBuffer}
    if "once" in kind:
        kwargs |= {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = make(SACv2, Counting(), **kwargs)
    model.learn(60, callback=Stops(14))
    model.learn(20, reset_num_timesteps=False)
    assert_steps_follow_each_other(model)
    batch = model.replay_buffer.sample(500)
    ends_later = batch.next_observations[:, 0] == batch.observations[:, 0]
    assert (ends_later | (batch.dones[:, 0] == 1)).all()


def test_hindsight_after_a_stop() -> None:
    model = make(SACv2, goal_env(), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=50)
    model.learn(20, callback=Stops(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(20, reset_num_timesteps=False)
    buffer = model.replay_buffer
    assert buffer.ep_length[6] == 2 or buffer.ep_start[5] != buffer.ep_start[7]
    assert (buffer.ep_length[: buffer.pos] <= 5).all()


def test_a_model_saved_in_the_middle_of_a_step(tmp_path: Any) -> None:
    model = make(SACv2, Counting())
    model.learn(60, callback=Stops(14))
    model.save(tmp_path / "model")
    loaded = SACv2.load(tmp_path / "model", model.env, force_reset=False).learn(20, reset_num_timesteps=False)
    assert_steps_follow_each_other(loaded)


# ---------------------------------------------------------------- vectorised environments of the user's own


class SameArray(DummyVecEnv):
    """Returns the same array at each step, as some simulators do."""

    def _obs_from_buf(self) -> Any:
        return self.buf_obs if isinstance(self.observation_space, spaces.Dict) else self.buf_obs[None]


class WithoutLast(DummyVecEnv):
    """Does not say in which observation an episode ended."""

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return observations, rewards, dones, infos


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("wrapper", [None, VecNormalize])
@every_algorithm
def test_the_same_array_at_each_step(algorithm: type, wrapper: Any, optimize_memory_usage: bool) -> None:
    env: Any = SameArray([Counting, Counting])
    env = env if wrapper is None else wrapper(env)
    model = make(algorithm, env, optimize_memory_usage=optimize_memory_usage, learning_starts=50).learn(60)
    assert_steps_follow_each_other(model)


def test_the_same_arrays_in_a_dictionary() -> None:
    model = make(SACv2, SameArray([lambda: SpacesEnv(DICTIONARY)]), "MultiInputPolicy", learning_starts=50).learn(20)
    now, after = model.replay_buffer.observations, model.replay_buffer.next_observations
    for key in ("image", "vector"):
        assert all(not np.array_equal(now[key][step], after[key][step]) for step in range(20))


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@every_algorithm
def test_truncated_without_the_last_observation(algorithm: type, normalized: bool, optimize_memory_usage: bool) -> None:
    env: Any = WithoutLast([lambda: Counting(truncate=True)] * 2)
    env = VecNormalize(env) if normalized else env
    model = make(algorithm, env, optimize_memory_usage=optimize_memory_usage, learning_starts=50)
    with pytest.warns(UserWarning, match=r"terminal_observation.*Have the VecEnv put") as caught:
        model.learn(60)
    assert len([one for one in caught if "terminal_observation" in str(one.message)]) == 1
    now, after = transitions(model)
    ends = model.replay_buffer.timeouts[:30].reshape(-1).astype(bool)
    assert ends.sum() == 6
    np.testing.assert_allclose(after[ends], now[ends], atol=1e-4)
    np.testing.assert_allclose((after - now)[~ends], np.tile([0, 1, 1], (54, 1)), atol=1e-4)
    assert not model.replay_buffer.sample(100).dones.any()


def test_terminated_without_the_last_observation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(SACv2, WithoutLast([Counting])).learn(30)
    assert model.replay_buffer.dones[:30].sum() == 3


# ---------------------------------------------------------------- actions inside the space, of its type

BOXES = {
    "uneven": spaces.Box(np.float32([-7.7, -0.1]), np.float32([1.1, 0.7])),
    "half": spaces.Box(-6e4, 6e4, (2,), np.float16),
    "double": spaces.Box(-7.7, 1.1, (2,), np.float64),
    "int8": spaces.Box(-128, 127, (2,), np.int8),
    "uint8": spaces.Box(0, 255, (2, 2), np.uint8),
    "int64": spaces.Box(-3, 5, (2,), np.int64),
    "int32": spaces.Box(2**31 - 2**20, 2**31 - 1, (2,), np.int32),
}


class Strict(SpacesEnv):
    """Takes what is in its action space to the letter."""

    def step(self, action: np.ndarray) -> Any:
        assert action.dtype == self.action_space.dtype
        assert self.action_space.contains(action), action
        self.actions.append(action.copy())
        return self.observation_space.sample(), 1.0, False, False, {}


@pytest.mark.thin(5)
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("kind", BOXES)
@every_algorithm
def test_actions_are_in_the_space(algorithm: type, kind: str, noise: bool) -> None:
    space = BOXES[kind]
    size = np.ones(space.shape)
    action_noise = NormalActionNoise(0 * size, 5 * size) if noise else None
    model = make(algorithm, Strict(action_space=space), action_noise=action_noise, train_freq=4).learn(60)
    actions = np.array(model.env.get_attr("actions")[0])
    if noise:
        assert (actions == space.low).any()
        assert (actions == space.high).any()
    assert model.replay_buffer.sample(100).actions.abs().max() <= 1
    for deterministic in (False, True):
        action, _ = model.predict(VECTOR.sample(), deterministic=deterministic)
        assert action.dtype == space.dtype
        assert space.contains(action)


def test_integers_are_the_nearest() -> None:
    policy = make(SACv2, SpacesEnv(action_space=spaces.Box(0, 10, (1,), np.int64))).policy
    assert policy.unscale_action(np.float32([[-1], [-0.91], [-0.89], [0.99], [1]])).T.tolist() == [[0, 0, 1, 10, 10]]


@every_algorithm
def test_integers_that_single_precision_cannot_tell_apart(algorithm: type) -> None:
    with pytest.raises(ValueError, match=r"more than 16777216 apart.*action_space=.*wrap the environment"):
        make(algorithm, SpacesEnv(action_space=spaces.Box(0, 2**40, (2,), np.int64)))


@pytest.mark.skipif("dtype" not in signature(spaces.Discrete).parameters, reason="an older Gymnasium")
def test_discrete_actions_of_another_type() -> None:
    env = gym.make("CartPole-v1")
    env.action_space = spaces.Discrete(2, dtype=np.int32)
    model = make(SACv2, env).learn(10)
    assert model.predict(np.zeros(4, np.float32))[0].dtype == np.int32


# ---------------------------------------------------------------- divergence


class Tolerant(SpacesEnv):
    """
    Takes any action, and gives a large observation once.

    :param large: step at which it does
    :param kwargs: as :class:`SpacesEnv`
    """

    def __init__(self, large: int | None = None, **kwargs: Any):
        super().__init__(spaces.Box(-np.inf, np.inf, (3,)), **kwargs)
        self.large = large

    def reset(self, **kwargs: Any) -> Any:
        return np.ones(3, np.float32), {}

    def step(self, action: Any) -> Any:
        self.actions.append(np.array(action))
        self.steps += 1
        obs = self.np_random.normal(size=3).astype(np.float32)
        return obs * np.float32(1e30 if self.steps == self.large else 1), 1.0, self.steps % 10 == 0, False, {}


CAUSES: dict[str, dict[str, Any]] = {
    "learning rate": {"learning_rate": 1e12},
    "reward scale": {"reward_scale": 3e38},
    "observation": {},
}
ACTION_SPACES = {"continuous": spaces.Box(-1, 1, (2,)), "discrete": spaces.Discrete(3)}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("n_envs", [1, 2])
@every_algorithm
def test_divergence_stops_the_run(algorithm: type, kind: str, cause: str, n_envs: int) -> None:
    kwargs = {"action_space": ACTION_SPACES[kind], "large": 8 if cause == "observation" else None}
    model = make(algorithm, make_vec_env(Tolerant, n_envs, env_kwargs=kwargs), gradient_steps=-1, **CAUSES[cause])
    with pytest.raises(DivergedError, match=r"SAC.*Policy|SQLPolicy") as caught:
        model.learn(2000)
    assert f"at step {model.num_timesteps}" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    for actions in model.env.get_attr("actions"):
        assert np.isfinite(actions).all()
    buffer = model.replay_buffer
    for name in ("observations", "next_observations", "actions", "rewards"):
        assert np.isfinite(getattr(buffer, name)).all()
    for deterministic in (False, True):
        with pytest.raises(ValueError, match="has diverged at step"):
            model.predict(np.ones(3, np.float32), deterministic=deterministic)
        with pytest.raises(ValueError, match="has diverged"):
            model.policy.predict(np.ones((2, 3), np.float32), deterministic=deterministic)


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_random_actions_need_no_network(algorithm: type, kind: str) -> None:
    model = make(algorithm, Tolerant(action_space=ACTION_SPACES[kind]), learning_starts=30)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.fill_(NAN)
    model.learn(20)
    with pytest.raises(ValueError, match="at step 30"):
        model.learn(100)


@pytest.mark.parametrize("kind", ACTION_SPACES)
@every_algorithm
def test_observation_that_is_not_finite_is_no_divergence(algorithm: type, kind: str) -> None:
    model = make(algorithm, Tolerant(action_space=ACTION_SPACES[kind]))
    with pytest.raises(ValueError, match=r"observation=array.* is not finite") as caught:
        model.predict(np.full(3, NAN, np.float32))
    assert not isinstance(caught.value, DivergedError)


def test_part_of_an_observation_that_is_not_finite_is_named() -> None:
    model = make(SACv2, SpacesEnv(spaces.Dict({"left": VECTOR, "right": VECTOR})), "MultiInputPolicy")
    with pytest.raises(ValueError, match=r"observation\['right'\]=array.* is not finite"):
        model.predict({"left": np.zeros(3, np.float32), "right": np.full(3, np.inf, np.float32)})


def test_divergence_of_several_agents() -> None:
    pytest.importorskip("mpe2")
    model = make(MASAC, "SimpleSpread-v3", learning_rate=1e12)
    with pytest.raises(DivergedError, match="MASACPolicy has diverged at step"):
        model.learn(200)
    with pytest.raises(DivergedError, match="MASACPolicy has diverged"):
        model.predict(np.zeros((3, 18), np.float32))


def test_divergence_with_gsde_and_with_a_mixture() -> None:
    for model in (
        make(SACv2, Tolerant(), use_sde=True, learning_rate=1e12),
        make(
            SACv1,
            Tolerant(),
            policy_gradient="likelihood_ratio",
            policy_kwargs={"n_components": 2},
            learning_rate=1e12,
        ),
    ):
        with pytest.raises(DivergedError):
            model.learn(300)


def test_divergence_seen_by_an_evaluation() -> None:
    model = make(SACv2, Tolerant(), learning_starts=50)
    with th.no_grad():
        model.actor.mu.bias.fill_(NAN)
    with pytest.raises(DivergedError, match="at step 10"):
        model.learn(40, callback=EvalCallback(several(1), eval_freq=10, verbose=0))


@pytest.mark.parametrize("algorithm", [SACv2, SQL])
def test_discrete_actions_are_drawn_as_before(algorithm: type) -> None:
    model = make(algorithm, "CartPole-v1").learn(40)
    obs = th.randn(200, 4)
    model.policy.set_training_mode(False)
    th.manual_seed(3)
    with th.no_grad():
        expected = th.multinomial(model.actor.log_prob(obs).exp(), 1).squeeze(1)
        th.manual_seed(3)
        assert th.equal(model.actor(obs), expected)
