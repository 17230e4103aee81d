"""A hook of MkDocs: pages and figures that are made from the code when the manual is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import api
import choices
import commands
import figures
import options
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

PAGES = {
    "reference/config.md": options.page,
    "reference/commands.md": commands.page,
    "reference/choices.md": choices.page,
    "reference/python.md": api.page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made to the files that are there."""
    for name, write in PAGES.items():
        files.append(File.generated(config, name, content=write()))
    for name, draw in figures.FIGURES.items():
        files.append(File.generated(config, f"figures/{name}.svg", content=draw()))
    return files
