"""
Four goals, all equally good: which of them does a policy go to? The multi-goal task of soft Q-learning (Haarnoja et al.
2017, section 5.1), learned by SQL, whose policy may have any shape, and by SACv1 with a mixture of four Gaussians.

Each learns on MultiGoal-v0, then starts episodes from the centre with its stochastic policy. The table counts the
goals they reach. The figure shows, as the paper's, the trajectories over the cost of the positions, and beside them Q
of the actions at three positions, with actions of the policy.

SQL goes to all four. The mixture does so with some seeds; with others no component is left for one of them.

Run ``python examples/multi_goal.py``; it takes a few minutes. The figure needs matplotlib and is written to
multi_goal.png; benchmarks/figures has the one that the defaults gave.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_sac_variants import SQL, SACv1
from sb3_sac_variants.envs import MultiGoalEnv

#: where Q is drawn: left of the centre, in it, and up to the right, as in the paper
POSITIONS = [(-2.5, 0.0), (0.0, 0.0), (2.5, 2.5)]
#: reward scale, batch and sizes of the authors' code
SHARED = {
    "policy": "MlpPolicy",
    "env": "MultiGoal-v0",
    "learning_rate": 1e-3,
    "learning_starts": 500,
    "batch_size": 64,
    "reward_scale": 0.1,
}
NET_ARCH = [128, 128]


def make_sql(seed: int) -> SQL:
    """Soft Q-learning, with as many particles of the sampler as in the authors' code, and twice those of the value."""
    return SQL(**SHARED, n_value_particles=32, policy_kwargs={"net_arch": NET_ARCH}, seed=seed)


def make_mixture(seed: int) -> SACv1:
    """Soft actor-critic with a policy of four Gaussians, which needs the likelihood-ratio gradient."""
    policy_kwargs = {"net_arch": NET_ARCH, "n_components": 4}
    return SACv1(**SHARED, policy_gradient="likelihood_ratio", policy_kwargs=policy_kwargs, seed=seed)


ALGORITHMS = {"SQL": make_sql, "SACv1, four Gaussians": make_mixture}


def play(model: Any, episodes: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Paths of episodes from the centre with the stochastic policy, and how many of them reached each goal."""
    env = gym.make("MultiGoal-v0")
    paths, reached = [], np.zeros(4, dtype=int)
    for episode in range(episodes):
        obs, info = env.reset(seed=episode, options={"position": (0.0, 0.0)})
        path, over = [obs], False
        while not over:
            action, _ = model.predict(obs, deterministic=False)
            obs, _, terminated, truncated, info = env.step(action)
            path.append(obs)
            over = terminated or truncated
        paths.append(np.array(path))
        reached[info["goal"]] += info["is_success"]
    return paths, reached


def save_figure(models: dict[str, Any], paths: dict[str, list[np.ndarray]], file: str) -> None:
    """A row for each algorithm: trajectories, then Q of the actions at three positions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * (1 + len(POSITIONS)), 3.6 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(models), 1 + len(POSITIONS))
    env = MultiGoalEnv()
    plane = np.linspace(-7, 7, 141)
    where = np.stack(np.meshgrid(plane, plane), axis=-1)
    axis = np.linspace(-1, 1, 61)
    actions = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    for (name, model), (plane_axes, *action_axes) in zip(models.items(), rows, strict=True):
        plane_axes.contour(plane, plane, env.position_cost(where), 20, cmap="Greys_r", linewidths=0.6)
        for path in paths[name]:
            plane_axes.plot(*path.T, color="tab:blue", alpha=0.4, linewidth=0.8)
        plane_axes.plot(*env.goals.T, "o", color="tab:red", markersize=10)
        plane_axes.set(title=f"{name}: trajectories", xlabel="x", ylabel="y", aspect="equal")
        plane_axes.plot(*np.array(POSITIONS).T, "x", color="black")
        for axes, position in zip(action_axes, POSITIONS, strict=True):
            obs = np.tile(np.array(position, dtype=np.float32), (len(actions), 1))
            values = model.q_value(obs, actions).reshape(len(axis), len(axis))
            filled = axes.contourf(axis, axis, values, 20, cmap="viridis")
            figure.colorbar(filled, ax=axes, shrink=0.7)
            sampled, _ = model.predict(obs[:100], deterministic=False)
            axes.plot(*sampled.T, "x", color="white", markersize=4, alpha=0.8)
            axes.set(title=f"Q and actions at {position}", xlabel="velocity in x", ylabel="velocity in y")
            axes.set(aspect="equal", xlim=(-1, 1), ylim=(-1, 1))
    figure.savefig(file, dpi=70)
    print(f"Figure saved to {file}")


def main() -> None:
    """Train, count the goals, and save the figure where matplotlib is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=4000, help="environment steps of each algorithm")
    parser.add_argument("--episodes", type=int, default=100, help="episodes to count goals in")
    parser.add_argument("--seed", type=int, default=0, help="of all random generators")
    parser.add_argument("--figure", default="multi_goal.png", help="where to save the figure")
    arguments = parser.parse_args()

    models, paths = {}, {}
    print(f"Of {arguments.episodes} episodes from the centre, how many reached")
    print(f"{'':24}{'right':>7}{'left':>7}{'up':>7}{'down':>7}{'none':>7}")
    for name, make in ALGORITHMS.items():
        models[name] = make(arguments.seed).learn(arguments.timesteps, log_interval=None)
        paths[name], reached = play(models[name], arguments.episodes)
        counts = (*reached, arguments.episodes - reached.sum())
        print(f"{name:24}" + "".join(f"{count:7d}" for count in counts), flush=True)
    try:
        save_figure(models, paths, arguments.figure)
    except ModuleNotFoundError as error:
        print(f"No figure: {error}. pip install matplotlib")


if __name__ == "__main__":
    main()
