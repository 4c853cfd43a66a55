"""
Networks for batches of a few observations, as a rollout has them.

There, ``nn.Module.__call__`` and the search for parameters take as long as the arithmetic. :func:`fast_inference` gives
the same function of the same parameters without them. A module that has hooks, or whose class is not known here, is
called as usual.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from sb3_sac_variants.common.checks.replaced import is_hooked
from sb3_sac_variants.common.equations import products
from sb3_sac_variants.common.networks.critics import StackedNetworks

#: networks of this package keep nothing on themselves when they are called, so that a shallow copy can stand in
PACKAGE = __name__.partition(".")[0]

#: layers that are F.linear, the second in an update with a precision of its own
LINEAR = (nn.Linear, products.Linear)


def fast_inference(module: nn.Module) -> Callable[..., Any]:
    """
    Strip a network of what ``nn.Module`` does at each call.

    :param module: a network in evaluation mode
    :return: what calling it computes, from the parameters it has then; layers that are replaced and hooks that are
        added later do not count, until it is made anew
    """
    if _is_watched(module):
        return module
    if isinstance(module, nn.Linear) and type(module) in LINEAR:
        return functools.partial(_linear, module)
    if type(module) is nn.ReLU and not module.inplace:
        return th.relu
    if type(module) is FlattenExtractor:
        return _flatten
    if type(module) in (nn.Sequential, StackedNetworks):
        layers = module._modules.values()  # not children(), which gives a layer once that comes twice
        return functools.partial(_chain, [fast_inference(layer) for layer in layers if layer is not None])
    return _double(module).forward if _keeps_nothing(module) else module.forward


def plain_linear(layer: Callable[..., Any]) -> nn.Linear | None:
    """The layer, if it (or what :func:`fast_inference` made of it) does no more than ``F.linear``; else None."""
    if isinstance(layer, functools.partial) and layer.func is _linear:
        return layer.args[0]
    return layer if isinstance(layer, nn.Linear) and type(layer) in LINEAR and not _is_watched(layer) else None


def _double(network: nn.Module) -> nn.Module:
    """Copy a network whose methods keep nothing on it, parts included; both have the same parameters."""
    double = copy.copy(network)
    for name, part in {**network._modules, **vars(network)}.items():
        if not isinstance(part, nn.Module):
            continue
        # Found before nn.Module looks into its table of modules, which is the original's
        if _keeps_nothing(part):
            vars(double)[name] = _double(part)
        elif name in network._modules:  # it is called; of others, such as the critics an actor acts by, are asked more
            vars(double)[name] = fast_inference(part)
    return double


def _keeps_nothing(network: nn.Module) -> bool:
    """Whether a double can take the place of a network: so it is with those of this package, not with any subclass."""
    own = type(network).__module__.partition(".")[0] == PACKAGE and type(network) is not StackedNetworks
    return own and not _is_watched(network)


def _is_watched(module: nn.Module) -> bool:
    """Whether calling a module does more than its ``forward``: hooks, a compiled form, or a ``forward`` of its own."""
    more = (is_hooked(module), module._compiled_call_impl, _has_any_global_hook(), "forward" in vars(module))
    return any(more)


def _linear(layer: nn.Linear, x: th.Tensor) -> th.Tensor:
    parameters = layer._parameters  # not layer.weight, which nn.Module searches for
    return F.linear(x, parameters["weight"], parameters["bias"])  # type: ignore[arg-type]


def _flatten(x: th.Tensor) -> th.Tensor:
    return x if x.dim() == 2 else x.flatten(1)


def _chain(layers: list[Callable[[th.Tensor], th.Tensor]], x: th.Tensor) -> th.Tensor:
    for layer in layers:
        x = layer(x)
    return x
