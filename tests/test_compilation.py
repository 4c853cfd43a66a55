"""While an update compiles: a line says so, Ctrl-C gets through, and what fails is told from a failing update."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch as th
from helpers import make
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_sac_variants import SACv2
from sb3_sac_variants.common.gradient_step import engine_choice
from sb3_sac_variants.common.gradient_step.compilation import announced_wait, interrupts_get_through
from sb3_sac_variants.common.gradient_step.engine import EngineUnavailableError
from sb3_sac_variants.common.gradient_step.wide_products import WideProducts


def swallow() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)


def replace() -> None:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)
    except KeyboardInterrupt:
        raise KeyError("already exists in dispatch namespace") from None


def let_through() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1.0)


@pytest.fixture
def python_handles_interrupts() -> Iterator[None]:
    """As in a terminal: a program in the background is started with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_interrupts")
@pytest.mark.parametrize("compiler", [swallow, replace, let_through])
def test_an_interrupt_gets_through_whatever_the_compiler_does(compiler: Callable[[], None]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts_get_through():
        compiler()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_of_the_users_own_decides() -> None:
    calls = []
    handler = signal.signal(signal.SIGINT, lambda *_: calls.append(None))
    try:
        with interrupts_get_through():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(calls) == 1


def test_a_wait_is_announced_and_a_moment_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with announced_wait(60.0):
        pass
    assert capsys.readouterr().err == ""
    with announced_wait(0.0):
        deadline = time.monotonic() + 10.0
        said = ""
        while not said and time.monotonic() < deadline:
            said = capsys.readouterr().err
            time.sleep(0.01)
    assert said.count("\n") == 1
    assert "Compiling the update" in said
    assert "seconds" in said
    assert "engine='eager'" in said


def failing(module: str) -> Callable[..., Any]:
    """
    Make a function that fails.

    :param module: where it seems to come from
    :return: the function
    """
    names: dict[str, Any] = {"__name__": module}
    exec("def fail(*_): raise KeyError('already exists in dispatch namespace')", names)
    return names["fail"]


@pytest.mark.parametrize("module", ["torch._dynamo.convert_frame", "torch._inductor.compile_fx"])
def test_a_compiler_that_an_interrupt_left_in_disorder_is_given_up(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(th, "compile", lambda *_, **__: failing(module))
    monkeypatch.setattr(engine_choice, "compile_unsupported", lambda: None)
    monkeypatch.setattr(engine_choice, "COMPILE_PAYS_FROM", 0)
    model = make(SACv2, engine="auto")
    with pytest.warns(UserWarning, match=r"chose 'compile', which failed .*namespace.*going on with engine='eager'"):
        model.learn(20)
    model = make(SACv2, engine="compile")
    with pytest.raises(EngineUnavailableError, match=r"cannot compile this update .*pass engine='eager'"):
        model.learn(20)


def test_an_error_of_the_update_itself_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th, "compile", lambda *_, **__: failing("somebody.elses"))
    monkeypatch.setattr(engine_choice, "compile_unsupported", lambda: None)
    with pytest.raises(KeyError):
        make(SACv2, engine="compile").learn(20)


@pytest.mark.parametrize("stacked", [False, True])
def test_narrow_products_are_turned(stacked: bool) -> None:
    """A result of many rows and few columns is computed transposed, whose memory has long rows."""
    product = th.bmm if stacked else th.mm
    batch = (2,) if stacked else ()
    tall, narrow, square = (th.randn(*batch, 128, columns) for columns in (128, 11, 128))
    arguments = (tall, narrow, square)
    graph = make_fx(lambda x, y, z: (product(x, y), product(x, z)), tracing_mode="fake")(*arguments)
    WideProducts()(graph.graph)
    graph.recompile()
    shapes = [tuple(node.meta["val"].shape[-2:]) for node in graph.graph.nodes if "mm" in str(node.target)]
    assert sorted(shapes) == [(11, 128), (128, 128)]
    for computed, expected in zip(graph(*arguments), (product(tall, narrow), product(tall, square)), strict=True):
        th.testing.assert_close(computed, expected)


def test_the_compiler_is_imported_only_to_compile() -> None:
    code = "import sys, sb3_sac_variants; print([name for name in sys.modules if name in ('torch._dynamo', 'sympy')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
