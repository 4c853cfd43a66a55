from sb3_sac_variants.sac_v1.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_sac_variants.sac_v1.sac_v1 import SACv1

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SACv1"]
