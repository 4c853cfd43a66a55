"""What the speed benchmarks share: random environments, filled replay buffers, timing side by side."""

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger

#: (observations, actions) of the tasks the speed figures are for
SHAPES = {"Hopper": (11, 3), "HalfCheetah": (17, 6), "Humanoid": (348, 17)}


class RandomEnv(gym.Env):
    """
    An environment of random numbers, whose step costs next to nothing.

    :param observation_dim: size of the observations
    :param action_dim: size of the actions; 0 for three discrete actions
    """

    def __init__(self, observation_dim: int = 11, action_dim: int = 3):
        self.observation_space = spaces.Box(-np.inf, np.inf, (observation_dim,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (action_dim,), np.float32) if action_dim else spaces.Discrete(3)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._steps = 0
        return self.np_random.standard_normal(self.observation_space.shape), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        observation = self.np_random.standard_normal(self.observation_space.shape)
        return observation, float(observation[0]), False, self._steps == 1000, {}


class RandomAgents(gym.Env):
    """
    Several agents with the spaces of Simple Spread, and random numbers in them.

    :param n_agents: number of agents N; observations have 6 N numbers for each
    """

    def __init__(self, n_agents: int = 3):
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_agents, 6 * n_agents), np.float32)
        self.action_space = spaces.Box(0.0, 1.0, (n_agents, 5), np.float32)

    def _observation(self) -> np.ndarray:
        return self.np_random.standard_normal(self.observation_space.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation = self._observation()
        rewards = observation[:, 0]
        return observation, float(rewards.mean()), False, False, {"agent_rewards": rewards}


def prepare(model: Any, transitions: int = 5_000, seed: int = 0) -> Any:
    """
    Fill the replay buffer of a model with random transitions, so that ``model.train()`` can be called by itself.

    :param model: any off-policy model, of one agent or (with actions ``(N, D)``) of several
    :param transitions: how many
    :param seed: of the transitions
    :return: the model
    """
    rng = np.random.default_rng(seed)
    observation_shape = model.observation_space.shape
    model.set_logger(Logger(folder=None, output_formats=[]))
    # What learn() would set before training
    model._total_timesteps = 10**9
    for _ in range(transitions):
        obs, next_obs = rng.standard_normal((2, 1, *observation_shape))
        if isinstance(model.action_space, spaces.Discrete):
            action = rng.integers(0, model.action_space.n, (1, 1))
        else:
            action = rng.uniform(-1, 1, (1, *model.action_space.shape)).astype(np.float32)
        done = np.array([rng.random() < 0.01])
        info = {"agent_rewards": rng.standard_normal(action.shape[1])} if action.ndim == 3 else {}
        model.replay_buffer.add(obs, next_obs, action, rng.standard_normal(1), done, [info])
    return model


def synchronize(device: th.device) -> None:
    """
    Wait for a device.

    :param device: wait until it has done all it was asked to
    """
    if device.type == "cuda":
        th.cuda.synchronize(device)


def updates_per_second(model: Any, steps_a_call: int, seconds: float) -> float:
    """
    Time ``train()``.

    :param model: prepared model
    :param steps_a_call: gradient steps in each ``train()``
    :param seconds: how long to measure
    :return: gradient steps per second
    """
    synchronize(model.device)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        model.train(gradient_steps=steps_a_call, batch_size=model.batch_size)
        if model.device.type == "cuda" and done // 200 != (done + steps_a_call) // 200:
            synchronize(model.device)  # do not run ahead of the clock
        done += steps_a_call
    synchronize(model.device)
    return done / (time.perf_counter() - start)


def flop_an_update(model: Any) -> int:
    """
    Count the operations of matrix products in a gradient step.

    :param model: prepared model of this package or of SB3, with an eager engine
    :return: floating-point operations
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.train(gradient_steps=1, batch_size=model.batch_size)
    return counter.get_total_flops()


def flop_per_second(seconds: float = 0.3, size: int = 256) -> float:
    """
    Measure what the machine does of large products: nothing in float32 goes beyond.

    :param seconds: how long to measure
    :param size: of the square matrices
    :return: floating-point operations per second, of torch's threads together
    """
    x, y = th.randn(2, size, size)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(20):
            th.mm(x, y)
        done += 20
    return 2 * size**3 * done / (time.perf_counter() - start)


def alternate(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """
    Measure side by side: every candidate once a round, so that a noisy machine disturbs all of them alike.

    :param measures: candidates
    :param rounds: how often
    :return: results of each
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            results[name].append(measure())
    return results


def median_ratio(results: dict[str, list[float]], baseline: str) -> dict[str, tuple[float, float]]:
    """
    Compare with a baseline, round by round.

    :param results: of :func:`alternate`
    :param baseline: what the others are compared to
    :return: median, and median of the ratios to the baseline round by round (NaN if it was not measured)
    """
    nothing = [math.nan] * len(next(iter(results.values()), []))
    return {
        name: (
            statistics.median(values),
            statistics.median(value / base for value, base in zip(values, results.get(baseline, nothing), strict=True)),
        )
        for name, values in results.items()
    }


# SBX's interpreter, which needs the rest of this file, has neither pandas nor our package: the imports below are late.


def where(device: str) -> dict[str, str]:
    """
    Describe the machine.

    :param device: what was measured on
    :return: hardware, versions and commit, for the record
    """
    from sb3_sac_variants.study import provenance

    record = provenance.describe()
    cpu = record.pop("cpu")
    hardware = th.cuda.get_device_name() if device == "cuda" else cpu
    return {"device": hardware, "threads": str(th.get_num_threads()), **record}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """
    Write rows to a CSV file.

    :param path: file
    :param rows: one dictionary a row, all with the keys of the first
    """
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, lineterminator="\n")


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """
    Format rows as a table.

    :param rows: as :func:`write_csv`
    :return: a Markdown table
    """
    from sb3_sac_variants.study.report import markdown

    return markdown([[*rows[0]], ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]).strip()
