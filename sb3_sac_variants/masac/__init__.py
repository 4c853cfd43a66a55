"""Multi-agent soft actor-critic: its update is in ``masac.py``."""

from sb3_sac_variants.masac.buffers import AgentReplayBuffer
from sb3_sac_variants.masac.masac import MASAC
from sb3_sac_variants.masac.policies import MlpPolicy

__all__ = ["MASAC", "AgentReplayBuffer", "MlpPolicy"]
