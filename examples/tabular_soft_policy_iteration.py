"""
Exact soft dynamic programming on FrozenLake: what the temperature does to the optimal policy, and how the two roads to
it, soft policy iteration and soft Q-iteration, converge.

Reaching the goal pays 1, once. The higher the temperature, the more the entropy of every further step is worth beside
that: the policy first spreads, then puts the goal off, and from about 0.01 on it would rather wander about for good.

Run ``python examples/tabular_soft_policy_iteration.py``; it takes a few seconds. The figure needs matplotlib.
"""

import argparse

import gymnasium as gym
import numpy as np

from sb3_sac_variants.tabular import (
    FiniteMDP,
    SoftPolicyIteration,
    SoftQIteration,
    soft_policy_evaluation,
    soft_policy_iteration,
    soft_q_iteration,
)

GAMMA = 0.99
ALPHAS = (0.0001, 0.001, 0.003, 0.01)
ARROWS = "←↓→↑"


def return_without_entropy(mdp: FiniteMDP, policy: np.ndarray) -> float:
    """Discounted reward of a policy from state 0: its value at a temperature that makes entropy worthless."""
    return float(soft_policy_evaluation(mdp, policy, 1e-12).v[0])


def entropy(policy: np.ndarray) -> np.ndarray:
    """Entropy of the policy in each state, in nats."""
    return -(policy * np.log(np.where(policy > 0, policy, 1))).sum(1)


def print_table(mdp: FiniteMDP) -> dict[float, tuple[SoftPolicyIteration, SoftQIteration]]:
    """Solve for every temperature by both methods and print a line each."""
    solutions = {}
    header = ("alpha", "V(start)", "reward", "entropy", "rounds", "sweeps", "difference")
    print("{:>6}  {:>8}  {:>6}  {:>7}  {:>6}  {:>6}  {:>10}".format(*header))
    for alpha in ALPHAS:
        by_policy, by_q = soft_policy_iteration(mdp, alpha), soft_q_iteration(mdp, alpha, tolerance=1e-10)
        solutions[alpha] = by_policy, by_q
        print(
            f"{alpha:6g}  {by_policy.v[0]:8.4f}  {return_without_entropy(mdp, by_policy.policy):6.4f}  "
            f"{entropy(by_policy.policy)[~mdp.terminal].mean():7.4f}  {len(by_policy.history):6d}  "
            f"{len(by_q.history):6d}  {np.abs(by_policy.q - by_q.q).max():10.1e}"
        )
    return solutions


def save_figure(
    mdp: FiniteMDP, solutions: dict[float, tuple[SoftPolicyIteration, SoftQIteration]], path: str, side: int
) -> None:
    """Values and policies as maps of the lake, and the convergence of both methods."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * (len(ALPHAS) + 1), 4), layout="constrained")
    FigureCanvasAgg(figure)
    *maps, convergence = figure.subplots(1, len(ALPHAS) + 1)
    for axes, alpha in zip(maps, ALPHAS, strict=True):
        solution = solutions[alpha][0]
        image = axes.imshow(np.where(mdp.terminal, np.nan, solution.v).reshape(side, side), cmap="viridis")
        figure.colorbar(image, ax=axes, shrink=0.7)
        columns, rows = np.arange(mdp.n_states) % side, np.arange(mdp.n_states) // side
        # Left, down, right, up: an arrow for every action, as long as the action is likely.
        for action, (right, down) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            length = np.where(mdp.terminal, 0, 0.45 * solution.policy[:, action])
            axes.quiver(
                columns, rows, right * length, down * length, angles="xy", scale_units="xy", scale=1, color="white"
            )
        axes.set(title=f"V and policy, alpha = {alpha:g}", xticks=[], yticks=[])
    for alpha in ALPHAS:
        by_policy, by_q = solutions[alpha]
        (line,) = convergence.semilogy(1 + np.arange(len(by_q.history)), by_q.history, label=f"alpha = {alpha:g}")
        convergence.semilogy(1 + np.arange(len(by_policy.history)), by_policy.history, "o--", color=line.get_color())
    convergence.set(
        title="Q-iteration (lines), policy iteration (dots)", xlabel="sweep or round", ylabel="largest change of Q"
    )
    convergence.set(xscale="log", ylim=(1e-11, None))
    convergence.legend(loc="lower left", fontsize="small")
    figure.savefig(path, dpi=120)
    print(f"Figure saved to {path}")


def main() -> None:
    """Print the table, the policies, and save the figure where matplotlib is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map-name", default="8x8", choices=["4x4", "8x8"], help="size of the lake")
    parser.add_argument("--figure", default="tabular_soft_policy_iteration.png", help="where to save the figure")
    arguments = parser.parse_args()

    env = gym.make("FrozenLake-v1", map_name=arguments.map_name)
    mdp = FiniteMDP.from_gymnasium(env, GAMMA)
    solutions = print_table(mdp)

    side = int(arguments.map_name[0])
    most_likely = solutions[ALPHAS[0]][0].policy.argmax(1)
    cells = ["·" if over else ARROWS[action] for over, action in zip(mdp.terminal, most_likely, strict=True)]
    print(f"\nMost likely actions at alpha = {ALPHAS[0]:g} (a dot where the episode is over):")
    print("\n".join(" ".join(cells[row * side : (row + 1) * side]) for row in range(side)))
    try:
        save_figure(mdp, solutions, arguments.figure, side)
    except ModuleNotFoundError as error:
        print(f"No figure: {error}. pip install matplotlib")


if __name__ == "__main__":
    main()
