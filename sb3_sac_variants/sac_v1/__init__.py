"""SACv1 (Haarnoja et al. 2018): its update, Algorithm 1 of the paper, is in ``sac_v1.py``."""

from sb3_sac_variants.sac_v1.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_sac_variants.sac_v1.sac_v1 import SACv1

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SACv1"]
