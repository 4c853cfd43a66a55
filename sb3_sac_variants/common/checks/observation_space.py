"""Checks of an observation space; each error has the wrapper of the environment that mends it."""

import contextlib
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

#: height and width from which on something is left after the convolutions of SB3's NatureCNN
SMALLEST_IMAGE = 36


def check_observation_space(observation_space: spaces.Space) -> None:
    """Raise a ``ValueError`` if observations are of a kind that SB3 cannot do."""
    parts = _parts(observation_space)
    if not parts:
        raise ValueError(f"observation_space={observation_space} has no parts: let the environment observe something")
    for key, space in parts.items():
        shown = _shown(key, space)
        if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise ValueError(
                f"{shown} is not supported: wrap the environment so that its observations are a Box, Discrete, "
                f"MultiDiscrete or MultiBinary, or a Dict of such, for example with {_without(key, observation_space)}"
            )
        if isinstance(space, spaces.Box | spaces.MultiDiscrete) and (space.shape == () or 0 in space.shape):
            wrapper = "gymnasium.wrappers.ReshapeObservation(env, (1,))"
            if key is not None or space.shape:
                wrapper = _without(key, observation_space)
            raise ValueError(f"{shown} is no array of at least one number: wrap the environment with {wrapper}")
        if isinstance(space, spaces.Discrete) and space.start != 0:
            wrapper = _transformed(key, f" - {space.start}", f"gymnasium.spaces.Discrete({space.n})")
            raise ValueError(f"{shown} starts at {space.start}, and must at 0: wrap the environment with {wrapper}")
        if isinstance(space, spaces.MultiDiscrete) and (space.nvec.ndim > 1 or np.any(space.start)):
            raise ValueError(
                f"{shown} has to be one-dimensional and start at 0: wrap the environment with "
                f"{_without(key, observation_space)}"
            )


def check_image_size(observation_space: spaces.Space, normalized: bool) -> None:
    """
    Check the size of all images for SB3's NatureCNN.

    :param normalized: whether they come with the numbers that the networks take, floating-point ones for example
    :raises ValueError: if one is too small, or has its channels last
    """
    for key, space in _parts(observation_space).items():
        if not is_image_space(space, normalized_image=normalized) or min(space.shape[1:]) >= SMALLEST_IMAGE:  # type: ignore[index]
            continue
        shown = _shown(key, space)
        height, width, channels = space.shape  # type: ignore[misc]
        # Those of integers from 0 to 255 SB3 has turned round already
        if channels in (1, 3, 4) and min(height, width) >= SMALLEST_IMAGE:
            bounds = f"{space.low.min()}, {space.high.max()}".replace("inf", "numpy.inf")  # type: ignore[attr-defined]
            box = f"gymnasium.spaces.Box({bounds}, ({channels}, {height}, {width}), numpy.{space.dtype})"
            raise ValueError(
                f"{shown} has its channels last, and the networks take them first: wrap the environment with "
                f"{_transformed(key, '.transpose(2, 0, 1)', box)}"
            )
        for_policy = ", for 'MlpPolicy'" if key is None else ""
        raise ValueError(
            f"{shown} is smaller than the {SMALLEST_IMAGE}x{SMALLEST_IMAGE} that NatureCNN needs: let the environment "
            f"give larger ones, or wrap it with {_without(key, observation_space)}{for_policy}, or pass a "
            "features_extractor_class of your own"
        )


def check_part_names(observation_space: spaces.Space) -> None:
    """Raise a ``ValueError`` if the extractor of a part cannot have the part's name."""
    of_all = nn.ModuleDict()
    for key in _parts(observation_space):
        if not isinstance(key, str) or not key or "." in key or hasattr(of_all, key):
            raise ValueError(
                f"observation_space={observation_space} has a part named {key!r}, as the torch.nn.ModuleDict of "
                "CombinedExtractor can have none: rename it with gymnasium.wrappers.TransformObservation, or pass a "
                "features_extractor_class of your own"
            )


def _parts(observation_space: spaces.Space) -> dict[Any, spaces.Space]:
    """The parts of a dictionary by their keys; else the whole, by None."""
    return observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}


def _shown(key: Any, space: spaces.Space) -> str:
    return f"observation_space{'' if key is None else f'[{key!r}]'}={space}"


def _transformed(key: Any, change: str, space: str) -> str:
    """The wrapper that changes observations, or a part of them, to which gymnasium's wrappers of arrays do not go."""
    changed = f"x{change}"
    if key is not None:
        changed = f"x | {{{key!r}: x[{key!r}]{change}}}"
        space = f"gymnasium.spaces.Dict(env.observation_space.spaces | {{{key!r}: {space}}})"
    return f"gymnasium.wrappers.TransformObservation(env, lambda x: {changed}, {space})"


def _without(key: Any, observation_space: spaces.Space) -> str:
    """The wrappers that leave out a part, or make one array of all."""
    wrappers = []
    others = [name for name, part in _parts(observation_space).items() if name != key and _is_supported(part)]
    if others and all(isinstance(name, str) for name in others):
        wrappers.append(f"gymnasium.wrappers.FilterObservation(env, {others}), which leaves it out")
    # Not of a space of another library, nor of sequences and graphs
    with contextlib.suppress(AttributeError, NotImplementedError, ValueError):
        if spaces.flatdim(observation_space):
            flat = "" if key is None else ", which makes one array of all parts, for 'MlpPolicy'"
            wrappers.append(f"gymnasium.wrappers.FlattenObservation(env){flat}")
    return ", or ".join(wrappers) or "gymnasium.wrappers.TransformObservation, so that it has numbers to observe"


def _is_supported(part: spaces.Space) -> bool:
    try:
        check_observation_space(spaces.Dict({"part": part}))  # not a dictionary inside of another
    except ValueError:
        return False
    return True
