"""What long work says where there is no terminal."""

from __future__ import annotations

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
