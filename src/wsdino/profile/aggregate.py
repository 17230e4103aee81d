"""Aggregation of sites or wells to treatment profiles.

A profile keeps what is constant within its group; of a compound or well, values that are missing in
some rows don't matter. Plates and batches are kept in any case, as lists
(see :mod:`wsdino.tables.lists`), because matching needs them: `Metadata_Plate` lists the distinct
plates in order of first appearance, and `Metadata_Batch` the one batch or, where there are several,
the batch of each of these plates, in the same order. A plate is a plate within its batch: plates of
the same name in two batches are two. Wells, sites and whatever else varies are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.outside import misfits
from wsdino.profile.methods import find_aggregation
from wsdino.profile.normalise import normalise
from wsdino.recorded import Made
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    MOA,
    PLATE,
    SITE,
    TREATMENT,
    WELL,
)
from wsdino.tables.doses import require_one_moa
from wsdino.tables.features import (
    feature_columns,
    metadata_of,
    plate_keys,
    require_columns,
    require_features,
    require_table,
    with_metadata,
)
from wsdino.tables.lists import LIST_COLUMNS, is_list, labels_of, require_one_label
from wsdino.tables.suspects import report_averaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsdino.profile.fitted import Fitted

STATISTICS = ("mean", "median")
_COLUMNS_AT_ONCE, _CELLS_AT_ONCE = 32, 4_000_000
ATTRIBUTE = "wsdino"


def how_made(profiles: pd.DataFrame) -> dict[str, Any]:
    """Return how profiles were made: what :func:`make_profiles` noted; empty where nothing is.

    Raises
    ------
    TableError
        The note has another shape than :class:`wsdino.recorded.Made`.
    """
    made = profiles.attrs.get(ATTRIBUTE, {})
    for problem in misfits(made, Made).values():
        raise TableError(f"how the profiles were made ({ATTRIBUTE} in the file): {problem}")
    return dict(made)


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
        Where `by` has the plate, plate and batch stay text.

    Raises
    ------
    TableError
        If the method is unknown, a column of `by` is missing or holds lists, or as in
        :func:`wsdino.tables.features.features_of`.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> wells = wsdino.aggregate(table, by=["Metadata_Plate", "Metadata_Well"], method="median")
    >>> len(wells) <= len(table)
    True
    """
    require_table(table)
    by = [by] if isinstance(by, str) else list(by)
    if method not in STATISTICS:
        msg = f"aggregation method is {method!r}; expected one of {', '.join(STATISTICS)}"
        raise TableError(msg)
    return _aggregated(table, [(method, by)], purpose="aggregating")


def aggregate_treatments(table: pd.DataFrame, *, aggregation: str = "published") -> pd.DataFrame:
    """Aggregate sites to treatment profiles in one of the named ways.

    Rows that are controls are a profile of their own, where others of that treatment are not. With
    `published`, WS-DINO's own, each plate counts alike, however many sites it has. The paper's
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
        If there is no such aggregation, a column is missing, a treatment has two MoAs, or as in
        :func:`aggregate`.
    """
    if {COMPOUND, CONCENTRATION, MOA} <= set(table):
        require_one_moa(table[table[COMPOUND].notna()], origin=f"aggregation {aggregation}")
    keys = [*TREATMENT, *([CONTROL] if CONTROL in table else [])]
    steps = [
        (statistic, [*keys, *(plate_keys(table) if group == "plate" else [])])
        for statistic, group in find_aggregation(aggregation).steps
    ]
    return _aggregated(table, steps, purpose=f"aggregation {aggregation}")


def make_profiles(
    table: pd.DataFrame,
    *,
    normalisation: str | Fitted = "tvn",
    aggregation: str = "published",
    **options: Any,
) -> pd.DataFrame:
    """Turn embeddings of sites (or wells) into treatment profiles: normalise, then aggregate.

    Parameters
    ----------
    table
        Metadata and features.
    normalisation
        Name of one of :data:`wsdino.profile.methods.NORMALISATIONS`; or one that has been fitted,
        on other plates of the screen perhaps, which takes no options.
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

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> profiles = wsdino.make_profiles(table, normalisation="weak_label")
    >>> len(table), len(profiles)
    (276, 13)
    """
    require_table(table)
    find_aggregation(aggregation)
    require_columns(table, TREATMENT, purpose="making profiles")
    require_one_label(table, LIST_COLUMNS, purpose="making profiles")
    if isinstance(normalisation, str):
        normalised, info = normalise(table, method=normalisation, **options)
    else:
        if options:
            raise TableError(f"{next(iter(options))}: the normalisation has been fitted already")
        normalised, info = normalisation.transform(table), dict(normalisation.info)
        info["note"] = "; ".join(filter(None, [info["note"], "fitted before, and applied here"]))
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
    report_averaged(normalised, TREATMENT)
    profiles = aggregate_treatments(normalised, aggregation=aggregation)
    profiles.attrs[ATTRIBUTE] = {"normalisation": info, "aggregation": aggregation}
    return profiles


def _aggregated(
    table: pd.DataFrame, steps: Sequence[tuple[str, list[str]]], *, purpose: str
) -> pd.DataFrame:
    """Aggregate step by step: (statistic, columns that make a group); some features at a time.

    So what is between two steps is never there for all features of a large table at once.
    """
    for _, by in steps:
        require_columns(table, by, purpose=purpose)
        require_one_label(table, by, purpose="aggregating")
    require_features(table)
    metadata, codes = metadata_of(table).reset_index(drop=True), []
    for _, by in steps:
        codes.append(metadata.groupby(by, sort=False, dropna=False).ngroup().to_numpy())
        metadata = _group_metadata(metadata, codes[-1], by)
    names = feature_columns(table)
    features = np.empty((len(metadata), len(names)))
    at_once = max(_COLUMNS_AT_ONCE, _CELLS_AT_ONCE // len(table))
    for start in range(0, len(names), at_once):
        columns = slice(start, start + at_once)
        values = table[names[columns]].to_numpy(dtype=np.float64)
        for (statistic, _), groups in zip(steps, codes, strict=True):
            grouped = pd.DataFrame(values, copy=False).groupby(groups, sort=True)
            values = (grouped.mean() if statistic == "mean" else grouped.median()).to_numpy()
        features[:, columns] = values
    return with_metadata(metadata, pd.DataFrame(features, columns=names, copy=False))


def _group_metadata(
    metadata: pd.DataFrame, codes: NDArray[np.integer], by: list[str]
) -> pd.DataFrame:
    """Return one row of metadata per group, in order of the groups' codes."""
    first = np.unique(codes, return_index=True)[1]
    grouped = metadata.groupby(codes, sort=True)

    # Whoever knows a compound's mechanism or target in one row knows it in all.
    may_lack = COMPOUND in by or WELL in by

    def is_constant(name: str) -> bool:
        try:
            return bool((grouped[name].nunique(dropna=may_lack) <= 1).all())
        except TypeError:  # another tool's cells that can't be compared, such as lists
            return False

    listed = [name for name in (PLATE, BATCH) if name in metadata and name not in by]
    if PLATE in by:
        listed = [name for name in listed if not is_constant(name)]
    kept = [
        name
        for name in map(str, metadata.columns)
        if name in by or name in listed or (name not in (WELL, SITE) and is_constant(name))
    ]
    result: pd.DataFrame = metadata[kept].take(first).reset_index(drop=True)
    for name in result.columns[result.isna().any()].difference([*by, *listed]):
        result[name] = grouped[name].first().reset_index(drop=True)
    if listed:
        lists = _plates_and_batches(metadata, codes)
        for name in listed:
            result[name] = pd.Series(lists[name], dtype=object)
    return result


def _plates_and_batches(
    metadata: pd.DataFrame, codes: NDArray[np.integer]
) -> dict[str, list[list[str | None] | None]]:
    """List each group's plates, and its batches: the only one, or one for each plate."""
    rows = pd.DataFrame({name: metadata.get(name) for name in (PLATE, BATCH)}, dtype=object)
    rows["code"] = codes
    num_groups = int(codes.max()) + 1
    # Rows of one plate are alike, and there are many; those with lists can't be grouped.
    is_plain = ~rows[[PLATE, BATCH]].map(is_list).any(axis=1)
    rows = pd.concat([rows[is_plain].drop_duplicates(), rows[~is_plain]]).sort_index()
    pairs: list[dict[tuple[str | None, str | None], None]] = [{} for _ in range(num_groups)]
    for plate, batch, code in rows.itertuples(index=False, name=None):
        pairs[code] |= dict.fromkeys(pair_plates(labels_of(plate), labels_of(batch)))
    plates = [[plate for plate, _ in own] for own in pairs]
    batches = [[batch for _, batch in own] for own in pairs]
    return {
        PLATE: [own if any(own) else None for own in plates],
        BATCH: [(own if len(set(own)) > 1 else own[:1]) if any(own) else None for own in batches],
    }


def pair_plates(
    plates: list[str | None], batches: list[str | None]
) -> list[tuple[str | None, str | None]]:
    """Pair the plates of a treatment with their batches.

    Parameters
    ----------
    plates, batches
        What :func:`wsdino.tables.lists.labels_of` reads in its row; a single batch, or none, is
        that of all plates.

    Returns
    -------
    list of tuple
        Plate and batch.

    Raises
    ------
    TableError
        If there are several of both, and not as many.
    """
    num = max(len(plates), len(batches))
    if min(len(plates), len(batches)) > 1 and len(plates) != len(batches):
        msg = (
            f"{PLATE} {plates} and {BATCH} {batches} don't fit together; expected one batch, or "
            "one for each plate"
        )
        raise TableError(msg)
    if len(plates) < num:
        plates = (plates or [None]) * num
    if len(batches) < num:
        batches = (batches or [None]) * num
    return list(zip(plates, batches, strict=True))
