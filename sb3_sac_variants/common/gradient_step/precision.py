"""In which precision an update multiplies matrices."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th

#: torch's names (``torch.set_float32_matmul_precision``) for the values of the argument ``precision``
TORCH_PRECISION = {"float32": "highest", "bfloat16": "medium"}


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """
    Multiply matrices in this precision. Only operands are rounded: sums, results, parameters, losses and optimisers
    stay float32, which is why no loss scaling is needed, and why Q-values keep their digits. So do products too small
    for the library to have a kernel of that kind. Convolutions are what torch is set to anyway: float32 on a CPU,
    TensorFloat32 on CUDA unless ``torch.backends.cudnn.allow_tf32`` is False.

    :param precision: "float32", or "bfloat16": operands with 8 significant bits (on CUDA, where torch takes
        TensorFloat32 for it, 11)
    """
    wanted = TORCH_PRECISION[precision]
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


@functools.cache
def rounds_operands(device_type: str) -> bool:
    """
    Try a product: what a processor reports says too little. One with bfloat16 instructions but without AMX multiplies
    in float32 all the same, because oneDNN takes torch's setting with AMX only.

    :param device_type: "cpu" or "cuda", for example
    :return: whether ``precision="bfloat16"`` changes anything there
    """
    # 1 + 2^-12 is no bfloat16 number, and no TensorFloat32 number either
    x = th.full((256, 256), 1 + 2.0**-12, device=device_type)
    with matmul_precision("bfloat16"):
        return bool((x @ x)[0, 0] == 256)


def warn_if_ignored(precision: str, device: th.device) -> None:
    """
    Say so if the processor multiplies in float32 whatever is asked for.

    :param precision: the argument
    :param device: where updates run
    """
    if precision != "float32" and not rounds_operands(device.type):
        warnings.warn(
            f"precision={precision!r} has no effect on this {device.type} device, which multiplies in float32 only: "
            "leave it out",
            stacklevel=3,
        )
