"""What the generated pages share: tables, and docstrings as Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Sphinx's roles, such as :func:`~wsdino.screen.store.open_store`.
_ROLE = re.compile(r":(?:\w+):`(?P<short>~?)\.?(?P<name>[^`]+)`")


def from_docstring(text: str) -> str:
    """Turn roles and double backticks into Markdown's code."""

    def code(found: re.Match[str]) -> str:
        name = found["name"].removeprefix("wsdino.")
        return f"`{name.rpartition('.')[2] if found['short'] else name}`"

    return re.sub(r"``([^`]+)``", r"`\1`", _ROLE.sub(code, text))


def one_line(text: str) -> str:
    """Join lines."""
    return " ".join(text.split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table as lines of Markdown; cells may contain `|`."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([one_line(cell).replace("|", "\\|") for cell in line] for line in lines)
    return [f"| {' | '.join(line)} |" for line in cells] + [""]
