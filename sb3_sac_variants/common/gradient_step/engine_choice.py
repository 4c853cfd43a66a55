"""Which engine runs the updates: the one that is asked for, or with "auto" the fastest that this machine can run."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType

import torch as th

from sb3_sac_variants.common.gradient_step.compilation import Step, compile_unsupported
from sb3_sac_variants.common.gradient_step.engine import (
    CompiledEngine,
    CudaGraphEngine,
    Draw,
    EagerEngine,
    Engine,
    EngineUnavailableError,
    Signature,
    in_a_line,
)

#: gradient steps from which compiling pays for itself on a CPU (see benchmarks/README.md)
COMPILE_PAYS_FROM = 15_000


class FallbackEngine(Engine):
    """
    An engine chosen by "auto".

    Where it fails in its first run, or cannot be compiled anew later on, the eager engine takes over with one warning.
    A step that fails so has changed nothing. (With an optimiser other than plain Adam a step is several graphs, and
    what came before the one that fails is done twice.)
    """

    def __init__(self, chosen: Engine, fallback: Engine):
        super().__init__(chosen.draw, chosen.step, chosen.draw_on_device)
        self._engine, self._fallback = chosen, fallback
        self._proven = False

    @property
    def steps_done(self) -> int:
        return self.done + self._engine.steps_done  # those before the eager engine took over, and its own

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._engine.name

    def run(self, gradient_steps: int, batch_size: int, signature: Signature) -> None:
        self.done = 0
        try:
            self._engine.run(gradient_steps, batch_size, signature)
        except Exception as error:  # whatever a compiler may raise: eager raises it again if it is the user's own
            if self._engine is self._fallback or (self._proven and not isinstance(error, EngineUnavailableError)):
                raise
            warnings.warn(
                f"engine='auto' chose {self._engine.name!r}, which failed ({in_a_line(error)}): going on with "
                "engine='eager'",
                stacklevel=2,
            )
            self.done, self._engine = self._engine.done, self._fallback
            self._engine.done = 0
            if (drawn := getattr(error, "drawn", None)) is not None:  # already drawn: the random numbers must not shift
                self._engine.step(*drawn)
                self.done += 1
            self._engine.run(gradient_steps - self.done, batch_size, signature)
        self._proven = self._proven or self._engine.is_proven


def _best_engine(device: th.device, planned_steps: float) -> tuple[str, str]:
    """Name of the engine that "auto" takes, and why."""
    if device.type == "cuda":
        return "cudagraph", "device is CUDA"
    if device.type != "cpu":
        return "eager", f"device is {device.type}"
    if planned_steps < COMPILE_PAYS_FROM:
        return "eager", f"{planned_steps:.0f} gradient steps do not pay for compiling"
    obstacle = compile_unsupported()
    if obstacle is not None:
        return "eager", obstacle
    return "compile", f"{planned_steps:.0f} gradient steps pay for compiling"


def make_engine(
    name: str,
    draw: Draw,
    step: Step,
    *,
    device: th.device,
    draw_on_device: bool,
    fullgraph: bool,
    planned_steps: float,
    unsupported_engines: Mapping[str, str] = MappingProxyType({}),
    verbose: int = 0,
) -> Engine:
    """
    Make an engine by its name, "auto" or one of the others.

    :param draw: gives the arguments of a gradient step
    :param step: does a gradient step
    :param draw_on_device: whether ``draw`` needs no synchronisation between host and device
    :param fullgraph: whether the whole step can be one graph
    :param planned_steps: gradient steps it will do
    :param unsupported_engines: why an engine cannot run this step, by its name
    :param verbose: from 1 on, say which engine was taken and why
    :raises EngineUnavailableError: if an engine asked for by name cannot run
    """
    if device.type == "cpu":
        keep_freed_memory()
    eager = EagerEngine(draw, step, draw_on_device)
    engine: Engine = eager
    wanted, why = name, "asked for"
    if name == "auto":
        wanted, why = _best_engine(device, planned_steps)
        if wanted in unsupported_engines:
            warnings.warn(
                f"engine='auto' goes on with 'eager', not {wanted!r}: {unsupported_engines[wanted]}", stacklevel=3
            )
            wanted, why = "eager", unsupported_engines[wanted]
    elif name in unsupported_engines:
        raise EngineUnavailableError(f"engine={name!r} cannot run: {unsupported_engines[name]}; pass engine='eager'")
    if wanted == "compile":
        if (obstacle := compile_unsupported()) is not None:
            raise EngineUnavailableError(f"engine='compile' cannot run: {obstacle}")
        # Of its own accord not again and again, for a batch size or a constant that changes all the time
        compiled = engine = CompiledEngine(draw, step, draw_on_device, fullgraph, 4 if name == "auto" else None)
        if device.type == "cuda" and fullgraph and "cudagraph" not in unsupported_engines:
            warnings.warn(
                "engine='compile' on CUDA gave another result than 'eager' in 3 of 278 comparisons, for a reason not "
                "known (docs/speed.md). It is the fastest: check what it gives, or pass engine='cudagraph', which "
                "gave the same in all",
                stacklevel=3,
            )
            # Launched one by one, its kernels would take ten times longer to start than to run
            engine = CudaGraphEngine(draw, compiled.compute, draw_on_device, device, verbose=verbose)
            engine.name = compiled.name
    elif wanted == "cudagraph":
        engine = CudaGraphEngine(draw, step, draw_on_device, device, verbose=verbose)
    if name == "auto" and engine is not eager:
        engine = FallbackEngine(engine, eager)
    if verbose >= 1:
        print(f"Using the {engine.name} engine ({why})")
    return engine


def keep_freed_memory() -> None:
    """
    Let the process keep the memory that a gradient step frees, for the next one.

    glibc returns what is free at the end of its heap to the system, the activations of an update say, and gets it back
    page by page: some fifty page faults in each update, up to a tenth of its time. It keeps twice the largest block
    that was ever freed, counting blocks of up to 32 MB (mallopt(3), ``M_MMAP_THRESHOLD``): so free one. The block is
    never touched and takes neither time nor memory; up to 62 MB may stay with the process. Other allocators do not
    care.
    """
    th.empty(31 << 20, dtype=th.uint8)
