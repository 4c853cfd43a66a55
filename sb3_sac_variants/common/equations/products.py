"""Matrix products of an update, whose operands may be rounded to bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import nn
from torch.nn import functional as F

#: Products with fewer inputs or outputs than this stay float32. They take little of the time, and it is there that
#: digits count: observations and actions come in, Q-values, means and standard deviations go out.
ROUND_FROM = 64

_rounding = False


@contextmanager
def rounded_operands(enabled: bool = True) -> Iterator[None]:
    """
    Round the operands of large products to bfloat16 while the context lasts.

    A product adds up in float32 and rounds its result once, and so do the products of its gradient. Biases, parameters,
    activations, losses and optimisers stay float32, which is why no loss scaling is needed.

    :param enabled: False for products as they are
    """
    global _rounding
    before, _rounding = _rounding, enabled
    try:
        yield
    finally:
        _rounding = before


def _is_rounded(in_features: int, out_features: int) -> bool:
    return _rounding and min(in_features, out_features) >= ROUND_FROM


def linear(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
    """A linear layer, as ``torch.nn.functional.linear``."""
    if not _is_rounded(weight.shape[1], weight.shape[0]):
        return F.linear(inputs, weight, bias)
    product = F.linear(inputs.bfloat16(), weight.bfloat16()).to(inputs.dtype)
    return product if bias is None else product + bias


def stacked_linear(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    """
    ``n`` independent linear layers as one batched product, ``(n, B, out_features)``.

    :param inputs: ``(n, B, in_features)``
    :param weight: ``(n, in_features, out_features)``
    :param bias: ``(n, 1, out_features)``
    """
    if _is_rounded(weight.shape[1], weight.shape[2]):
        return th.bmm(inputs.bfloat16(), weight.bfloat16()).to(inputs.dtype) + bias
    if th.compiler.is_compiling():  # the compiler fuses the sum with the activation
        return th.bmm(inputs, weight) + bias
    return th.baddbmm(bias, inputs, weight)


class Linear(nn.Linear):
    """``nn.Linear`` whose product follows :func:`rounded_operands`."""

    def forward(self, input: th.Tensor) -> th.Tensor:
        return linear(input, self.weight, self.bias)


def let_layers_round(module: nn.Module) -> None:
    """Turn the ``nn.Linear`` of a network into :class:`Linear`, with the same parameters and hooks."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear
