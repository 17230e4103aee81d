"""Signals end a command, wherever they find it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import pytest

from wsdino.stopping import Stopped, signal_received, stoppable

PATIENCE_S = 20.0


def stop_here(number: int) -> None:
    os.kill(os.getpid(), number)
    wait_to_be_stopped()


def wait_to_be_stopped() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_what_goes_on(number: int) -> None:
    with pytest.raises(Stopped), stoppable():
        stop_here(number)
    assert signal_received()


def test_a_signal_that_compiled_code_drops_is_raised_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """C calls back into Python, where the signal arrives, and knows no exceptions."""
    finished = []

    def call_back() -> None:
        stop_here(signal.SIGINT)
        finished.append(True)

    def call() -> None:
        ctypes.CFUNCTYPE(None)(call_back)()
        wait_to_be_stopped()

    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped), stoppable():
        call()
    assert not finished
    assert "Stopped" not in capsys.readouterr().err
    assert (sys.unraisablehook, signal.getsignal(signal.SIGINT)) == (hook, handler)


def test_what_else_is_dropped_is_still_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: said.append(what.exc_type))

    def fail() -> None:
        raise KeyError

    with stoppable():
        ctypes.CFUNCTYPE(None)(fail)()
    assert said == [KeyError]
