"""The first page of the manual as a notebook: it is the page, and it runs."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from helpers_manual import DOCS, REPO, blocks_of

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOK, PAGE = DOCS / "first-screen.ipynb", DOCS / "first-screen.md"


def test_it_is_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS / "making")
    made = import_module("as_notebook").notebook_of(PAGE.read_text(encoding="utf-8"))
    assert NOTEBOOK.read_text(encoding="utf-8") == made, "run python docs/making/as_notebook.py"
    cells = [cell for cell in json.loads(made)["cells"] if cell["cell_type"] == "code"]
    blocks = blocks_of(PAGE)
    # All but the last, which needs plates of the reader's own.
    assert len(cells) == len(blocks) - 1 >= 5
    for cell, block in zip(cells, blocks[:-1], strict=True):
        text = "".join(cell["source"])
        assert text.removeprefix("%%bash -e\n") == block.text.rstrip()
        assert text.startswith("%%bash -e\n") == (block.language == "bash")


def test_it_is_a_valid_notebook() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat isn't installed")
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat isn't installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient isn't installed")
    pytest.importorskip("ipykernel", reason="ipykernel isn't installed")
    # The commands of this checkout, whatever else is installed.
    command = tmp_path / "bin" / "wsdino"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsdino "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(command.parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", str(REPO / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    (tmp_path / "work").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path / "work")}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=resources).execute()
    assert (tmp_path / "work" / "first_run" / "report.html").is_file()
    said = [each.get("text", "") for cell in notebook.cells for each in cell.get("outputs", [])]
    assert any("NSCB" in text and " of " in text for text in said)
