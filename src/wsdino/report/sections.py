"""Contents of a report's sections, as plain values for the template.

A section that has nothing to show raises :class:`Omitted` with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsdino.evaluate.confounders import leakage_sentences
from wsdino.evaluate.measures import MEASURES, Measure
from wsdino.evaluate.results import SCHEMA
from wsdino.profile import methods
from wsdino.report.figures import forest_svg
from wsdino.report.lights import paired_difference
from wsdino.report.words import (
    DASH,
    annotated_text,
    beside_results,
    concentration,
    count_text,
    decimal,
    display_name,
    held_out_number,
    held_out_text,
    interval,
    interval_text,
    is_number,
    measure_text,
    number,
    percent,
)
from wsdino.runrecord import RUN, Omitted, RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

# Key and name of the measures that match each query with one neighbour.
MATCHED = {measure.key: measure.name for measure in MEASURES if measure.is_share}
MAX_ROWS = 200
MAX_NAMES = 50
KEYS = [measure.key for measure in MEASURES]
_LEAKAGE = (
    "Neighbour, by chance",
    "Neighbour, before",
    "Neighbour, normalised",
    "Lift, before",
    "Lift, normalised",
    "Probe, by chance",
    "Probe, before",
    "Probe, normalised",
)


def headline(record: RunRecord) -> dict[str, Any]:
    """Results of the run, how they were made, and how they compare with the best baseline."""
    results = record.results
    if not results:
        raise Omitted(record.problems.get("results.json", "results.json is empty"))
    cards = [
        {
            "name": measure.name,
            "long_name": measure.long_name,
            "value": measure_text(results, measure.key),
            "interval": interval_text(results, measure.key),
            "count": _count_words(results, measure),
            "remark": _comparison(record, measure),
            "chance": _chance_text(results, measure),
        }
        for measure in MEASURES
    ]
    # What nothing was matched for has no number, and no treatments either.
    is_matched = any(is_number(results.get(key)) for key in KEYS)
    said = list(results.get("notes", []))
    if results.get("schema") not in (None, SCHEMA):
        said.append(
            f"results.json has schema {results['schema']}, and this version writes {SCHEMA}; they "
            "differ in the gallery of mAP and in what is left out; evaluate again to update it"
        )
    return {
        "cards": cards if is_matched else [],
        "warnings": results.get("warnings", []),
        "method": _method(results, is_matched=is_matched),
        "notes": said,
    }


def _count_words(results: Mapping[str, Any], measure: Measure) -> str:
    """Describe how many queries a measure has, and how many are right; may be empty."""
    count = count_text(results, measure.key)
    return count if measure.is_share or not count else f"{count} queries"


def _chance_text(results: Mapping[str, Any], measure: Measure) -> str:
    """Describe the result of shuffled mechanisms; may be empty."""
    null = results.get(f"{measure.key}_null")
    if not null or not is_number(null.get("mean")):
        return ""
    mean = percent(null["mean"]) if measure.is_share else decimal(null["mean"])
    return f"chance {mean} (p = {number(null.get('p_value'), 2)})"


def _comparison(record: RunRecord, measure: Measure) -> str:
    """Compare a result of the run with that of the best baseline."""
    key = measure.key
    mine = record.results.get(key)
    theirs = {n: r for n, r in record.baselines.items() if is_number(r.get(key))}
    if not is_number(mine) or not theirs:
        return ""
    best = max(theirs, key=lambda name: float(theirs[name][key]))
    value = theirs[best][key]
    order = "above" if mine > value else "below" if mine < value else "level with"
    text = measure_text(theirs[best], key)
    said = f"{order} the best baseline, {display_name(best)} ({text})"
    paired = paired_difference(record.results, theirs[best], measure=key)
    if paired is None:
        return said
    difference, low, high = (100 * part for part in paired)
    return f"{said}: {difference:+.1f} points, paired 95 % interval {low:+.1f} to {high:+.1f}"


def _method(results: Mapping[str, Any], *, is_matched: bool) -> list[tuple[str, str]]:
    """Describe how the profiles were made, as terms and texts."""
    rows = []
    if normalisation := results.get("normalisation"):
        method = normalisation.get("method", "not stated")
        known = {entry.name: entry.help for entry in methods.NORMALISATIONS}
        text = f"{method}: {known[method]}" if method in known else method
        if normalisation.get("fitted_on"):
            count = number(normalisation.get("num_fitted"))
            text += f"; fitted on {normalisation['fitted_on']}, {count} rows"
        if normalisation.get("num_components"):
            text += f"; {normalisation['num_components']} components"
        rows.append(("Normalisation", text))
        if normalisation.get("note"):
            rows.append(("Note", normalisation["note"]))
        if held_out := held_out_text(results):
            rows.append(("Weak labels", held_out))
    if results.get("aggregation") is not None:
        how = results["aggregation"]
        known = {entry.name: entry.help for entry in methods.AGGREGATIONS}
        rows.append(("Aggregation", f"{how}: {known[how]}" if how in known else how))
    if not is_matched:
        return rows
    for key, term, more in (
        ("multi_batch", "Treatments in several batches", ""),
        ("num_treatments", "Treatments", annotated_text(results)),
    ):
        if results.get(key) is not None:
            rows.append((term, f"{results[key]}{more}"))
    if sizes := results.get("gallery"):
        asked = (f"{number(sizes.get(measure.key))} in {measure.name}" for measure in MEASURES)
        rows.append(("Gallery", f"treatments: {', '.join(asked)}"))
    return rows


def comparison(record: RunRecord) -> dict[str, Any]:
    """Compare the run with its baselines: rows of the table, and the forest plot."""
    everyone = record.all_results
    if not any(is_number(r.get(m)) for r in everyone.values() for m in KEYS):
        raise Omitted("no results of the run or of a baseline")
    rows = [row for name, own in everyone.items() for row in _rows(name, own)]
    whole = record.results | {"baselines": record.baselines}
    for own in beside_results(whole).values():
        baselines = own.pop("baselines")
        rows += [row for name, r in ({RUN: own} | baselines).items() for row in _rows(name, r)]
    return {
        "rows": rows,
        "measures": [measure.name for measure in MEASURES],
        "forest": forest_svg(everyone),
        "forest_rows": _forest_rows(everyone),
        "num_baselines": len(record.baselines),
        "has_null": any(record.results.get(f"{m}_null") for m in KEYS),
    }


def _forest_rows(everyone: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Return what the forest plot draws: a row for each point, with its interval."""
    rows: list[list[Any]] = [["profiles from", "measure", "value", "lower end", "upper end"]]
    for name, own in everyone.items():
        for measure in MEASURES:
            if is_number(own.get(measure.key)):
                ends = interval(own, measure.key) or (None, None)
                rows.append([display_name(name), measure.name, own[measure.key], *ends])
    for measure in MEASURES:
        null = next(iter(everyone.values())).get(f"{measure.key}_null")
        if null and is_number(null.get("p95")):
            name = "shuffled mechanisms, 95th percentile"
            rows.append([name, measure.name, null["p95"], None, None])
    return rows


def _rows(name: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the comparison: a model's results, and what is left without the query's labels."""
    row = {
        "name": display_name(name),
        "is_run": name == RUN,
        "measures": [
            (measure_text(results, m), interval_text(results, m), count_text(results, m))
            for m in KEYS
        ],
        "method": _normalisation_name(results),
    }
    held_out = results.get("held_out")
    if not held_out or "note" in held_out:
        return [row]
    left_out = {
        "name": "left out of the fit",
        "is_run": False,
        "measures": [(held_out_number(held_out, measure), "", "") for measure in MEASURES],
        "method": "",
    }
    return [row, left_out]


def _normalisation_name(results: Mapping[str, Any]) -> str:
    return str(results.get("normalisation", {}).get("method", DASH))


def _treatment(row: Mapping[str, Any]) -> tuple[str, str]:
    """Format compound and concentration as displayed, which also makes them comparable."""
    return str(row.get("compound") or "no compound"), concentration(row.get("concentration"))


def leakage(record: RunRecord) -> dict[str, Any]:
    """Show how much of batch, plate, position and cell density the profiles tell."""
    found = record.results.get("leakage") or {}
    rows = [
        {
            "label": label,
            "cells": _before_and_after(values) + _before_and_after(values, key="probe"),
            "num_wells": number(values.get("num_wells"))
            + (f" (of {values['sample']})" if values.get("sample") else ""),
        }
        for label, values in found.items()
        if values
    ]
    if not rows:
        raise Omitted("results.json doesn't have batch and plate leakage")
    return {"heads": _LEAKAGE, "rows": rows, "warnings": leakage_sentences(found)}


def _before_and_after(values: Mapping[str, Any], key: str = "") -> list[str]:
    """Write what neighbours share, with its lift, or a probe tells: chance, before and after."""
    both = [values.get("before") or {}, values]
    own = [(each.get(key) or {}) if key else each for each in both]
    cells = [percent(own[1].get("chance")), *(percent(each.get("accuracy")) for each in own)]
    return cells if key else [*cells, *(number(each.get("lift"), 2) for each in own)]


def _neighbour(row: Mapping[str, Any]) -> tuple[str, str]:
    """Format a neighbour as :func:`_treatment` does a query."""
    named = {name: row.get(f"neighbour_{name}") for name in ("compound", "concentration")}
    return _treatment(named)


def wrong_neighbours(record: RunRecord, row_of: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """List the queries whose nearest neighbour has another mechanism.

    Parameters
    ----------
    record
        Contents of the run folder.
    row_of
        Number of each treatment whose picture may be on the page, by compound and dose.
    """
    tables = []
    for measure, name in MATCHED.items():
        rows = record.results.get(f"{measure}_neighbours")
        if rows is None:
            continue
        wrong = [row for row in rows if row.get("correct") is False]
        lines = [
            {
                "query": " ".join(_treatment(row)).strip(),
                "moa": str(row.get("moa", DASH)),
                "pair": [row_of.get(key) for key in (_treatment(row), _neighbour(row))],
                "neighbour": f"{row.get('neighbour_compound', DASH)} "
                f"{concentration(row.get('neighbour_concentration'))}".strip(),
                "neighbour_moa": str(row.get("neighbour_moa", DASH)),
                "similarity": decimal(row.get("similarity")),
            }
            for row in wrong[:MAX_ROWS]
        ]
        tables.append({"name": name, "rows": lines, "num_wrong": len(wrong), "num": len(rows)})
    if not tables:
        raise Omitted("results.json lists no neighbours")
    if not any(table["num"] for table in tables):
        raise Omitted("nothing was matched by mechanism")
    return {"tables": tables}


def left_out(record: RunRecord) -> dict[str, Any]:
    """List the treatments that are not queries, grouped by reason and mechanism."""
    found = record.results.get("left_out")
    if found is None:
        raise Omitted("results.json doesn't list left-out queries")
    tables = []
    for measure in MEASURES:
        groups: dict[tuple[str, str], list[str]] = {}
        for row in found.get(measure.key, []):
            key = (row.get("moa") or DASH, row.get("reason", "no reason given"))
            groups.setdefault(key, []).append(" ".join(_treatment(row)).strip())
        rows = [
            {
                "moa": moa,
                "reason": reason,
                "queries": queries[:MAX_NAMES],
                "num_more": max(0, len(queries) - MAX_NAMES),
            }
            for (moa, reason), queries in groups.items()
        ]
        num = sum(map(len, groups.values()))
        tables.append(
            {
                "name": measure.name,
                "rows": rows,
                "num": num,
                "is_taken": is_number(record.results.get(measure.key)),
            }
        )
    return {"tables": tables}
