"""
How an update runs: eagerly, compiled, or as a CUDA graph.

An engine knows two functions and no network: ``draw(batch_size)`` gives the arguments of a gradient step (transitions
and noise), ``step(*arguments)`` does it. All engines give the same numbers within float tolerance.
"""

import re
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch as th
from torch.utils import _pytree as pytree

from sb3_sac_variants.common.gradient_step.compilation import (
    Step,
    announced_wait,
    compile_step,
    interrupts_get_through,
    raised_in_compiler,
)

Draw = Callable[[int], tuple[Any, ...]]
Signature = Callable[[], Hashable]


class EngineUnavailableError(RuntimeError):
    """
    An engine was asked for by name and cannot run, or go on; the message says why and what to do.

    :param drawn: arguments of the gradient step that it could not do, if they were drawn already
    """

    def __init__(self, message: str, drawn: tuple[Any, ...] | None = None):
        super().__init__(message)
        self.drawn = drawn


class Engine:
    """
    A way to run gradient steps.

    :param draw: gives the arguments of a gradient step
    :param step: does a gradient step
    :param draw_on_device: whether ``draw`` needs no synchronisation between host and device
    """

    name: str

    def __init__(self, draw: Draw, step: Step, draw_on_device: bool):
        self.draw, self.step, self.draw_on_device = draw, step, draw_on_device
        #: gradient steps that the present :meth:`run`, or the last one, has done
        self.done = 0

    @property
    def is_proven(self) -> bool:
        """Whether it is known to run, once :meth:`run` was called."""
        return True

    @property
    def steps_done(self) -> int:
        """How many gradient steps the present :meth:`run` has done, whichever engine did them."""
        return self.done

    def run(self, gradient_steps: int, batch_size: int, signature: Signature) -> None:
        """
        Do gradient steps.

        :param batch_size: transitions in each
        :param signature: gives another value when something that must not change under a captured graph has changed
        """
        self.done = 0
        while self.done < gradient_steps:
            self._run_once(batch_size)
            self.done += 1

    def _run_once(self, batch_size: int) -> None:
        """Do one gradient step."""
        self.step(*self.draw(batch_size))


class EagerEngine(Engine):
    """One operation after the other: runs anywhere, the reference for the other engines."""

    name = "eager"


class CompiledEngine(Engine):
    """
    The whole gradient step in one ``torch.compile`` graph.

    The draw stays outside, so that random numbers are those of the eager engine. On CUDA ``make_engine`` has the
    compiled step captured in a CUDA graph, draw and all.

    :param fullgraph: False where the optimiser's own step has to break the graph. The first gradient step is then done
        eagerly: learners find out which parameters the optimiser has to pass by
    :param compilations: how often it compiles at the most, by default as often as torch does (8 times); where the
        optimiser breaks the graph,
        :data:`~sb3_sac_variants.common.gradient_step.compilation.MOST_IN_PIECES` times
    """

    name = "compile"

    def __init__(
        self, draw: Draw, step: Step, draw_on_device: bool, fullgraph: bool = True, compilations: int | None = None
    ):
        super().__init__(draw, step, draw_on_device)
        self.compiled = compile_step(step, fullgraph, compilations)
        self._is_compiled, self._begins_eagerly = False, not fullgraph

    @property
    def is_proven(self) -> bool:
        return self._is_compiled

    def _run_once(self, batch_size: int) -> None:
        self.compute(*self.draw(batch_size))

    def compute(self, *arguments: Any) -> None:
        """
        Do one gradient step, and say what is wrong if it cannot be compiled.

        :raises EngineUnavailableError: if it cannot
        """
        if self._begins_eagerly:
            self._begins_eagerly = False
            self.step(*arguments)
            return
        try:
            if self._is_compiled:
                self.compiled(*arguments)
                return
            with announced_wait(), interrupts_get_through():
                self.compiled(*arguments)
            self._is_compiled = True
        except Exception as error:
            if not raised_in_compiler(error):
                raise
            # It will not compile, or not once more, or the cache folder cannot be written, or an interrupt came before
            raise EngineUnavailableError(
                f"engine='compile' cannot compile this update ({in_a_line(error)}): pass engine='eager'", arguments
            ) from error


class CudaGraphEngine(Engine):
    """
    Draw, losses, backward, optimisers and targets in one CUDA graph, replayed with a single call to the driver.

    The first steps are real updates run eagerly on the stream that is captured later (they warm up libraries and
    allocate the optimisers' memory, as capture requires). Where the draw needs the host (SB3's own buffers), it stays
    outside and its result is copied into the graph's inputs.
    """

    name = "cudagraph"
    warm_up_steps = 3

    def __init__(self, draw: Draw, step: Step, draw_on_device: bool, device: th.device, verbose: int = 0):
        super().__init__(draw, step, draw_on_device)
        self.verbose = verbose
        if device.type != "cuda":
            raise EngineUnavailableError(f"engine='cudagraph' cannot run on device='{device}': pass device='cuda'")
        self.device = device
        # One stream for warm-up and capture, on this device: the one that torch.cuda.graph() takes by itself belongs to
        # whichever device was current first, and what runs on another device is not captured
        self._stream = th.cuda.Stream(device)
        self._graph: th.cuda.CUDAGraph | None = None
        self._signature: Hashable = None
        self._inputs: list[Any] = []
        self._kind_of_inputs: Any = None
        self._warmed_up = 0

    def run(self, gradient_steps: int, batch_size: int, signature: Signature) -> None:
        present = (batch_size, signature())
        if present != self._signature:
            if self._graph is not None and self.verbose >= 1:
                print("Capturing the CUDA graph anew: batch size, memory or a constant has changed")
            self._graph, self._signature, self._warmed_up = None, present, 0
        with th.cuda.device(self.device):
            super().run(gradient_steps, batch_size, signature)

    def _run_once(self, batch_size: int) -> None:
        drawn = None if self.draw_on_device else self.draw(batch_size)
        if drawn is not None and (kind := _kind(drawn)) != self._kind_of_inputs:
            self._graph, self._kind_of_inputs, self._warmed_up = None, kind, 0
        if self._graph is None and self._warmed_up < self.warm_up_steps:
            self._warm_up(batch_size, drawn)
            return
        if self._graph is None:
            self._capture(batch_size, drawn)
        self._replay(drawn)

    def _warm_up(self, batch_size: int, drawn: tuple[Any, ...] | None) -> None:
        outside = th.cuda.current_stream(self.device)
        self._stream.wait_stream(outside)
        try:
            with th.cuda.stream(self._stream):
                self.step(*(self.draw(batch_size) if drawn is None else drawn))
        finally:  # whoever takes over from a step that fails goes on outside
            outside.wait_stream(self._stream)
        self._warmed_up += 1

    def _capture(self, batch_size: int, drawn: tuple[Any, ...] | None) -> None:
        def draw_static() -> tuple[Any, ...]:
            if drawn is None:
                return self.draw(batch_size)
            return pytree.tree_unflatten(self._inputs, structure)

        if drawn is not None:
            leaves, structure = pytree.tree_flatten(drawn)
            self._inputs = [leaf.clone() if isinstance(leaf, th.Tensor) else leaf for leaf in leaves]
        graph = th.cuda.CUDAGraph()
        try:
            # The outer one restores the stream even where a capture fails at its end, as torch.cuda.graph does not
            with th.cuda.stream(self._stream), th.cuda.graph(graph, stream=self._stream):
                self.step(*draw_static())
        except Exception as error:
            self._end_failed_capture()
            raise EngineUnavailableError(
                f"engine={self.name!r} cannot capture this update ({in_a_line(error)}): pass engine='eager'", drawn
            ) from error
        self._graph = graph

    def _end_failed_capture(self) -> None:
        """
        Let random numbers be drawn again after a capture that the device has given up.

        Up to torch 2.11 such a capture ends without the generator being told, and whatever draws next raises "Offset
        increment outside graph capture" (ACE-Step-1.5 issue 613). An empty capture, which succeeds, tells it.
        """
        with th.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The CUDA Graph is empty")
            graph = th.cuda.CUDAGraph()
            graph.capture_begin()
            graph.capture_end()

    def _replay(self, drawn: tuple[Any, ...] | None) -> None:
        assert self._graph is not None
        if drawn is not None:
            for static, fresh in zip(self._inputs, pytree.tree_leaves(drawn), strict=True):
                if isinstance(static, th.Tensor):
                    static.copy_(fresh, non_blocking=True)
        self._graph.replay()


def _kind(arguments: tuple[Any, ...]) -> Any:
    """What a graph takes for granted of arguments that are drawn outside of it: all but what is in the tensors."""
    leaves, structure = pytree.tree_flatten(arguments)

    def kind(leaf: Any) -> Any:
        if isinstance(leaf, th.Tensor):
            return leaf.shape, leaf.dtype
        return leaf if isinstance(leaf, Hashable) else object()  # what cannot be compared is another one each time

    return structure, [kind(leaf) for leaf in leaves]


def in_a_line(error: BaseException) -> str:
    """Type and first line of an error, or what it says was raised; of its cause, if it is ours and wraps another."""
    if isinstance(error, EngineUnavailableError) and error.__cause__ is not None:
        error = error.__cause__
    if type(error).__name__ == "FailOnRecompileLimitHit":
        return (
            "batch size, a constant of the update, such as tau or target_entropy, an attribute that a network sets in "
            "forward(), or one of your own, such as a counter, which should be a tensor, has changed too often"
        )
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if first == "Observed exception":  # of torch, for one that the step itself raised
        raised = re.search(r"raised exception .+", str(error))
        return f"it {raised[0]}" if raised else "it raises an exception"
    if more and first.endswith((" raised:", "when making fake tensor call")):  # of torch, too
        first = f"{first} {more[0]}"
    return f"{type(error).__name__}: {first}"
