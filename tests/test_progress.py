"""What long work says where there is no terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from wsdino import progress
from wsdino.progress import Meter


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_LINE_EVERY_S", 0.0)


@pytest.mark.parametrize("last_line", [True, False])
def test_short_work_is_one_line_or_none(
    capsys: pytest.CaptureFixture[str], *, last_line: bool
) -> None:
    with Meter("read", 3, last_line=last_line) as meter:
        meter.advance(2)
        meter.advance(1)
    assert capsys.readouterr().err == ("read: 3/3 in 0 s\n" if last_line else "")


@pytest.mark.usefixtures("talkative")
@pytest.mark.parametrize("last_line", [True, False])
def test_long_work_says_how_far_it_is_and_when_it_is_done(
    capsys: pytest.CaptureFixture[str], *, last_line: bool
) -> None:
    with Meter("read", 4, 2, last_line=last_line) as meter:
        meter.advance(1, "slowly")
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("read: 3/4, ")
    assert first.endswith(" s left  slowly")
    assert last.startswith("read: 3/4")


def test_what_was_done_before_or_failed_gets_no_last_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Meter("read", 4, 4):
        pass
    with suppress(KeyError), Meter("read", 4) as meter:
        meter.advance()
        raise KeyError
    assert capsys.readouterr().err == ""


ON_A_TERMINAL = """
import time
from wsdino.progress import Meter

note = "loss 4.2131  kl 0.1712  teacher_entropy 4.0411  spread 0.0411  rank 31.2  grad_norm 0.81"
with Meter("train", 12000) as meter:
    for _ in range(40):
        meter.advance(30, note)
        time.sleep(0.02)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_bar_count_and_time_left_fit_the_terminal(columns: int, encoding: str) -> None:
    """The note, which training makes long, is cut instead."""
    leader, follower = pty.openpty()
    environment = os.environ | {
        "COLUMNS": str(columns),
        "TERM": "xterm",
        "PYTHONIOENCODING": encoding,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL], stderr=follower, env=environment
    )
    os.close(follower)
    written = b""
    with suppress(OSError):  # the end of a terminal, on Linux
        while part := os.read(leader, 4096):
            written += part
    os.close(leader)
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    last = [line for line in re.split(r"[\r\n]+", plain) if line.strip()][-1]
    assert len(last) <= columns
    shown = re.fullmatch(r"train ([^0-9]+) 1200/12000 (\d:\d\d:\d\d) (\d:\d\d:\d\d) (.*)", last)
    assert shown, last
    assert len(shown[1]) >= 7
    assert shown[4].startswith("loss")
    assert ("grad_norm 0.81" in last) == (columns == 200)
