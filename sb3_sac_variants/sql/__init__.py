"""Soft Q-learning (Haarnoja et al. 2017): its update, Algorithm 1 of the paper, is in ``sql.py``."""

from sb3_sac_variants.sql.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_sac_variants.sql.sql import SQL

__all__ = ["SQL", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
