"""The coverage of a weak label as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping


def coverage_table(record: Mapping[str, Any]) -> Table:
    """Show how many sites have partners, a row for each possible demand.

    Parameters
    ----------
    record
        ``label``, ``num_labels``, ``num_sites``, ``partner_from``, ``fallback`` and the ``rows`` of
        :meth:`wsdino.train.pairing.Pairing.coverage`; no rows where nothing is paired.

    Returns
    -------
    rich.table.Table
        Its title says which label and how many sites.
    """
    title = (
        f"weak label {record['label']}: {record['num_labels']} labels, {record['num_sites']} sites"
    )
    if record["rows"]:
        title += f"; partners from another {record['partner_from']}, else {record['fallback']}"
    else:
        title += "; nothing is paired"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (
        "partner in",
        "sites that have one",
        "labels",
        "median partners",
        "sites drawn",
    ):
        table.add_column(heading, justify="left" if heading == "partner in" else "right")
    for row in record["rows"]:
        table.add_row(
            row["partner_in"],
            f"{row['sites_with_partner']} ({100 * row['fraction']:.0f} %)",
            str(row["labels_with_partner"]),
            f"{row['median_partners']:g}",
            str(row["sites_drawn"]),
        )
    return table
