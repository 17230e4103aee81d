"""The table that closes an evaluation on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from wsdino.report.words import (
    DASH,
    count_text,
    decimal,
    display_name,
    interval_text,
    is_number,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


def summary_table(results: Mapping[str, Any], *, name: str = "this run") -> Table:
    """Set the numbers of a run beside those of its baselines.

    Parameters
    ----------
    results
        Results of the run (contract 4.5), with those of its baselines under `baselines`.
    name
        What to call the run.

    Returns
    -------
    rich.table.Table
        A row each for the run and its baselines, with NSC, NSCB (right / queries, percent and its
        95 % confidence interval) and mAP; a dash for what is absent.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("NSC % [95 % CI]", "NSCB % [95 % CI]", "mAP"):
        table.add_column(heading, justify="right")
    table.add_row(*_cells(name, results), style="bold")
    for baseline, numbers in (results.get("baselines") or {}).items():
        table.add_row(*_cells(display_name(baseline), numbers))
    return table


def measure_text(results: Mapping[str, Any], measure: str) -> str:
    """Format one accuracy as `k/n  percent  [interval]`, or a dash where it is absent.

    Parameters
    ----------
    results
        Results (contract 4.5).
    measure
        `nsc` or `nscb`.

    Returns
    -------
    str
        For example `101/103  98.1 %  [93.2, 99.5]`.
    """
    if not is_number(results.get(measure)):
        return DASH
    parts = (
        count_text(results, measure),
        percent(results.get(measure)),
        interval_text(results, measure),
    )
    return "  ".join(part for part in parts if part)


def _cells(name: str, results: Mapping[str, Any]) -> list[Text]:
    # Text, not markup: a run may be called "[a]".
    return [
        Text(name),
        Text(measure_text(results, "nsc")),
        Text(measure_text(results, "nscb")),
        Text(decimal(results.get("map"))),
    ]
