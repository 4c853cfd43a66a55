"""SB3's way from observations to features, in a form that ``torch.compile`` can trace."""

from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn import functional as F

from sb3_sac_variants.common.networks.parameters import LoadsInPlace


def one_hot(numbers: th.Tensor, n: int) -> th.Tensor:
    """One-hot vectors ``(..., n)`` of numbers from 0 to n - 1."""
    if th.compiler.is_compiling():  # F.one_hot looks at the numbers first, which torch up to 2.11 cannot compile
        return numbers.unsqueeze(-1) == th.arange(n, device=numbers.device)
    return F.one_hot(numbers, n)


class _Part(NamedTuple):
    """
    What there is to do with an observation, or with one part of a dictionary.

    :param categories: numbers of values, each of which becomes a one-hot vector; empty if it is no category
    :param divisor: 255 for an image that is to be normalised, else 1
    """

    categories: tuple[int, ...]
    divisor: float
    dtype: th.dtype

    def apply(self, obs: th.Tensor) -> th.Tensor:
        """Make floating-point numbers of a part of the observations."""
        if not self.categories:
            return obs.to(self.dtype) if self.divisor == 1.0 else obs.to(self.dtype) / self.divisor
        numbers = obs.long().reshape(obs.shape[0], len(self.categories)).unbind(dim=1)
        return th.cat([one_hot(x, n) for x, n in zip(numbers, self.categories, strict=True)], dim=1).to(self.dtype)


def _part(space: spaces.Space, normalize_images: bool) -> _Part:
    categories: tuple[int, ...] = ()
    if isinstance(space, spaces.Discrete):
        categories = (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete):
        categories = tuple(int(n) for n in space.nvec)
    divisor = 255.0 if normalize_images and is_image_space(space) else 1.0
    return _Part(categories, divisor, th.get_default_dtype())


def batch_size(obs: PyTorchObs) -> int:
    """Number of observations in a tensor, or in a dictionary of tensors."""
    # Not len(), which an exported model would keep
    return (next(iter(obs.values())) if isinstance(obs, dict) else obs).shape[0]


class TraceablePreprocessing(LoadsInPlace):
    """
    A network that preprocesses observations as SB3's do (``preprocess_obs``).

    There each call reads bounds and sizes from the observation space, which cannot be traced; here they are read once.
    """

    #: of the networks, and of the noise they take, whatever torch's default becomes later
    dtype: th.dtype = th.float32

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        space = self.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.dtype = th.get_default_dtype()
        self._parts = {key: _part(part, self.normalize_images) for key, part in parts.items()}

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """As SB3's."""
        if isinstance(obs, dict):
            return features_extractor({key: self._parts[key].apply(value) for key, value in obs.items()})
        return features_extractor(self._parts[""].apply(obs))


class FeatureNetwork(TraceablePreprocessing):
    """
    Hidden layers on top of a features extractor: what actors, critics and value networks have in common.

    Arguments as SB3's ``Actor``, without those of gSDE.
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        **kwargs: Any,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            **kwargs,
        )
        self.net_arch, self.features_dim, self.activation_fn = net_arch, features_dim, activation_fn

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            features_dim=self.features_dim,
            activation_fn=self.activation_fn,
            features_extractor=self.features_extractor,
        )
        return data
