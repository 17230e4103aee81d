"""Progress of long work: a bar on a terminal, plain lines elsewhere.

Everything goes to standard error, so that standard output holds only results.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.table import Table

PLAIN_LINE_EVERY_S = 10.0
_LONGEST = 2000


class _State:
    is_quiet = False


def set_quiet(wanted: bool) -> None:
    """Print nothing from now on: only one of several processes reports progress."""
    _State.is_quiet = wanted


def say(message: str) -> None:
    """Print one line on standard error, unless this process is quiet."""
    if not _State.is_quiet:
        print_error(message)


def print_error(message: str) -> None:
    """Print one line on standard error, even if this process is quiet."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(printable(message))


def printable(message: str) -> str:
    """Return a message that is safe on a terminal, whatever values of files it quotes.

    Control and formatting characters, which could recolour the screen or reverse the text, are
    escaped; of a message of more than 2,000 characters the middle is left out.
    """
    if len(message) > _LONGEST:
        start, end = message[: _LONGEST * 3 // 4], message[-_LONGEST // 4 :]
        message = f"{start} [... {len(message) - _LONGEST} characters ...] {end}"
    if message.replace("\n", "").isprintable():
        return message
    return "".join(
        letter
        if letter == "\n" or letter.isprintable()
        else letter.encode("unicode_escape", errors="backslashreplace").decode()
        for letter in message
    )


def show(table: Table) -> None:
    """Print a table on standard error, unless this process is quiet."""
    if _State.is_quiet:
        return
    # A pipe has no width: tables keep their own instead of being folded at 80 columns.
    width = None if sys.stderr.isatty() else 160
    Console(stderr=True, highlight=False, width=width).print(table)


class Meter:
    """Progress of `total` units: a bar on a terminal, a plain line every ten seconds elsewhere.

    Parameters
    ----------
    description
        What is being done, for the start of the line.
    total
        Number of units in all.
    done
        Units that were finished before this process started (a resumed run).
    last_line
        Whether to print a plain line at the end even if it took less than ten seconds.
    """

    def __init__(
        self, description: str, total: int, done: int = 0, *, last_line: bool = True
    ) -> None:
        self.description, self.total, self.done = description, total, done
        self._first, self._has_last_line = done, last_line
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not _State.is_quiet:
            console = Console(stderr=True)
            # Bar, count and time left always fit; the description and the note get what is left.
            # In ASCII an ellipsis would be written as six letters.
            cut: OverflowMethod = "crop" if console.options.ascii_only else "ellipsis"
            what = Column(no_wrap=True, overflow=cut, max_width=24)
            note = Column(no_wrap=True, overflow=cut, ratio=1)
            self._bar = Progress(
                TextColumn("{task.description}", markup=False, table_column=what),
                BarColumn(bar_width=max(8, min(40, console.width // 8))),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False, table_column=note),
                console=console,
                expand=True,
            )
            self._task = self._bar.add_task(description, total=total, completed=done, note="")

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self.done > self._first and self._has_last_line and exc[0] is None:
            self._line("")

    def advance(self, units: int = 1, note: str = "") -> None:
        """Count `units` as done, and show `note` at the end of the line."""
        self.done += units
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self._last_line >= PLAIN_LINE_EVERY_S:
            self._line(note)
            self._has_last_line = True

    def _line(self, note: str) -> None:
        now = time.monotonic()
        rate = (self.done - self._first) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        eta = f", {left:.0f} s left" if self.done < self.total else f" in {now - self._start:.0f} s"
        say(f"{self.description}: {self.done}/{self.total}{eta}{'  ' + note if note else ''}")
        self._last_line = now
