"""
A module, its optimiser, and ``minimize``: the only place that steps.

Run eagerly, a step is ``torch.autograd.grad`` (gradients of this module's parameters only, never of the networks the
loss merely passes through) and ``optimizer.step()``, fused where torch can. Inside a compiled graph the same step is
written with ``torch.func`` and, for plain Adam, as tensor arithmetic on the optimiser's own state, because
``optimizer.step()`` would break the graph. Either way the state lives in the optimiser, so a saved model knows nothing
of how it was run.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from sb3_sac_variants.common.gradient_step.adam import adam_step, has_adams_step, has_custom_step, is_plain_adam
from sb3_sac_variants.common.gradient_step.nested import detach, fill_in, map_leaves, take_out

Loss = th.Tensor | tuple[th.Tensor, Any]

#: averages of gradients and of their squares, by their names in the state of torch's optimisers
AVERAGES = {"exp_avg", "exp_avg_sq", "square_avg", "grad_avg", "momentum_buffer"}


def _trainable(optimizer: th.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad]


def _prepare_other(optimizer: th.optim.Optimizer, device: th.device) -> None:
    """Bring the state of an optimiser without Adam's step to the device, where a graph can capture it."""
    capturable = "capturable" in inspect.signature(type(optimizer)).parameters and device.type == "cuda"
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = capturable
    for state in optimizer.state.values():
        for name, value in state.items():
            # What Adagrad, say, has made before the network went to its device
            if isinstance(value, th.Tensor) and (name != "step" or capturable):
                state[name] = value.to(device)


def _rate_is_a_tensor(device: th.device) -> bool:
    """Whether optimisers hold the learning rate as a tensor, as a captured graph needs it."""
    return device.type == "cuda"


def _in_order_of(gradient: th.Tensor, parameter: th.Tensor) -> th.Tensor:
    """
    Lay a gradient out in memory as its parameter, as ``Tensor.backward()`` does and ``torch.autograd.grad`` does not.

    A convolution of images with the channels last, say, gives a gradient in that order, of weights in another.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return th.empty_like(parameter).copy_(gradient)


class _Wrapper(nn.Module):
    """Lets ``torch.func.functional_call`` evaluate a closure of a module with other parameters."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[nn.Module], Loss]) -> Loss:
        return function(self.module)


class ForwardPass(NamedTuple):
    """
    What a module gave, and the way from there back to its parameters.

    :param value: a tensor, or a structure of them, without gradients
    :param differentiable: for the learner: the same with gradients (eager), the function that pulls gradients back to
        the parameters (compiled, in one graph), or the function of the module, to be evaluated again (in pieces)
    """

    value: Any
    differentiable: Any


class Learner:
    """
    A module and the optimiser that trains it.

    :param module: the module; its attribute ``optimizer`` (SB3's convention) does the steps
    :param name: how it is called in errors
    """

    def __init__(self, module: nn.Module, name: str):
        self.name = name
        self.parameters: list[nn.Parameter] = []
        self._names: list[str] = []
        self.plain_adam = False
        #: whether all of a gradient step is compiled into one graph, which an optimiser other than plain Adam breaks
        self.in_one_graph = True
        #: options of Adam
        self.lr: th.Tensor | None = None
        self.betas, self.eps = (0.0, 0.0), 0.0
        self._rate: float | None = None  # what it was filled with
        #: names of parameters that the loss does not depend on, as the last eager step has found; None before the first
        self._unused: set[str] | None = None
        self.bind(module)

    def bind(self, module: nn.Module) -> None:
        """Train a module from now on."""
        self.module = module
        self._wrapper = _Wrapper(module)
        self.refresh()
        self._bound_way_to_step = self._way_to_step()

    def is_bound_to(self, module: nn.Module) -> bool:
        """
        Whether :meth:`bind` has nothing to do.

        That is: this module is what is trained here, with the same optimiser, which has its state and the same
        parameters, none of them frozen or thawed, and nothing has changed that decides how a step is done.
        """
        if module is not self.module or module.optimizer is not self._optimizer:
            return False
        same = [*map(id, _trainable(self._optimizer))] == [*map(id, self.parameters)]
        if self.lr is not None:  # a state that was cleared is to be filled again
            same = same and all("step" in self._optimizer.state.get(parameter, ()) for parameter in self.parameters)
        return same and self._way_to_step() == self._bound_way_to_step

    def _way_to_step(self) -> tuple[Any, ...]:
        """Changes when hooks or options of the optimiser were added that decide how a step can be done."""
        options = [group.get(name) for group in self._optimizer.param_groups for name in ("amsgrad", "betas", "eps")]
        return is_plain_adam(self._optimizer), *options, *self.unsupported_engines()

    @property
    def optimizer(self) -> th.optim.Optimizer:
        return self.module.optimizer  # type: ignore[return-value]

    def refresh(self) -> None:
        """
        Bring the optimiser into the form the engines rely on.

        Learning rate and step count are tensors on the device, so that a changing rate neither recompiles nor
        recaptures; on a CPU the rate that people read in ``param_groups`` stays a number. Kernels are fused where torch
        has them. To be called after anything that replaces the optimiser or loads its state.
        """
        optimizer = self._optimizer = self.optimizer
        # Frozen ones (of a pretrained features extractor, say) stay with the optimiser, which passes by what has no
        # gradient
        self.parameters = _trainable(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    parameter.grad = None
        names = {id(parameter): name for name, parameter in self._wrapper.named_parameters()}
        if not all(id(parameter) in names for parameter in self.parameters):
            raise ValueError(
                f"the optimizer of the {self.name} steps parameters that are not the {self.name}'s: after replacing a "
                f"part of a network, make it a new one (model.{self.name}.optimizer = ...)"
            )
        self._names = [names[id(parameter)] for parameter in self.parameters]
        self._check_states()
        device = optimizer.param_groups[0]["params"][0].device
        self.plain_adam = is_plain_adam(optimizer)
        # torch warns when a step that could be captured runs outside a graph, as warm-up and the eager engine do
        optimizer._warned_capturable_if_run_uncaptured = True
        if has_adams_step(optimizer):
            self._prepare_adam(optimizer, device)
        else:
            self.lr = None
            _prepare_other(optimizer, device)

    def _prepare_adam(self, optimizer: th.optim.Optimizer, device: th.device) -> None:
        """Have the kernels fused, and each parameter's averages and count of steps there before the first step."""
        rate, self.betas, self.eps = (optimizer.param_groups[0][name] for name in ("lr", "betas", "eps"))
        rate = float(rate)
        on_cuda = device.type == "cuda"
        self.lr, self._rate = th.tensor(rate, dtype=th.float32, device=device), None
        for group in optimizer.param_groups:
            group.update(
                lr=self.lr if _rate_is_a_tensor(device) else rate, fused=True, foreach=False, capturable=on_cuda
            )
            if group.get("differentiable"):
                group.update(fused=False)
        for parameter in self.parameters:
            state = optimizer.state[parameter]
            if "step" not in state:
                state["step"] = th.zeros((), dtype=th.float32, device=device)
                state["exp_avg"] = th.zeros_like(parameter)
                state["exp_avg_sq"] = th.zeros_like(parameter)
            if optimizer.param_groups[0]["amsgrad"] and "max_exp_avg_sq" not in state:
                state["max_exp_avg_sq"] = th.zeros_like(parameter)
            state["step"] = th.as_tensor(state["step"], dtype=th.float32).to(device).reshape(())
        # Of parameters that were frozen for a while Adam has done fewer steps: the formula counts them all alike
        steps = {float(optimizer.state[parameter]["step"]) for parameter in self.parameters}
        self.plain_adam = self.plain_adam and len(steps) <= 1

    def _check_states(self) -> None:
        """Refuse a state that is not of its parameter: fused kernels read and write as if it were, beyond its end."""
        for group in self._optimizer.param_groups:
            if not (group.get("fused") or has_adams_step(self._optimizer)):
                continue
            for parameter in group["params"]:
                state = self._optimizer.state[parameter]
                tensors = {name: value for name, value in state.items() if isinstance(value, th.Tensor)}
                fits = not state or not has_adams_step(self._optimizer) or {"step", "exp_avg", "exp_avg_sq"} <= {*state}
                for name, value in tensors.items():
                    fits = fits and value.layout == th.strided
                    fits = fits and (value.numel() == 1 if name == "step" else value.shape == parameter.shape)
                if not fits:
                    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
                    self._optimizer.state.clear()  # nothing may step with it
                    raise ValueError(
                        f"the state of the {self.name}'s optimizer has shapes {shapes} for a parameter of "
                        f"{tuple(parameter.shape)}: take that of a model with the same networks"
                    )
                for name in tensors.keys() - {"step"}:
                    state[name] = _in_order_of(tensors[name].to(parameter.dtype), parameter)

    def unsupported_engines(self) -> dict[str, str]:
        """Engines that cannot repeat what a step does here: why, by the engine's name."""
        reasons = {}
        optimizer = self._optimizer
        # A replayed graph runs no Python, a compiled one none that hangs on gradients
        if has_custom_step(optimizer):
            reasons["cudagraph"] = f"the optimizer of the {self.name} has a step hook or a step of its own"
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.parameters):
            reasons["compile"] = reasons["cudagraph"] = f"a parameter of the {self.name} has a gradient hook"
        counts_nothing = type(optimizer) in (th.optim.SGD, RMSpropTFLike)
        on_host = not (counts_nothing or all(group.get("capturable") for group in optimizer.param_groups))
        if on_host and self.parameters and self.parameters[0].is_cuda:
            name = type(optimizer).__name__
            reasons["cudagraph"] = f"{name}, the optimizer of the {self.name}, counts its steps on the host"
        return reasons

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate from the next step on."""
        if self.lr is not None and learning_rate != self._rate:
            self.lr.fill_(learning_rate)
            self._rate = learning_rate
        for group in self.optimizer.param_groups:  # whatever someone has set there
            group["lr"] = self.lr if self.lr is not None and _rate_is_a_tensor(self.lr.device) else learning_rate

    def flush_denormals(self) -> None:
        """
        Set to zero what is about to become too small for a normal number in the optimiser's averages.

        The mean that Adam keeps of a gradient shrinks by a tenth a step where the gradient is zero, as it is for a
        rectifier that has died: after some 800 steps it is below 1e-38, and there rounding keeps it from zero for ever.
        A processor takes some hundred times longer for a product of such numbers, so that updates become slower and
        slower (LBANN issue 56, dfdx issue 59). What is below 1e-30 moves no parameter: Adam divides it by its epsilon,
        1e-8, at the least.
        """
        with th.no_grad():
            for state in self.optimizer.state.values():
                for name in AVERAGES & state.keys():
                    average = state[name]
                    if isinstance(average, th.Tensor):
                        average.copy_(nn.functional.hardshrink(average, 1e8 * th.finfo(average.dtype).tiny))

    def signature(self) -> tuple[Any, ...]:
        """
        Identify the memory that a step writes to, and the options that it takes as plain numbers.

        It is another one when parameters (by ``load_from_vector``, say) or the optimiser's state have been replaced.
        """
        states = [self.optimizer.state[parameter].values() for parameter in self.parameters]
        state = [tensor for values in states for tensor in values if isinstance(tensor, th.Tensor)]
        options = [
            value
            for group in self.optimizer.param_groups
            for value in group.values()
            if isinstance(value, bool | int | float | tuple)
        ]
        return (*options, *(tensor.data_ptr() for tensor in (*self.parameters, *state)))

    def evaluate(self, function: Callable[[Any], Any]) -> ForwardPass:
        """
        Evaluate the module now, for other uses and for a loss of the result that is to be minimised later.

        :param function: of the module, gives a tensor, or a structure of them
        :return: for :meth:`minimize`, as long as the module's parameters are the same
        """
        if not self.parameters:
            value = detach(function(self.module))
            return ForwardPass(value, value)
        if th.compiler.is_compiling():
            return self.evaluate_functional(function)
        with th.enable_grad():
            value = function(self.module)
        return ForwardPass(detach(value), value)

    def minimize(self, loss: Callable[[Any], Loss], at: ForwardPass | None = None) -> Any:
        """
        One gradient step on the module's parameters.

        :param loss: function of the module, or of the value of an evaluation, that returns a scalar, or a scalar and
            anything made of tensors
        :param at: the evaluation
        :return: what the function returned, without gradients
        """
        if not self.parameters:  # all of them are frozen
            return detach(loss(self.module if at is None else at.value))
        if th.compiler.is_compiling():
            return self.minimize_functional(loss, at)
        with th.enable_grad():
            result = loss(self.module if at is None else at.differentiable)
        value = result[0] if isinstance(result, tuple) else result
        # Where the loss does not depend on a parameter, plain Adam takes a zero gradient, as in the functional form;
        # with weight decay, say, it has to pass by
        gradients = th.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=self.plain_adam)
        if not self.plain_adam:
            self._unused = {name for name, gradient in zip(self._names, gradients, strict=True) if gradient is None}
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # In the memory order of the parameters, which fused kernels take for granted
            parameter.grad = None if gradient is None else _in_order_of(gradient, parameter)
            if gradient is None:
                continue
            # Tensor.backward() calls these, torch.autograd.grad does not
            for hook in (parameter._post_accumulate_grad_hooks or {}).values():
                hook(parameter)
        self.optimizer.step()
        return detach(result)

    # The same in the form that torch.compile traces into one graph

    def _function_of_parameters(self, function: Callable[[Any], Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Turn a function of the module into one of its parameters, by their names, and give these."""

        def of_parameters(parameters: dict[str, th.Tensor]) -> Any:
            return th.func.functional_call(self._wrapper, parameters, (function,))

        return of_parameters, {n: p.detach() for n, p in zip(self._names, self.parameters, strict=True)}

    def evaluate_functional(self, function: Callable[[Any], Any]) -> ForwardPass:
        if not self.in_one_graph:  # the way back would lead from one graph to another: evaluate again to minimise
            return ForwardPass(detach(function(self.module)), function)
        of_parameters, parameters = self._function_of_parameters(lambda module: map_leaves(fill_in, function(module)))
        value, pull_back = th.func.vjp(of_parameters, parameters)  # type: ignore[misc]  # three with has_aux only
        return ForwardPass(detach(map_leaves(take_out, value)), pull_back)

    def minimize_functional(self, loss: Callable[[Any], Loss], at: ForwardPass | None = None) -> Any:
        def with_auxiliary(argument: Any) -> tuple[th.Tensor, Any]:
            result = loss(argument)
            return (result[0], map_leaves(fill_in, result[1])) if isinstance(result, tuple) else (result, ())

        if at is not None and not self.in_one_graph:
            return self.minimize_functional(lambda module: loss(at.differentiable(module)))
        if at is None:
            of_parameters, parameters = self._function_of_parameters(with_auxiliary)
            gradients, (value, auxiliary) = th.func.grad_and_value(of_parameters, has_aux=True)(parameters)
        else:
            # Chain rule: the loss by the value, then the value by the parameters
            def of_value(filled: Any) -> tuple[th.Tensor, Any]:
                return with_auxiliary(map_leaves(take_out, filled))

            filled = map_leaves(fill_in, at.value)
            by_value, (value, auxiliary) = th.func.grad_and_value(of_value, has_aux=True)(filled)
            (gradients,) = at.differentiable(by_value)
        if self.plain_adam:
            assert self.lr is not None
            in_order = tuple(gradients[name] for name in self._names)
            adam_step(self.optimizer, self.parameters, in_order, self.lr, self.betas, self.eps)
        else:
            th.compiler.disable(self._step_outside)([gradients[name] for name in self._names])
        return (value, detach(map_leaves(take_out, auxiliary))) if auxiliary != () else value

    def _step_outside(self, gradients: list[th.Tensor]) -> None:
        """Do a step of the optimiser, outside of the compiled graph."""
        # The functional form gives zeros where the loss does not depend on a parameter, which has to be passed by. An
        # eager step can tell them from zeros of a parameter that it does depend on, a clipped one say
        sizes = th.stack(th._foreach_norm(gradients, math.inf)).tolist()
        for name, parameter, gradient, size in zip(self._names, self.parameters, gradients, sizes, strict=True):
            unused = size == 0.0 and (self._unused is None or name in self._unused)
            parameter.grad = None if unused else _in_order_of(gradient, parameter)
        self.optimizer.step()
