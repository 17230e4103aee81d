"""The coverage of a weak label as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping


def coverage_title(record: Mapping[str, Any]) -> str:
    """Describe in one line the label, its number of sites, and how they are paired.

    Parameters
    ----------
    record
        As for :func:`coverage_table`.
    """
    title = (
        f"weak label {record['label']}: {record['num_labels']} labels, {record['num_sites']} sites"
    )
    if not record["rows"]:
        return f"{title}; nothing is paired"
    return f"{title}; partners from another {record['partner_from']}, else {record['fallback']}"


def coverage_table(record: Mapping[str, Any]) -> Table:
    """Show how many sites have partners, one row per possible requirement.

    Parameters
    ----------
    record
        ``label``, ``num_labels``, ``num_sites``, ``partner_from``, ``fallback`` and the ``rows`` of
        :meth:`wsdino.train.pairing.Pairing.coverage`; no rows if nothing is paired.

    Returns
    -------
    rich.table.Table
        One row for each of ``rows``.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("partner in")
    for heading in ("sites that have one", "labels", "median partners", "sites drawn"):
        table.add_column(heading, justify="right")
    for row in record["rows"]:
        table.add_row(
            row["partner_in"],
            f"{row['sites_with_partner']} ({100 * row['fraction']:.0f} %)",
            str(row["labels_with_partner"]),
            f"{row['median_partners']:g}",
            str(row["sites_drawn"]),
        )
    return table
