"""Results by mechanism: a table first, then which are taken for each other."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.profile.rows import directions
from wsdino.report.columns import column_label
from wsdino.report.sections import MATCHED
from wsdino.report.words import DASH, decimal, is_number, number
from wsdino.runrecord import Omitted, RunRecord
from wsdino.tables.columns import MOA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsdino.report.treated import Treated

# Side of a matrix's cell in px, by the number of mechanisms; beyond, the last.
_SIDES = ((16, 26), (30, 22), (60, 15))
_SMALL, _LABEL_PX = 12, 6.2
# Cells with a number in them, up to so many mechanisms.
MAX_NUMBERED = 30
# Shades of a cell: shares of a row are drawn in so many steps, each of them one path.
NUM_SHADES = 5
# Of the labels of a column of targets, the most consistent.
MAX_LABELS = 100


def mechanisms(record: RunRecord, treated: Treated | None) -> dict[str, Any]:
    """Show results per mechanism, and confusion matrices ordered by similarity.

    Parameters
    ----------
    record
        Contents of the run folder.
    treated
        The treatments, whose profiles give the order; None: the answers do.

    Raises
    ------
    Omitted
        There is no confusion matrix with queries.
    """
    found = record.results.get("confusion")
    if not found or not found.get("labels"):
        raise Omitted("results.json has no confusion matrix")
    labels = found["labels"]
    counts: dict[str, NDArray[np.intp]] = {}
    for measure, name in MATCHED.items():
        own = np.asarray(found.get(measure) or [], dtype=object)
        # Without queries there is no confusion matrix.
        if own.shape == (len(labels), len(labels)) and own.sum():
            counts[name] = own.astype(np.intp)
    if not counts:
        raise Omitted("results.json has no confusion matrix with queries that fits its labels")
    order = similarity_order(labels, treated, next(iter(counts.values())))
    precision = record.results.get("map_per_moa", {})
    consistent = _consistency(record)
    q_of = {str(row.get("label")): row["corrected_p_value"] for row in consistent.get(MOA, [])}
    return {
        "names": list(counts),
        "per_moa": [
            (
                label,
                [_right(own, at) for own in counts.values()],
                decimal(precision.get(label)),
                number(q_of.get(label), 2),
                _taken_for(labels, next(iter(counts.values())), at),
            )
            for at, label in enumerate(labels)
        ],
        "targets": [
            {
                "column": column_label(column),
                "rows": [
                    (
                        str(row.get("label")),
                        str(row.get("num_treatments", DASH)),
                        decimal(row.get("mean_average_precision")),
                        number(row["corrected_p_value"], 2),
                    )
                    for row in own[:MAX_LABELS]
                ],
                "num": len(own),
                "num_consistent": sum(bool(row.get("is_consistent")) for row in own),
            }
            for column, own in consistent.items()
            if column != MOA
        ],
        "matrices": [
            {
                "name": name,
                "svg": confusion_svg(own[np.ix_(order, order)], [labels[n] for n in order], name),
                "data": [["", *labels], *([labels[n], *own[n].tolist()] for n in range(len(own)))],
            }
            for name, own in counts.items()
        ],
    }


def _consistency(record: RunRecord) -> dict[str, list[dict[str, Any]]]:
    """Return the labels with a q value by column, the lowest first, then the most alike."""
    found: dict[str, list[dict[str, Any]]] = {}
    for own in record.results.get("consistency", []):
        rows = [row for row in own.get("labels", []) if is_number(row.get("corrected_p_value"))]
        rows.sort(key=_by_consistency)
        found[str(own.get("column"))] = rows
    return found


def _by_consistency(row: dict[str, Any]) -> tuple[float, float]:
    precision = row.get("mean_average_precision")
    return float(row["corrected_p_value"]), -float(precision) if is_number(precision) else 0.0


def similarity_order(
    labels: Sequence[str], treated: Treated | None, counts: NDArray[np.intp]
) -> list[int]:
    """Order mechanisms so that similar ones are next to each other.

    Average linkage with optimal leaf ordering (Bar-Joseph et al. 2001, doi
    10.1093/bioinformatics/17.suppl_1.S22) on cosine distances between the mean profiles of
    mechanisms.

    Parameters
    ----------
    labels
        L mechanisms.
    treated
        The treatments, or None.
    counts
        (L, L) answers by query's mechanism, for where not every mechanism has a profile: then
        mechanisms are as similar as they are often taken for each other.

    Returns
    -------
    list of int
        A permutation of 0 to L - 1.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    num = len(labels)
    if num < 3:
        return list(range(num))
    similar = _profile_similarity(labels, treated)
    if similar is None:
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        similar = (shares + shares.T) / 2
    distance = np.clip(1 - similar, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def _profile_similarity(
    labels: Sequence[str], treated: Treated | None
) -> NDArray[np.float64] | None:
    if treated is None:
        return None
    moas = np.array(treated.moas, dtype=object)
    means = [treated.features[moas == label] for label in labels]
    if not all(len(own) for own in means):
        return None
    profiles = np.stack([own.mean(axis=0) for own in means])
    unit = directions(profiles)
    similar: NDArray[np.float64] = np.round(unit @ unit.T, 12)
    return similar


def confusion_svg(counts: NDArray[np.intp], labels: Sequence[str], name: str) -> str:
    """Draw a confusion matrix, each shade as one path, whatever the number of its cells.

    Parameters
    ----------
    counts
        (L, L): rows are the query's mechanism, columns that of its neighbour.
    labels
        L names, in this order.
    name
        What was matched, for the text alternative.

    Returns
    -------
    str
        SVG.
    """
    num = len(labels)
    side = next((px for most, px in _SIDES if num <= most), _SMALL)
    margin = round(_LABEL_PX * min(34, max(map(len, labels)))) + 8
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    steps = np.ceil(shares * NUM_SHADES).astype(int)
    size = num * side

    def cells(mask: NDArray[np.bool_]) -> str:
        return "".join(
            f"M{margin + x * side} {margin + y * side}h{side}v{side}h-{side}z"
            for y, x in np.argwhere(mask).tolist()
        )

    parts = [f'<rect class="field" x="{margin}" y="{margin}" width="{size}" height="{size}"/>']
    parts += [
        f'<path class="shade" fill-opacity="{0.62 * step / NUM_SHADES:.3f}" d="{path}"/>'
        for step in range(1, NUM_SHADES + 1)
        if (path := cells(steps == step))
    ]
    lines = "".join(
        f"M{margin + n * side} {margin}v{size}M{margin} {margin + n * side}h{size}"
        for n in range(num + 1)
    )
    parts.append(f'<path class="grid" d="{lines}"/>')
    parts.append(f'<path class="diagonal" d="{cells(np.eye(num, dtype=bool) & (counts > 0))}"/>')
    if num <= MAX_NUMBERED:
        parts += [
            f'<text class="number" x="{margin + (x + 0.5) * side:g}" '
            f'y="{margin + (y + 0.5) * side + 4:g}">{counts[y, x]}</text>'
            for y, x in np.argwhere(counts > 0).tolist()
        ]
    for n, label in enumerate(labels):
        short = html.escape(label if len(label) <= 34 else f"{label[:32]}…")
        middle = margin + (n + 0.5) * side + 4
        parts.append(f'<text class="row" x="{margin - 6}" y="{middle:g}">{short}</text>')
        parts.append(
            f'<text transform="translate({middle:g} {margin - 6}) rotate(-90)">{short}</text>'
        )
    right = int(np.trace(counts))
    alt = html.escape(
        f"{name} confusion between {num} mechanisms: {right} of {int(counts.sum())} right; the "
        "numbers are in the table of mechanisms and the list of wrong neighbours"
    )
    whole = margin + size + 2
    return (
        f'<svg class="confusion" viewBox="0 0 {whole} {whole}" role="img" aria-label="{alt}" '
        f'style="width:{whole}px">{"".join(parts)}</svg>'
    )


def _right(counts: NDArray[np.intp], at: int) -> str:
    total = int(counts[at].sum())
    return f"{counts[at, at]}/{total}" if total else DASH


def _taken_for(labels: Sequence[str], counts: NDArray[np.intp], at: int) -> str:
    """Name the mechanisms that a mechanism is most often taken for."""
    row = counts[at].copy()
    row[at] = 0
    order = np.argsort(-row, kind="stable")[:2]
    named = [f"{labels[n]} ({row[n]})" for n in order if row[n]]
    return ", ".join(named) or DASH
