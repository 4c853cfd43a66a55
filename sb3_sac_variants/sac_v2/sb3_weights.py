"""
Parameters and states of optimisers in the layouts of Stable-Baselines3's SAC and of SACv2.

The actors have the same parameters. SB3's critics are networks of their own (``qf0``, ``qf1``, ...) with weights
``(out, in)``; here they are one network with stacked weights ``(n_critics, in, out)``. The states of the optimisers are
converted with the parameters they belong to.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch as th

#: options of an optimiser that say how it computes, not what
IMPLEMENTATION = ("params", "foreach", "fused", "capturable")

SEPARATE = re.compile(r"((?:critic\.|critic_target\.)?)qf(\d+)\.(.+)")
STACKED = re.compile(r"((?:critic\.|critic_target\.)?)q_networks\.(.+)")

Named = dict[str, Any]


def stack_critics(separate: Named) -> Named:
    """Convert parameters (or what an optimiser keeps for each of them) from SB3's names and layout to ours."""
    stacked: Named = {}
    groups: dict[str, dict[int, Any]] = {}
    for name, value in separate.items():
        match = SEPARATE.fullmatch(name)
        if match is None:
            stacked[name] = own_copy(value)
        else:
            groups.setdefault(f"{match[1]}q_networks.{match[3]}", {})[int(match[2])] = value
    for name, of_critic in groups.items():
        values = [of_critic[index] for index in sorted(of_critic)]
        if isinstance(values[0], th.Tensor) and values[0].dim() > 0:
            # Weights (out, in) and biases (out,)
            stacked[name] = th.stack([value.unsqueeze(0) if value.dim() == 1 else value.T for value in values])
        else:
            stacked[name] = own_copy(values[0])
    return stacked


def unstack_critics(stacked: Named, n_critics: int) -> Named:
    """Convert parameters (or what an optimiser keeps for each of them) from our names and layout to SB3's."""
    separate: Named = {}
    for name, value in stacked.items():
        match = STACKED.fullmatch(name)
        if match is None:
            separate[name] = own_copy(value)
            continue
        for index in range(n_critics):
            own = value
            if isinstance(value, th.Tensor) and value.dim() > 0:
                own = value[index].squeeze(0) if name.endswith("bias") else value[index].T
            separate[f"{match[1]}qf{index}.{match[2]}"] = own_copy(own)
    return separate


def freeze_as_sac(policy: th.nn.Module, of_sac: th.nn.Module, n_critics: int) -> None:
    """
    Freeze the parameters of a SACv2's policy that are frozen in SAC's.

    :raises ValueError: if those of some critics are, and not those of others, which are one parameter here
    """
    learns = {name: parameter.requires_grad for name, parameter in of_sac.named_parameters()}
    for name, parameter in _of_learned(policy):
        counterparts = [learns[other] for other in unstack_critics({name: None}, n_critics)]
        if any(counterparts) and not all(counterparts):
            raise ValueError(f"{name} cannot be frozen for some critics and not for others: freeze them all, or none")
        parameter.requires_grad_(all(counterparts))


def freeze_as_here(of_sac: th.nn.Module, policy: th.nn.Module, n_critics: int) -> None:
    """Freeze the parameters of SAC's policy that are frozen in a SACv2's."""
    learns = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    theirs = unstack_critics(learns, n_critics)
    for name, parameter in _of_learned(of_sac):
        parameter.requires_grad_(theirs[name])


def _of_learned(policy: th.nn.Module) -> list[tuple[str, th.nn.Parameter]]:
    """Parameters of a policy but those of targets, which learn from no loss."""
    return [(name, one) for name, one in policy.named_parameters() if not name.startswith("critic_target.")]


def own_copy(value: Any) -> Any:
    """Copy a tensor: torch's ``load_state_dict()`` takes over those of an optimiser's state as they are."""
    return value.detach().clone(memory_format=th.contiguous_format) if isinstance(value, th.Tensor) else value


def optimizer_state(
    source: th.optim.Optimizer,
    source_parameters: Iterable[tuple[str, th.Tensor]],
    target: th.optim.Optimizer,
    target_parameters: Iterable[tuple[str, th.Tensor]],
    convert: Callable[[Named], Named],
    learning_rate: float,
) -> Named:
    """
    Convert the state of an optimiser into a ``state_dict`` for one of the same class.

    :param source_parameters: its parameters, and others, with names
    :param target_parameters: likewise, of the other one
    :param convert: converts what belongs to ``source_parameters`` into what belongs to ``target_parameters``
    :param learning_rate: until the next call of ``train()`` sets it
    :raises ValueError: if the optimiser's state is not element by element
    """
    by_key: dict[str, Named] = {}
    for name, parameter in source_parameters:
        for key, value in source.state.get(parameter, {}).items():
            if isinstance(value, th.Tensor) and value.dim() > 0 and value.shape != parameter.shape:
                raise ValueError(
                    f"policy_kwargs optimizer_class={type(source).__name__} cannot be taken over: its state {key!r} "
                    "is not kept element by element. Train with another, for example torch.optim.Adam"
                )
            by_key.setdefault(key, {})[name] = value
    by_name: dict[str, Named] = {}
    for key, values in by_key.items():
        for name, value in convert(values).items():
            # Step counts: on the CPU, from where each class moves them to where it wants them
            by_name.setdefault(name, {})[key] = (
                value.cpu() if isinstance(value, th.Tensor) and not value.dim() else value
            )
    names = {id(parameter): name for name, parameter in target_parameters}
    order = [names[id(parameter)] for parameter in target.param_groups[0]["params"]]
    options = {key: value for key, value in source.param_groups[0].items() if key not in IMPLEMENTATION}
    kept = {key: value for key, value in target.param_groups[0].items() if key in IMPLEMENTATION}
    group = {**options, **kept, "lr": learning_rate, "params": list(range(len(order)))}
    state = {index: by_name[name] for index, name in enumerate(order) if name in by_name}
    return {"state": state, "param_groups": [group]}


def parameters_of_sac(parameters: Named, model: Any) -> Named:
    """
    Convert what ``get_parameters()`` of Stable-Baselines3's SAC gives for ``set_parameters()`` of a SACv2.

    The temperature is left as it is: SAC's is not among them.
    """
    converted = dict(parameters)
    if "ent_coef_optimizer" in parameters:
        converted["temperature.optimizer"] = converted.pop("ent_coef_optimizer")
        converted.setdefault("temperature", model.temperature.state_dict())
    if "policy" in parameters:
        converted["policy"] = stack_critics(parameters["policy"])
    if "policy" in parameters and "critic.optimizer" in parameters:
        critic = model.critic
        optimized = {id(parameter) for group in critic.optimizer.param_groups for parameter in group["params"]}
        own = {f"critic.{name}" for name, parameter in critic.named_parameters() if id(parameter) in optimized}
        separate = {
            name.removeprefix("critic."): th.nn.Parameter(value)
            for name, value in parameters["policy"].items()
            if name.startswith("critic.") and stack_critics({name: value}).keys() <= own
        }
        theirs = type(critic.optimizer)(separate.values(), lr=1.0)
        theirs.load_state_dict(parameters["critic.optimizer"])
        rate = float(theirs.param_groups[0]["lr"])
        converted["critic.optimizer"] = optimizer_state(
            theirs, separate.items(), critic.optimizer, critic.named_parameters(), stack_critics, rate
        )
    return converted


def is_of_sac(parameters: Any) -> bool:
    """Whether an argument of ``set_parameters()`` is a dictionary with the names of Stable-Baselines3's SAC."""
    return isinstance(parameters, dict) and any(map(SEPARATE.fullmatch, parameters.get("policy", ())))
