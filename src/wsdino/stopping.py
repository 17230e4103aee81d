"""SIGTERM and Ctrl-C: a command unwinds and leaves no partial file; training has its own way."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

STOPPED = "stopped by a signal; what is finished is kept"


PARENT_LOOK_S = 0.5


def end_with_parent() -> None:
    """End this process once the one that started it is gone, be that killed and unable to say so.

    Given to a pool as its initializer: workers would finish their queue and wait for ever.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Stopped(BaseException):
    """A signal came; no `except Exception` on the way may swallow it."""


class _State:
    has_come = False


def has_come() -> bool:
    """Whether a signal has come: compiled code turns what is raised there into other errors."""
    return _State.has_come


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` where a signal comes."""

    def stop(_number: int, _frame: object) -> NoReturn:
        _State.has_come = True
        raise Stopped

    _State.has_come = False
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
