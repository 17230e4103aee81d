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
from wsdino.profile.normalise import normalise
from wsdino.tables.columns import BATCH, PLATE, SEPARATOR, TREATMENT
from wsdino.tables.features import (
    feature_columns,
    features_of,
    metadata_of,
    require_columns,
    say_averaged,
    split_labels,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

METHODS = ("mean", "median")
AGGREGATIONS = ("published", *METHODS)
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
    if method not in METHODS:
        msg = f"aggregation method is {method!r}; expected one of {', '.join(METHODS)}"
        raise TableError(msg)
    require_columns(table, by, purpose="aggregating")
    names = feature_columns(table)
    matrix = pd.DataFrame(features_of(table), columns=names)
    metadata = metadata_of(table).reset_index(drop=True)
    codes = metadata.groupby(by, sort=False, dropna=False).ngroup().to_numpy()
    grouped = matrix.groupby(codes, sort=True)
    features = grouped.mean() if method == "mean" else grouped.median()
    return pd.concat([_group_metadata(metadata, codes, by), features], axis=1)


def aggregate_published(table: pd.DataFrame) -> pd.DataFrame:
    """Aggregate sites to treatment profiles as WS-DINO's paper does.

    Mean per (treatment, plate), then median per treatment, so that each plate counts alike however
    many sites it has. The last step, division by the L2 norm, is part of the cosine similarity in
    :func:`wsdino.evaluate.matching.match_moa`.

    Parameters
    ----------
    table
        Normalised sites or wells with `Metadata_Compound`, `Metadata_Concentration` and
        `Metadata_Plate`.

    Returns
    -------
    DataFrame
        One row per treatment, see :func:`aggregate`.

    Raises
    ------
    TableError
        See :func:`aggregate`.
    """
    require_columns(table, [*TREATMENT, PLATE], purpose="the published aggregation")
    plates = aggregate(table, by=[*TREATMENT, PLATE], method="mean")
    return aggregate(plates, by=TREATMENT, method="median")


def make_profiles(
    table: pd.DataFrame,
    *,
    normalisation: str = "tvn",
    aggregation: str = "published",
    num_components: int | None = None,
    regularisation: float | None = None,
    per_channel: bool = True,
) -> pd.DataFrame:
    """Turn embeddings of sites (or wells) into treatment profiles: normalise, then aggregate.

    Parameters
    ----------
    table
        Metadata and features.
    normalisation
        See :data:`wsdino.profile.normalise.METHODS`.
    aggregation
        `published` (see :func:`aggregate_published`), or `mean` or `median` of a treatment's rows.
    num_components, regularisation, per_channel
        See :func:`wsdino.profile.normalise.normalise`.

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
    _check_aggregation(aggregation)
    require_columns(table, TREATMENT, purpose="making profiles")
    normalised, info = normalise(
        table,
        method=normalisation,
        num_components=num_components,
        regularisation=regularisation,
        per_channel=per_channel,
    )
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
        `published`, `mean` or `median`.

    Returns
    -------
    DataFrame
        As :func:`make_profiles`.

    Raises
    ------
    TableError
        See :func:`aggregate`.
    """
    _check_aggregation(aggregation)
    say_averaged(normalised, TREATMENT)
    if aggregation == "published":
        profiles = aggregate_published(normalised)
    else:
        profiles = aggregate(normalised, method=aggregation)
    profiles.attrs[ATTRIBUTE] = {"normalisation": info, "aggregation": aggregation}
    return profiles


def _check_aggregation(aggregation: str) -> None:
    if aggregation not in AGGREGATIONS:
        msg = f"aggregation is {aggregation!r}; expected one of {', '.join(AGGREGATIONS)}"
        raise TableError(msg)


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
