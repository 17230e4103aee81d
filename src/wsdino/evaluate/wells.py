"""Wells, the unit of replicates: what activity is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from wsdino.errors import TableError
from wsdino.profile.rows import control_rows, lengths
from wsdino.tables.columns import COMPOUND, PLATE, TREATMENT, WELL
from wsdino.tables.features import feature_columns, features_of, plate_keys, require_columns
from wsdino.tables.lists import LIST_COLUMNS, require_one_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

_COLUMNS_AT_ONCE = 32


@dataclass(frozen=True)
class Wells:
    """One row for each well; see :func:`wells_of`.

    Attributes
    ----------
    metadata
        n rows with the metadata of each well (of its first site).
    features
        (n, F), float32 if the table's features are, else float64.
    num_without_compound
        Rows of the table that were left out because their compound is not known.
    """

    metadata: pd.DataFrame
    features: NDArray[np.floating]
    num_without_compound: int = 0

    def __len__(self) -> int:
        return len(self.metadata)

    @cached_property
    def treatment(self) -> NDArray[np.intp]:
        """(n,) number of each well's treatment, in order of first appearance."""
        return self._numbers(list(TREATMENT))

    @cached_property
    def plate(self) -> NDArray[np.intp]:
        """(n,) number of each well's plate; a plate is a plate within its batch."""
        return self._numbers(plate_keys(self.metadata))

    @cached_property
    def position(self) -> NDArray[np.intp]:
        """(n,) number of each well's position on its plate."""
        return self._numbers([WELL])

    @cached_property
    def is_control(self) -> NDArray[np.bool_]:
        """(n,) whether a well is a negative control."""
        return control_rows(self.metadata)

    @cached_property
    def norms(self) -> NDArray[np.float64]:
        """(n,) L2 norm of each well's features; see :func:`wsdino.profile.rows.lengths`."""
        return lengths(self.features)

    def unit(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Features of some wells, scaled to norm 1.

        Parameters
        ----------
        rows
            (k,) numbers of wells; none may be zero everywhere.

        Returns
        -------
        ndarray
            (k, F) float64.
        """
        scaled: NDArray[np.float64] = (
            self.features[rows].astype(np.float64) / self.norms[rows, None]
        )
        return scaled

    def take(self, rows: NDArray[np.intp]) -> Wells:
        """Return some of the wells.

        Parameters
        ----------
        rows
            (k,) numbers of wells.

        Returns
        -------
        Wells
        """
        metadata = self.metadata.take(rows).reset_index(drop=True)
        return Wells(metadata, self.features[rows], self.num_without_compound)

    def in_order(self) -> Wells:
        """Return the same wells by plate, position and treatment.

        What is drawn with a seed then doesn't depend on the order of a table's rows.
        """
        by = self.metadata.groupby(well_keys(self.metadata), sort=True, dropna=False)
        number = by.ngroup().to_numpy()
        return self if (np.diff(number) > 0).all() else self.take(np.argsort(number))

    def _numbers(self, columns: list[str]) -> NDArray[np.intp]:
        grouped = self.metadata.groupby(columns, sort=False, dropna=False)
        return np.asarray(grouped.ngroup(), dtype=np.intp)


@dataclass(frozen=True)
class Part:
    """Treatments that are asked in one space of features; see :mod:`wsdino.evaluate.evidence`.

    Attributes
    ----------
    wells
        All n wells; in every part the same ones, in the same order.
    asked
        (n,) those whose treatments are asked here, all of a treatment's or none; no controls.
    """

    wells: Wells
    asked: NDArray[np.bool_]


def wells_of(table: pd.DataFrame, *, purpose: str = "activity") -> Wells:
    """Average the sites of each well.

    Parameters
    ----------
    table
        Sites or wells with `Metadata_Plate`, `Metadata_Well`, `Metadata_Compound`,
        `Metadata_Concentration` and features.
    purpose
        What the wells are for, as an error says it.

    Returns
    -------
    Wells
        In order of first appearance; rows without a compound are left out and counted.

    Raises
    ------
    TableError
        If a column is missing or empty, the rows are treatments, no row has a compound, or as in
        :func:`wsdino.tables.features.features_of`.
    """
    require_columns(table, [PLATE, WELL, *TREATMENT], purpose=purpose)
    require_one_label(table, LIST_COLUMNS, purpose=purpose)
    known = table[COMPOUND].notna().to_numpy()
    if not known.any():
        raise TableError(f"{COMPOUND} is empty in all {len(table)} rows; {purpose} needs it")
    if not known.all():
        table = table[known]
    for name in (PLATE, WELL):
        if table[name].isna().any():
            num = int(table[name].isna().sum())
            raise TableError(
                f"{purpose} needs {name} in every row; it is empty in {num} of {len(table)}"
            )
    names = feature_columns(table)
    features = features_of(table, dtype=None)
    metadata = table.drop(columns=names)
    groups = metadata.groupby(well_keys(table), sort=False, dropna=False)
    codes = np.asarray(groups.ngroup(), dtype=np.intp)
    num_wells = int(codes.max()) + 1
    if num_wells < len(codes):
        features = _means(features, codes, num_wells)
        metadata = metadata.take(np.unique(codes, return_index=True)[1])
    return Wells(metadata.reset_index(drop=True), features, int((~known).sum()))


def well_keys(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell wells apart: two treatments in one are two wells."""
    return [*plate_keys(table), WELL, *TREATMENT]


def groups_of(codes: NDArray[np.intp], rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Gather rows by their code.

    Parameters
    ----------
    codes
        (n,) number of each row's group.
    rows
        (k,) rows to gather, ascending.

    Returns
    -------
    list of ndarray
        Rows of each group that has any, by code, each ascending.
    """
    if not len(rows):
        return []
    order = rows[np.argsort(codes[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def batches_of(
    groups: Sequence[NDArray[np.intp]], *, rows_at_once: int
) -> Iterator[NDArray[np.intp]]:
    """Stack groups of one size, some at a time, so that they are worked on together.

    Parameters
    ----------
    groups
        As :func:`groups_of` returns them.
    rows_at_once
        Rows in a batch, which has one group at least.

    Yields
    ------
    ndarray
        (g, size) positions of the groups' rows, the smallest groups first.
    """
    sizes = np.array([len(rows) for rows in groups], dtype=np.intp)
    for size in np.unique(sizes):
        of_size = np.flatnonzero(sizes == size)
        step = max(1, rows_at_once // int(size))
        for start in range(0, len(of_size), step):
            yield np.stack([groups[number] for number in of_size[start : start + step]])


def _means(
    features: NDArray[np.floating], codes: NDArray[np.intp], num_groups: int
) -> NDArray[np.floating]:
    """Average rows by group, some columns at a time, in double precision."""
    counts = np.bincount(codes, minlength=num_groups)
    sums = sparse.csr_array(
        (np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(num_groups, len(codes))
    )
    means = np.empty((num_groups, features.shape[1]), dtype=features.dtype)
    for start in range(0, features.shape[1], _COLUMNS_AT_ONCE):
        columns = slice(start, start + _COLUMNS_AT_ONCE)
        means[:, columns] = (sums @ features[:, columns].astype(np.float64)) / counts[:, None]
    return means
