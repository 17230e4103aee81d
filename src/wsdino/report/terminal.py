"""The summary of an evaluation on the terminal."""

from __future__ import annotations

import re
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wsdino.evaluate.measures import MEASURES, NOTHING
from wsdino.evaluate.results import results_table
from wsdino.progress import say
from wsdino.report.activity import activity_lines, consistency_lines
from wsdino.report.lights import paired_difference
from wsdino.report.words import (
    annotated_text,
    beside_results,
    display_name,
    encodable,
    held_out_number,
    held_out_text,
    normalisation_text,
    number,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Lines are this wide; on narrower terminals intervals get separate lines.
WIDTH = 108
_MAX_NAMES = 5


def summary_table(
    results: Mapping[str, Any], *, name: str = "this run", width: int = WIDTH
) -> Table:
    """Compare the results of a run with those of its baselines.

    Parameters
    ----------
    results
        Results of the run (see :func:`wsdino.evaluate.results.evaluate`), with those of its
        baselines under `baselines`.
    name
        Name of the run.
    width
        Maximum number of columns.

    Returns
    -------
    rich.table.Table
        One row each for the run and its baselines, with each measure (right / queries, percent and
        95 % confidence interval); below it a row with the query's compound left out of a fit on
        labels, and one of chance; a dash if a number is missing.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", overflow="ellipsis")
    for measure in MEASURES:
        table.add_column(f"{measure.name} [95 % CI]", justify="right", no_wrap=True)
    shown = _shown(results, name)
    for index, row in enumerate(results_table(shown)):
        values = [row[measure.key] for measure in MEASURES]
        if width < WIDTH:
            values = [value.replace(" [", "\n[") for value in values]
        # Text, not markup: a run may be called "[a]".
        cells = [Text(cell) for cell in (row["name"], *values)]
        table.add_row(*cells, style="" if index else "bold")
        held_out = shown[row["name"]].get("held_out")
        if held_out and "note" not in held_out:
            table.add_row(
                "  left out of the fit",
                *(held_out_number(held_out, measure) for measure in MEASURES),
            )
        chances = [row[f"{measure.key}_chance"] for measure in MEASURES]
        if set(chances) != {NOTHING}:
            table.add_row("  by chance", *chances, style="dim")
    return table


def print_results(results: Mapping[str, Any], *, name: str) -> None:
    """Print the table and the methods behind it; what was left out goes to standard error.

    Parameters
    ----------
    results, name
        See :func:`summary_table`.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # A pipe has no width.
    width = min(console.width, WIDTH) if sys.stdout.isatty() else WIDTH
    tables = Console(highlight=False, width=width)
    beside = beside_results(results)
    if beside:
        tables.print(f"{results['normalisation']['method']}:")
    name = encodable(name)
    tables.print(summary_table(results, name=name, width=width))
    for method, own in beside.items():
        tables.print(f"\n{method}:")
        tables.print(summary_table(own, name=name, width=width))
    for warning in results.get("warnings") or []:
        text = textwrap.fill(f"Caution: {warning}", width, subsequent_indent="  ")
        console.print(text, style="bold")
    console.print()
    for line in added_lines(results):
        console.print(textwrap.fill(line, width, break_on_hyphens=False, subsequent_indent="  "))
    lines = leakage_lines(results)
    found = results.get("activity")
    lines += activity_lines(found) if found else []
    for line in (*lines, *consistency_lines(results), *_further(results)):
        console.print(textwrap.fill(line, width, break_on_hyphens=False, subsequent_indent="  "))
    used = [f"{method}: {text}" for method, own in beside.items() if (text := held_out_text(own))]
    for line in (*_how(results), *used, *missing_lines(results, name=name)):
        console.print(textwrap.fill(line, width, break_on_hyphens=False))
    for line in left_out_lines(results):
        say(textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False))


def added_lines(results: Mapping[str, Any]) -> list[str]:
    """Say what training added to the weights that it started from, under each normalisation.

    Parameters
    ----------
    results
        See :func:`summary_table`; the baseline `frozen` has the starting weights.

    Returns
    -------
    list of str
        Empty without that baseline. Better or worse is what differs, in NSC or NSCB, by a paired
        95 % interval that excludes zero.
    """
    lines = []
    for own in (results, *beside_results(results).values()):
        start = (own.get("baselines") or {}).get("frozen")
        if not start:
            continue
        parts, lows, highs = [], [], []
        for measure in MEASURES:
            if own.get(measure.key) is None or start.get(measure.key) is None:
                continue
            change = own[measure.key] - start[measure.key]
            if not measure.is_share:
                parts.append(f"{measure.name} {change:+.3f}")
                continue
            paired = paired_difference(own, start, measure=measure.key)
            interval = ""
            if paired:
                _, low, high = (100 * part for part in paired)
                interval = f" [{low:+.1f}, {high:+.1f}]"
                lows.append(low)
                highs.append(high)
            parts.append(f"{measure.name} {100 * change:+.1f} points{interval}")
        if not parts:
            continue
        found = [("better", any(low > 0 for low in lows)), ("worse", any(h < 0 for h in highs))]
        verdict = " and ".join(word for word, holds in found if holds) or "no clear difference"
        lines.append(
            f"trained against {display_name('frozen')}, {own['normalisation']['method']}: "
            f"{verdict} ({', '.join(parts)})"
        )
    return lines


def leakage_lines(results: Mapping[str, Any]) -> list[str]:
    """Say how much of each confounder the profiles tell, where that was measured.

    Parameters
    ----------
    results
        See :func:`summary_table`.

    Returns
    -------
    list of str
        At most one line: lift of neighbours over chance, and probe (and chance), before and after.
    """
    parts: list[str] = []
    samples: dict[str, None] = {}
    for name, own in (results.get("leakage") or {}).items():
        if not own:
            continue
        before = own.get("before") or {}
        part = f"{name} {number(before.get('lift'), 2)} -> {number(own.get('lift'), 2)}"
        probes = [percent((each.get("probe") or {}).get("accuracy")) for each in (before, own)]
        if own.get("probe"):
            chance = percent(own["probe"]["chance"])
            part += f" (probe {probes[0]} -> {probes[1]}, chance {chance})"
        parts.append(part)
        samples |= {own["sample"]: None} if own.get("sample") else {}
    if not parts:
        return []
    what = "lift of the nearest well of another compound over chance, before -> after normalisation"
    some = f" (of {'; '.join(samples)})" if samples else ""
    return [f"technical effects, {what}{some}: {', '.join(parts)}"]


def missing_lines(results: Mapping[str, Any], *, name: str = "this run") -> list[str]:
    """Explain the dashes in the table, and list the other notes of the evaluation.

    Parameters
    ----------
    results, name
        See :func:`summary_table`.

    Returns
    -------
    list of str
        The notes of the run and its baselines; with their names, unless they apply to all.
    """
    shown = _shown(results, name)
    said: dict[str, list[str]] = {}
    for each, own in shown.items():
        notes = [str(note) for note in own.get("notes") or []]
        absent = [
            measure.name
            for measure in MEASURES
            if own.get(measure.key) is None
            and not any(re.search(rf"\b{measure.name}\b", note.split(":")[0]) for note in notes)
        ]
        if absent:
            notes.append(f"the results don't contain {' and '.join(absent)}")
        for note in notes:
            said.setdefault(note, []).append(each)
    return [
        note if len(names) == len(shown) else f"{', '.join(names)}: {note}"
        for note, names in said.items()
    ]


def left_out_lines(results: Mapping[str, Any]) -> list[str]:
    """Report how many treatments each measure leaves out, why, and the first of them.

    Parameters
    ----------
    results
        Results of a run; see :func:`wsdino.evaluate.results.evaluate`.

    Returns
    -------
    list of str
        A line for each reason and the measures that it applies to.
    """
    measures: dict[tuple[str, str], list[str]] = {}
    for measure in MEASURES:
        for row in results.get("left_out", {}).get(measure.key, []):
            measures.setdefault((_treatment(row), str(row["reason"])), []).append(measure.name)
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for (treatment, reason), names in measures.items():
        groups.setdefault((tuple(dict.fromkeys(names)), reason), []).append(treatment)
    total = results.get("num_treatments", 0) + results.get("num_unannotated", 0)
    return [
        f"left out of {_enumerated(names)}: {len(treatments)} of {total} treatments: {reason}: "
        f"{_some(treatments)}"
        for (names, reason), treatments in groups.items()
    ]


def _shown(results: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Any]]:
    """Return the results of the run and its baselines by their names in the table."""
    baselines = results.get("baselines") or {}
    return {name: results} | {display_name(key): value for key, value in baselines.items()}


def _how(results: Mapping[str, Any]) -> list[str]:
    """Describe how profiles, galleries and intervals were made."""
    made, num_in = results["normalisation"], results.get("gallery", {})
    sizes = {m.name: f"{num_in[m.key]} treatments" for m in MEASURES if m.key in num_in}
    intervals = {m.name: m.interval for m in MEASURES if results.get(m.key) is not None}
    profiles = f"{normalisation_text(made)}; aggregation {results['aggregation']}"
    if not any(results.get(m.key) is not None for m in MEASURES):
        return [profiles]
    profiles = (
        f"{results['num_treatments']} treatments{annotated_text(results)}; {profiles}; "
        f"treatments in several batches: {results['multi_batch']}"
    )
    lines = [profiles]
    for term, named in (("gallery", sizes), ("95 % CI", intervals)):
        if named:
            groups = (f"{what} ({_enumerated(own)})" for what, own in _grouped(named).items())
            lines.append(f"{term}: {', '.join(groups)}")
    if held_out := held_out_text(results):
        lines.append(held_out)
    return lines


def _further(results: Mapping[str, Any]) -> list[str]:
    """Describe the other ways to match: not same plate, and several neighbours."""
    parts = []
    if results.get("nscp_total"):
        share = 100 * results["nscp"]
        counts = f"{results['nscp_correct']}/{results['nscp_total']}"
        parts.append(f"not same compound and plate {counts} = {share:.1f} %")
    parts += [
        f"NSC by a vote of {row['k']} neighbours {row['correct']}/{row['total']} = "
        f"{100 * row['correct'] / row['total']:.1f} %"
        for row in (results.get("nearest_k") or {}).get("nsc", [])
        if row["total"]
    ]
    return [", ".join(parts)] if parts else []


def _grouped(names: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the names by value."""
    groups: dict[str, list[str]] = {}
    for name, value in names.items():
        groups.setdefault(value, []).append(name)
    return groups


def _treatment(row: Mapping[str, Any]) -> str:
    dose, moa = row.get("concentration"), row.get("moa")
    named = str(row.get("compound") or "no compound") + ("" if dose is None else f" {dose:g} uM")
    return f"{named} ({moa})" if moa else named


def _some(names: list[str]) -> str:
    shown, more = names[:_MAX_NAMES], len(names) - _MAX_NAMES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _enumerated(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
