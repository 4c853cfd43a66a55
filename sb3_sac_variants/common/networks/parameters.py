"""All parameters of a network at once."""

import numpy as np
import torch as th
from stable_baselines3.common.policies import BaseModel


class LoadsInPlace(BaseModel):
    """A network, or a policy, whose parameters stay where they are when others are loaded."""

    def load_from_vector(self, vector: np.ndarray) -> None:
        """
        As SB3's, but into the memory that the parameters have.

        Pieces of the vector need not lie as compiled code expects.
        """
        parameters = list(self.parameters())
        values = th.as_tensor(vector, dtype=parameters[0].dtype, device=self.device)
        with th.no_grad():
            for parameter, value in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
                parameter.copy_(value.view_as(parameter))
