"""The command line as a job of several processes, started by a real torchrun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ONE_HOST = ("--standalone", "--nproc-per-node", "2")


@dataclass
class Job:
    """A torchrun; what it and its processes print goes to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """Everything that was printed so far."""
        return self.log.read_text(encoding="utf-8")

    @property
    def said(self) -> list[str]:
        """Lines with which wsdino said why it ends."""
        return [line for line in self.output.splitlines() if line.startswith("wsdino: ")]

    def worker(self, rank: int) -> int:
        """Process id of a rank; skips the test where the system doesn't tell (macOS)."""
        if not Path("/proc/self/environ").exists():
            pytest.skip("there is no /proc to find a rank's process in")
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = (folder / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1]
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if parent == str(self.process.pid) and f"RANK={rank}".encode() in variables:
                return int(folder.name)
        raise AssertionError(f"no rank {rank}\n{self.output}")

    def wait_for(self, folder: Path, pattern: str, *, num: int = 1) -> None:
        """Wait until a folder has files of a pattern."""
        deadline = time.monotonic() + 500
        while len(list(folder.glob(pattern))) < num:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def finish(self, *, timeout_s: float = 600) -> int:
        """Wait for the end; return torchrun's exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def meeting_of_two() -> dict[str, str]:
    """Environment in which two processes find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start_job(log: Path, *arguments: object, launch: tuple[str, ...] = ONE_HOST) -> Job:
    """Start the command line under torchrun, on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "wsdino"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Job(process, log)
