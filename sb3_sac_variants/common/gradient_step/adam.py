"""
Kingma and Ba's Adam on the state of a ``torch.optim.Adam``, in the two forms that the engines need: torch's fused
kernel without the Python around it (eager), and tensor arithmetic (inside a compiled graph, which ``Optimizer.step()``
would break).
"""

import math

import torch as th
from torch import nn


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: any optimiser
    :return: whether its step is Kingma and Ba's Adam and nothing else, so that :func:`adam_step` may stand in for it
    """
    unused = ("weight_decay", "amsgrad", "maximize", "differentiable")
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return (
        type(optimizer) is th.optim.Adam
        and len(optimizer.param_groups) == 1
        and not any(optimizer.param_groups[0][option] for option in unused)
        and all(beta > 0 for beta in optimizer.param_groups[0]["betas"])  # whose logarithm the step takes
        and not any(hooks)
    )


class FusedAdam:
    """
    Torch's own fused kernel for the step of a ``torch.optim.Adam``, on that optimiser's own state, without what
    ``Optimizer.step()`` does around it in Python at every call (a twelfth of an eager update on a CPU).

    :param optimizer: plain Adam, with state for all parameters
    :param parameters: its parameters
    """

    def __init__(self, optimizer: th.optim.Optimizer, parameters: list[nn.Parameter]):
        self.group = optimizer.param_groups[0]
        self.parameters: list[th.Tensor] = list(parameters)
        states = [optimizer.state[parameter] for parameter in parameters]
        self.averages = [state["exp_avg"] for state in states]
        self.squares = [state["exp_avg_sq"] for state in states]
        self.steps = [state["step"] for state in states]
        self.ones = [th.ones_like(self.steps[0])] * len(self.steps)

    def has_state_of(self, optimizer: th.optim.Optimizer) -> bool:
        """
        :param optimizer: the optimiser now
        :return: whether its state is still the one that is stepped here
        """
        return optimizer.state[self.parameters[0]].get("exp_avg") is self.averages[0]

    def step(self, gradients: tuple[th.Tensor, ...]) -> None:
        """
        :param gradients: of the parameters
        """
        beta1, beta2 = self.group["betas"]
        th._foreach_add_(self.steps, self.ones)
        th._fused_adam_(
            self.parameters,
            gradients,
            self.averages,
            self.squares,
            [],
            self.steps,
            lr=self.group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=self.group["eps"],
            amsgrad=False,
            maximize=False,
        )


def adam_step(optimizer: th.optim.Optimizer, parameters: list[nn.Parameter], gradients: tuple[th.Tensor, ...]) -> None:
    """
    One step of Adam (Kingma and Ba 2015, Algorithm 1) in place, on the state of a ``torch.optim.Adam``.

    :param optimizer: optimiser whose state is read and written, with one parameter group
    :param parameters: its parameters
    :param gradients: their gradients
    """
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    # 1 - beta**t cancels in float32: take -expm1(t log beta). One step counter serves all parameters.
    step = optimizer.state[parameters[0]]["step"] + 1.0
    step_size = group["lr"] / -th.expm1(step * math.log(beta1))
    inverse_correction2 = th.rsqrt(-th.expm1(step * math.log(beta2)))
    # Stacked, the two are in memory before the loops over the parameters start. As loose scalars the compiler computes
    # them, exponentials and all, inside the loops: a twentieth of a whole SACv2 update.
    step_size, inverse_correction2 = th.stack([step_size, inverse_correction2]).unbind()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        state = optimizer.state[parameter]
        state["step"].copy_(step)
        state["exp_avg"].lerp_(gradient, 1.0 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        denominator = state["exp_avg_sq"].sqrt() * inverse_correction2 + group["eps"]
        parameter.data.sub_(step_size * state["exp_avg"] / denominator)
