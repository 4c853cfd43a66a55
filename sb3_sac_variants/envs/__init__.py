"""Environments of the package, and their registration with Gymnasium."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym

from .changed_physics import ChangedPhysics
from .matrix_game import MatrixGameEnv
from .multi_goal import MultiGoalEnv
from .parallel_env import ParallelEnvAdapter
from .simple_spread import SimpleSpreadEnv

if TYPE_CHECKING:
    from .independent_agents import IndependentAgents

__all__ = [
    "ChangedPhysics",
    "IndependentAgents",
    "MatrixGameEnv",
    "MultiGoalEnv",
    "ParallelEnvAdapter",
    "SimpleSpreadEnv",
    "register_envs",
]


def __getattr__(name: str) -> Any:
    if name == "IndependentAgents":  # a wrapper of Stable-Baselines3, which the environments do without
        from .independent_agents import IndependentAgents

        return IndependentAgents
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register_envs() -> None:
    """
    Register ``MultiGoal-v0``, ``PenaltyGame-v0`` and ``SimpleSpread-v3`` with Gymnasium.

    May be called any number of times. An id that is already taken, by an earlier call or by the user, is left as it is.
    Nothing beyond Gymnasium is imported: Simple Spread asks for its extra when it is made.
    """
    for env_id, entry_point, max_episode_steps in (
        ("MultiGoal-v0", "multi_goal:MultiGoalEnv", 30),  # the horizon of the authors' experiment
        ("PenaltyGame-v0", "matrix_game:MatrixGameEnv", None),
        # It truncates itself after max_cycles, a second clock could only disagree
        ("SimpleSpread-v3", "simple_spread:SimpleSpreadEnv", None),
    ):
        if env_id not in gym.registry:
            gym.register(env_id, f"sb3_sac_variants.envs.{entry_point}", max_episode_steps=max_episode_steps)
