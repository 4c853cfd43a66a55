"""
BenchMARL's MASAC as a candidate of ``speed.py``; run in an environment of its own (see ``speed.py``).

An experiment of theirs is set up on random numbers in the spaces of Simple Spread, as ours is. Timed is their own step
of training: draw a batch, losses, gradients, optimisers, targets.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, ClassVar


def make_experiment(n_agents: int, shared: bool, net_arch: list[int], batch_size: int, folder: str) -> Any:
    """
    Set up an experiment, and fill its replay buffer.

    :param n_agents: number of agents
    :param shared: whether one set of networks serves all agents
    :param net_arch: hidden units of the networks
    :param batch_size: transitions in an update
    :param folder: for what it writes
    :return: the experiment, ready for updates
    """
    import numpy as np
    import torch as th
    from benchmarl.algorithms import MasacConfig
    from benchmarl.environments.pettingzoo.common import PettingZooClass
    from benchmarl.experiment import Experiment, ExperimentConfig
    from benchmarl.models.mlp import MlpConfig
    from gymnasium import spaces
    from pettingzoo import ParallelEnv
    from torchrl.envs import PettingZooWrapper

    class RandomAgents(ParallelEnv):
        """Random numbers in the spaces of Simple Spread."""

        metadata: ClassVar[dict[str, Any]] = {"name": "random"}

        def __init__(self) -> None:
            self.possible_agents = [f"agent_{i}" for i in range(n_agents)]
            self.agents = self.possible_agents
            self.observation_spaces = self._of_all(lambda: spaces.Box(-np.inf, np.inf, (6 * n_agents,), np.float32))
            self.action_spaces = self._of_all(lambda: spaces.Box(0.0, 1.0, (5,), np.float32))
            self.rng = np.random.default_rng(0)

        def _of_all(self, make: Callable[[], Any]) -> dict[str, Any]:
            return {agent: make() for agent in self.possible_agents}

        def observation_space(self, agent: str) -> spaces.Space:
            return self.observation_spaces[agent]

        def action_space(self, agent: str) -> spaces.Space:
            return self.action_spaces[agent]

        def _observations(self) -> dict[str, np.ndarray]:
            return self._of_all(lambda: self.rng.standard_normal(6 * n_agents, np.float32))

        def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
            return self._observations(), self._of_all(dict)

        def step(self, actions: dict[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
            rewards, no = self._of_all(lambda: float(self.rng.standard_normal())), self._of_all(lambda: False)
            return self._observations(), rewards, no, no, self._of_all(dict)

    class Task(PettingZooClass):
        """Theirs, with that environment."""

        def get_env_fun(self, num_envs: int, continuous_actions: bool, seed: int | None, device: Any) -> Any:
            return lambda: PettingZooWrapper(RandomAgents(), return_state=False, device=device)

        def __reduce__(self) -> Any:  # an experiment pickles its task, to be taken up again; this one will not be
            return str, (self.name,)

    config = ExperimentConfig.get_from_yaml()
    config.share_policy_params = shared
    config.lr, config.off_policy_train_batch_size = 3e-4, batch_size
    config.off_policy_n_envs_per_worker, config.off_policy_collected_frames_per_batch = 1, 5000
    config.off_policy_memory_size = 20_000
    config.evaluation, config.loggers, config.create_json, config.save_folder = False, [], False, folder
    algorithm = MasacConfig.get_from_yaml()
    algorithm.share_param_critic = shared
    layers = {"num_cells": net_arch, "layer_class": th.nn.Linear, "activation_class": th.nn.ReLU}
    experiment = Experiment(
        task=Task("SIMPLE_SPREAD", {"max_cycles": 1000}),
        algorithm_config=algorithm,
        model_config=MlpConfig(**layers),
        critic_model_config=MlpConfig(**layers),
        seed=0,
        config=config,
    )
    batch = next(iter(experiment.collector)).exclude(*experiment._get_excluded_keys("agent"))
    experiment.replay_buffers["agent"].extend(experiment.algorithm.process_batch("agent", batch).reshape(-1))
    return experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidate", help='"benchmarl:MASAC"')
    parser.add_argument("--measure", choices=("updates",), required=True)
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--shared", action="store_true", help="one set of networks for all agents")
    parser.add_argument("--net-arch", type=int, nargs="+", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch as th

    th.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        experiment = make_experiment(
            arguments.agents, arguments.shared, arguments.net_arch, arguments.batch_size, folder
        )
        for _ in range(3):
            experiment._optimizer_loop("agent")
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < arguments.seconds:
                experiment._optimizer_loop("agent")
                done += 1
            print(json.dumps({"per_second": done / (time.perf_counter() - start)}), flush=True)


if __name__ == "__main__":
    main()
