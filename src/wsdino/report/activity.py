"""Activity in words and tables: for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from wsdino.counting import counted
from wsdino.report.words import DASH, concentration, decimal, is_number, number, percent
from wsdino.runrecord import Omitted
from wsdino.tables.columns import COMPOUND, CONCENTRATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from wsdino.runrecord import RunRecord

MAX_ROWS = 200
_COMPARED = (("nsc", "NSC"), ("nscb", "NSCB"), ("map", "mAP"), ("activity", "active"))
_HOW = (
    "paired over the treatments in common; p: McNemar's exact test; 95 % CI: bootstrap over "
    "compounds"
)
_PLACES = (("other_position", "other positions"), ("same_position", "the same position"))


def activity_lines(found: Mapping[str, Any]) -> list[str]:
    """Say in a line each what was found.

    Parameters
    ----------
    found
        What :func:`wsdino.evaluate.evidence.activity` returned.

    Returns
    -------
    list of str
        Activity, replicates, retrieval, doses, and then the notes.
    """
    lines = []
    if found.get("num_tested"):
        lines.append(
            f"active: {found['num_active']} of {found['num_tested']} treatments at a false "
            f"discovery rate of {100 * found['fdr']:g} % (mAP of replicates against the controls "
            f"of their plate {found['map']:.3f}; {found['num_control_wells']} control wells)"
        )
    replicating = found.get("replicating") or {}
    shares = [
        f"{percent(own['share'])} ({own['num_above']}/{replicating['num_treatments']}) against "
        f"wells at {name}"
        for key, name in _PLACES
        if (own := replicating.get(key))
    ]
    if shares:
        lines.append(f"percent replicating: {', '.join(shares)}")
    retrieval = found.get("retrieval")
    if retrieval:
        interval = retrieval["map_ci"]
        between = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        some = f"; {retrieval['sample']}" if retrieval["sample"] else ""
        lines.append(
            f"replicates found on other plates: mAP {retrieval['map']:.3f}{between}, by chance "
            f"{retrieval['map_by_chance']:.3f}; first in {percent(retrieval['first'])} of "
            f"{retrieval['num_queries']} wells{some}"
        )
    curves = found.get("doses") or []
    if curves:
        num = sum(_is_rising(curve) for curve in curves)
        lines.append(
            f"distance to controls rises with the dose for {num} of {len(curves)} compounds with a "
            "curve (the interval of the top lies above the bottom and above controls)"
        )
    return [*lines, *(str(note) for note in found.get("notes") or [])]


def consistency_lines(results: Mapping[str, Any]) -> list[str]:
    """Say for each column of labels how many are consistent.

    Parameters
    ----------
    results
        What :func:`wsdino.evaluate.results.evaluate` returned.

    Returns
    -------
    list of str
        A line for each column with labels that two compounds have.
    """
    return [
        f"consistent: {found['num_consistent']} of {found['num_labels']} labels of "
        f"{found['column']} at a false discovery rate of {100 * found['fdr']:g} % "
        f"(mean over labels of the mAP among all treatments that have one: {found['map']:.3f})"
        for found in results.get("consistency") or []
        if found["num_labels"]
    ]


def _plain_table(width: int) -> Table:
    """Make a table without lines, as many columns of the terminal wide."""
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), width=width)


def treatments_table(found: Mapping[str, Any], *, num_rows: int, width: int) -> Table:
    """List the treatments, the most active first.

    Parameters
    ----------
    found
        What :func:`wsdino.evaluate.evidence.activity` returned.
    num_rows
        How many to show.
    width
        Columns of the terminal.

    Returns
    -------
    rich.table.Table
    """
    table = _plain_table(width)
    table.add_column("treatment", overflow="ellipsis", no_wrap=True, ratio=1)
    for name in ("wells", "mAP", "p", "q", "active", "replicates", "distance"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in ranked(found["treatments"])[:num_rows]:
        cells = _cells(row)
        table.add_row(Text(" ".join([cells["compound"], cells["dose"]]).strip()), *cells["rest"])
    return table


def ranked(treatments: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Order treatments as :func:`most_active` has it.

    Parameters
    ----------
    treatments
        Rows of :func:`wsdino.evaluate.evidence.activity`.

    Returns
    -------
    list of dict
    """
    return sorted(treatments, key=most_active)


def most_active(row: Mapping[str, Any]) -> tuple[float, float, float, str, float]:
    """Sort key of treatments, the most active first and those without a test last.

    By q value, of equal ones by mean average precision, then by distance to controls; what is alike
    in all of them by compound and concentration.

    Parameters
    ----------
    row
        A row of :func:`wsdino.evaluate.evidence.activity`, or the name of a treatment alone.

    Returns
    -------
    tuple
    """

    def or_else(value: Any, default: float) -> float:
        return float(value) if is_number(value) else default

    return (
        or_else(row.get("corrected_p_value"), 2.0),
        -or_else(row.get("mean_average_precision"), 0.0),
        -or_else(row.get("distance"), 0.0),
        str(row.get(COMPOUND)),
        or_else(row.get(CONCENTRATION), -1.0),
    )


def activity_section(record: RunRecord) -> dict[str, Any]:
    """Show how many treatments differ from controls, and which."""
    found = record.results.get("activity")
    if found is None:
        raise Omitted("results.json has no activity; it was written before there was any")
    if not found.get("treatments"):
        raise Omitted("; ".join(found.get("notes") or ["results.json has no activity"]))
    curves = found.get("doses", [])
    return {
        "lines": [*activity_lines(found), *consistency_lines(record.results)],
        "curves": [_curve(curve) for curve in curves[:MAX_ROWS]],
        "num_curves": counted(len(curves), "compound"),
        "is_cut": len(curves) > MAX_ROWS,
    }


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    tested = is_number(row.get("p_value"))
    return {
        "compound": str(row.get("Metadata_Compound") or DASH),
        "dose": concentration(row.get("Metadata_Concentration")),
        "moa": str(row.get("Metadata_MoA") or ""),
        "rest": [
            number(row.get("num_wells")),
            decimal(row.get("mean_average_precision")),
            number(row.get("p_value"), 2),
            number(row.get("corrected_p_value"), 2),
            ("yes" if row.get("is_active") else "no") if tested else DASH,
            decimal(row.get("replicate_correlation")),
            number(row.get("distance"), 3),
        ],
    }


def _curve(curve: Mapping[str, Any]) -> dict[str, str]:
    interval = curve.get("ec50_ci")
    return {
        "compound": str(curve["compound"]),
        "doses": f"{curve['doses'][0]:g} to {curve['doses'][-1]:g}",
        "top": f"{number(curve['top'])} [{number(curve['top_ci'][0])}, "
        f"{number(curve['top_ci'][1])}]",
        "ec50": number(curve["ec50"], 2)
        + (f" [{number(interval[0], 2)}, {number(interval[1], 2)}]" if interval else "")
        + (" (at the edge)" if curve.get("ec50_at_edge") else ""),
        "r_squared": f"{curve['r_squared']:.2f}",
    }


def _is_rising(curve: Mapping[str, Any]) -> bool:
    """Whether the interval of the top lies above the curve's own bottom, and above controls."""
    return bool(curve["ec50"] is not None and curve["top_ci"][0] > max(curve["bottom"], 1.0))


def neighbours_table(found: pd.DataFrame, *, width: int) -> Table:
    """List the neighbours of a compound's treatments.

    Parameters
    ----------
    found
        What :func:`wsdino.evaluate.neighbours.neighbours` returned.
    width
        Columns of the terminal.

    Returns
    -------
    rich.table.Table
    """
    table = _plain_table(width)
    for name in ("treatment", "neighbour", "mechanism"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("same plate", no_wrap=True)
    words = {True: "yes", False: "no", None: DASH}
    for row in found.to_dict("records"):
        own = f"{row['compound']} {concentration(row['concentration'])}".strip()
        other = f"{row['neighbour_compound']} {concentration(row['neighbour_concentration'])}"
        moa = "control" if row["is_control"] else row["neighbour_moa"]
        table.add_row(
            Text(own if row["rank"] == 1 else ""),
            Text(other.strip()),
            Text(moa if isinstance(moa, str) else DASH),
            decimal(row["similarity"]),
            words[row["shares_plate"]],
        )
    return table


def comparison_table(found: Sequence[Mapping[str, Any]], *, width: int) -> Table:
    """List the differences of several runs from the first.

    Parameters
    ----------
    found
        What :func:`wsdino.judging.compare_runs` returned.
    width
        Columns of the terminal.

    Returns
    -------
    rich.table.Table
    """
    table = _plain_table(width)
    table.add_column("compared with the first", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("", no_wrap=True)
    for name in ("first", "this", "difference [95 % CI]", "gained", "lost", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        for key, name in _COMPARED:
            own = each.get(key)
            if own is None:
                continue
            is_share = "gained" in own
            write = percent if is_share else decimal
            unit = 100 if is_share else 1
            digits = 1 if is_share else 3
            interval = own["ci"]
            between = ", ".join(f"{unit * bound:+.{digits}f}" for bound in interval or ())
            table.add_row(
                Text(str(each["second"])),
                f"{name} ({own['total']})",
                write(own["first"]),
                write(own["second"]),
                f"{unit * own['difference']:+.{digits}f}" + (f" [{between}]" if between else ""),
                str(len(own["gained"])) if is_share else "",
                str(len(own["lost"])) if is_share else "",
                number(own["p_value"], 2) if is_share else "",
            )
    return table


def comparison_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what each run gained and lost over the first, and say what to keep in mind.

    Parameters
    ----------
    found
        What :func:`wsdino.judging.compare_runs` returned.

    Returns
    -------
    list of str
    """
    lines = []
    for each in found:
        for key, name in _COMPARED:
            own = each.get(key) or {}
            for what in ("gained", "lost"):
                names = [
                    f"{row['compound']} {concentration(row['concentration'])}".strip()
                    for row in own.get(what, [])
                ]
                if names:
                    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                    lines.append(f"{each['second']}: {name}, {what}: {', '.join(names[:10])}{more}")
        only_second, only_first = each.get("only_second", 0), each.get("only_first", 0)
        if only_second or only_first:
            lines.append(
                f"{each['second']}: left out: {counted(only_second, 'treatment')} that it alone "
                f"has, {only_first} that only the first has"
            )
        lines += each["notes"]
    return [*dict.fromkeys(lines), _HOW]
