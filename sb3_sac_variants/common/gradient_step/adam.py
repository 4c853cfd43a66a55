"""Adam as tensor arithmetic, for a compiled graph, which ``Optimizer.step()`` would break."""

import inspect
import math

import torch as th
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def is_plain_adam(optimizer: th.optim.Optimizer) -> bool:
    """Whether an optimiser's step is Adam and nothing else, so that :func:`adam_step` may stand in for it."""
    unused = ("weight_decay", "amsgrad", "maximize", "differentiable")
    return (
        type(optimizer) is th.optim.Adam
        and len(optimizer.param_groups) == 1
        and not any(optimizer.param_groups[0][option] for option in unused)
        and all(beta > 0 for beta in optimizer.param_groups[0]["betas"])  # whose logarithm the step takes
        and not has_custom_step(optimizer)
    )


def has_custom_step(optimizer: th.optim.Optimizer) -> bool:
    """
    Whether a step runs code of the user's.

    Hooks (the optimiser's or global ones), a ``step`` put in place, or that of a subclass of Adam.
    """
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
    )
    own_class = isinstance(optimizer, th.optim.Adam) and not has_adams_step(optimizer)
    return any(hooks) or "step" in vars(optimizer) or own_class


def has_adams_step(optimizer: th.optim.Optimizer) -> bool:
    """Whether an optimiser is Adam or AdamW, or a class of the user's that steps as they do."""
    # Unwrapped: torch puts a wrapper around the step of a class when it is first used
    step, adams = type(optimizer).step, th.optim.Adam.step
    return step is adams or inspect.unwrap(step) is inspect.unwrap(adams)


def adam_step(
    optimizer: th.optim.Optimizer,
    parameters: list[nn.Parameter],
    gradients: tuple[th.Tensor, ...],
    lr: th.Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """
    One step of Adam (Kingma and Ba 2015, Algorithm 1) in place, on the state of a ``torch.optim.Adam``.

    Its options are arguments: a compiler that looked at ``param_groups`` would compile anew for each learning rate.
    """
    beta1, beta2 = betas
    # 1 - beta**t cancels in float32: take -expm1(t log beta). One step counter serves all parameters.
    step = optimizer.state[parameters[0]]["step"] + 1.0
    step_size = lr / -th.expm1(step * math.log(beta1))
    inverse_correction2 = th.rsqrt(-th.expm1(step * math.log(beta2)))
    # Stacked, the two are in memory before the loops over the parameters start. As loose scalars the compiler computes
    # them, exponentials and all, inside the loops: a twentieth of a whole SACv2 update.
    step_size, inverse_correction2 = th.stack([step_size, inverse_correction2]).unbind()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        state = optimizer.state[parameter]
        state["step"].copy_(step)
        # What lerp_ and addcmul_ do, in a form that torch.func.vmap knows too (several seeds at once)
        state["exp_avg"].copy_(state["exp_avg"].lerp(gradient, 1.0 - beta1))
        state["exp_avg_sq"].copy_((beta2 * state["exp_avg_sq"]).addcmul(gradient, gradient, value=1.0 - beta2))
        denominator = state["exp_avg_sq"].sqrt() * inverse_correction2 + eps
        parameter.detach().sub_(step_size * state["exp_avg"] / denominator)
