"""Aggregation of sites or wells to treatment profiles.

A profile keeps what is constant within its group. Of what varies, the plates and batches are kept,
because matching needs them: `Metadata_Plate` holds the distinct plates in order of first
appearance, joined by `;`, and `Metadata_Batch` either the one batch or, where there are several,
the batch of each of these plates, in the same order. Everything else that varies (well, site) is
left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.profile.methods import find_aggregation
from wsdino.profile.normalise import normalise
from wsdino.tables.columns import BATCH, PLATE, SEPARATOR, TREATMENT
from wsdino.tables.features import (
    feature_columns,
    features_of,
    metadata_of,
    plate_keys,
    require_columns,
    say_averaged,
    split_labels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STATISTICS = ("mean", "median")
ATTRIBUTE = "wsdino"


def aggregate(
    table: pd.DataFrame, *, by: str | Sequence[str] = TREATMENT, method: str = "mean"
) -> pd.DataFrame:
    """Aggregate rows to one profile per group.

    Parameters
    ----------
    table
        Metadata and features of n sites, wells or profiles.
    by
        The metadata columns that make a group; default the treatment (compound, concentration).
        Missing values make a group of their own.
    method
        `mean` or `median` of each feature.

    Returns
    -------
    DataFrame
        One row per group in order of first appearance: metadata as said above, features float64.

    Raises
    ------
    TableError
        If the method is unknown, a column of `by` is missing, a plate or batch is named with a
        `;`, or as in :func:`wsdino.tables.features.features_of`.
    """
    by = [by] if isinstance(by, str) else list(by)
    if method not in STATISTICS:
        msg = f"aggregation method is {method!r}; expected one of {', '.join(STATISTICS)}"
        raise TableError(msg)
    require_columns(table, by, purpose="aggregating")
    names = feature_columns(table)
    matrix = pd.DataFrame(features_of(table), columns=names)
    metadata = metadata_of(table).reset_index(drop=True)
    codes = metadata.groupby(by, sort=False, dropna=False).ngroup().to_numpy()
    grouped = matrix.groupby(codes, sort=True)
    features = grouped.mean() if method == "mean" else grouped.median()
    return pd.concat([_group_metadata(metadata, codes, by), features], axis=1)


def aggregate_treatments(table: pd.DataFrame, *, aggregation: str = "published") -> pd.DataFrame:
    """Aggregate sites to treatment profiles in one of the named ways.

    With `published`, WS-DINO's own, each plate counts alike, however many sites it has. The paper's
    last step, division by the L2 norm, is part of the cosine similarity in
    :func:`wsdino.evaluate.matching.match_moa`.

    Parameters
    ----------
    table
        Normalised sites or wells with `Metadata_Compound` and `Metadata_Concentration`, and
        `Metadata_Plate` for `published`.
    aggregation
        Name of one of :data:`wsdino.profile.methods.AGGREGATIONS`.

    Returns
    -------
    DataFrame
        One row per treatment, see :func:`aggregate`.

    Raises
    ------
    TableError
        If there is no such aggregation, a column is missing, or as in :func:`aggregate`.
    """
    for statistic, group in find_aggregation(aggregation).steps:
        by = [*TREATMENT, *(plate_keys(table) if group == "plate" else [])]
        require_columns(table, by, purpose=f"aggregation {aggregation}")
        table = aggregate(table, by=by, method=statistic)
    return table


def aggregate_published(table: pd.DataFrame) -> pd.DataFrame:
    """Aggregate sites to treatment profiles as WS-DINO's paper does.

    Parameters
    ----------
    table
        See :func:`aggregate_treatments`.

    Returns
    -------
    DataFrame
        That of :func:`aggregate_treatments` with `published`.

    Raises
    ------
    TableError
        See :func:`aggregate_treatments`.
    """
    return aggregate_treatments(table, aggregation="published")


def make_profiles(
    table: pd.DataFrame,
    *,
    normalisation: str = "tvn",
    aggregation: str = "published",
    **options: Any,
) -> pd.DataFrame:
    """Turn embeddings of sites (or wells) into treatment profiles: normalise, then aggregate.

    Parameters
    ----------
    table
        Metadata and features.
    normalisation
        Name of one of :data:`wsdino.profile.methods.NORMALISATIONS`.
    aggregation
        Name of one of :data:`wsdino.profile.methods.AGGREGATIONS`; `published` is what WS-DINO's
        paper does.
    **options
        Of the normalisation, see :func:`wsdino.profile.normalise.fit_normalisation`.

    Returns
    -------
    DataFrame
        One row per treatment. `attrs["wsdino"]` says how it was made (`normalisation`: the info of
        :func:`~wsdino.profile.normalise.normalise`, `aggregation`); Parquet keeps it.

    Raises
    ------
    TableError
        As the two steps do.
    """
    find_aggregation(aggregation)
    require_columns(table, TREATMENT, purpose="making profiles")
    normalised, info = normalise(table, method=normalisation, **options)
    return profiles_of_normalised(normalised, info, aggregation=aggregation)


def profiles_of_normalised(
    normalised: pd.DataFrame, info: dict[str, Any], *, aggregation: str = "published"
) -> pd.DataFrame:
    """Aggregate what :func:`wsdino.profile.normalise.normalise` returned; see `make_profiles`.

    Parameters
    ----------
    normalised, info
        The table and how it was made.
    aggregation
        Name of one of :data:`wsdino.profile.methods.AGGREGATIONS`.

    Returns
    -------
    DataFrame
        As :func:`make_profiles`.

    Raises
    ------
    TableError
        See :func:`aggregate_treatments`.
    """
    say_averaged(normalised, TREATMENT)
    profiles = aggregate_treatments(normalised, aggregation=aggregation)
    profiles.attrs[ATTRIBUTE] = {"normalisation": info, "aggregation": aggregation}
    return profiles


def _group_metadata(
    metadata: pd.DataFrame, codes: NDArray[np.integer], by: list[str]
) -> pd.DataFrame:
    """Return one row of metadata per group, in order of the groups' codes."""
    first = np.unique(codes, return_index=True)[1]
    grouped = metadata.groupby(codes, sort=True)
    constant = {
        str(name): name in by or bool((grouped[name].nunique(dropna=False) == 1).all())
        for name in metadata.columns
    }
    kept = [name for name in constant if constant[name] or name in (PLATE, BATCH)]
    result: pd.DataFrame = metadata[kept].take(first).reset_index(drop=True)
    several = [name for name in (PLATE, BATCH) if name in kept and not constant[name]]
    if several:
        joined = [_join_labels(group) for _, group in grouped]
        for name in several:
            result[name] = [labels[name] for labels in joined]
    return result


def _join_labels(group: pd.DataFrame) -> dict[str, str | None]:
    """Join a group's plates, and its batches: the only one, or one for each plate."""
    plates_of, batches_of = _labels_of(group, PLATE), _labels_of(group, BATCH)
    pairs: dict[tuple[str, str], None] = {}
    for plates, batches in zip(plates_of, batches_of, strict=True):
        num = max(len(plates), len(batches))
        if min(len(plates), len(batches)) > 1 and len(plates) != len(batches):
            msg = (
                f"{PLATE} {SEPARATOR.join(plates)} and {BATCH} {SEPARATOR.join(batches)} don't fit "
                f"together; names may not contain {SEPARATOR!r}, which separates several"
            )
            raise TableError(msg)
        pairs |= dict.fromkeys(zip(_spread(plates, num), _spread(batches, num), strict=True))
    plates, batches = ([label for label in labels if label] for labels in zip(*pairs, strict=True))
    return {PLATE: _one_or_all(plates, distinct=True), BATCH: _one_or_all(batches)}


def _labels_of(group: pd.DataFrame, name: str) -> list[list[str]]:
    """Return the labels in each row of a column; none where there is no such column."""
    values = group[name] if name in group else [None] * len(group)
    return [split_labels(value) for value in values]


def _spread(labels: list[str], num: int) -> list[str]:
    """Repeat an only label, or none at all, `num` times."""
    return labels if len(labels) == num else (labels or [""]) * num


def _one_or_all(labels: list[str], *, distinct: bool = False) -> str | None:
    if distinct or len(set(labels)) == 1:
        labels = list(dict.fromkeys(labels))
    return SEPARATOR.join(labels) or None
