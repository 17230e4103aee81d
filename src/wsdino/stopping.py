"""SIGTERM and Ctrl-C: a command unwinds and leaves no partial file; training handles its own."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

STOPPED = "stopped by a signal; finished work is kept"


PARENT_LOOK_S = 0.5
AGAIN_S = 0.01


def end_with_parent() -> None:
    """End this process once its parent is gone, even if that was killed without warning.

    A pool's initializer: without it, workers would finish their queue and wait forever.
    """
    # Not its number as it is now: the parent may have been killed while this process started.
    started_by = multiprocessing.parent_process()
    parent = os.getppid() if started_by is None else started_by.pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Stopped(BaseException):
    """A signal was received; no `except Exception` on the way may swallow this."""


class _State:
    signal_received = False


def signal_received() -> bool:
    """Whether a signal was received: compiled code turns what is raised in it into other errors."""
    return _State.signal_received


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` when a signal is received.

    Compiled code that calls back into Python may have no way to pass an exception on, and drops
    it; then it is raised once more, a moment later.
    """
    dropped_before = sys.unraisablehook

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, Stopped):
            # Not here, where it would be dropped as well.
            again = threading.Timer(AGAIN_S, _thread.interrupt_main, [signal.SIGTERM])
            again.daemon = True
            again.start()
        else:
            dropped_before(what)

    def stop(_number: int, _frame: object) -> NoReturn:
        _State.signal_received = True
        raise Stopped

    _State.signal_received = False
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in signals]
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = dropped_before
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
