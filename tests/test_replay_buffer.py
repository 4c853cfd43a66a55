"""
TensorReplayBuffer: the same transitions out as from SB3's buffers, and stored once, still only transitions that were.

Every observation carries a number of its own, so that each sampled transition can be told from all others.
"""

import copy
import io
import pickle
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import SpacesEnv, make, n_updates, rows_at
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.overrides import TorchFunctionMode

from sb3_sac_variants import SACv1, SACv2
from sb3_sac_variants.common.replay import storage
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.common.replay.normalization import SINGLE, DeviceNormalizer
from sb3_sac_variants.common.replay.storage import RowRange

ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 3, 3), np.uint8)
STILL = spaces.Box(0.5, 0.5, (2,), np.float32)
SPACES: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "float64": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    "image": IMAGE,
    "discrete": spaces.Discrete(100_000),
    "multi-binary": spaces.MultiBinary(17),
    "dictionary": spaces.Dict({"image": IMAGE, "vector": VECTOR, "discrete": spaces.Discrete(100_000)}),
    "dictionary of images": spaces.Dict({"left": IMAGE, "right": IMAGE}),
    "dictionary with a part that stays": spaces.Dict({"goal": STILL, "vector": VECTOR}),
}


def observation(space: spaces.Space, number: int) -> Any:
    """
    :param space: observation space
    :param number: less than 100 000
    :return: an observation that no other number has
    """
    if isinstance(space, spaces.Dict):
        return {key: observation(item, number + index) for index, (key, item) in enumerate(space.items())}
    if isinstance(space, spaces.Discrete):
        return np.int64(number)
    if isinstance(space, spaces.MultiBinary):
        return np.array([number >> bit & 1 for bit in range(space.n)], dtype=np.int8)
    if space is STILL:
        return STILL.low
    if space.dtype == np.uint8:
        digits = [number % 256, number // 256 % 256, number // 65536]
        return np.resize(digits, space.shape).astype(np.uint8)
    return (number + np.arange(np.prod(space.shape)) / 7).reshape(space.shape).astype(space.dtype)


def stack(space: spaces.Space, numbers: list[int]) -> Any:
    """As a ``VecEnv`` gives observations."""
    items = [observation(space, number) for number in numbers]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([item[key] for item in items]) for key in space}
    return np.stack(items)


def rows(samples: Any) -> list[tuple]:
    """A sampled batch as one hashable tuple for each transition."""

    def flat(value: Any) -> list[tuple]:
        if isinstance(value, dict):
            return list(zip(*(flat(item) for _, item in sorted(value.items())), strict=True))
        return [tuple(row) for row in np.asarray(value, dtype=np.float32).reshape(len(value), -1).tolist()]

    fields = (samples.observations, samples.actions, samples.next_observations, samples.dones, samples.rewards)
    return list(zip(*map(flat, fields), strict=True))


class Step(NamedTuple):
    """
    One step of all environments.

    :param obs: numbers of the observations
    :param next_obs: of those that followed, terminal observations in place
    :param action: actions
    :param reward: rewards
    :param done: whether an episode ended
    :param truncated: whether by truncation
    """

    obs: list[int]
    next_obs: list[int]
    action: np.ndarray
    reward: np.ndarray
    done: np.ndarray
    truncated: np.ndarray


def walk(n_steps: int, n_envs: int, seed: int = 0, resets: tuple[int, ...] = ()) -> list[Step]:
    """
    :param n_steps: number of steps
    :param n_envs: number of environments
    :param seed: of ends of episodes, actions, rewards
    :param resets: steps before which all environments are reset although no episode has ended
    :return: the steps of episodes that terminate or are truncated at random
    """
    rng = np.random.default_rng(seed)
    number = iter(range(n_envs + 2 * n_envs * n_steps + n_envs * len(resets)))
    current, steps = [next(number) for _ in range(n_envs)], []
    for t in range(n_steps):
        if t in resets:
            current = [next(number) for _ in range(n_envs)]
        following = [next(number) for _ in range(n_envs)]
        done = rng.random(n_envs) < 0.25
        truncated = done & (rng.random(n_envs) < 0.5)
        action = rng.uniform(-1, 1, (n_envs, 2)).astype(np.float32)
        steps.append(Step(current, following, action, rng.normal(size=n_envs), done, truncated))
        current = [next(number) if over else last for over, last in zip(done, following, strict=True)]
    return steps


def add(buffer: ReplayBuffer, steps: list[Step]) -> None:
    space = buffer.observation_space
    for step in steps:
        infos = [{"TimeLimit.truncated": bool(truncated)} for truncated in step.truncated]
        buffer.add(stack(space, step.obs), stack(space, step.next_obs), step.action, step.reward, step.done, infos)


def expected_rows(space: spaces.Space, steps: list[Step]) -> set[tuple]:
    """The transitions of some steps in the form of :func:`rows`."""

    class Samples(NamedTuple):
        observations: Any
        actions: Any
        next_observations: Any
        dones: Any
        rewards: Any

    found: set[tuple] = set()
    for step in steps:
        terminated = step.done & ~step.truncated
        obs, next_obs = stack(space, step.obs), stack(space, step.next_obs)
        found |= set(rows(Samples(obs, step.action, next_obs, terminated, step.reward)))
    return found


def make_buffer(space: spaces.Space, buffer_size: int, n_envs: int = 1, **kwargs: Any) -> TensorReplayBuffer:
    return TensorReplayBuffer(buffer_size, space, ACTION, "cpu", n_envs, **kwargs)


# ---------------------------------------------------------------- against SB3


def same_indices(monkeypatch: pytest.MonkeyPatch, buffers: list[ReplayBuffer], env: Any = None) -> list[Any]:
    """
    :return: the batch each buffer gives for the same positions and environments, all there are
    """
    n_envs = buffers[0].n_envs
    positions = np.repeat(np.arange(buffers[0].size()), n_envs)
    envs = np.tile(np.arange(n_envs), buffers[0].size())
    with monkeypatch.context() as patch:
        patch.setattr(np.random, "randint", lambda *args, **kwargs: envs)
        patch.setattr(th, "randint", lambda *args, **kwargs: th.as_tensor(envs))
        return [rows_at(buffer, positions, env) for buffer in buffers]


def assert_same_batches(theirs: Any, mine: Any, **tolerance: float) -> None:
    assert type(theirs) is type(mine)
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        left, right = getattr(theirs, name), getattr(mine, name)
        if not isinstance(left, dict):
            left, right = {"": left}, {"": right}
        assert left.keys() == right.keys()
        for key in left:
            assert left[key].shape == right[key].shape, (name, key)
            if left[key].dtype == th.uint8:  # images are scaled by the network, which looks at the type
                assert right[key].dtype == th.uint8
            th.testing.assert_close(left[key].float(), right[key].float(), **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("n_steps", [5, 12, 31], ids=["partly filled", "just full", "wrapped around"])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", SPACES)
def test_transitions_are_those_of_sb3(monkeypatch, kind, n_envs, n_steps):
    space = SPACES[kind]
    sb3_class = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    theirs = sb3_class(12 * n_envs, space, ACTION, "cpu", n_envs)
    mine = make_buffer(space, 12 * n_envs, n_envs)
    for buffer in (theirs, mine):
        add(buffer, walk(n_steps, n_envs))
    assert (mine.pos, mine.full, mine.size(), mine.buffer_size) == (
        theirs.pos,
        theirs.full,
        theirs.size(),
        theirs.buffer_size,
    )
    assert_same_batches(*same_indices(monkeypatch, [theirs, mine]))


@pytest.mark.parametrize("handle_timeout_termination", [True, False])
def test_time_limits_are_those_of_sb3(monkeypatch, handle_timeout_termination):
    buffers = [
        cls(40, VECTOR, ACTION, "cpu", handle_timeout_termination=handle_timeout_termination)
        for cls in (ReplayBuffer, TensorReplayBuffer)
    ]
    for buffer in buffers:
        add(buffer, walk(40, 1))
    theirs, mine = same_indices(monkeypatch, buffers)
    assert_same_batches(theirs, mine)
    steps = walk(40, 1)
    ends = sum(int((s.done & ~s.truncated if handle_timeout_termination else s.done).sum()) for s in steps)
    assert mine.dones.sum().item() == ends


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("space", [spaces.Discrete(7), spaces.MultiDiscrete([3, 4])])
def test_categories_are_whole_numbers_as_those_of_sb3(space: spaces.Space, optimize_memory_usage: bool) -> None:
    model = make(SACv2, SpacesEnv(space), optimize_memory_usage=optimize_memory_usage).learn(20)
    theirs = ReplayBuffer(20, space, ACTION, "cpu")
    theirs.add(space.sample(), space.sample(), ACTION.sample(), np.ones(1), np.zeros(1), [{}])
    mine, expected = model.replay_buffer.sample(4), theirs.sample(4)
    for name in ("observations", "next_observations"):
        assert getattr(mine, name).dtype == getattr(expected, name).dtype == th.int64


@pytest.mark.parametrize(
    "action_space", [spaces.Box(-1, 1, (2, 3), np.float32), spaces.Discrete(7), spaces.MultiDiscrete([3, 4])]
)
def test_action_spaces_are_those_of_sb3(monkeypatch, action_space):
    action_space.seed(0)
    theirs = ReplayBuffer(20, VECTOR, action_space, "cpu", 2)
    mine = TensorReplayBuffer(20, VECTOR, action_space, "cpu", 2)
    for step in walk(10, 2):
        action = np.stack([action_space.sample() for _ in range(2)])
        for buffer in (theirs, mine):
            obs, next_obs = stack(VECTOR, step.obs), stack(VECTOR, step.next_obs)
            buffer.add(obs, next_obs, action, step.reward, step.done, [{}, {}])
    batches = same_indices(monkeypatch, [theirs, mine])
    assert_same_batches(*batches)
    assert batches[1].actions.dtype == batches[0].actions.dtype


class StillEnv(gym.Env):
    """Never stepped: only its spaces are looked at."""

    action_space = ACTION

    def __init__(self, observation_space: spaces.Space):
        self.observation_space = observation_space


@pytest.mark.parametrize(
    "convert", [np.ndarray.tolist, lambda array: array[0], lambda array: array[0].tolist(), th.tensor]
)
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_transitions_that_are_no_arrays(optimize_memory_usage: bool, convert: Any) -> None:
    buffer, steps = make_buffer(VECTOR, 9, optimize_memory_usage=optimize_memory_usage), walk(8, 1)
    for step in steps:
        arrays = stack(VECTOR, step.obs), stack(VECTOR, step.next_obs), step.action, step.reward, step.done
        buffer.add(*map(convert, arrays), [{"TimeLimit.truncated": bool(step.truncated[0])}])
    assert set(rows(buffer.gather(th.arange(8)))) == expected_rows(VECTOR, steps)


def normalizer(space: spaces.Space, **kwargs: Any) -> VecNormalize:
    env = VecNormalize(DummyVecEnv([lambda: StillEnv(space)]), **kwargs)
    disturb(env, 0)
    return env


def disturb(env: VecNormalize, seed: int) -> None:
    """Give it statistics."""
    rng = np.random.default_rng(seed)
    statistics = env.obs_rms.values() if isinstance(getattr(env, "obs_rms", None), dict) else []
    if not statistics and hasattr(env, "obs_rms"):
        statistics = [env.obs_rms]
    for running in statistics:
        running.mean = rng.normal(20, 5, running.mean.shape)
        running.var = rng.uniform(10, 200, running.var.shape)
    env.ret_rms.var = np.float64(rng.uniform(0.01, 0.1))


DICTIONARY = spaces.Dict({"first": VECTOR, "second": VECTOR})


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (VECTOR, {}),
        (VECTOR, {"norm_obs": False}),
        (VECTOR, {"norm_reward": False}),
        (VECTOR, {"norm_obs": False, "norm_reward": False}),
        (VECTOR, {"clip_obs": 0.7, "clip_reward": 1.5}),
        (IMAGE, {}),
        (DICTIONARY, {}),
        (DICTIONARY, {"norm_obs_keys": ["second"]}),
    ],
)
def test_normalisation_is_that_of_sb3(monkeypatch, space, kwargs, optimize_memory_usage):
    env = normalizer(space, **kwargs)
    theirs = (DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer)(30, space, ACTION, "cpu")
    mine = make_buffer(space, 30, optimize_memory_usage=optimize_memory_usage)
    for buffer in (theirs, mine):
        add(buffer, walk(20, 1))
    for seed in (0, 1):  # the statistics change under way
        disturb(env, seed)
        assert_same_batches(*same_indices(monkeypatch, [theirs, mine], env), rtol=1e-5, atol=1e-5)
    # And back to raw numbers
    assert_same_batches(*same_indices(monkeypatch, [theirs, mine]))


def test_normalisation_keeps_its_digits_where_means_are_large() -> None:
    env = normalizer(VECTOR)
    env.obs_rms.mean, env.obs_rms.var = np.full(VECTOR.shape, 1e6 + 0.03), np.ones(VECTOR.shape)
    obs = (1e6 + np.linspace(-2, 2, 64).reshape(-1, 1) * np.ones(VECTOR.shape)).astype(np.float32)
    normalized = DeviceNormalizer(env, [SINGLE], th.device("cpu")).observations({SINGLE: th.as_tensor(obs)})[SINGLE]
    np.testing.assert_allclose(normalized, env.normalize_obs(obs), atol=1e-5)


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize("n_steps", [1, 5, 8, 9, 29])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("kind", ["vector", "image", "dictionary"])
def test_draws_every_valid_transition_and_no_other(kind, optimize_memory_usage, n_envs, n_steps):
    space, size = SPACES[kind], 8
    buffer = make_buffer(space, size * n_envs, n_envs, optimize_memory_usage=optimize_memory_usage)
    steps = walk(n_steps, n_envs, seed=n_steps)
    add(buffer, steps)
    # Stored once, the oldest transition loses its observation to the newest next observation
    kept = size - 1 if optimize_memory_usage and n_steps >= size else size
    th.manual_seed(0)
    assert set(rows(buffer.sample(1500))) == expected_rows(space, steps[-kept:])


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_draws_are_uniform(optimize_memory_usage):
    n_envs, size, n = 3, 10, 60_000
    buffer = make_buffer(VECTOR, size * n_envs, n_envs, optimize_memory_usage=optimize_memory_usage)
    add(buffer, walk(17, n_envs))
    th.manual_seed(0)
    numbers, counts = np.unique(buffer.sample(n).observations[:, 0].numpy(), return_counts=True)
    valid = (size - 1 if optimize_memory_usage else size) * n_envs
    assert len(numbers) == valid
    chi_squared = ((counts - n / valid) ** 2 / (n / valid)).sum()
    assert chi_squared < valid + 5 * np.sqrt(2 * valid)


def test_draws_from_a_range_in_memory_are_those_from_the_host():
    """As a captured CUDA graph draws: the range is two tensors, which are written when it changes."""
    rows = RowRange(10, "cpu")
    rows._on_device = (th.zeros((), dtype=th.float64), th.zeros((), dtype=th.float64))
    for first, count in ((0, 4), (3, 10), (8, 5)):
        rows.set(first, count)
        counts = th.bincount(rows.draw(20_000), minlength=10)
        allowed = [(first + k) % 10 for k in range(count)]
        assert counts[allowed].sum() == 20_000
        assert (counts[allowed] / (20_000 / count) - 1).abs().max() < 0.12  # five standard deviations


class SinglePrecision(TorchFunctionMode):
    """A device that has no double precision."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, th.Tensor) and result.device.type == "meta":
            assert result.dtype != th.float64, f"{function} asked for float64"
        return result


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_no_double_precision_is_asked_of_a_device_without_it(optimize_memory_usage, normalized):
    """Apple's GPU has none; "meta" stands in for it."""
    env = VecNormalize(DummyVecEnv([lambda: SpacesEnv(truncate=True)])) if normalized else None
    with SinglePrecision():
        buffer = TensorReplayBuffer(50, VECTOR, ACTION, "meta", optimize_memory_usage=optimize_memory_usage)
        add(buffer, walk(70, 1))
        assert buffer.sample(4, env).observations.device.type == "meta"


def test_draws_are_reproduced_by_the_seed():
    buffer = make_buffer(VECTOR, 100)
    add(buffer, walk(50, 1))
    th.manual_seed(3)
    first = rows(buffer.sample(20))
    second = rows(buffer.sample(20))
    th.manual_seed(3)
    assert rows(buffer.sample(20)) == first
    assert second != first


# ---------------------------------------------------------------- stored once


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_stored_once_all_samples_are_transitions_that_were_added(kind, n_envs):
    space, size = SPACES[kind], 11
    buffer = make_buffer(space, size * n_envs, n_envs, optimize_memory_usage=True)
    steps = walk(60, n_envs, seed=1, resets=(4, 5, 20, 33, 44))
    assert any(step.truncated.any() for step in steps)
    assert any((step.done & ~step.truncated).any() for step in steps)
    th.manual_seed(0)
    for t, step in enumerate(steps, start=1):
        add(buffer, [step])
        kept = t if t < size else size - 1
        sampled = set(rows(buffer.sample(60)))
        assert sampled <= expected_rows(space, steps[max(t - kept, 0) : t]), t
    assert set(rows(buffer.sample(1500))) == expected_rows(space, steps[-size + 1 :])


def test_stored_once_many_short_episodes_make_room_for_all_last_observations():
    n = 150  # more than the room for last observations begins with
    buffer = make_buffer(VECTOR, n, optimize_memory_usage=True)
    steps = walk(4 * n, 1, resets=tuple(range(4 * n)))  # episodes of a single step
    add(buffer, steps[: 2 * n])
    taken = buffer.nbytes
    add(buffer, steps[2 * n :])
    th.manual_seed(0)
    assert set(rows(buffer.sample(3000))) == expected_rows(VECTOR, steps[-n + 1 :])
    assert buffer.nbytes == taken  # what is no longer needed makes room for others


def test_stored_once_where_an_episode_begins_as_the_last_one_ended():
    buffer = make_buffer(VECTOR, 10, optimize_memory_usage=True)
    steps = walk(2, 1)
    steps[0] = steps[0]._replace(done=np.array([True]), truncated=np.array([False]))
    steps[1] = steps[1]._replace(obs=steps[0].next_obs)
    add(buffer, steps)
    th.manual_seed(0)
    assert set(rows(buffer.sample(50))) == expected_rows(VECTOR, steps)


def test_stored_once_takes_half_the_memory():
    large = spaces.Box(-1, 1, (100,), np.float32)
    taken = {}
    for kind, space in (("vector", large), ("image", spaces.Box(0, 255, (3, 20, 20), np.uint8))):
        for once in (False, True):
            buffer = make_buffer(space, 1000, optimize_memory_usage=once)
            add(buffer, walk(1, 1))
            taken[kind, once] = buffer.nbytes
        assert taken[kind, True] < 0.56 * taken[kind, False]
    assert taken["vector", False] == 4 * 1000 * (2 * 100 + 2 + 2)


def test_stored_once_needs_room_for_two_steps():
    with pytest.raises(ValueError, match=r"buffer_size=5 holds less than two steps of 3 environments"):
        make_buffer(VECTOR, 5, n_envs=3, optimize_memory_usage=True)


def test_a_model_loads_with_buffer_size_1_to_play_and_not_to_learn(tmp_path):
    model = make(SACv2, optimize_memory_usage=True)
    model.save(tmp_path / "model")
    loaded = SACv2.load(tmp_path / "model", env=model.env, buffer_size=1)
    loaded.predict(model.env.reset())
    with pytest.raises(ValueError, match="buffer_size=1 holds less than two steps of 1 environments"):
        loaded.learn(10)


# ---------------------------------------------------------------- memory


def test_memory_is_taken_by_the_first_transition():
    buffer = make_buffer(VECTOR, 10**13)
    assert buffer.nbytes == 0
    assert buffer.size() == 0
    with pytest.raises(MemoryError, match=r"No memory on cpu for buffer_size=10000000000000 .*optimize_memory_usage"):
        add(buffer, walk(1, 1))


def test_a_model_loaded_to_play_takes_no_memory(tmp_path):
    model = make(SACv2, buffer_size=10**13)
    model.save(tmp_path / "model")
    loaded = SACv2.load(tmp_path / "model", device="cpu")
    loaded.predict(np.zeros(3, dtype=np.float32))
    assert loaded.replay_buffer.nbytes == 0


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_sampling_an_empty_buffer_is_refused(optimize_memory_usage):
    buffer = make_buffer(VECTOR, 10, optimize_memory_usage=optimize_memory_usage)
    with pytest.raises(ValueError, match="cannot sample from an empty replay buffer"):
        buffer.sample(4)
    add(buffer, walk(3, 1))
    buffer.sample(4)
    buffer.reset()
    with pytest.raises(ValueError, match="cannot sample from an empty replay buffer"):
        buffer.sample(4)


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_reset_forgets_everything(optimize_memory_usage):
    buffer = make_buffer(VECTOR, 10, optimize_memory_usage=optimize_memory_usage)
    add(buffer, walk(15, 1))
    buffer.reset()
    assert buffer.nbytes == 0
    steps = walk(4, 1, seed=2)
    add(buffer, steps)
    assert set(rows(buffer.sample(100))) == expected_rows(VECTOR, steps)


@pytest.mark.parametrize("n_steps", [0, 1, 6, 7, 8, 25])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("kind", ["vector", "dictionary"])
def test_a_pickled_buffer_goes_on_as_if_nothing_had_happened(tmp_path, kind, optimize_memory_usage, n_steps):
    space, n_envs = SPACES[kind], 2
    buffer = make_buffer(space, 8 * n_envs, n_envs, optimize_memory_usage=optimize_memory_usage)
    steps = walk(n_steps + 12, n_envs, seed=n_steps)
    add(buffer, steps[:n_steps])
    save_to_pkl(tmp_path / "buffer", buffer)
    loaded = load_from_pkl(tmp_path / "buffer")
    for t in range(n_steps, n_steps + 12):
        if t > 0:
            batches = []
            for each in (buffer, loaded):
                th.manual_seed(t)
                batches.append(rows(each.sample(40)))
            assert batches[0] == batches[1], t
        add(buffer, steps[t : t + 1])
        add(loaded, steps[t : t + 1])


@pytest.mark.parametrize("kind", ["vector", "image"])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_a_pickled_buffer_holds_only_what_is_filled(kind, optimize_memory_usage):
    def pickled(buffer_size: int) -> int:
        buffer = make_buffer(SPACES[kind], buffer_size, optimize_memory_usage=optimize_memory_usage)
        add(buffer, walk(10, 1))
        file = io.BytesIO()
        pickle.dump(buffer, file)
        return file.tell()

    assert pickled(100_000) - pickled(100) < 50_000


# ---------------------------------------------------------------- through the algorithms


class LoggingEnv(gym.Env):
    """Each observation carries a number of its own; ends by termination and truncation in turn, and keeps a diary."""

    observation_space = VECTOR
    action_space = ACTION
    diary: list[tuple[int, int, bool]] = []  # noqa: RUF012 - of all environments together
    number = 0

    def __init__(self) -> None:
        self.episodes = 0

    def observe(self) -> np.ndarray:
        LoggingEnv.number += 1
        self.current = LoggingEnv.number
        return observation(VECTOR, self.current)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.episodes += 1
        self.steps = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= 2 + self.episodes % 3
        terminated, truncated = over and self.episodes % 2 == 0, over and self.episodes % 2 == 1
        before = self.current
        obs = self.observe()
        self.diary.append((before, self.current, terminated))
        return obs, 0.0, terminated, truncated, {}


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("algorithm", [SACv1, SACv2])
def test_the_loop_stores_what_the_environment_did(monkeypatch, algorithm, n_envs, optimize_memory_usage):
    monkeypatch.setattr(LoggingEnv, "diary", [])
    monkeypatch.setattr(LoggingEnv, "number", 0)
    env = DummyVecEnv([LoggingEnv] * n_envs)
    model = make(algorithm, env, buffer_size=1000, optimize_memory_usage=optimize_memory_usage)
    model.learn(20)
    model.learn(20, reset_num_timesteps=True)  # resets the environments in the middle of their episodes
    assert type(model.replay_buffer) is TensorReplayBuffer
    th.manual_seed(0)
    samples = model.replay_buffer.sample(2000)
    columns = (samples.observations[:, 0], samples.next_observations[:, 0], samples.dones[:, 0] > 0)
    sampled = set(zip(*(column.tolist() for column in columns), strict=True))
    assert sampled == {(float(before), float(after), over) for before, after, over in LoggingEnv.diary}
    assert len(LoggingEnv.diary) == 40


def test_the_signature_changes_with_the_normalisation() -> None:
    """A captured graph reads the statistics."""
    env = VecNormalize(DummyVecEnv([SpacesEnv]))
    buffer = make(SACv2, env).learn(10).replay_buffer
    signatures = [buffer.signature]
    for normalization in (None, env, VecNormalize(DummyVecEnv([SpacesEnv]))):
        buffer.set_normalization(normalization)
        signatures.append(buffer.signature)
    assert len(set(signatures)) == 4
    buffer.set_normalization(normalization)
    assert buffer.signature == signatures[-1]


# ---------------------------------------------------------------- subclasses, and what is missing


class OwnSample(TensorReplayBuffer):
    """Samples in its own way."""

    calls = 0

    def sample(self, batch_size: int, env: Any = None) -> Any:
        type(self).calls += 1
        return super().sample(batch_size, env)


class OwnIndices(TensorReplayBuffer):
    """Always gives the first transition."""

    calls = 0

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        type(self).calls += 1
        assert len(batch_inds) == 4
        return super()._get_samples(np.zeros_like(batch_inds), env)


@pytest.mark.parametrize("buffer_class", [OwnSample, OwnIndices])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_training_samples_as_a_subclass_does(buffer_class: type, optimize_memory_usage: bool) -> None:
    buffer_class.calls = 0
    model = make(SACv2, replay_buffer_class=buffer_class, optimize_memory_usage=optimize_memory_usage)
    model.learn(20)
    assert buffer_class.calls == n_updates(model) > 10
    assert not model.updater.engine.draw_on_device
    if buffer_class is OwnIndices:
        observations = model.replay_buffer.sample(4).observations
        assert (observations == observations[0]).all()


@pytest.mark.parametrize("name", ["sample", "_get_samples"])
def test_training_samples_as_somebody_has_put_in(name: str) -> None:
    model = make(SACv2)
    sample, calls = getattr(model.replay_buffer, name), []
    setattr(model.replay_buffer, name, lambda *args, **kwargs: (calls.append(name), sample(*args, **kwargs))[1])
    model.learn(20)
    assert len(calls) == n_updates(model) > 10


def test_a_default_device_elsewhere() -> None:
    model = make(SACv2).learn(10)
    th.set_default_device("meta")
    try:
        rows = model.replay_buffer._range.draw(3)
    finally:
        th.set_default_device(None)
    assert rows.device.type == "cpu"


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_buffers_filled_and_looked_at_in_inference_mode(optimize_memory_usage: bool) -> None:
    """Its tensors refuse to be written to outside of it."""
    env = VecNormalize(DummyVecEnv([lambda: SpacesEnv(episode_length=3)]))
    model = make(SACv2, env, optimize_memory_usage=optimize_memory_usage, learning_starts=20)
    with th.inference_mode():
        model.learn(15)
        model.replay_buffer.sample(4, env)
    model.learn(200, reset_num_timesteps=False)
    assert n_updates(model) == 195


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_memory_on_a_device_that_was_taken_in_inference_mode(optimize_memory_usage: bool) -> None:
    """Elsewhere than on the CPU rows are written by torch, not by NumPy; "meta" stands in for a GPU."""
    buffer = TensorReplayBuffer(10, VECTOR, ACTION, "meta", optimize_memory_usage=optimize_memory_usage)
    step = (VECTOR.sample()[None], VECTOR.sample()[None], ACTION.sample()[None], np.ones(1), np.ones(1), [{}])
    with th.inference_mode():
        buffer.add(*step)
    buffer.add(*step)
    assert buffer.size() == 2


def test_the_buffer_of_a_copied_model_comes_along() -> None:
    """A copied buffer is on the CPU; this one is on another device than its model before anything is stored."""
    model = make(SACv2)
    model.replay_buffer.to("meta")
    model.learn(20)
    assert model.replay_buffer.device == model.device
    assert model.replay_buffer.sample(4).rewards.device == model.device


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_steps", [3, 8], ids=["filling", "full"])
def test_a_copied_buffer_has_a_memory_of_its_own(n_steps: int, optimize_memory_usage: bool) -> None:
    buffer, steps = make_buffer(VECTOR, 6, optimize_memory_usage=optimize_memory_usage), walk(n_steps + 2, 1)
    add(buffer, steps[:n_steps])
    before = buffer.observations.copy()
    double = copy.copy(buffer)
    assert np.array_equal(double.observations, before)
    add(double, steps[n_steps:])
    assert not np.array_equal(double.observations, before)
    assert np.array_equal(buffer.observations, before)


@pytest.mark.parametrize("method", ["sample", "draw"])
def test_an_empty_buffer_says_so(method: str) -> None:
    buffer = make(SACv2).replay_buffer
    with pytest.raises(ValueError, match="empty replay buffer: collect"):
        getattr(buffer, method)(4)


def test_memory_that_is_not_there_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=100))
    monkeypatch.setattr(storage, "psutil", psutil)
    with pytest.warns(UserWarning, match=r"buffer_size=100 will take 0\.0 GB.*lower buffer_size"):
        make(SACv2).learn(5)
