"""What the generated pages share: tables, and docstrings as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsdino.explain import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table as lines of Markdown; cells may contain `|`."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([one_line(cell).replace("|", "\\|") for cell in line] for line in lines)
    return [f"| {' | '.join(line)} |" for line in cells] + [""]
