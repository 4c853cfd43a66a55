"""
Where exact improvement leads in PenaltyGame-v0, with and without cross-entropy between agents, and where MASAC ends.

Rounds of exact soft improvement, one agent after the other, from random policies: how often do the agents end in one of
the two good equilibria, and what do they earn? With the floor of the cross-entropy and without it, from policies close
to equal probabilities, as untrained networks are, and from any. A minute on one core; writes
``penalty_game_exact.csv``. With the folder of the runs (the study's ``--out``) also: which equilibrium has each of
study ``penalty_game`` reached, and how far is each policy from the exact best response to the other? Writes
``penalty_game_learned.csv``.

    python benchmarks/multi_agent/penalty_game.py [runs/study]
"""

import argparse
import csv
import warnings
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_sac_variants import MASAC
from sb3_sac_variants.envs.matrix_game import PENALTY_GAME
from sb3_sac_variants.tabular import FiniteMarkovGame, agent_policy_iteration, alternating_improvement

ALPHAS, RELATIVE_BETAS, STARTS = (0.5, 1.0, 2.0), (-0.5, -0.15, 0.0, 0.15, 0.5), 50
FLOORS = (0.05, 0.0)
#: of the Dirichlet distribution that the first policies are drawn from: close to equal probabilities, or any
CONCENTRATIONS = (5.0, 1.0)
HEADER = ["concentration", "floor", "alpha", "beta", "good_equilibria", "mean_return", "starts"]
MODELS = "penalty_game/game_*/*/seed*/masac/*/PenaltyGame-v0.zip"
PAYOFF = np.array(PENALTY_GAME, dtype=float)


def game() -> FiniteMarkovGame:
    """The game as a state in which it is played, and one in which it is over."""
    reward = np.zeros((2, 2, 3, 3))
    reward[:, 0] = PENALTY_GAME
    transition = np.zeros((2, 3, 3, 2))
    transition[..., 1] = 1
    return FiniteMarkovGame(transition, reward, 0.9, [False, True])


def exact() -> Iterable[list[Any]]:
    """A row for each distribution of first policies, floor, temperature and beta."""
    for concentration, floor, alpha, relative in product(CONCENTRATIONS, FLOORS, ALPHAS, RELATIVE_BETAS):
        earned = []
        for seed in range(STARTS):
            start = np.random.default_rng(seed).dirichlet(np.full(3, concentration), (2, 2))
            found = alternating_improvement(game(), alpha, relative * alpha, ce_floor=floor, initial_policies=start)
            first, second = found.policies[:, 0]
            earned.append(first @ PAYOFF @ second)
        good = np.mean(np.array(earned) > 5)
        yield [concentration, floor, alpha, f"{relative * alpha:g}", f"{good:.2f}", f"{np.mean(earned):.2f}", STARTS]


def learned(runs: Path) -> Iterable[list[Any]]:
    """A row for each run."""
    models = [(MASAC.load(path, device="cpu"), path.parents[2].name) for path in runs.glob(MODELS)]
    for model, seed in sorted(models, key=lambda pair: (pair[0].ce_coef, pair[0].ce_floor, pair[1])):
        with th.no_grad():
            policies = model.actor.log_prob(th.ones(1, 2, 1))[0].double().exp().numpy()
        policies /= policies.sum(axis=1, keepdims=True)
        likely = " ".join(map(str, policies.argmax(axis=1)))
        floor = model.cross_entropy.floor.share
        both = np.stack([policies, policies], axis=1)  # in the state in which the game is over anything will do
        best = [
            agent_policy_iteration(game(), both, i, model.ent_coef, model.ce_coef, ce_floor=floor).policy[0]
            for i in range(2)
        ]
        distance = np.abs(np.stack(best) - policies).max()
        earned = policies[0] @ PAYOFF @ policies[1]
        yield [
            model.ent_coef,
            f"{model.ce_coef:g}",
            floor,
            seed.removeprefix("seed"),
            likely,
            f"{earned:.2f}",
            f"{distance:.4f}",
        ]


def write(name: str, header: list[str], rows: Iterable[list[Any]]) -> None:
    with Path(__file__).with_name(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            print(*row, sep="\t")
            writer.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of the runs, with those of study penalty_game in it")
    runs = parser.parse_args().runs
    if runs and not any(runs.glob(MODELS)):
        parser.error(f"{runs} has no models of study penalty_game: run the study penalty_game with --out {runs}")
    warnings.simplefilter("ignore", UserWarning)
    write("penalty_game_exact.csv", HEADER, exact())
    if runs:
        header = ["alpha", "beta", "floor", "seed", "likeliest_actions", "expected_return", "distance_to_best_response"]
        write("penalty_game_learned.csv", header, learned(runs))


if __name__ == "__main__":
    main()
