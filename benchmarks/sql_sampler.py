"""
Does soft Q-learning's Stein sampler draw from the density it is meant to? Its network alone, without any environment,
against densities of actions that are known, in each of the three forms of the squash term
(sb3_sac_variants/sql/svgd.py derives which of them is right). Between the two modes there is next to no probability,
in two dimensions exp(-11) of that in a mode; between the two wide ones some is left, exp(-4).

Prints a table and writes it to benchmarks/sql_sampler.csv:

- ``mass``: of one region of the actions (the larger of two modes; beyond the centre of one; within 0.1 of the border),
  exact and as sampled, mean and standard deviation over seeds;
- ``js``: Jensen-Shannon divergence between the density and a histogram of samples, in nats: 0 if they are the same,
  log 2 = 0.69 if they have nothing in common. As many samples of the density itself leave ``js_floor``;
- ``rest``: root mean square of the Stein direction, in units of the action, at particles that have exactly the right
  density (in one dimension, as quantiles). It should be 0.

``python benchmarks/sql_sampler.py`` takes about seven minutes on one core.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from harness import markdown_table, where, write_csv
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_sac_variants.sql.policies import SteinActor
from sb3_sac_variants.sql.svgd import SQUASH_GRADIENTS, squashed_stein_direction, stein_loss

BINS = {1: 40, 2: 20}
SAMPLES = 50_000
STATES, PARTICLES = 8, 32
#: as in the authors' code
NET_ARCH = [128, 128]


class Target(NamedTuple):
    """
    A density of actions on [-1, 1]^D.

    :param dim: D
    :param log_density: up to a constant, ``(..., D)`` to ``(...)``
    :param region: which actions are counted as mass, likewise
    """

    dim: int
    log_density: Callable[[th.Tensor], th.Tensor]
    region: Callable[[np.ndarray], np.ndarray]


def gaussian(actions: th.Tensor, mean: float, std: float = 0.15) -> th.Tensor:
    return -0.5 * ((actions - mean) / std).square().sum(dim=-1)


def uniform(actions: th.Tensor) -> th.Tensor:
    return 0.0 * actions.sum(dim=-1)


def one_mode(actions: th.Tensor) -> th.Tensor:
    return gaussian(actions, 0.3)


def two_modes(actions: th.Tensor, std: float = 0.15) -> th.Tensor:
    return th.logaddexp(math.log(0.3) + gaussian(actions, -0.5, std), math.log(0.7) + gaussian(actions, 0.5, std))


def two_wide_modes(actions: th.Tensor) -> th.Tensor:
    return two_modes(actions, 0.25)


def border(actions: th.Tensor) -> th.Tensor:
    return 4.0 * actions.sum(dim=-1)


def right(actions: np.ndarray) -> np.ndarray:
    return actions.sum(axis=-1) > 0


def right_of_mode(actions: np.ndarray) -> np.ndarray:
    return (actions > 0.3).all(axis=-1)


def at_border(actions: np.ndarray) -> np.ndarray:
    return (np.abs(actions) > 0.9).any(axis=-1)


DENSITIES = {
    "uniform": (uniform, at_border),
    "one mode": (one_mode, right_of_mode),
    "two modes, 0.3 and 0.7": (two_modes, right),
    "two wide modes, 0.3 and 0.7": (two_wide_modes, right),
    "mode at the border": (border, at_border),
}
TARGETS = {(name, dim): Target(dim, *density) for dim in BINS for name, density in DENSITIES.items()}


def train_sampler(target: Target, squash_gradient: str, steps: int, seed: int) -> np.ndarray:
    """
    :param target: what to sample
    :param squash_gradient: form of the squash term
    :param steps: gradient steps
    :param seed: of everything random
    :return: actions of the trained sampler, ``(SAMPLES, D)``
    """
    th.manual_seed(seed)
    squash = SQUASH_GRADIENTS[squash_gradient]
    nothing = spaces.Box(-1.0, 1.0, (1,))
    actor = SteinActor(nothing, spaces.Box(-1.0, 1.0, (target.dim,)), NET_ARCH, FlattenExtractor(nothing), 1)
    optimizer = th.optim.Adam(actor.parameters(), lr=2e-3)
    schedule = th.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    obs = th.zeros(STATES, 1)
    for _ in range(steps):
        u = actor.pre_tanh(obs, th.randn(STATES, PARTICLES, target.dim))
        fixed, updated = u.detach().chunk(2, dim=1)
        direction = squashed_stein_direction(fixed, updated, target.log_density, squash)
        optimizer.zero_grad()
        stein_loss(u[:, PARTICLES // 2 :], direction, squash).backward()
        optimizer.step()
        schedule.step()
    with th.no_grad():
        return th.tanh(actor.pre_tanh(th.zeros(1, 1), th.randn(1, SAMPLES, target.dim)))[0].numpy()


def exact_bins(target: Target) -> tuple[np.ndarray, float]:
    """
    :param target: a density
    :return: mass of each bin of the histogram, and of the region; by the midpoint rule
    """
    n, finer = BINS[target.dim], 40 if target.dim == 1 else 10
    axis = (np.arange(n * finer) + 0.5) / (n * finer) * 2 - 1
    grid = np.stack(np.meshgrid(*[axis] * target.dim, indexing="ij"), axis=-1)
    mass = target.log_density(th.tensor(grid)).exp().numpy()
    mass /= mass.sum()
    bins = mass.reshape([n, finer] * target.dim).sum(axis=tuple(range(1, 2 * target.dim, 2)))
    return bins, float(mass[target.region(grid)].sum())


def histogram(actions: np.ndarray) -> np.ndarray:
    dim = actions.shape[1]
    return np.histogramdd(actions, [np.linspace(-1, 1, BINS[dim] + 1)] * dim)[0] / len(actions)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    middle = (p + q) / 2

    def divergence(x: np.ndarray) -> float:
        return float((x[x > 0] * np.log(x[x > 0] / middle[x > 0])).sum())

    return (divergence(p) + divergence(q)) / 2


def direction_at_rest(target: Target, squash_gradient: str, n: int = 400) -> float:
    """
    :param target: a one-dimensional density
    :param squash_gradient: form of the squash term
    :param n: number of particles
    :return: root mean square of the Stein direction at particles that are quantiles of the density
    """
    grid = th.linspace(-1.0, 1.0, 200_001, dtype=th.float64)
    mass = th.cumulative_trapezoid(target.log_density(grid.unsqueeze(1)).exp(), grid).numpy()
    actions = np.interp((np.arange(n) + 0.5) / n * mass[-1], mass, grid[1:].numpy())
    u = th.atanh(th.tensor(actions)).view(1, n, 1)
    direction = squashed_stein_direction(u, u, target.log_density, SQUASH_GRADIENTS[squash_gradient])
    if squash_gradient == "pre_tanh":
        direction = direction * (1 - th.tanh(u).square())
    return float(direction.square().mean().sqrt())


def measure(name: str, squash_gradient: str, dim: int, steps: int, seeds: int) -> dict[str, Any]:
    """
    :param name: of the density
    :param squash_gradient: form of the squash term
    :param dim: D
    :param steps: gradient steps
    :param seeds: how many samplers to train
    :return: a row of the table
    """
    target = TARGETS[name, dim]
    bins, exact_mass = exact_bins(target)
    samples = [train_sampler(target, squash_gradient, steps, seed) for seed in range(seeds)]
    masses = [target.region(actions).mean() for actions in samples]
    divergences = [jensen_shannon(bins, histogram(actions)) for actions in samples]
    drawn = np.random.default_rng(0).multinomial(SAMPLES, bins.ravel()).reshape(bins.shape) / SAMPLES
    return {
        "D": dim,
        "density": name,
        "squash_gradient": squash_gradient,
        "mass": f"{exact_mass:.3f}",
        "sampled": f"{np.mean(masses):.3f}",
        "sampled_std": f"{np.std(masses, ddof=1) if seeds > 1 else 0:.3f}",
        "js": f"{np.mean(divergences):.4f}",
        "js_std": f"{np.std(divergences, ddof=1) if seeds > 1 else 0:.4f}",
        "js_floor": f"{jensen_shannon(bins, drawn):.4f}",
        "rest": f"{direction_at_rest(target, squash_gradient):.3f}" if dim == 1 else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--densities", nargs="+", choices=DENSITIES, default=list(DENSITIES), help="which of them")
    parser.add_argument("--steps", type=int, default=2000, help="gradient steps of each sampler")
    parser.add_argument("--seeds", type=int, default=3, help="samplers of each kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"), help="where to save the table")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    record = {**where("cpu"), "command": shlex.join(["python", "benchmarks/sql_sampler.py", *sys.argv[1:]])}
    rows = []
    for name, dim in (key for key in TARGETS if key[0] in arguments.densities):
        for squash_gradient in SQUASH_GRADIENTS:
            rows.append(measure(name, squash_gradient, dim, arguments.steps, arguments.seeds))
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    write_csv(arguments.out, [{**row, **record} for row in rows])
    print(f"\n{markdown_table(rows)}\n\nSaved to {arguments.out}")


if __name__ == "__main__":
    main()
