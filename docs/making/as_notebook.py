"""Write the manual's first page as a notebook: `python docs/making/as_notebook.py`.

The page is the original. A block of `bash` becomes a cell that stops at the first command that
fails, one of `python` a cell as it is, and all else text. What needs something of the reader's own
is shown and not run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
PAGE, NOTEBOOK = DOCS / "first-screen.md", DOCS / "first-screen.ipynb"
# Needs plates of the reader's own.
SHOWN = "## With your own plates"
_BLOCK = re.compile(r"^```(?P<language>bash|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook_of(page: str) -> str:
    """Turn a page into a notebook, JSON in nbformat 4.5 without outputs."""
    runs, shown, rest = page.partition(SHOWN)
    cells: list[dict[str, Any]] = []
    end = 0
    for block in _BLOCK.finditer(runs):
        cells.append(_cell("markdown", runs[end : block.start()]))
        first = "%%bash -e\n" if block["language"] == "bash" else ""
        cells.append(_cell("code", first + block["text"]))
        end = block.end()
    cells.append(_cell("markdown", runs[end:] + shown + rest))
    cells = [cell for cell in cells if cell["source"]]
    for number, cell in enumerate(cells):
        cell["id"] = f"part-{number}"
    whole = {
        "cells": cells,
        "metadata": {"kernelspec": _KERNEL, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.strip().splitlines(keepends=True)}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook_of(PAGE.read_text()))
