"""
The entropy a learned temperature aims at: what is asked for, whether it can be reached, and a warning when it is not.

The published default for discrete actions, 0.98 log|A| (Christodoulou 2019), asks for a policy so close to the uniform
one that with few actions no temperature gives it: as alpha grows the best policy becomes that of the highest future
entropy, which is not uniform where some action ends the episode or leads where there is little to choose. Alpha then
grows without bound, and with it Q. The default here is 0.7 log|A|.
"""

import math
import warnings
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_sac_variants.common.checks.validation import LARGEST, as_float

#: default target for discrete actions, as a fraction of the uniform policy's entropy log|A|
DISCRETE_ENTROPY_RATIO = 0.7
#: how many times its initial value (or 1, if that is larger) alpha may reach below the target entropy unremarked
RUNAWAY_FACTOR = 100.0


def parse_target_entropy(target_entropy: Any, action_space: spaces.Space) -> float:
    """
    Read the argument ``target_entropy``: H in nats.

    "auto" means -dim(A) on Box (Haarnoja et al. 2019, appendix D), 0.7 log|A| on discrete actions, and there
    "auto_<ratio>" that fraction of log|A|. An entropy that no policy on the space has is refused.
    """
    if isinstance(action_space, spaces.Discrete):
        lowest, highest = 0.0, math.log(action_space.n)
        default, remedy = DISCRETE_ENTROPY_RATIO * highest, "pass 'auto', 'auto_<ratio>' or a number (nats)"
        reachable = f"policies over {action_space.n} actions have entropies above 0 and up to log|A| = {highest:.4g}"
    else:
        dim = get_action_dim(action_space)
        lowest, highest = -LARGEST, dim * math.log(2.0)
        default, remedy = -float(dim), "pass 'auto' or a number (nats)"
        reachable = f"policies on [-1, 1]^{dim} have finite entropies of up to dim(A) log 2 = {highest:.4g}"
    if target_entropy == "auto":
        return default
    unit, text = 1.0, target_entropy
    if not isinstance(action_space, spaces.Box) and isinstance(text, str) and text.startswith("auto_"):
        unit, text = highest, text[len("auto_") :]
    try:
        value = unit * as_float(text)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"target_entropy={target_entropy!r} is not an entropy: {remedy}") from None
    if value != default and not lowest < value <= highest:  # of a single action the default is 0, the lowest
        raise ValueError(f"target_entropy={target_entropy!r} cannot be reached: {reachable}; {remedy}")
    return value


class TemperatureMonitor:
    """
    Warns once if a learned temperature has left all bounds while the policy's entropy is still below its target.

    Reads numbers that are on their way to the logger, so that an update never waits for it.
    """

    def __init__(self, initial_ent_coef: float):
        self.bound = RUNAWAY_FACTOR * max(initial_ent_coef, 1.0)
        self.warned = False

    def check(self, metrics: dict[str, float], target_entropy: float) -> None:
        """Warn once if the means over the last updates say that it runs away; an own update may not report them."""
        if self.warned or not {"ent_coef", "entropy"} <= metrics.keys():
            return
        alpha, entropy = metrics["ent_coef"], metrics["entropy"]
        if alpha > self.bound and entropy < target_entropy:
            self.warned = True
            warnings.warn(
                f"The temperature runs away: ent_coef is {alpha:.3g}, and the policy's entropy {entropy:.3g} is still "
                f"below target_entropy={target_entropy:.3g}, which may be out of reach in this environment. Pass a "
                "lower target_entropy, or a number for ent_coef; if rewards are simply large, a larger initial "
                "temperature ('auto_100') or a smaller reward_scale",
                stacklevel=2,
            )
