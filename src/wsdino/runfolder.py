"""The layout of a run folder, and which of its products are current."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from wsdino.atomic import sweep, visible, write_text
from wsdino.contents import Digests, digest_of
from wsdino.errors import OutputError
from wsdino.outside import read_json
from wsdino.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

CONFIG, STAMPS, SCHEMA = "config.yaml", ".stages.json", 2
# Reading less than this takes no time; a folder with nothing left to do is not written to.
WORTH_REMEMBERING = 2**24
BEFORE_CONFIG = {"screen", "store"}
NORMALISATION = "normalisation.npz"


@dataclass(frozen=True)
class ModelPaths:
    """The files of a model's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        """Channels, architecture, input scaling and tiles."""
        return self.folder / "config.json"

    @property
    def weights(self) -> Path:
        """All weights of its networks."""
        return self.folder / "model.safetensors"

    @property
    def card(self) -> Path:
        """The model card of an exported model."""
        return self.folder / "README.md"

    @property
    def normalisation(self) -> Path:
        """The normalisation that its run fitted on its embeddings, beside an exported model."""
        return self.folder / NORMALISATION

    @property
    def onnx(self) -> tuple[Path, ...]:
        """The ONNX graphs that are there: one for each size of tiles."""
        return tuple(sorted(self.folder.glob("model*.onnx")))

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that such a folder may hold."""
        return (self.config, self.weights, self.card, self.normalisation, *self.onnx)


@dataclass(frozen=True)
class RunPaths:
    """The files of a run folder; the folder of a baseline has the same ones."""

    folder: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.folder / CONFIG

    @property
    def environment(self) -> Path:
        """Versions, hardware, commit and seed."""
        return self.folder / "environment.json"

    @property
    def coverage(self) -> Path:
        """How many sites have partners."""
        return self.folder / "coverage.json"

    @property
    def store(self) -> Path:
        """The screen's store, unless the config names another."""
        return self.folder / "store"

    @property
    def screen(self) -> Path:
        """The demo's simulated screen."""
        return self.folder / "screen"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Records of training, one JSON object per line."""
        return self.folder / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Folder of the same records for TensorBoard."""
        return self.folder / "tensorboard"

    @property
    def model(self) -> ModelPaths:
        """The trained model."""
        return ModelPaths(self.folder / "model")

    @property
    def embeddings(self) -> Path:
        """A row for each site."""
        return self.folder / "embeddings.parquet"

    @property
    def profiles(self) -> Path:
        """A row for each treatment."""
        return self.folder / "profiles.parquet"

    @property
    def normalisation(self) -> Path:
        """The fitted normalisation that made the profiles."""
        return self.folder / NORMALISATION

    @property
    def results(self) -> Path:
        """Results of the run and of its baselines."""
        return self.folder / "results.json"

    @property
    def activity(self) -> Path:
        """Activity of each treatment, as CSV."""
        return self.folder / "activity.csv"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    def baseline(self, name: str) -> RunPaths:
        """Return the paths of a baseline."""
        return RunPaths(self._baselines / name)

    @property
    def baselines(self) -> list[RunPaths]:
        """Paths of all existing baselines, by name."""
        root = self._baselines
        found = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        return [RunPaths(path) for path in found]

    @property
    def _baselines(self) -> Path:
        return self.folder / "baselines"


class _File(TypedDict):
    state: list[int] | None
    digest: str


class _Stamp(TypedDict, total=False):
    options: str
    sources: dict[str, str | None]
    products: dict[str, str | None]


class _Books(TypedDict):
    """What STAMPS holds: the digests of files, and what each finished stage was made from."""

    schema: int
    files: dict[str, _File]
    stages: dict[str, _Stamp]


class RunFolder:
    """A run folder that knows which of its products are current.

    A stage is done if its products still hold what it wrote, and neither its options nor the
    contents of its sources have changed. Nothing here depends on a clock.

    Parameters
    ----------
    path
        The folder: absent, empty, or a run folder. Nothing is written until a stage runs.

    Attributes
    ----------
    paths : RunPaths
        Its files.
    before_work
        Called before a stage starts work, to record the environment.

    Raises
    ------
    OutputError
        If the folder holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.paths = path, RunPaths(path)
        self.before_work: Callable[[], object] = lambda: None
        found = visible(path)
        # A run that was stopped early holds its screen and store but no config yet.
        shown = {name for name in found if not name.startswith(".")}
        is_run = bool({CONFIG, STAMPS} & found) or shown <= BEFORE_CONFIG
        if (path.exists() and not path.is_dir()) or not is_run:
            raise OutputError(
                f"{path}: exists and is not a run folder (no {CONFIG}); give --out a new or empty "
                "folder"
            )

    def sweep(self) -> None:
        """Remove partial files of killed processes; the caller holds the folder's lock."""
        sweep(self.path)

    def note(self, path: Path, text: str) -> None:
        """Write a text file that no stage makes; stages that read it run again if it has changed.

        Raises
        ------
        OutputError
            If the path can't be written.
        """
        if write_text(path, text):
            books = self._read_books()
            if _forget_what_follows(books, {path.relative_to(self.path).as_posix()}):
                self._write_books(books)

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
        """Run a stage unless it is done.

        In a job of several processes the first one decides, and keeps the folder's records.

        Parameters
        ----------
        stage
            Name, for progress messages.
        products, sources
            Files in the folder that the stage writes and reads. A source may be absent.
        options
            What the stage depends on besides its sources; must be JSON-serialisable.
        work
            Writes the products.
        together
            Whether all processes of a job work; otherwise the first works and the others wait.
        """
        from wsdino.job import only_first

        chosen, products, sources = digest_of(options), list(products), list(sources)
        stamp: dict[str, Any] = {"options": chosen}

        def is_done() -> bool:
            books = self._read_books()
            digests = Digests(self.path, books["files"])
            before = books["stages"].get(stage, {})
            done = (
                before.get("options") == chosen
                and before.get("sources") == _contents(digests, sources)
                and before.get("products") == (found := _contents(digests, products))
                and None not in found.values()
            )
            if done and digests.num_bytes_read > WORTH_REMEMBERING:
                self._remember(books | {"files": digests.known})
            return done

        if only_first(is_done):
            say(f"{stage}: already done")
            return
        say(f"{stage}: start")

        def begin() -> None:
            self.before_work()
            # A stage has no stamp while it runs, so that one stopped halfway counts as not done;
            # nor have the stages that depend on it, even if it makes the same again.
            books = self._read_books()
            books["stages"].pop(stage, None)
            digests = Digests(self.path, books["files"])
            _forget_what_follows(books, {digests.name(product) for product in products})
            # Digests are taken first: a file that changes meanwhile is not what the stage read.
            stamp["sources"] = _contents(digests, sources)
            self._write_books(books | {"files": digests.known})

        def end() -> None:
            books = self._read_books()
            digests = Digests(self.path, books["files"])
            stamp["products"] = _contents(digests, products)
            books["stages"][stage] = stamp
            self._write_books(books | {"files": digests.known})

        only_first(begin)
        if together:
            work()
        else:
            only_first(work)
        only_first(end)

    def _read_books(self) -> dict[str, Any]:
        return _read_books(self.path)

    def _write_books(self, books: dict[str, Any]) -> None:
        write_text(self.path / STAMPS, json.dumps(books, indent=1) + "\n")

    def _remember(self, books: dict[str, Any]) -> None:
        """Save the next call some reading; if this can't be written, it reads again."""
        try:
            self._write_books(books)
        except OutputError:
            return


def is_made_from(folder: Path, product: Path, source: Path) -> bool:
    """Whether a product in a run folder was made from the current version of another file in it.

    Parameters
    ----------
    folder
        The run folder.
    product, source
        Files in it, with any number of stages between them.

    Returns
    -------
    bool
        False if the folder has no records, or a file has changed since.
    """
    books = _read_books(folder)
    digests = Digests(folder, books["files"])

    def follows(name: str) -> bool:
        found = digests.of(folder / name)
        for stamp in books["stages"].values():
            if found is None or (stamp.get("products") or {}).get(name) != found:
                continue
            sources = stamp.get("sources") or {}
            current = all(digests.of(folder / each) == known for each, known in sources.items())
            if current and (digests.name(source) in sources or any(map(follows, sources))):
                return True
        return False

    return follows(digests.name(product))


def _read_books(folder: Path) -> dict[str, Any]:
    """Read the records of files and stages; if they are damaged, everything is made again."""
    empty: dict[str, Any] = {"schema": SCHEMA, "files": {}, "stages": {}}
    with suppress(OutputError):
        books: dict[str, Any] = read_json(folder / STAMPS, OutputError, _Books)
        if books["schema"] == SCHEMA:
            return books
    return empty


def _contents(digests: Digests, paths: list[Path]) -> dict[str, str | None]:
    return {digests.name(path): digests.of(path) for path in paths}


def _forget_what_follows(books: dict[str, Any], products: set[str]) -> bool:
    """Remove the stamps of stages that read any of the products; return whether there were any."""
    stages = books["stages"]
    following = [
        name for name, stamp in stages.items() if products & set(stamp.get("sources") or ())
    ]
    for name in following:
        del stages[name]
    return bool(following)
