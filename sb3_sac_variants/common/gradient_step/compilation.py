"""What ``torch.compile`` needs here: what it checks at each call, and how it behaves while it compiles."""

import contextlib
import inspect
import os
import re
import shutil
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch as th

from sb3_sac_variants.common.gradient_step.metrics import DeviceMetrics

Step = Callable[..., None]

#: how often the same piece of a step may be compiled that is not one graph, for different models
MOST_IN_PIECES = 64
#: how torch.compile calls what is in a module that is neither torch's, SB3's nor ours, and an attribute of a class
_IN_MODULES = r"G\['__import_(?!(torch|stable_baselines3|sb3_sac_variants)(_dot_|'))"
_OF_USERS = re.compile(
    rf"{_IN_MODULES}|dict\(type\((self\b|{_IN_MODULES}).*\)(\.__mro__\[\d+\])?\.__dict__\)\['\w+'\](?!\.__)"
)
#: what it checks of values: numbers and texts, lengths of tuples, which function it is
_OF_VALUES = ("CONSTANT_MATCH", "EQUALS_MATCH", "SEQUENCE_LENGTH", "CLOSURE_MATCH")
#: seconds of compiling after which a line says so; from a filled cache it takes less
ANNOUNCE_AFTER = 4.0


def compile_unsupported() -> str | None:
    """Why ``torch.compile`` cannot work on this machine's CPU, where there is no C++ compiler; else None."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None and shutil.which("clang++") is None and shutil.which("cl") is None:
        return f"no C++ compiler found ({compiler!r} is not on the PATH): install one, or pass engine='eager'"
    return None


def compile_step(step: Step, fullgraph: bool, compilations: int | None) -> Step:
    """
    Let ``torch.compile`` have a gradient step, to be compiled at its first call.

    :param fullgraph: False where the optimiser's own step has to break the graph
    :param compilations: how often at the most; None for torch's limit (8). A step in pieces has a limit of its own,
        :data:`MOST_IN_PIECES`
    """
    # Importing the compiler takes a second and a hundred megabytes, which eager runs do without
    from sb3_sac_variants.common.gradient_step.wide_products import WideProducts

    # The names of metrics are looked at whenever a step is compiled anew, and taken for granted from then on
    th.compiler.assume_constant_result(DeviceMetrics.declare)
    options: dict[str, Any] = {"post_grad_custom_pre_pass": WideProducts()}
    if fullgraph:
        options["guard_filter_fn"] = _guards_to_check
    limit: dict[str, Any] = {}
    if not fullgraph:
        # The pieces between two breaks are compiled one by one, and those of all models in a process are the same code:
        # beyond torch's limit one would run eagerly in the middle of a compiled step
        compilations = MOST_IN_PIECES
    if compilations is not None and "recompile_limit" in inspect.signature(th.compile).parameters:
        limit["recompile_limit"] = compilations
    elif not fullgraph:  # torch 2.8 has one limit for all
        th._dynamo.config.recompile_limit = max(th._dynamo.config.recompile_limit, MOST_IN_PIECES)
    return th.compile(_with_own_code(step), fullgraph=fullgraph, dynamic=False, options=options, **limit)


def _guards_to_check(guards: Sequence[Any]) -> list[bool]:
    """
    Choose what torch.compile checks before each call, of all it took for granted.

    Kept are the arguments (another batch size compiles anew) and the plain values among the attributes (another tau,
    target entropy or reward scale does), among those of classes, and in modules of users; tuples of them and functions,
    too. The structure of modules and dictionaries is not checked: that would be 1500 checks and 0.2 ms in each SACv2
    update. Nothing changes it under a running engine, as replacing a layer makes a new engine (``Updater.bind``).
    Tensors are read from their owners at each call, whatever is checked.
    """

    def kept(guard: Any) -> bool:
        if guard.name.endswith("_rounding"):  # of common.equations.products
            return True
        if guard.name == "self":  # that what was found in the class has not come into its place in the model
            return guard.guard_type == "NOT_PRESENT_IN_GENERIC_DICT"
        if guard.name.startswith("self.") or _OF_USERS.match(guard.name):
            return guard.guard_type in _OF_VALUES
        return guard.guard_type == "TENSOR_MATCH" or not (guard.name or guard.is_global)

    return [kept(guard) for guard in guards]


def _with_own_code(step: Step) -> Step:
    """
    Give a bound method a code object of its own.

    torch.compile keeps its graphs, a handful at the most, with the code of a function, which all models share: a study
    that trains one model after the other would run out. A copy of the code has room of its own, freed with the engine.
    """
    function = getattr(step, "__func__", None)
    if function is None:
        return step
    code, variables = function.__code__.replace(), function.__globals__
    copy = types.FunctionType(code, variables, function.__name__, function.__defaults__, function.__closure__)
    return types.MethodType(copy, step.__self__)  # type: ignore[attr-defined]


@contextlib.contextmanager
def announced_wait(seconds: float = ANNOUNCE_AFTER) -> Iterator[None]:
    """
    Say that an update is being compiled, on standard error, if it takes longer than a moment.

    Whatever ``verbose`` is: who watches a progress bar would take the program for frozen.
    """

    def announce() -> None:
        print(
            "Compiling the update, once: this usually takes 15 to 40 seconds, and a few when it is run again. "
            "engine='eager' starts at once, and trains more slowly",
            file=sys.stderr,
            flush=True,
        )

    timer = threading.Timer(seconds, announce)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def interrupts_get_through() -> Iterator[None]:
    """Raise the exception of Ctrl-C even where the compiler has caught it, or has raised another one in its place."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    interrupts: list[BaseException] = []

    def remember(*arguments: Any) -> None:
        try:
            previous(*arguments)
        except BaseException as interrupt:
            interrupts.append(interrupt)
            raise

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    except BaseException as error:
        if interrupts and error is not interrupts[-1]:
            raise interrupts[-1] from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupts:
        raise interrupts[-1]


def raised_in_compiler(error: BaseException) -> bool:
    """Tell an error of the compiler from one of a step that was compiled before."""
    # Of its own errors the compiler takes the trace away
    if any(cls.__module__.startswith(("torch._dynamo", "torch._inductor")) for cls in type(error).__mro__):
        return True
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") in ("torch._dynamo.convert_frame", "torch._inductor.compile_fx"):
            return True
        trace = trace.tb_next
    return False
