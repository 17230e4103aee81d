"""Sections of a report on the background of a run: training, weak labels, environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsdino.evaluate.measures import MEASURES
from wsdino.report.figures import curve_rows, curve_svg
from wsdino.report.sections import MAX_ROWS
from wsdino.report.style import series_colours
from wsdino.report.verdict import collapse_verdict
from wsdino.report.words import DASH, display_name, interval, is_number, number, percent
from wsdino.runrecord import Omitted, RunRecord
from wsdino.screen.check.table import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Column of metrics.jsonl, title, and the column that bounds it.
CURVES = (
    ("loss", "Loss", None),
    ("kl", "KL (teacher ‖ student), nats", None),
    ("teacher_entropy", "Teacher entropy, nats", "teacher_entropy_max"),
    ("assignment_entropy", "Assignment entropy, nats", "teacher_entropy_max"),
    ("accuracy", "Training accuracy", None),
    ("embedding_std", "Embedding spread", None),
    ("embedding_rank", "Embedding rank (effective)", None),
    ("lr", "Learning rate", None),
)
# Keys of the results that other sections show.
_SHOWN = {
    f"{measure.key}{end}"
    for measure in MEASURES
    for end in ("", "_correct", "_total", "_ci", "_null", "_neighbours")
} | {
    "schema",
    "normalisation",
    "aggregation",
    "multi_batch",
    "num_treatments",
    "num_unannotated",
    "confusion",
    "gallery",
    "left_out",
    "map_per_moa",
    "leakage",
    "activity",
    "consistency",
    "held_out",
    "notes",
    "warnings",
    "nearest_k",
    "beside",
    *(f"nscp{end}" for end in ("", "_correct", "_total", "_ci", "_neighbours")),
}
# Controls are counted as profiles there, not as wells.
_NAMED = {"num_controls": "treatments that are controls"}
# Keys of the results that match queries with their neighbours, and in words.
_WAYS = {
    "nsc": "not same compound (NSC)",
    "nscb": "not same compound and batch (NSCB)",
    "nscp": "not same compound and plate",
}


def training(record: RunRecord) -> dict[str, Any]:
    """Show the training curves of everything trained, and whether it collapsed."""
    if not record.metrics:
        raise Omitted(record.problems.get("metrics.jsonl", "nothing was trained"))
    # A classifier's cross-entropy and a distillation loss share a name but not a scale.
    classifiers = {n: frame for n, frame in record.metrics.items() if "accuracy" in frame}
    others = {n: frame for n, frame in record.metrics.items() if n not in classifiers}
    colours = series_colours(list(record.metrics))
    panels = []
    for column, title, ceiling in CURVES:
        shown = others if column == "loss" and others else record.metrics
        if any(column in frame for frame in shown.values()):
            svg = curve_svg(shown, column, title, colours, ceiling=ceiling)
            panels.append((svg, curve_rows(shown, column, title, ceiling=ceiling)))
    if others and any("loss" in frame for frame in classifiers.values()):
        renamed = {n: f.rename(columns={"loss": "classifier_loss"}) for n, f in classifiers.items()}
        drawn = (renamed, "classifier_loss", "Classifier's cross-entropy")
        panels.append((curve_svg(*drawn, colours), curve_rows(*drawn)))
    return {
        "panels": panels,
        "legend": [(display_name(name), colours[name]) for name in record.metrics],
        # Only self-distillation collapses in these ways.
        "verdicts": [
            (display_name(name), collapse_verdict(frame)) for name, frame in others.items()
        ],
    }


def checks(warnings: Sequence[str] | None) -> dict[str, Any]:
    """Show what looks wrong in the screen, and what was looked for."""
    if warnings is None:
        raise Omitted("there is no store to check")
    return {"warnings": warnings, "checks": [(check.name, check.help) for check in CHECKS]}


def coverage(record: RunRecord) -> dict[str, Any]:
    """Weak-label coverage, as the table that training wrote."""
    found = record.coverage
    if not found:
        raise Omitted(record.problems.get("coverage.json", "coverage.json is empty"))
    if not (rows := found.get("rows")):
        raise Omitted("nothing is paired: coverage.json has no rows")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {
        "label": found.get("label", "not stated"),
        "num_labels": number(found.get("num_labels")),
        "num_sites": number(found.get("num_sites")),
        "partner_from": found.get("partner_from"),
        "fallback": found.get("fallback"),
        "columns": [str(column).replace("_", " ") for column in columns],
        "rows": [[_cell(row.get(column)) for column in columns] for row in rows[:MAX_ROWS]],
        "num_rows": len(rows),
        "max_rows": MAX_ROWS,
    }


def further_numbers(record: RunRecord) -> dict[str, Any]:
    """Show other ways to match, by several neighbours too, and what no other section has."""
    votes = record.results.get("nearest_k", {})
    ways = [
        (name, _ways(record.results, key, votes.get(key, [])))
        for key, name in _WAYS.items()
        if record.results.get(f"{key}_total")
    ]
    sizes = dict.fromkeys(row["k"] for rows in votes.values() for row in rows)
    rest = {key: value for key, value in record.results.items() if key not in _SHOWN}
    rows = [
        (_NAMED.get(key, key.replace("_", " ").replace(".", ": ")), _cell(value))
        for key, value in flatten(rest)
    ]
    if not rows and not ways:
        raise Omitted("results.json holds no further numbers")
    heads = [head for k in sizes for head in (f"vote of {k}", f"any of {k}")]
    return {"heads": ["nearest", "95 % CI", *heads], "ways": ways, "rows": rows[:MAX_ROWS]}


def _ways(results: Mapping[str, Any], key: str, votes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write one way to match: its nearest neighbours, their interval, and votes of several."""

    def share(right: Any, total: Any) -> str:
        known = is_number(right) and is_number(total) and total > 0
        return f"{percent(right / total)} ({right}/{total})" if known else DASH

    pair = interval(results, key)
    between = f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]" if pair else DASH
    found = [share(results.get(f"{key}_correct"), results.get(f"{key}_total")), between]
    for row in votes:
        found += [share(row.get(name), row.get("total")) for name in ("correct", "any")]
    return found


def environment(record: RunRecord) -> dict[str, Any]:
    """Versions, hardware and seeds."""
    if not record.environment:
        raise Omitted(record.problems.get("environment.json", "environment.json is empty"))
    return {"rows": [(key, _cell(value)) for key, value in flatten(record.environment)]}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """List the leaves of nested mappings.

    Parameters
    ----------
    values
        Mapping of mappings of anything; short lists of scalars count as leaves, others are
        skipped.
    prefix
        Put before every key.

    Yields
    ------
    tuple
        Keys joined by dots, and the leaf.
    """
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value
        elif len(value) <= 8 and not any(isinstance(item, dict | list) for item in value):
            yield f"{prefix}{key}", ", ".join(_cell(item) for item in value)


def _cell(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 4) if isinstance(value, int | float) else str(value)
