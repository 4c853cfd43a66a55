"""
The replay memory beside Stable-Baselines3's: time to add a transition and to sample a batch, and bytes per transition.

    python benchmarks/replay.py

Buffers are full before anything is measured. Writes ``benchmarks/replay.csv`` and prints a table.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from harness import SHAPES, alternate, markdown_table, median_ratio, where, write_csv
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
#: observations, actions, transitions kept, environments
TASKS: dict[str, tuple[spaces.Space, spaces.Space, int, int]] = {}
for _n_envs in (1, 8, 64):
    _observation_dim, _action_dim = SHAPES["Hopper"]
    TASKS[f"Hopper, {_n_envs} environment{'s' * (_n_envs > 1)}"] = (
        spaces.Box(-np.inf, np.inf, (_observation_dim,), np.float64),
        spaces.Box(-1, 1, (_action_dim,), np.float32),
        100_000,
        _n_envs,
    )
TASKS["4 frames of 84x84, 1 environment"] = (FRAMES, spaces.Discrete(6), 5_000, 1)
BATCH_SIZE = 256


def full_buffer(buffer_class: type, task: str, once: bool) -> tuple[Any, Callable[[], None]]:
    """
    Make a full buffer.

    :param buffer_class: class of the buffer
    :param task: key of ``TASKS``
    :param once: whether it stores each observation once
    :return: a full buffer, and what adds one more step of all environments
    """
    observation_space, action_space, size, n_envs = TASKS[task]
    # SB3's cannot do both
    kwargs = {"optimize_memory_usage": once, "handle_timeout_termination": not once}
    buffer = buffer_class(size, observation_space, action_space, "cpu", n_envs=n_envs, **kwargs)
    rng = np.random.default_rng(0)
    shape = (64, n_envs, *observation_space.shape)  # type: ignore[misc]
    if observation_space.dtype == np.uint8:
        observations = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        observations = rng.standard_normal(shape)
    actions = np.array([action_space.sample() for _ in range(n_envs)]).reshape(n_envs, -1)
    rewards, dones, infos = rng.standard_normal(n_envs), np.zeros(n_envs, dtype=bool), [{}] * n_envs
    steps = 0

    def add() -> None:
        nonlocal steps
        buffer.add(observations[steps % 64], observations[(steps + 1) % 64], actions, rewards, dones, infos)
        steps += 1

    while not buffer.full:
        add()
    return buffer, add


def microseconds(function: Callable[[], Any], calls: int) -> Callable[[], float]:
    """
    Time a function.

    :param function: what to call
    :param calls: how often in one measurement
    :return: measures one call, in microseconds
    """

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls * 1e6

    return measure


def bytes_per_transition(buffer: Any) -> float:
    """
    Measure the memory of a transition.

    :param buffer: a full buffer
    :return: memory of one transition
    """
    if isinstance(buffer, TensorReplayBuffer):
        taken = buffer.nbytes
    else:
        taken = sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))
    return taken / (buffer.buffer_size * buffer.n_envs)


def measure(task: str, once: bool, rounds: int) -> list[dict[str, Any]]:
    """
    Compare our buffer with SB3's on one task.

    :param task: key of ``TASKS``
    :param once: whether observations are stored once
    :param rounds: measurements of each buffer
    :return: a row for SB3's buffer and one for ours
    """
    buffers = {
        "SB3": full_buffer(ReplayBuffer, task, once),
        "ours": full_buffer(TensorReplayBuffer, task, once),
    }
    images = TASKS[task][0].dtype == np.uint8
    adding = alternate({name: microseconds(add, 500) for name, (_, add) in buffers.items()}, rounds)

    def sampling_of(buffer: Any) -> Callable[[], float]:
        return microseconds(lambda: buffer.sample(BATCH_SIZE), 20 if images else 200)

    sampling = alternate({name: sampling_of(buffer) for name, (buffer, _) in buffers.items()}, rounds)
    return [
        {
            "task": task,
            "observations stored": "once" if once else "twice",
            "buffer": name,
            "add, us": f"{statistics.median(adding[name]):.1f}",
            "add, of SB3's": f"{median_ratio(adding, 'SB3')[name][1]:.2f}",
            "sample, us": f"{statistics.median(sampling[name]):.0f}",
            "sample, of SB3's": f"{median_ratio(sampling, 'SB3')[name][1]:.2f}",
            "bytes a transition": f"{bytes_per_transition(buffer):.0f}",
        }
        for name, (buffer, _) in buffers.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The replay memory beside Stable-Baselines3's.")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each buffer")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("replay.csv"))
    args = parser.parse_args()
    th.set_num_threads(1)
    rows = [row for task in TASKS for once in (False, True) for row in measure(task, once, args.rounds)]
    write_csv(args.out, [{**row, **where("cpu")} for row in rows])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
