"""What closes an evaluation on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsdino.evaluate.results import results_table
from wsdino.progress import say
from wsdino.report.words import display_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS = {"nsc": "NSC [95 % CI]", "nscb": "NSCB [95 % CI]", "chance": "chance", "map": "mAP"}


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
        A row each for the run and its baselines, with NSC and NSCB (right / queries, percent and
        95 % confidence interval), NSC's permutation null and mAP; a dash for what is absent.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    baselines = results.get("baselines") or {}
    shown = {name: results} | {display_name(key): value for key, value in baselines.items()}
    for index, row in enumerate(results_table(shown)):
        # Text, not markup: a run may be called "[a]".
        cells = [Text(row[key]) for key in ("name", *_COLUMNS)]
        table.add_row(*cells, style="" if index else "bold")
    return table


def print_results(results: Mapping[str, Any], *, name: str) -> None:
    """Print the table and how it came about; what was left out goes to standard error.

    Parameters
    ----------
    results, name
        See :func:`summary_table`.
    """
    # A pipe has no width: the table keeps its own there instead of being folded at 80 columns.
    width = None if sys.stdout.isatty() else 160
    Console(highlight=False, width=width).print(summary_table(results, name=name))
    made = results["normalisation"]
    how = (
        f"\n{results['num_treatments']} treatments; normalisation {made['method']} fitted on "
        f"{made['fitted_on']}; aggregation {results['aggregation']}; treatments in several "
        f"batches: {results['multi_batch']}"
    )
    Console(highlight=False, markup=False, soft_wrap=True).print(how)
    for left in results["left_out"]["nscb"]:
        dose = left["concentration"]
        treatment = left["compound"] + (f" {dose:g} uM" if dose is not None else "")
        say(f"left out of NSCB: {treatment}: {left['reason']}")
