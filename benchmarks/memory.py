"""
How much memory does a training run take, beside Stable-Baselines3's SAC?

Each candidate is a process of its own, whose replay buffer is full: a million transitions of Hopper-v5, or 100 000 of
84x84x4 frames, each stored with its successor, or once (``optimize_memory_usage``). Reported is what the process holds
after some updates (resident size), and the most it held. Linux only. Writes benchmarks/memory.csv.

    python benchmarks/memory.py                        # some ten minutes; needs 8 GB of memory
    python benchmarks/memory.py --only Hopper-v5 --size 100000
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: environment, transitions
TASKS = {"Hopper-v5": 1_000_000, "84x84x4 frames": 100_000}
CANDIDATES = ("SB3", "eager", "compile")


def fill(buffer: Any) -> None:
    """
    Add as many random transitions as there is room for.

    :param buffer: replay buffer of one environment
    """
    import numpy as np

    rng = np.random.default_rng(0)
    space = buffer.observation_space
    images = space.dtype == np.uint8
    pool = rng.integers(0, 256, (64, 1, *space.shape)) if images else rng.standard_normal((64, 1, *space.shape))
    pool = pool.astype(space.dtype)
    actions = rng.uniform(-1, 1, (64, 1, *buffer.action_space.shape)).astype(np.float32)
    for i in range(buffer.buffer_size):
        done = np.array([i % 1000 == 999])
        buffer.add(pool[i % 64], pool[(i + 1) % 64], actions[i % 64], np.ones(1, np.float32), done, [{}])
    assert buffer.full


def measure(candidate: str, task: str, size: int, stored_once: bool, threads: int) -> dict[str, float]:
    """
    Train a little with a full replay buffer.

    :param candidate: of :data:`CANDIDATES`
    :param task: of :data:`TASKS`
    :param size: transitions in the replay buffer
    :param stored_once: whether an observation is stored once
    :param threads: of torch
    :return: megabytes
    """
    import gymnasium as gym
    import torch as th
    from gymnasium import spaces

    th.set_num_threads(threads)

    class Frames(gym.Env):
        """Random frames."""

        observation_space = spaces.Box(0, 255, (84, 84, 4), "uint8")
        action_space = spaces.Box(-1.0, 1.0, (3,), "float32")

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            return self.observation_space.sample(), 0.0, False, False, {}

    arguments: dict[str, Any] = {"buffer_size": size, "learning_starts": 0, "device": "cpu", "seed": 0}
    arguments["optimize_memory_usage"] = stored_once
    cls: Any
    if candidate == "SB3":
        from stable_baselines3 import SAC as cls

        # With both, it refuses the layout
        arguments["replay_buffer_kwargs"] = {"handle_timeout_termination": not stored_once}
    else:
        from sb3_sac_variants import SACv2 as cls

        arguments["engine"] = candidate
    env = gym.make(task) if task == "Hopper-v5" else Frames()
    model = cls("MlpPolicy" if task == "Hopper-v5" else "CnnPolicy", env, **arguments)
    fill(model.replay_buffer)
    model.learn(100 if task == "Hopper-v5" else 20, log_interval=None)
    entries = (line.split(":") for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    status = {name: value.split() for name, value in entries}
    return {name: int(status[key][0]) / 1024 for name, key in (("resident", "VmRSS"), ("most", "VmHWM"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS, help="one of the tasks")
    parser.add_argument("--size", type=int, help="transitions, in place of the tasks' own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "memory.csv")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    if arguments.measure:
        candidate, task, size, layout = arguments.measure
        print(json.dumps(measure(candidate, task, int(size), layout == "once", arguments.threads)))
        return

    from harness import markdown_table, where, write_csv

    rows: list[dict[str, Any]] = []
    for task in [arguments.only] if arguments.only else TASKS:
        size = arguments.size or TASKS[task]
        for layout in ("twice", "once"):
            for candidate in CANDIDATES:
                command = [sys.executable, __file__, "--threads", str(arguments.threads)]
                command += ["--measure", candidate, task, str(size), layout]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                megabytes = json.loads(output.splitlines()[-1])
                rows.append({"task": task, "transitions": size, "observations stored": layout, "candidate": candidate})
                rows[-1] |= {f"{name}, MB": round(value) for name, value in megabytes.items()}
                print(*rows[-1].values(), sep="\t", flush=True)
    record = {**where("cpu"), "threads": arguments.threads}
    write_csv(arguments.out, [{**row, **record} for row in rows])
    print(f"\n{markdown_table(rows)}")


if __name__ == "__main__":
    main()
