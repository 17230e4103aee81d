"""The processes that draw: a pool that says why its workers are gone."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsdino.errors import InputError, WsdinoError
from wsdino.stopping import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.synchronize import Event


def leave_if_starting() -> None:
    """Leave a worker whose start runs the script that asked for it; :func:`drawing` says so."""
    # What multiprocessing itself looks at before it starts a process.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(1)


@contextmanager
def drawing(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Draw in a pool of new processes; what waits is dropped when the body fails.

    Raises
    ------
    InputError
        No worker could start: each runs the main script first, which starts workers itself.
    WsdinoError
        A worker was killed.
    """
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    with ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start, initargs=(started,)
    ) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            if started.is_set():
                raise WsdinoError(
                    "a process that draws was killed, perhaps for lack of memory; the same call "
                    "goes on from what is drawn, and needs less memory with fewer workers"
                ) from error
            raise InputError(
                "no process that draws could start: each begins by running the script again, so "
                'call this only below if __name__ == "__main__":, or give workers=1'
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(started: Event) -> None:
    end_with_parent()
    started.set()
