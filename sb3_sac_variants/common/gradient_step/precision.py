"""In which precision an update multiplies matrices."""

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_sac_variants.common.equations.products import let_layers_round, rounded_operands

#: environment variable that answers in place of the probe: "always" or "never"
VARIABLE = "SB3_SAC_VARIANTS_BFLOAT16"

#: how much faster a product with rounded operands has to be
WORTHWHILE = 1.2


@contextmanager
def matmul_precision(precision: str, networks: nn.Module, device: th.device, engine: str) -> Iterator[None]:
    """
    Multiply matrices in this precision while the context lasts.

    On a CPU "bfloat16" means operands of 8 significant bits, and results as well
    (:func:`~sb3_sac_variants.common.equations.products.rounded_operands`), where :func:`bfloat16_pays`. On CUDA torch
    takes TensorFloat32 for it, operands of 11 significant bits. Convolutions are what torch is set to anyway: float32
    on a CPU, TensorFloat32 on CUDA unless ``torch.backends.cudnn.allow_tf32`` is False.

    :param engine: name of the engine that runs the updates
    """
    on_cuda = device.type == "cuda"
    rounding = precision == "bfloat16" and not on_cuda and bfloat16_pays(device.type, engine)
    if rounding:
        let_layers_round(networks)
    with _torch_precision("medium" if precision == "bfloat16" and on_cuda else "highest"), rounded_operands(rounding):
        yield


@contextmanager
def _torch_precision(wanted: str) -> Iterator[None]:
    """``torch.set_float32_matmul_precision`` while the context lasts."""
    settings: dict[Any, str] = {}
    try:
        before = th.get_float32_matmul_precision()
    except RuntimeError:  # set backend by backend (``fp32_precision``, torch 2.9 and later): no one name says that
        before = "highest"
        backends = (th.backends.cuda.matmul, th.backends.mkldnn.matmul)  # type: ignore[attr-defined]
        settings = {backend: backend.fp32_precision for backend in backends}
    if before == wanted and not settings:
        yield
        return
    th.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        th.set_float32_matmul_precision(before)
        for backend, setting in settings.items():
            backend.fp32_precision = setting


def bfloat16_pays(device_type: str, engine: str) -> bool:
    """
    Whether ``precision="bfloat16"`` makes updates faster, by the environment variable or else by trying a product.

    :param engine: its name: "compile" rounds operands where they are computed, others in steps of their own
    :raises ValueError: if the environment variable has another value than "always" or "never"
    """
    answer = os.environ.get(VARIABLE)
    if answer is None:
        return _is_faster(device_type, engine != "compile")
    if answer not in ("always", "never"):
        raise ValueError(f"{VARIABLE}={answer!r} is not known: set it to 'always' or 'never', or unset it")
    return answer == "always"


@functools.cache
def _is_faster(device_type: str, with_roundings: bool) -> bool:
    """Time a product of the usual size: what a processor reports says too little."""
    if device_type == "cuda":
        return th.cuda.get_device_capability()[0] >= 8  # Ampere, the first with TensorFloat32
    x = th.ones(256, 256, device=device_type)
    rounded = x.bfloat16()

    def seconds(product: Callable[[], th.Tensor]) -> float:
        start = time.perf_counter()
        product()
        return time.perf_counter() - start

    def exact_product() -> th.Tensor:
        return x @ x

    def rounded_product() -> th.Tensor:
        return (x.bfloat16() @ x.bfloat16()).float() if with_roundings else rounded @ rounded

    try:
        pairs = [(seconds(exact_product), seconds(rounded_product)) for _ in range(2)]
        if pairs[-1][1] < 10 * pairs[-1][0]:  # else it is done in software, which takes a hundred times as long
            pairs += [(seconds(exact_product), seconds(rounded_product)) for _ in range(30)]
    except RuntimeError:  # no such product there
        return False
    return min(exact for exact, _ in pairs) > WORTHWHILE * min(rounded for _, rounded in pairs)


def warn_if_ignored(precision: str, device: th.device, engine: str) -> None:
    """Warn if updates compute in float32 whatever was asked for."""
    if precision == "bfloat16" and not bfloat16_pays(device.type, engine):
        warnings.warn(
            f"precision={precision!r} is not used: with engine {engine!r}, products of bfloat16 numbers are no faster "
            f"on this {device.type} device. Updates compute in float32. {VARIABLE}=always in the environment rounds "
            "all the same",
            stacklevel=3,
        )
