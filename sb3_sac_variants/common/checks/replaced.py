"""Whether parts of networks, or methods, have been replaced."""

from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any

from torch import nn


def parts_of(networks: Iterable[nn.Module]) -> list[Any]:
    """Modules, parameters, hooks and a ``forward`` put on a module: other ones where a part was replaced."""
    # By hand: Module.modules() and parameters() take several times as long, in each call of train() and predict()
    modules: list[nn.Module | None] = [*networks]
    others: list[Any] = []
    for module in modules:  # which grows on the way
        if module is not None:
            modules += module._modules.values()
            others += module._parameters.values()
            if is_hooked(module):
                others += _all_hooks(module)
            if "forward" in vars(module):
                others.append(vars(module)["forward"])
    return [*modules, *others]


def is_hooked(module: nn.Module) -> bool:
    """Whether something is to be called with a module, forwards or backwards."""
    forwards = module._forward_hooks or module._forward_pre_hooks
    return bool(forwards or module._backward_hooks or module._backward_pre_hooks)


def _all_hooks(module: nn.Module) -> list[Any]:
    forwards = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return [*forwards, *module._backward_hooks.values(), *module._backward_pre_hooks.values()]


def hooks_of_users(module: nn.Module) -> list[Any]:
    """What somebody wants called with a module; torch's own hooks, of ``weight_norm`` say, only compute weights."""
    return [hook for hook in _all_hooks(module) if type(hook).__module__.partition(".")[0] != "torch"]


def has_own(thing: Any, base: type, *methods: str) -> bool:
    """Whether a subclass has methods of its own in place of a class's, or somebody has put them on the object."""
    return any(name in vars(thing) or getattr(type(thing), name) is not getattr(base, name) for name in methods)


def is_of_user(thing: Any, method: str) -> bool:
    """Whether a method is neither this package's nor SB3's."""
    function = getattr(thing, method, None)
    module = getattr(function, "__module__", None) or ""
    return function is not None and module.partition(".")[0] not in (__name__.partition(".")[0], "stable_baselines3")


def same_parts(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two lists have the very same objects."""
    return len(some) == len(others) and all(map(is_, some, others))
