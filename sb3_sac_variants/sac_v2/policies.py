"""Networks of SACv2: actor, critics, and target critics."""

from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule

from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.policies import MaxEntPolicy


class SACv2Policy(MaxEntPolicy):
    """Actor, twin critics and twin target critics of Haarnoja et al. 2019. Arguments as SB3's ``SACPolicy``."""

    critic_target: StackedCritic  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # A deep copy: the target never shares the features extractor
        self.critic_target = target_copy(self.critic)


MlpPolicy = SACv2Policy


class CnnPolicy(SACv2Policy):
    """Networks of SACv2 for images. Arguments as SB3's ``SACPolicy``."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(SACv2Policy):
    """Networks of SACv2 for dictionary observations. Arguments as SB3's ``SACPolicy``."""

    default_features_extractor_class = CombinedExtractor
