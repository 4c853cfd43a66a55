"""Whether parts of networks have been replaced."""

from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any

from torch import nn


def parts_of(networks: Iterable[nn.Module]) -> list[Any]:
    """Modules and parameters of networks: other ones where a part has been replaced."""
    # By hand: Module.modules() and parameters() take several times as long, in each call of train() and predict()
    modules: list[nn.Module | None] = [*networks]
    parameters: list[nn.Parameter | None] = []
    for module in modules:  # which grows on the way
        if module is not None:
            modules += module._modules.values()
            parameters += module._parameters.values()
    return [*modules, *parameters]


def same_parts(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether two lists have the very same objects."""
    return len(some) == len(others) and all(map(is_, some, others))
