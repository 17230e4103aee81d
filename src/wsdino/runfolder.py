"""A run folder that knows which of its products are up to date."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from wsdino.errors import OutputError
from wsdino.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

CONFIG, STAMPS = "config.yaml", ".stages.json"
BEFORE_CONFIG = {"screen", "store"}


class RunFolder:
    """A run folder that knows which of its products are up to date.

    A stage is done if its products are there, it was made with the same options, and none of what
    it was made from is newer.

    Parameters
    ----------
    path
        The folder: absent, empty, or a run folder. Nothing is written until a stage is made.

    Attributes
    ----------
    before_work
        Called before a stage does something, so that what was made where can be noted.

    Raises
    ------
    OutputError
        If the folder holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before_work: Callable[[], None] = lambda: None
        found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        visible = {name for name in found if not name.startswith(".")}
        # A run that was stopped early holds its screen and store, and no config yet.
        is_run = bool({CONFIG, STAMPS} & found) or visible <= BEFORE_CONFIG
        if (path.exists() and not path.is_dir()) or not is_run:
            raise OutputError(
                f"{path}: is there and is no run folder (no {CONFIG}); give --out a new or empty "
                "folder"
            )

    def make(
        self,
        stage: str,
        *,
        products: Iterable[Path],
        sources: Iterable[Path],
        options: object,
        work: Callable[[], None],
        together: bool = False,
    ) -> None:
        """Do the work of a stage unless it is done.

        In a job of several processes the first one decides, and keeps the folder's books.

        Parameters
        ----------
        stage
            Name, for the person who waits.
        products, sources
            Files that the stage writes and reads. A source that is absent is passed over.
        options
            What the stage depends on beside its sources; must be serialisable as JSON.
        work
            Writes the products.
        together
            Whether all processes of a job work; else the first does and the others wait.
        """
        from wsdino.job import only_first

        stamp = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        products, sources = list(products), list(sources)

        def is_done() -> bool:
            return (
                self._stamps().get(stage) == stamp
                and all(product.exists() for product in products)
                and _newest(sources) <= min(product.stat().st_mtime_ns for product in products)
            )

        if only_first(is_done):
            say(f"{stage}: done before")
            return
        say(f"{stage}: start")

        def begin() -> None:
            self.before_work()
            # Without a stamp while it works, a stage that is stopped halfway counts as not done.
            self._write_stamps(
                {name: value for name, value in self._stamps().items() if name != stage}
            )

        only_first(begin)
        if together:
            work()
        else:
            only_first(work)
        only_first(lambda: self._write_stamps(self._stamps() | {stage: stamp}))

    def _stamps(self) -> dict[str, str]:
        path = self.path / STAMPS
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def _write_stamps(self, stamps: dict[str, str]) -> None:
        write_text(self.path / STAMPS, json.dumps(stamps, indent=1) + "\n")


def _newest(paths: list[Path]) -> int:
    return max((path.stat().st_mtime_ns for path in paths if path.exists()), default=0)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all.

    A file that says the same already is left alone, so that what was made from it stays up to date.

    Parameters
    ----------
    path
        The file; its folder is made where it is missing.
    text
        What it is to hold.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}") from error
