"""Optimisers that were put in place of those that a model was made with: a saved model says which they are."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_sac_variants.common.persistence.files import OtherOptimizer
from sb3_sac_variants.common.persistence.rebuild import name_of

#: options that a state need not have: which there are depends on the version of torch
_NOT_IN_EVERY_TORCH = {"foreach", "fused", "capturable", "differentiable", "maximize", "decoupled_weight_decay"}


def replaced(model: Any) -> dict[str, str]:
    """Names of the classes of these optimisers, by the names of what they train."""
    made = dict.fromkeys(model.policy.learned_networks, model.policy.optimizer_class)
    if model.temperature.learned:
        made["temperature"] = th.optim.Adam
    present = {name: type(getattr(model, name).optimizer) for name in made}
    return {name: name_of(cls) for name, cls in present.items() if cls is not made[name]}


def put_back(model: Any, names: Any) -> list[str]:
    """
    Give a new model the optimisers that a saved one had, where they are torch's own.

    :param names: what :func:`replaced` gave
    :return: names of what keeps the optimiser it was made with, whose state the saved one does not fit
    """
    known = [cls for cls in vars(th.optim).values() if isinstance(cls, type) and issubclass(cls, th.optim.Optimizer)]
    classes: dict[str, Any] = {name_of(cls): cls for cls in known}
    others = []
    for name, qualified in names.items() if isinstance(names, Mapping) else ():
        if name not in ("temperature", *model.policy.learned_networks):
            continue
        network = getattr(model, name)
        if qualified in classes:
            parameters = [parameter for group in network.optimizer.param_groups for parameter in group["params"]]
            network.optimizer = classes[qualified](parameters, lr=model.lr_schedule(1))
        else:
            others.append(name)
            warnings.warn(
                f"the optimizer of the {name} was a {qualified}, which is not torch's: that of the new model begins "
                "anew. An optimizer that is passed as policy_kwargs=dict(optimizer_class=...) is loaded with its state",
                stacklevel=2,
            )
    return others


def check_kind(name: str, optimizer: th.optim.Optimizer, state: Any) -> None:
    """
    Refuse the state of another kind of optimiser, with which this one would go on wrongly, or not at all.

    :raises OtherOptimizer: if options of this one are not among those of the state
    """
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    group = groups[0] if isinstance(groups, list) and groups else None
    if isinstance(group, Mapping) and (missing := {*optimizer.defaults} - {*group} - _NOT_IN_EVERY_TORCH):
        raise OtherOptimizer(
            f"{name} is {type(optimizer).__name__}, and the state is of an optimizer without {sorted(missing)}: take "
            "that of a model with the same optimizer_class, or leave it out, with exact_match=False"
        )
