"""Checks of a policy, of its arguments, and of its features extractor beside the observations."""

import functools
import inspect
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn

from sb3_sac_variants.common.checks.compatibility import (
    check_instance,
    check_subclass,
    check_switches,
    constructor_arguments,
)
from sb3_sac_variants.common.checks.observation_space import check_image_size, check_part_names
from sb3_sac_variants.common.checks.validation import MOST, check_choice, check_range


def check_policy(policy: Any, algorithm: Any) -> None:
    """
    Check the policy's name or class against the class of the algorithm.

    :raises ValueError: if the name is unknown
    :raises TypeError: if it is no policy of this algorithm
    """
    if isinstance(policy, str):
        check_choice("policy", policy, tuple(algorithm.policy_aliases))
    else:  # a subclass may have names of its own only
        aliases = [vars(base).get("policy_aliases", {}) for base in algorithm.__mro__]
        own = next(names["MlpPolicy"] for names in aliases if "MlpPolicy" in names)
        public = f"{own.__module__.rpartition('.')[0]}.MlpPolicy"
        check_subclass("policy", policy, own, f"derive it from {public}, whose networks are evaluated in other ways")


def check_policy_kwargs(policy_class: type, kwargs: dict[str, Any], aliases: dict[str, Any]) -> None:
    """
    Check the arguments of a policy.

    :param aliases: names of the policies, and their classes
    :raises TypeError: if an argument is of a wrong type, or unknown to one of our own policies
    :raises ValueError: if an argument has no meaning
    """
    unknown = sorted(kwargs.keys() - constructor_arguments(policy_class).keys())
    if unknown and policy_class in aliases.values():  # a user's own may do with its arguments what it likes
        raise TypeError(
            f"policy_kwargs={kwargs} has the unknown arguments {unknown}: pass those of {policy_class.__name__}"
        )
    for name, base, remedy in (
        ("features_extractor_class", BaseFeaturesExtractor, "pass one, its arguments in features_extractor_kwargs"),
        ("optimizer_class", th.optim.Optimizer, "pass one, its arguments in optimizer_kwargs"),
        ("activation_fn", nn.Module, "pass one; of one with arguments functools.partial, as of (nn.LeakyReLU, 0.2)"),
    ):
        value = kwargs.get(name)
        if value is not None and not (name == "activation_fn" and isinstance(value, functools.partial)):
            check_subclass(f"policy_kwargs {name}", value, base, remedy)
    check_switches("policy_kwargs", kwargs, policy_class)
    if "n_critics" in kwargs:
        check_range("policy_kwargs n_critics", kwargs["n_critics"], 1, integer=True)
    if "log_std_init" in kwargs:
        check_range("policy_kwargs log_std_init", kwargs["log_std_init"])
    if kwargs.get("net_arch") is not None:
        _check_net_arch(kwargs["net_arch"])
    if kwargs.get("activation_fn") is not None:
        _check_activation(kwargs["activation_fn"])
    _check_optimizer(kwargs.get("optimizer_class"), kwargs.get("optimizer_kwargs"))


def _check_activation(activation_fn: Any) -> None:
    try:
        with th.random.fork_rng([]):
            made = isinstance(activation_fn(), nn.Module)
    except Exception as error:
        raise ValueError(
            f"policy_kwargs activation_fn={activation_fn} cannot be made ({error}): pass a class that needs no "
            "arguments, or functools.partial with them"
        ) from error
    if not made:
        raise TypeError(f"policy_kwargs activation_fn={activation_fn} makes no module: pass a class of torch.nn")


def _check_optimizer(optimizer_class: type | None, kwargs: Any) -> None:
    name = f"policy_kwargs optimizer_class={optimizer_class.__name__}" if optimizer_class else ""
    if optimizer_class and issubclass(optimizer_class, th.optim.LBFGS):
        raise ValueError(f"{name} asks for the loss several times in a step, and an update gives it once: pass another")
    if optimizer_class and issubclass(optimizer_class, th.optim.SparseAdam):
        raise ValueError(f"{name} takes sparse gradients, and the networks have none: pass Adam")
    name = "policy_kwargs optimizer_kwargs"
    check_instance(name, kwargs, (dict, type(None)), "a dictionary of arguments, or None")
    if "lr" in (kwargs or {}):
        raise ValueError(
            f"{name}={kwargs} has lr, which is the algorithm's: leave it out, and pass learning_rate (and "
            "qf_learning_rate for the critics)"
        )
    if (kwargs or {}).get("differentiable"):
        raise ValueError(f"{name}={kwargs} asks for a step to differentiate, which no update needs: leave it out")


def check_extractor_kwargs(extractor: type, kwargs: Any) -> None:
    """
    Check the arguments of a features extractor.

    :raises TypeError: if they are not its arguments
    :raises ValueError: if a size has no meaning
    """
    name = "policy_kwargs features_extractor_kwargs"
    check_instance(name, kwargs, dict, "a dictionary of arguments")
    try:
        inspect.signature(extractor).bind(None, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{name}={kwargs} does not go with {extractor.__name__}{inspect.signature(extractor)} ({error}): pass its "
            "arguments, without the observation space"
        ) from error
    for size in ("features_dim", "cnn_output_dim") if extractor in (NatureCNN, CombinedExtractor) else ():
        if size in kwargs:
            check_range(f"{name} {size}", kwargs[size], 1, integer=True)


def _check_net_arch(net_arch: Any) -> None:
    sizes = [net_arch]
    if isinstance(net_arch, dict):
        sizes = list(net_arch.values())
    good = not isinstance(net_arch, dict) or set(net_arch) == {"pi", "qf"}
    for layers in sizes:
        good = good and isinstance(layers, list)  # SB3 refuses a tuple, without a word
        good = good and all(isinstance(size, int | np.integer) and type(size) is not bool for size in layers)
        good = good and all(0 < size <= MOST for size in layers)
    if not good:
        raise ValueError(
            f"policy_kwargs net_arch={net_arch!r} is not allowed: pass the sizes of the hidden layers as a list, or as "
            "dict(pi=[...], qf=[...])"
        )


def check_features_extractor(policy_class: Any, kwargs: dict[str, Any], observation_space: spaces.Space) -> None:
    """Raise a ``ValueError`` if the extractor of a policy with these arguments is made for other observations."""
    extractor = kwargs.get("features_extractor_class") or policy_class.default_features_extractor_class
    name = f"policy={policy_class.__name__!r} with features_extractor_class={extractor.__name__}"
    is_dict = isinstance(observation_space, spaces.Dict)
    if issubclass(extractor, CombinedExtractor) and not is_dict:
        raise ValueError(
            f"{name} needs dictionary observations, not observation_space={observation_space}: pass 'CnnPolicy' for "
            "images, else 'MlpPolicy'"
        )
    if extractor is NatureCNN:
        normalized = not kwargs.get("normalize_images", True)
        if is_dict or not is_image_space(observation_space, check_channels=False, normalized_image=normalized):
            remedy = f"pass {'MultiInputPolicy' if is_dict else 'MlpPolicy'!r}"
            if isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 2:
                wrapper = f"gymnasium.wrappers.ReshapeObservation(env, {(1, *observation_space.shape)})"
                remedy += f", or give images a channel with {wrapper}"
            raise ValueError(
                f"{name} needs images, not observation_space={observation_space}: {remedy}; for images of "
                "floating-point numbers or of a range other than [0, 255], policy_kwargs=dict(normalize_images=False)"
            )
    if extractor is CombinedExtractor:
        check_part_names(observation_space)
    if extractor in (NatureCNN, CombinedExtractor):
        check_image_size(observation_space, not kwargs.get("normalize_images", True))
