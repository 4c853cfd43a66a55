"""
Where exact improvement leads in PenaltyGame-v0, with and without cross-entropy between the agents.

Rounds of exact soft improvement, one agent after the other, from random policies: how often do the agents end in one of
the two good equilibria, and what do they earn? A second on one core; writes ``penalty_game_exact.csv``.

    python benchmarks/multi_agent/penalty_game.py
"""

import csv
import warnings
from pathlib import Path

import numpy as np

from sb3_sac_variants.envs.matrix_game import PENALTY_GAME
from sb3_sac_variants.tabular import FiniteMarkovGame, alternating_improvement

ALPHAS, RELATIVE_BETAS, STARTS = (0.5, 1.0, 2.0), (-0.5, -0.15, 0.0, 0.15, 0.5), 50


def game() -> FiniteMarkovGame:
    """The game as a state in which it is played, and one in which it is over."""
    reward = np.zeros((2, 2, 3, 3))
    reward[:, 0] = PENALTY_GAME
    transition = np.zeros((2, 3, 3, 2))
    transition[..., 1] = 1
    return FiniteMarkovGame(transition, reward, 0.9, [False, True])


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)
    payoff = np.array(PENALTY_GAME, dtype=float)
    path = Path(__file__).with_name("penalty_game_exact.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["alpha", "beta", "good_equilibria", "mean_return", "starts"])
        for alpha in ALPHAS:
            for relative in RELATIVE_BETAS:
                earned = []
                for seed in range(STARTS):
                    start = np.random.default_rng(seed).dirichlet(np.full(3, 5.0), (2, 2))
                    beta = relative * alpha
                    found = alternating_improvement(game(), alpha, beta, ce_floor=0.05, initial_policies=start)
                    first, second = found.policies[:, 0]
                    earned.append(first @ payoff @ second)
                good = np.mean(np.array(earned) > 5)
                row = [alpha, f"{beta:g}", f"{good:.2f}", f"{np.mean(earned):.2f}", STARTS]
                print(*row, sep="\t")
                writer.writerow(row)


if __name__ == "__main__":
    main()
