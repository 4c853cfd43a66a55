"""What tests in float64 share: SB3 casts observations to float32, and models are built in float32."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn


class AnyFloatExtractor(FlattenExtractor):
    """SB3's preprocessing ends in ``obs.float()``; what follows this extractor computes in the type of the network."""

    def __init__(self, observation_space: spaces.Space):
        super().__init__(observation_space)
        self.register_buffer("of_type", th.zeros(()), persistent=False)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).to(self.of_type.dtype)


def to_double(model: Any) -> Any:
    """
    :param model: a model of SB3 or of this package, with :class:`AnyFloatExtractor`
    :return: the same with parameters and states of its optimisers in float64
    """
    model.policy.double()
    modules: list[nn.Module] = [
        getattr(model, name) for name in ("actor", "critic", "value_net") if hasattr(model, name)
    ]
    optimizers = [module.optimizer for module in modules]
    if hasattr(model, "temperature"):
        model.temperature.double()
        if model.temperature.learned:
            optimizers.append(model.temperature.optimizer)
    elif model.log_ent_coef is not None:
        model.log_ent_coef.data = model.log_ent_coef.data.double()
        optimizers.append(model.ent_coef_optimizer)
    else:
        # Ours is made in float32, and widened: the same number here
        model.ent_coef_tensor = model.ent_coef_tensor.double()
    for optimizer in optimizers:
        optimizer.load_state_dict(optimizer.state_dict())  # casts to the parameters' type
    if hasattr(model, "learners"):
        for learner in [*model.updater.learners.values(), getattr(model.temperature, "learner", None)]:
            if learner is not None:
                learner.refresh()
    return model
