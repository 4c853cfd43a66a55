from sb3_sac_variants.sql.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_sac_variants.sql.sql import SQL

__all__ = ["SQL", "CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
