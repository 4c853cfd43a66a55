"""
What a step of the training loop costs outside the environment and the update: beside Stable-Baselines3.

    python benchmarks/rollout.py

Every model runs ``learn()`` on environments of random numbers, past ``learning_starts`` and with a ``train()`` that
does nothing. The time spent inside ``env.step()`` is taken off. "bare policy" says what there is left to gain: SACv2
with the operations of its policy written out. Writes ``benchmarks/rollout.csv`` and prints a table.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from harness import SHAPES, RandomEnv, alternate, markdown_table, median_ratio, where, write_csv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.nn import functional as F

import sb3_sac_variants


class BarePolicy(sb3_sac_variants.SACv2):
    """
    SACv2 whose rollout does the arithmetic of its policy and nothing else.

    There are no modules, no checks, and no other bounds of actions than -1 and 1.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        hidden = [layer for layer in self.actor.latent_pi if isinstance(layer, nn.Linear)]
        self._hidden, self._heads = (
            [(layer.weight.detach(), layer.bias.detach()) for layer in layers]
            for layers in (hidden, [self.actor.mu, self.actor.log_std])
        )

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        with th.no_grad():
            x = th.from_numpy(self._last_obs).float()
            for weight, bias in self._hidden:
                x = th.relu(F.linear(x, weight, bias))
            mean, log_std = (F.linear(x, weight, bias) for weight, bias in self._heads)
            std = log_std.clamp(-20.0, 2.0).exp()
            actions = th.tanh(th.addcmul(mean, std, th.randn_like(mean))).numpy()
        return actions, actions


#: SB3's algorithm, which the others are compared to, and ours; the same for discrete actions
CONTINUOUS = {
    "SB3 SAC": stable_baselines3.SAC,
    "SACv2": sb3_sac_variants.SACv2,
    "SACv1": sb3_sac_variants.SACv1,
    "SQL": sb3_sac_variants.SQL,
    "bare policy": BarePolicy,
}
DISCRETE = {
    "SB3 DQN": stable_baselines3.DQN,
    "SACv2": sb3_sac_variants.SACv2,
    "SQL": sb3_sac_variants.SQL,
}


class StepClock:
    """
    Measures the time inside ``env.step()``.

    :param env: environment, whose ``step`` is replaced
    """

    def __init__(self, env: VecEnv):
        self.seconds = 0.0
        self._step = env.step
        env.step = self.step  # type: ignore[method-assign]

    def step(self, actions: np.ndarray) -> Any:
        start = time.perf_counter()
        result = self._step(actions)
        self.seconds += time.perf_counter() - start
        return result


def microseconds_a_step(algorithm: type, actions: str, n_envs: int, steps: int) -> Callable[[], float]:
    """
    Time the loop without environment and update.

    :param algorithm: class of the algorithm
    :param actions: "Box" or "Discrete"
    :param n_envs: number of environments
    :param steps: of all environments together, in one measurement
    :return: measures a step of the loop outside ``env.step()``, in microseconds
    """
    observation_dim, action_dim = SHAPES["Hopper"]
    env_kwargs = {"observation_dim": observation_dim, "action_dim": action_dim if actions == "Box" else 0}
    env = make_vec_env(RandomEnv, n_envs, env_kwargs=env_kwargs)
    clock = StepClock(env)
    options = {"policy_kwargs": {"net_arch": [256, 256]}, "buffer_size": 100_000, "device": "cpu", "seed": 0}
    if algorithm is stable_baselines3.DQN:
        # Its own share of greedy actions would be skipped by random ones otherwise
        options.update(exploration_initial_eps=0.0, exploration_final_eps=0.0)
    model = algorithm("MlpPolicy", env, train_freq=1, gradient_steps=-1, learning_starts=0, **options)
    model.train = lambda gradient_steps, batch_size: None

    def measure() -> float:
        clock.seconds = 0.0
        start = time.perf_counter()
        model.learn(steps * n_envs, log_interval=None, reset_num_timesteps=False)
        return (time.perf_counter() - start - clock.seconds) / steps * 1e6

    measure()  # fills caches, and allocates the buffer
    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the rollout beside Stable-Baselines3.")
    parser.add_argument("--steps", type=int, default=500, help="steps of one measurement")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each algorithm")
    parser.add_argument("--n-envs", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("rollout.csv"))
    args = parser.parse_args()
    th.set_num_threads(1)

    rows: list[dict[str, Any]] = []
    for actions, algorithms in (("Box", CONTINUOUS), ("Discrete", DISCRETE)):
        for n_envs in args.n_envs:
            measures = {
                name: microseconds_a_step(algorithm, actions, n_envs, args.steps)
                for name, algorithm in algorithms.items()
            }
            results = alternate(measures, args.rounds)
            baseline = next(iter(algorithms))
            for name, (_, ratio) in median_ratio(results, baseline).items():
                row = {"actions": actions, "environments": n_envs, "algorithm": name}
                row["us a step"] = f"{statistics.median(results[name]):.0f}"
                row["of SB3's"] = f"{ratio:.2f}"
                rows.append(row)
    write_csv(args.out, [{**row, **where("cpu")} for row in rows])
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
