"""The soft actor-critic family for Stable-Baselines3, true to the papers and fast."""

from sb3_sac_variants.envs import register_envs
from sb3_sac_variants.masac import MASAC
from sb3_sac_variants.sac_v1 import SACv1
from sb3_sac_variants.sac_v2 import SACv2
from sb3_sac_variants.sql import SQL

__version__ = "0.1.0"
__all__ = ["MASAC", "SQL", "SACv1", "SACv2", "__version__"]

register_envs()
