"""Stages are done by what their products, sources and options hold, whatever clocks say."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from wsdino.runfolder import RunFolder, RunPaths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMES = {"1970": 0, "2031": 1_930_000_000_000_000_000}


class Chain:
    """A folder with a source and two stages: `a` is the source in capitals, `b` is `a` twice."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path, self.done = path, list[str]()
        self.source, self.a, self.b = (path / name for name in ("source", "a", "b"))
        self.fails = False
        if not self.source.exists():
            self.source.write_text("x", encoding="utf-8")

    def run(self, option: int = 0) -> list[str]:
        """Return the stages that worked."""
        self.done, folder = [], RunFolder(self.path)

        def make(name: str, source: Path, product: Path, work: Callable[[str], str]) -> None:
            def write() -> None:
                self.done.append(name)
                product.write_text(work(source.read_text(encoding="utf-8")), encoding="utf-8")
                if self.fails and name == "b":
                    raise RuntimeError

            folder.make(name, products=[product], sources=[source], options=option, work=write)

        make("a", self.source, self.a, str.upper)
        make("b", self.a, self.b, lambda text: 2 * text)
        return self.done


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    made = Chain(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").touch()
    assert made.run() == ["a", "b"]
    assert made.run() == []
    return made


@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("name", ["source", "a", "b"])
def test_other_times_alone_change_nothing(chain: Chain, name: str, time: int) -> None:
    os.utime(chain.path / name, ns=(time, time))
    assert chain.run() == []
    shutil.copytree(chain.path, chain.path.with_name("copy"))
    assert Chain(chain.path.with_name("copy")).run() == []


@pytest.mark.parametrize("time", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize(
    ("name", "remade"), [("source", ["a", "b"]), ("a", ["a", "b"]), ("b", ["b"])]
)
def test_what_was_replaced_is_seen_whatever_its_time(
    chain: Chain, name: str, remade: list[str], time: int
) -> None:
    (chain.path / name).write_text("y", encoding="utf-8")
    os.utime(chain.path / name, ns=(time, time))
    assert chain.run() == remade
    expected = "YY" if name == "source" else "XX"
    assert chain.b.read_text(encoding="utf-8") == expected
    assert chain.run() == []


@pytest.mark.parametrize(("name", "remade"), [("a", ["a", "b"]), ("b", ["b"])])
def test_what_was_deleted_is_made_with_what_follows(
    chain: Chain, name: str, remade: list[str]
) -> None:
    (chain.path / name).unlink()
    assert chain.run() == remade


def test_other_options_and_back(chain: Chain) -> None:
    assert chain.run(option=1) == ["a", "b"]
    assert chain.run(option=0) == ["a", "b"]


def test_what_follows_from_a_remade_product_is_remade_after_a_stop_too(chain: Chain) -> None:
    chain.a.unlink()
    chain.fails = True
    with pytest.raises(RuntimeError):
        chain.run()
    chain.fails = False
    assert chain.run() == ["b"]


@pytest.mark.parametrize(
    "books",
    ["", "{", "[]", "null", "{}", '{"schema": 2}', '{"train": "0123"}',
     '{"schema": 2, "files": {"a": 1}, "stages": {}}',
     '{"schema": 2, "files": {}, "stages": {"a": {"options": 0, "sources": []}}}',
     '{"schema": 2, "files": {}, "stages": {"b": {"sources": "a"}}}'],
)  # fmt: skip
def test_damaged_books_make_everything_anew(chain: Chain, books: str) -> None:
    (chain.path / ".stages.json").write_text(books, encoding="utf-8")
    assert chain.run() == ["a", "b"]
    assert chain.run() == []


def test_a_note_that_changes_remakes_what_shows_it(tmp_path: Path) -> None:
    folder, done = RunFolder(tmp_path / "run"), list[int]()
    note, page = folder.paths.config, folder.paths.report

    def run(text: str) -> int:
        def work() -> None:
            done.append(1)
            page.write_text(note.read_text(encoding="utf-8"), encoding="utf-8")

        folder.note(note, text)
        folder.make("report", products=[page], sources=[note], options={}, work=work)
        return len(done)

    assert [run("1"), run("1"), run("2"), run("1")] == [1, 1, 2, 3]
    note.unlink()
    assert run("1") == 4


def test_books_hold_names_and_no_places(chain: Chain) -> None:
    text = (chain.path / ".stages.json").read_text(encoding="utf-8")
    assert str(chain.path) not in text
    assert set(json.loads(text)["files"]) == {"source", "a", "b"}


def test_a_baseline_has_the_files_of_a_run(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert paths.baselines == []
    baseline = paths.baseline("dino")
    assert baseline.model.weights == tmp_path / "baselines" / "dino" / "model" / "model.safetensors"
    baseline.folder.mkdir(parents=True)
    assert paths.baselines == [baseline]
