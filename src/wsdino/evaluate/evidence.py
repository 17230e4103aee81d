"""What can be said of a screen without mechanisms: activity, replicates, distances and doses.

A normalisation that was fitted with the very labels whose replicates are asked here would make them
alike. With one, compounds are dealt out to folds, and each is asked in features that were fitted
without it, as in :mod:`wsdino.evaluate.held_out`.
"""

from __future__ import annotations

import operator
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.evaluate.activity import (
    COLUMNS,
    FDR,
    NULL_SIZE,
    activity_table,
    rank_against_controls,
    why_not,
)
from wsdino.evaluate.doses import MIN_DOSES, distances_to_controls, dose_curves
from wsdino.evaluate.held_out import NUM_FOLDS, deal
from wsdino.evaluate.plain import plain_values
from wsdino.evaluate.replicates import percent_replicating, retrieval_across_plates
from wsdino.evaluate.wells import Part, wells_of
from wsdino.profile.methods import find_normalisation
from wsdino.profile.normalise import fit_normalisation
from wsdino.profile.rows import control_rows
from wsdino.tables.columns import COMPOUND, TREATMENT
from wsdino.tables.features import require_columns, require_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def activity(
    table: pd.DataFrame, *, null_size: int = NULL_SIZE, seed: int = 0, fdr: float = FDR
) -> dict[str, Any]:
    """Measure activity, replicates and distances on normalised sites or wells.

    The normalisation must not have been fitted with the compounds as labels (`weak_label`);
    :func:`activity_of` sees to that.

    Parameters
    ----------
    table
        Metadata and normalised features of sites or wells.
    null_size, seed
        Random rankings behind each p value; the seed of all that is drawn.
    fdr
        A treatment is active if its q value is below.

    Returns
    -------
    dict
        Plain and ready for JSON. `treatments`, a row for each (see
        :func:`wsdino.evaluate.activity.activity_table`), with `replicate_correlation` and
        `distance` (median over its wells), None where it isn't defined; `num_treatments`,
        `num_tested`, `num_active`, `map` (mean over the treatments tested), `num_wells`,
        `num_control_wells`, `null_size`, `seed`, `fdr`; `replicating`
        (:func:`wsdino.evaluate.replicates.percent_replicating`); `retrieval`
        (:func:`wsdino.evaluate.replicates.retrieval_across_plates`); `control_distance_p95`;
        `doses` (:func:`wsdino.evaluate.doses.dose_curves`); `notes`, which say what isn't defined,
        and why.

    Raises
    ------
    TableError
        See :func:`wsdino.evaluate.wells.wells_of`; and if every well is a control.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> normalised, _ = wsdino.normalise(table, method="tvn", regularisation=0.1)
    >>> wsdino.activity(normalised, null_size=100)["num_treatments"]
    12
    """
    require_table(table)
    wells = wells_of(table).in_order()
    part = Part(wells, ~wells.is_control)
    return _measured([part], null_size=null_size, seed=seed, fdr=fdr)


def activity_of(
    table: pd.DataFrame,
    *,
    normalisation: str = "tvn",
    null_size: int = NULL_SIZE,
    seed: int = 0,
    fdr: float = FDR,
    normalised: pd.DataFrame | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Normalise a table of sites or wells and measure activity, replicates and distances.

    Parameters
    ----------
    table
        Metadata and features.
    normalisation, **options
        See :func:`wsdino.profile.normalise.fit_normalisation`.
    null_size, seed, fdr
        See :func:`activity`.
    normalised
        The table as the normalisation leaves it, where that is at hand.

    Returns
    -------
    dict
        As :func:`activity`.

    Raises
    ------
    TableError
        As the two steps do.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> found = wsdino.activity_of(table, normalisation="weak_label", null_size=100)
    >>> found["num_tested"] <= found["num_treatments"]
    True
    """
    require_table(table)
    if not find_normalisation(normalisation).needs.label:
        if normalised is None:
            normalised = fit_normalisation(table, method=normalisation, **options).transform(table)
        return activity(normalised, null_size=null_size, seed=seed, fdr=fdr)
    require_columns(table, [COMPOUND], purpose="activity")
    compound = table[COMPOUND].astype(str).where(table[COMPOUND].notna() & ~control_rows(table))
    names = sorted(compound.dropna().unique())
    if len(names) < 2:
        msg = f"the table has {len(names)} compounds; leaving compounds out needs at least 2"
        raise TableError(msg)
    num_folds = min(NUM_FOLDS, len(names))
    fold_of = deal(names, num_folds, seed)
    fold = compound.map(fold_of).to_numpy()
    parts = []
    for number in range(num_folds):
        fitted = fit_normalisation(table[fold != number], method=normalisation, **options)
        wells = wells_of(fitted.transform(table)).in_order()
        its = wells.metadata[COMPOUND].astype(str).map(fold_of).to_numpy() == number
        parts.append(Part(wells, its & ~wells.is_control))
    found = _measured(parts, null_size=null_size, seed=seed, fdr=fdr)
    found["notes"].insert(
        0,
        "the normalisation uses weak labels: each treatment was asked in features that were fitted "
        f"without its compound ({num_folds} folds)",
    )
    return found


def activity_or_note(
    table: pd.DataFrame, normalised: pd.DataFrame | None, *, normalisation: str, **options: Any
) -> dict[str, Any]:
    """Measure activity, or say why that can't be: for results that have more than this.

    Parameters
    ----------
    table, normalised, normalisation, **options
        See :func:`activity_of`.

    Returns
    -------
    dict
        As :func:`activity`; `notes` alone where the table lacks wells, plates or treatments.
    """
    try:
        return activity_of(table, normalised=normalised, normalisation=normalisation, **options)
    except TableError as error:
        return {"notes": [f"activity was not measured: {error}"]}


def write_activity(found: Mapping[str, Any], path: str | Path) -> None:
    """Write the activity of each treatment as CSV, atomically.

    Parameters
    ----------
    found
        What :func:`activity` returned; without treatments the file has the header alone.
    path
        The file.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    treatments = found.get("treatments")
    columns = None if treatments else [*TREATMENT, *COLUMNS]
    table = pd.DataFrame(treatments or [], columns=columns)
    with writing(Path(path)) as partial:
        table.to_csv(partial, index=False)


def _measured(parts: Sequence[Part], *, null_size: int, seed: int, fdr: float) -> dict[str, Any]:
    wells = parts[0].wells
    if wells.is_control.all():
        raise TableError(f"all {len(wells)} wells are controls; activity needs treated ones")
    queries = reduce(operator.add, (rank_against_controls(part) for part in parts))
    table = activity_table(wells, queries, null_size=null_size, seed=seed, fdr=fdr)
    replicating, correlations = percent_replicating(parts, seed=seed)
    distance, p95 = np.full(len(wells), np.nan), []
    for part in parts:
        own, its_p95 = distances_to_controls(part.wells)
        distance[part.asked] = own[part.asked]
        p95 += [] if its_p95 is None else [its_p95]
    # Both are looked up by the number of the treatment.
    treated = np.flatnonzero(~wells.is_control)
    numbers = pd.DataFrame(
        {"treatment": wells.treatment[treated], "distance": distance[treated]}
        | {name: wells.metadata[name].to_numpy()[treated] for name in TREATMENT}
    )
    by = numbers.groupby("treatment", sort=True)
    looked_up = by[list(TREATMENT)].first().assign(distance=by["distance"].median())
    looked_up["replicate_correlation"] = pd.Series(correlations, dtype=np.float64)
    table = table.merge(looked_up, on=list(TREATMENT), how="left", validate="1:1")
    tested = table["p_value"].notna()
    notes = why_not(table, wells, fdr=fdr)
    curves = dose_curves(wells, distance, seed=seed)
    found: dict[str, Any] = {
        "num_treatments": len(table),
        "num_tested": int(tested.sum()),
        "num_active": int(table["is_active"].sum()),
        "map": float(table["mean_average_precision"].mean()) if tested.any() else None,
        "num_wells": len(wells),
        "num_control_wells": int(wells.is_control.sum()),
        "null_size": null_size,
        "seed": seed,
        "fdr": fdr,
        "replicating": replicating,
        "retrieval": retrieval_across_plates(parts, seed=seed),
        "control_distance_p95": float(np.mean(p95)) if p95 else None,
        "doses": curves,
        "treatments": table.to_dict("records"),
        "notes": [
            *notes,
            *_missing(replicating, curves, num_parts=len(parts), has_distance=bool(p95)),
        ],
    }
    plain: dict[str, Any] = plain_values(found)
    return plain


def _missing(
    replicating: Mapping[str, Any], curves: Sequence[object], *, num_parts: int, has_distance: bool
) -> list[str]:
    """Say what is not defined apart from activity itself, and why."""
    notes = []
    # Random wells are those of treatments that are asked together.
    among = " among the compounds of a fold" if num_parts > 1 else ""
    if not replicating["num_treatments"]:
        notes.append(
            "percent replicating and retrieval across plates are not defined: no treatment has "
            "wells on two plates"
        )
    elif replicating["other_position"] is None:
        few = "too few wells of other treatments"
        notes.append(f"percent replicating is not defined: {few}{among}")
    elif replicating["same_position"] is None:
        notes.append(
            "percent replicating has no null of the same position: no position has different "
            f"treatments on different plates{among}"
        )
    if not has_distance:
        notes.append("distance to controls is not defined: no plate has two wells of controls")
    elif not curves:
        notes.append(f"no curve by dose: no compound has {MIN_DOSES} doses beside controls")
    return notes
