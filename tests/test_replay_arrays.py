"""What people read from SB3's replay buffers, and what is left of a step that was interrupted while it was stored."""

import pickle
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from helpers import ACTION, DICTIONARY, IMAGE, VECTOR, SpacesEnv, make, several, several_agents
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from test_replay_buffer import SPACES, add, expected_rows, make_buffer, rows, walk

from sb3_sac_variants import MASAC, SACv2
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

NAMES = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def parts(value: Any) -> dict[str, np.ndarray]:
    return value if isinstance(value, dict) else {"": value}


@pytest.mark.parametrize("n_steps", [0, 5, 12, 31], ids=["empty", "partly filled", "just full", "wrapped around"])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", SPACES)
def test_arrays_are_those_of_sb3(kind: str, n_envs: int, optimize_memory_usage: bool, n_steps: int) -> None:
    space = SPACES[kind]
    sb3_class = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    theirs = sb3_class(12 * n_envs, space, ACTION, "cpu", n_envs)
    mine = make_buffer(space, 12 * n_envs, n_envs, optimize_memory_usage=optimize_memory_usage)
    for buffer in (theirs, mine):
        add(buffer, walk(n_steps, n_envs))
    for buffer in (mine, pickle.loads(pickle.dumps(mine))):
        for name in NAMES:
            left, right = parts(getattr(theirs, name)), parts(getattr(buffer, name))
            assert left.keys() == right.keys()
            for key, array in left.items():
                assert right[key].shape == array.shape
                assert right[key].dtype == (np.float32 if array.dtype.kind == "f" else array.dtype)
                shown, wanted = right[key], array
                if optimize_memory_usage and "observations" in name:
                    # Beyond what is stored there is the newest observation; of the oldest transition it is left alone
                    count = theirs.size() - theirs.full
                    order = (np.arange(count) + theirs.pos + 1) % 12 if theirs.full else np.arange(count)
                    shown, wanted = shown[order], wanted[order]
                np.testing.assert_array_equal(shown, wanted.astype(shown.dtype), err_msg=name)
                with pytest.raises(ValueError, match="read-only"):
                    right[key][...] = 1


def test_arrays_are_shown_without_a_copy() -> None:
    buffer = make_buffer(SPACES["dictionary"], 12)
    add(buffer, walk(3, 1))

    def views() -> list[np.ndarray]:
        return [buffer.rewards, buffer.observations["image"], buffer.observations["vector"]]

    before = views()
    add(buffer, walk(5, 1, seed=1))
    for shown, now in zip(before, views(), strict=True):
        assert np.shares_memory(shown, now)
        np.testing.assert_array_equal(shown, now)


@pytest.mark.parametrize(
    ("env", "dtype"),
    [
        ("CartPole-v1", np.int64),
        (SpacesEnv(), np.float32),
        (SpacesEnv(action_space=spaces.Box(-5, 5, (2, 2), np.int64)), np.float32),
    ],
    ids=["discrete", "continuous", "integers"],
)
def test_actions_of_each_kind(env: Any, dtype: type) -> None:
    model = make(SACv2, env).learn(20)
    actions = model.replay_buffer.actions
    assert actions.shape == (100, 1, int(np.prod(model.action_space.shape)))
    assert actions.dtype == dtype
    assert actions[:20].any()
    assert not actions[20:].any()


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("space", [VECTOR, IMAGE, DICTIONARY], ids=["vector", "image", "dictionary"])
def test_arrays_of_a_run(space: spaces.Space, optimize_memory_usage: bool) -> None:
    policy = "MultiInputPolicy" if space is DICTIONARY else "MlpPolicy"
    env = several(2, observation_space=space, truncate=True)
    model = make(SACv2, env, policy, optimize_memory_usage=optimize_memory_usage, learning_starts=60).learn(60)
    buffer = model.replay_buffer
    assert (buffer.dones[:30].nonzero()[0] == [9, 9, 19, 19, 29, 29]).all()
    assert np.array_equal(buffer.dones, buffer.timeouts)
    for now, after in zip(parts(buffer.observations).values(), parts(buffer.next_observations).values(), strict=True):
        for step in range(29):
            assert np.array_equal(after[step], now[step + 1]) == (step not in (9, 19))


@pytest.mark.parametrize("n_envs", [1, 2])
def test_rewards_of_each_agent(n_envs: int) -> None:
    model = make(MASAC, several_agents(n_envs), gradient_steps=-1).learn(20)
    assert model.replay_buffer.rewards.shape == (100 // n_envs, n_envs, 3)
    assert model.replay_buffer.rewards[: 20 // n_envs].all()
    assert not model.replay_buffer.rewards[20 // n_envs :].any()


# ---------------------------------------------------------------- an interrupt


class Interrupt:
    """
    Ctrl-C before a line of the replay memory.

    :param countdown: lines to let pass
    """

    def __init__(self, countdown: int):
        self.countdown = countdown

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        if "sb3_sac_variants/common/replay" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        if event == "line":
            self.countdown -= 1
            if self.countdown == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(buffer: TensorReplayBuffer, step: Any, countdown: int) -> bool:
    """
    :param buffer: where to store
    :param step: what to store
    :param countdown: lines to let pass before the interrupt
    :return: whether it came before the end
    """
    before = sys.gettrace()
    sys.settrace(Interrupt(countdown))
    try:
        add(buffer, [step])
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.thin(5)
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_steps", [0, 3, 6, 8], ids=["empty", "partly filled", "just full", "wrapped around"])
@pytest.mark.parametrize("kind", ["vector", "dictionary of images"])
def test_an_interrupt_at_any_line_of_add(kind: str, n_steps: int, optimize_memory_usage: bool) -> None:
    space, n_envs, size = SPACES[kind], 2, 6
    steps = walk(n_steps + 5, n_envs, resets=(n_steps + 1,))
    before, hit, after = steps[:n_steps], steps[n_steps], steps[n_steps + 1 :]
    allowed = expected_rows(space, [*before, hit])
    new = expected_rows(space, after)
    for countdown in range(1, 1000):
        buffer = make_buffer(space, size * n_envs, n_envs, optimize_memory_usage=optimize_memory_usage)
        add(buffer, before)
        came = interrupted(buffer, hit, countdown)
        for twin in (pickle.loads(pickle.dumps(buffer)), buffer):
            if twin.size() > 0:
                drawn = set(rows(twin.sample(40)))
                assert drawn <= allowed, countdown
            add(twin, after)
            drawn = set(rows(twin.sample(400)))  # enough to miss none of 12 rows
            assert drawn <= allowed | new, countdown
            assert new <= drawn
        if not came:
            break
    assert 5 < countdown < 999
