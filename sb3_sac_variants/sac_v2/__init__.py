"""SACv2 (Haarnoja et al. 2019): its update, Algorithm 1 of the paper, is in ``sac_v2.py``."""

from sb3_sac_variants.sac_v2.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_sac_variants.sac_v2.sac_v2 import SACv2

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SACv2"]
