"""Converting sites one by one: in threads of this process, or on the workers of a Dask cluster."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wsdino.device import require_memory
from wsdino.errors import ImageError, InputError, WsdinoError, option
from wsdino.outside import reading
from wsdino.screen.correction import corrected
from wsdino.screen.frames import memory_bytes
from wsdino.screen.images import Plane, describe, read_site, require_alike
from wsdino.screen.measures import OF_NEW_STORES, site_measures
from wsdino.screen.records import STATE, crc32, file_state, image_states, record_type
from wsdino.screen.statistics import histogram, site_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsdino.screen.correction import Shadings
    from wsdino.screen.shards import PixelFiles

    # Number of a site, its (C, 5) statistics, its measures and its record.
    Converted = tuple[int, NDArray[np.float32], np.void, np.void]
    Job = tuple[int, Sequence[Plane], Shadings]

T = TypeVar("T")
CONNECT_WITHIN_S = 10
# Sites queued for each thread, here or on a cluster: enough to keep it busy, few to be cancelled.
WAITING = 4
# Pixels of the sites that are converted at the same time; with what is made of them they take up to
# four times as much memory.
AT_ONCE_BYTES, MEMORY_PER_BYTE = 1 << 30, 4


class Memory:
    """What the conversion of a site leaves to the next, so that it needs no new memory.

    The system clears every page of new memory when it is first touched: for a site of 8 MB that
    takes as long as encoding it.
    """

    def __init__(self) -> None:
        self.images: NDArray[Any] | None = None
        self.encoding: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Conversion:
    """Converts the images of sites into a file of a store; it can be sent to other hosts.

    Parameters
    ----------
    files
        Of the store's pixels, on a file system that all workers share, by its absolute path.
    expected
        Size and type of every image, see :func:`~wsdino.screen.images.describe`.
    example
        The file that says so, for messages.
    scale
        As in :class:`~wsdino.screen.correction.Correction`.
    digest
        As for :func:`~wsdino.screen.measures.site_measures`.
    """

    files: PixelFiles
    expected: str
    example: Path
    scale: float = 1.0
    digest: str = OF_NEW_STORES
    # Of conversions that are over. It is empty when this is sent to another host.
    _spare: list[Memory] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, jobs: Sequence[Job]) -> list[Converted]:
        """Write the corrected pixels of sites that share a file, whole.

        Returns
        -------
        list
            Number, (C, 5) statistics, measures and record of each site.

        Raises
        ------
        ImageError
            An image or an illumination function can't be read, or is unlike the first.
        OutputError
            The file can't be written.
        """
        done: list[Converted] = []
        file = jobs[0][0] // self.files.sites_per_file
        try:
            memory = self._spare.pop()
        except IndexError:  # asked for beforehand, another thread could take the last one
            memory = Memory()
        path = self.files.write(file, (self._convert(done, memory, *job) for job in jobs))
        self._spare.append(memory)
        state = file_state(path)
        for _, _, _, record in done:
            for name, value in zip(STATE, state, strict=True):
                record[name] = value
        return done

    def _convert(
        self,
        done: list[Converted],
        memory: Memory,
        site: int,
        planes: Sequence[Plane],
        shadings: Shadings,
    ) -> tuple[int, memoryview]:
        """Return a site's pixels, encoded in this memory, and add what is known of it."""
        # Taken first: an image that changes while it is read will look changed next time.
        states = [state or 0 for state in image_states(planes)]
        raw = memory.images = read_site(planes, memory.images)
        require_alike(describe(raw), planes[0].path, self.expected, self.example)
        pixels = corrected(raw, shadings, scale=self.scale)
        functions = [shading.state or 0 if shading else 0 for shading in shadings]
        record = np.array([(states, functions, crc32(pixels), 0, 0, 0)], record_type(len(planes)))[
            0
        ]
        counts = [histogram(field) for field in pixels]
        statistics = site_statistics(pixels, counts)
        measures = site_measures(pixels, raw, counts, self.digest)
        done.append((site, statistics, measures, record))
        if memory.encoding is None:
            memory.encoding = np.empty(memory_bytes(pixels.shape, pixels.dtype), np.uint8)
        return site, self.files.encode(pixels, memory.encoding)


def threads_for(site_bytes: int, num_threads: int) -> int:
    """Return how many threads convert sites, so that large ones don't fill the memory.

    Parameters
    ----------
    site_bytes
        Of the images of a site.
    num_threads
        At most.

    Raises
    ------
    InputError
        Even one site doesn't fit.
    """
    num = max(1, min(num_threads, AT_ONCE_BYTES // site_bytes))
    require_memory(
        f"converting {num} sites of {site_bytes / 1e9:.2f} GB at a time",
        MEMORY_PER_BYTE * num * site_bytes,
        advice=f"choose fewer channels by {option('--channel NAME')}, or use a machine with more",
    )
    return num


def in_threads(
    convert: Callable[..., T], jobs: Iterable[tuple[Any, ...]], *, num_threads: int
) -> Generator[T]:
    """Convert sites in threads of this process, in whatever order they are done.

    If an image is damaged, the sites in progress are finished before the error is raised.

    Parameters
    ----------
    convert
        Converts one site.
    jobs
        What it is called with: sites, their planes and so on.
    num_threads
        Number of threads.
    """
    pool, coming = ThreadPoolExecutor(num_threads), iter(jobs)

    def submit(num: int) -> set[Future[Any]]:
        return {pool.submit(convert, *job) for job in islice(coming, num)}

    damage: ImageError | None = None
    running = submit(WAITING * num_threads)
    try:
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    yield future.result()
                except ImageError as error:
                    damage = damage or error
            if damage is None:
                running |= submit(len(done))
    finally:
        pool.shutdown(cancel_futures=True)
    if damage is not None:
        raise damage


def on_dask(
    convert: Conversion,
    jobs: Iterable[tuple[Any, ...]],
    *,
    scheduler: str,
) -> Generator[list[Converted]]:
    """Convert sites on the workers of a Dask cluster, as :func:`in_threads` does here.

    Parameters
    ----------
    convert, jobs
        As for :func:`in_threads`.
    scheduler
        Address, such as ``tcp://host:8786``.

    Raises
    ------
    InputError
        Dask is not installed, or there is no such scheduler, or it has no workers.
    WsdinoError
        Workers die.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise InputError(
            "--dask: Dask is not installed; pip install 'wsdino[dask]', here and on the workers"
        ) from error
    with reading(f"--dask {scheduler}", InputError, "no Dask scheduler answers there"):
        client = Client(scheduler, timeout=CONNECT_WITHIN_S, set_as_default=False)
    with client:
        num_threads = sum(client.nthreads().values())
        if not num_threads:
            raise InputError(f"--dask {scheduler}: this scheduler has no workers yet")
        coming = iter(jobs)

        def submit(num: int) -> list[Any]:
            return [client.submit(convert, *job, pure=False) for job in islice(coming, num)]

        running = as_completed(submit(WAITING * num_threads), loop=client.loop)
        damage: ImageError | None = None
        try:
            for future in running:
                try:
                    yield future.result()
                except ImageError as error:
                    damage = damage or error
                if damage is None:
                    running.update(submit(1))
        except KilledWorker as error:
            raise WsdinoError(
                f"--dask {scheduler}: workers keep dying ({error}); the same command resumes from "
                "the finished sites"
            ) from error
        finally:
            with suppress(OSError):
                client.cancel(list(running.futures))
    if damage is not None:
        raise damage
