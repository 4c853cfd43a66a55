"""Networks of SACv2: actor, critics, and target critics."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule

from sb3_sac_variants.common.gradient_step.targets import target_copy
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.policies import MaxEntPolicy
from sb3_sac_variants.sac_v2.sb3_weights import stack_critics


class SACv2Policy(MaxEntPolicy):
    """Actor, twin critics and twin target critics of Haarnoja et al. 2019. Arguments as SB3's ``SACPolicy``."""

    critic_target: StackedCritic  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # A deep copy: the target never shares the features extractor
        self.critic_target = target_copy(self.critic, self.make_critic)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load parameters, also those of Stable-Baselines3's SAC policy."""
        return super().load_state_dict(stack_critics(dict(state_dict)), strict, assign)


MlpPolicy = SACv2Policy


class CnnPolicy(SACv2Policy):
    """Networks of SACv2 for images. Arguments as SB3's ``SACPolicy``."""

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(SACv2Policy):
    """Networks of SACv2 for dictionary observations. Arguments as SB3's ``SACPolicy``."""

    default_features_extractor_class = CombinedExtractor
