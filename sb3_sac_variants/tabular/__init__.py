"""
Exact soft dynamic programming on finite processes, NumPy in float64.

The theory of the deep algorithms as a program, and the oracle that they are tested against.
"""

from sb3_sac_variants.tabular.cross_entropy import (
    consensus_temperature,
    cross_entropy_bonus,
    jensen_shannon_divergence,
)
from sb3_sac_variants.tabular.finite_mdp import FiniteMDP
from sb3_sac_variants.tabular.markov_game import FiniteMarkovGame
from sb3_sac_variants.tabular.multi_agent import (
    AgentSolution,
    AlternatingImprovement,
    agent_policy_evaluation,
    agent_policy_improvement,
    agent_policy_iteration,
    alternating_improvement,
)
from sb3_sac_variants.tabular.soft_dp import (
    SoftPolicyIteration,
    SoftQIteration,
    SoftSolution,
    soft_optimality_backup,
    soft_policy_backup,
    soft_policy_evaluation,
    soft_policy_improvement,
    soft_policy_iteration,
    soft_q_iteration,
)

__all__ = [
    "AgentSolution",
    "AlternatingImprovement",
    "FiniteMDP",
    "FiniteMarkovGame",
    "SoftPolicyIteration",
    "SoftQIteration",
    "SoftSolution",
    "agent_policy_evaluation",
    "agent_policy_improvement",
    "agent_policy_iteration",
    "alternating_improvement",
    "consensus_temperature",
    "cross_entropy_bonus",
    "jensen_shannon_divergence",
    "soft_optimality_backup",
    "soft_policy_backup",
    "soft_policy_evaluation",
    "soft_policy_improvement",
    "soft_policy_iteration",
    "soft_q_iteration",
]
