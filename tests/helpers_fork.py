"""Real processes without seconds of imports: forks of one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

# The server imports once; each process is a fork of it that nobody has used before.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("timm", "torch.utils.tensorboard", "zarr", "sklearn.linear_model", "numba"),
        *("wsdino.cli.main", "wsdino.pipeline", "wsdino.simulate", "wsdino.screen.ingest"),
        *("wsdino.screen.download_gallery", "wsdino.train.train", "wsdino.report.html"),
    ]
)
FIXED = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}


@dataclass
class Forked:
    """A process with both streams piped; used as :class:`subprocess.Popen` is."""

    process: BaseProcess
    stdout: TextIO
    stderr: TextIO

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what is left of output and error output."""
        texts = ["", ""]

        def read(number: int, stream: TextIO) -> None:
            with stream:
                texts[number] = stream.read()

        readers = [
            threading.Thread(target=read, args=given, daemon=True)
            for given in enumerate((self.stdout, self.stderr))
        ]
        deadline = None if timeout is None else time.monotonic() + timeout
        for reader in readers:
            reader.start()
        for part in (*readers, self.process):
            part.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if self.poll() is None or any(reader.is_alive() for reader in readers):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return texts[0], texts[1]


def fork(code: str, arguments: list[str], variables: dict[str, str]) -> Forked:
    """Run code as `python -c` would, with the environment and folder of this process."""
    out, err = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
    environment = os.environ | FIXED | variables
    given = (code, arguments, environment, Path.cwd(), out[1], err[1])
    process = FORKS.Process(target=_run, args=given)
    process.start()
    for _, writer in (out, err):
        writer.close()
    return Forked(process, *(_text_of(reader) for reader, _ in (out, err)))


def _text_of(reader: Connection) -> TextIO:
    """What a pipe gives, as a file of text."""
    with reader:
        return os.fdopen(os.dup(reader.fileno()))


def _run(
    code: str,
    arguments: list[str],
    environment: dict[str, str],
    folder: Path,
    out: Connection,
    err: Connection,
) -> None:
    for connection, name in ((out, "stdout"), (err, "stderr")):
        old = getattr(sys, name)
        os.dup2(connection.fileno(), old.fileno())
        connection.close()
        # The old one may remember that it was a file, in which one can go back.
        buffering = 1 if old.line_buffering else -1
        new = os.fdopen(
            *(old.fileno(), "w", buffering), encoding=old.encoding, errors=old.errors, closefd=False
        )
        setattr(sys, name, new)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    sys.argv = ["wsdino", *arguments]
    exec(code, {"__name__": "__main__"})
