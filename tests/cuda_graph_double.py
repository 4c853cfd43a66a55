"""
A stand-in for CUDA graphs on a CPU, with their rules: what runs in a capture is noted and changes nothing, a replay
does the same operations on the same tensors, and nothing in a capture may be read by the host.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_sac_variants.common.gradient_step import learner, updater
from sb3_sac_variants.common.gradient_step.engine import CudaGraphEngine, Engine
from sb3_sac_variants.common.replay.storage import RowRange


def address(storage: th.UntypedStorage) -> int:
    """Tells one storage from another, even where both are empty."""
    return storage._cdata


def tensors(values: Any) -> list[th.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, th.Tensor)]


class Notes(TorchDispatchMode):
    """Notes each operation, and what memory held before it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[th.Tensor]]] = []
        self.before: dict[int, tuple[th.UntypedStorage, th.UntypedStorage]] = {}
        self._own: list[th.UntypedStorage] = []  # kept, lest their addresses be given away

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is th.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing: the host reads a number")
        own = {address(storage) for storage in self._own}
        written = []
        for place, argument in enumerate(function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written += tensors(args[place] if place < len(args) else kwargs.get(argument.name))
        for storage in (tensor.untyped_storage() for tensor in written):
            if address(storage) not in own and address(storage) not in self.before:
                self.before[address(storage)] = (storage, storage.clone())
        result = function(*args, **kwargs)
        read = {address(tensor.untyped_storage()) for tensor in tensors((args, kwargs))}
        new = [tensor for tensor in tensors(result) if address(tensor.untyped_storage()) not in read]
        self._own += [tensor.untyped_storage() for tensor in new]
        if written or new:
            self.operations.append((function, args, kwargs, [] if written else tensors(result)))
        return result


class Graph:
    """In place of ``torch.cuda.CUDAGraph``."""

    captures = 0
    replays = 0
    capturing = False
    #: what the random number generator believes: up to torch 2.11 it is not told of the end of a capture that fails
    generator_captures = False
    notes: Notes

    def capture_begin(self) -> None:
        Graph.generator_captures = True

    def capture_end(self) -> None:
        Graph.generator_captures = False

    def replay(self) -> None:
        Graph.replays += 1
        with th._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, results in self.notes.operations:
                again = tensors(function(*args, **kwargs))
                for result, value in zip(results, again if results else [], strict=True):
                    result.copy_(value)


@contextlib.contextmanager
def capture(graph: Graph, stream: Any = None) -> Iterator[None]:
    """In place of ``torch.cuda.graph``."""
    assert isinstance(stream, Stream)
    Graph.captures += 1
    random_state = th.get_rng_state()
    graph.notes = Notes()
    graph.capture_begin()
    Graph.capturing = True
    try:
        with graph.notes:
            yield
    finally:
        Graph.capturing = False
    graph.capture_end()
    for storage, value in graph.notes.before.values():
        storage.copy_(value)
    th.set_rng_state(random_state)


class Stream:
    """In place of ``torch.cuda.Stream``."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, other: "Stream") -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let ``engine="cudagraph"`` run on the CPU.

    :param monkeypatch: of the test
    """
    replacements = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
        "CUDAGraph": Graph,
        "graph": capture,
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(th.cuda, name, replacement)
    monkeypatch.setattr(learner, "_rate_is_a_tensor", lambda device: True)
    monkeypatch.setattr(Graph, "captures", 0)
    monkeypatch.setattr(Graph, "replays", 0)
    monkeypatch.setattr(Graph, "generator_captures", False)
    make_engine = updater.make_engine

    def with_graphs(name: str, draw: Any, step: Any, *, draw_on_device: bool, **kwargs: Any) -> Engine:
        if name == "cudagraph" and name not in kwargs["unsupported_engines"]:
            return CudaGraphEngine(draw, step, draw_on_device, th.device("cuda"))
        return make_engine(name, draw, step, draw_on_device=draw_on_device, **kwargs)

    def to(self: RowRange, device: Any) -> None:
        """The range in tensors, as on another device than the CPU."""
        first, count = (th.zeros((), dtype=th.float64) for _ in range(2))
        self._on_device = first, count
        self.set(self.first, self.count)

    monkeypatch.setattr(updater, "make_engine", with_graphs)
    monkeypatch.setattr(RowRange, "to", to)
