"""`results.json`: all results of an evaluation in one plain dict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.evaluate.held_out import held_out_of
from wsdino.evaluate.intervals import (
    clustered_interval,
    mean_of_precisions,
    permutation_nulls,
    precisions_of,
    wilson_interval,
)
from wsdino.evaluate.leakage import label_leakage
from wsdino.evaluate.level import is_control, joined_labels, require_treatments
from wsdino.evaluate.matching import (
    Gallery,
    MatchResult,
    annotated,
    make_gallery,
    match_gallery,
    unannotated,
)
from wsdino.evaluate.measures import MEASURES
from wsdino.profile.aggregate import ATTRIBUTE, profiles_of_normalised
from wsdino.profile.methods import find_normalisation
from wsdino.profile.normalise import normalise
from wsdino.tables.columns import BATCH, COMPOUND, MOA, PLATE, TREATMENT, WELL
from wsdino.tables.features import require_columns
from wsdino.tables.lists import LIST_COLUMNS, require_one_label

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

# 2: `left_out` names unannotated treatments and has mAP's, whose gallery is NSC's.
SCHEMA = 2
NUM_PERMUTATIONS = 1000
_UNKNOWN = {
    "method": "unknown",
    "options": {},
    "fitted_on": "unknown",
    "num_fitted": 0,
    "num_components": None,
    "note": "the profiles don't say how they were made",
}


def evaluate(
    profiles: pd.DataFrame,
    *,
    multi_batch: str = "strict",
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
    command: str | None = None,
) -> dict[str, Any]:
    """Evaluate treatment profiles.

    Parameters
    ----------
    profiles
        One row per treatment; see :func:`wsdino.evaluate.matching.match_moa`.
        `attrs["wsdino"]`, as :func:`wsdino.profile.aggregate.make_profiles` leaves it, says how
        they were made.
    multi_batch
        `strict` or `first-published`, see :mod:`wsdino.evaluate.matching`.
    num_permutations, seed
        Of the permutation nulls; 0 permutations: none. The seed is also that of the bootstrap.
    command
        The command line that evaluates these profiles, for the advice where they are no profiles.

    Returns
    -------
    dict
        Plain and ready for JSON. `schema`, `normalisation`, `aggregation`, `multi_batch`,
        `num_treatments` (annotated), `num_controls`, `num_unannotated`; for each of `nsc`, `nscb`
        and `map` the value itself (None without queries), `_total` (queries), `_ci` (at 95 %;
        Wilson's, for mAP a bootstrap over compounds) and `_null`; for `nsc` and `nscb` also
        `_correct` and `_neighbours`; `map_per_moa`; `gallery` (number of treatments) and `left_out`
        (treatments that are no query, controls apart: `compound`, `concentration`, `moa`, `reason`)
        of each measure; `confusion` (`labels`, `nsc`, `nscb`); and `notes`, which say why a number
        is missing. Without `Metadata_Batch` NSCB is None.

    Raises
    ------
    TableError
        See :func:`wsdino.evaluate.matching.match_moa`.
    """
    made = profiles.attrs.get(ATTRIBUTE, {})
    require_columns(profiles, [COMPOUND, MOA], purpose="NSC")
    annotated(profiles)
    require_treatments(profiles, command=command)
    has_batch = BATCH in profiles and bool(profiles[BATCH].notna().any())
    galleries = {"nsc": make_gallery(profiles, multi_batch=multi_batch)}
    if has_batch:
        galleries["nscb"] = make_gallery(
            profiles, exclude_shared_batch=True, multi_batch=multi_batch
        )
    matches = {name: match_gallery(gallery) for name, gallery in galleries.items()}
    nsc, nscb = matches["nsc"], matches.get("nscb")
    nulls = _nulls(galleries, num_permutations=num_permutations, seed=seed)
    controls, unknown = is_control(profiles), unannotated(profiles).to_dict("records")
    left_out = {
        name: [*match.left_out.to_dict("records"), *unknown] for name, match in matches.items()
    }
    num_in_gallery = {name: match.num_gallery for name, match in matches.items()}
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "normalisation": made.get("normalisation", _UNKNOWN),
        "aggregation": made.get("aggregation", "unknown"),
        "multi_batch": multi_batch,
        "num_treatments": nsc.num_total + len(nsc.left_out),
        "num_controls": int(controls.sum()),
        "num_unannotated": int((profiles[MOA].isna() & ~controls).sum()),
        **_numbers("nsc", nsc),
        **_numbers("nscb", nscb),
        **_precision(galleries["nsc"], seed=seed),
        **{f"{measure.key}_null": nulls.get(measure.key) for measure in MEASURES},
        "confusion": _confusion(nsc, nscb),
        # Queries and gallery of mAP are those of NSC.
        "gallery": {"nscb": 0} | num_in_gallery | {"map": num_in_gallery["nsc"]},
        "left_out": {"nscb": []} | left_out | {"map": left_out["nsc"]},
        "notes": _notes(profiles, nsc, nscb, has_chance=num_permutations > 0),
    }
    plain: dict[str, Any] = _plain(results)
    return plain


def evaluate_sites(
    table: pd.DataFrame,
    *,
    normalisation: str = "tvn",
    aggregation: str = "published",
    multi_batch: str = "strict",
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate embeddings of sites (or wells): normalise, aggregate, match.

    With the defaults this is the published path: TVN on the controls, mean per (treatment, plate),
    median per treatment, L2 norm, nearest neighbour by cosine.

    Parameters
    ----------
    table
        Metadata and features.
    normalisation, aggregation, **options
        See :func:`wsdino.profile.aggregate.make_profiles`.
    multi_batch, num_permutations, seed
        See :func:`evaluate`.

    Returns
    -------
    dict
        As :func:`evaluate`, with `leakage`: for `batch` and `plate` what
        :func:`wsdino.evaluate.leakage.label_leakage` finds in the normalised features, or None.
        Where the normalisation uses weak labels, `held_out` is what
        :func:`wsdino.evaluate.held_out.held_out_of` finds.

    Raises
    ------
    TableError
        See the functions named.
    """
    require_columns(table, [*TREATMENT, MOA], purpose="evaluating sites")
    require_one_label(table, LIST_COLUMNS, purpose="evaluating sites")
    normalised, info = normalise(table, method=normalisation, **options)
    profiles = profiles_of_normalised(normalised, info, aggregation=aggregation)
    results = evaluate(
        profiles, multi_batch=multi_batch, num_permutations=num_permutations, seed=seed
    )
    results["leakage"] = leakage_of_normalised(normalised)
    if find_normalisation(normalisation).needs.label:
        results["held_out"] = held_out_of(
            table,
            normalisation=normalisation,
            aggregation=aggregation,
            multi_batch=multi_batch,
            seed=seed,
            **options,
        )
    return results


def leakage_of_normalised(normalised: pd.DataFrame) -> dict[str, Any]:
    """How much of batch and plate can be read off normalised features.

    Parameters
    ----------
    normalised
        Metadata and features of sites or wells, as
        :func:`wsdino.profile.normalise.normalise` returned them.

    Returns
    -------
    dict
        The `leakage` of :func:`evaluate_sites`: of `batch` and `plate`; None where a column is
        missing.
    """
    leakage: dict[str, Any] = {"batch": None, "plate": None}
    for name, column in (("batch", BATCH), ("plate", PLATE)):
        if {PLATE, WELL, COMPOUND, column} <= set(normalised):
            found = label_leakage(normalised, column)
            leakage[name] = found.as_dict() if found else None
    return leakage


def write_results(results: Mapping[str, Any], path: str | Path) -> None:
    """Write results as JSON, atomically.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    path = Path(path)
    text = json.dumps(_plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_results(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_results` wrote.

    Raises
    ------
    TableError
        If the file is missing, damaged, or of another schema.
    """
    path = Path(path)
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path}: no such file; expected a results.json"
        raise TableError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{path}: can't be read as JSON: {error}"
        raise TableError(msg) from error
    found = results.get("schema") if isinstance(results, dict) else None
    if found != SCHEMA:
        msg = f"{path}: results have schema {found}; this version reads {SCHEMA}: evaluate again"
        raise TableError(msg)
    return dict(results)


def results_table(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows for people: one per evaluation.

    Parameters
    ----------
    results
        Name (such as `wsdino`, `classical`) -> what :func:`evaluate` returns.

    Returns
    -------
    list of dict
        `name`; for each measure (:data:`wsdino.evaluate.measures.MEASURES`) its `key` as
        `101/103 = 98.1 % [93.2, 99.5]` or `0.755 [0.68, 0.82]`, and `key_chance` (its permutation
        null) as `6 % (p = 0.001)`; `-` where there is no number.
    """
    return [
        {"name": name}
        | {measure.key: measure.value_text(one) for measure in MEASURES}
        | {f"{measure.key}_chance": measure.chance_text(one) for measure in MEASURES}
        for name, one in results.items()
    ]


def _nulls(
    galleries: Mapping[str, Gallery], *, num_permutations: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return the permutation null of each measure that has queries; none if none was asked for."""
    if not num_permutations:
        return {}
    taken = {
        name: permutation_nulls(gallery, num_permutations=num_permutations, seed=seed)
        for name, gallery in galleries.items()
    }
    nulls = {name: null["accuracy"] for name, null in taken.items()} | {"map": taken["nsc"]["map"]}
    return {name: null.as_dict() for name, null in nulls.items() if null}


def _precision(gallery: Gallery, *, seed: int) -> dict[str, Any]:
    """Return the entries of mAP."""
    scores = precisions_of(gallery)
    mean, per_moa = mean_of_precisions(scores)
    interval = None
    if mean is not None:
        values, clusters = scores["average_precision"], scores[COMPOUND]
        interval = clustered_interval(values.to_numpy(), clusters.to_numpy(str), seed=seed)
    return {"map": mean, "map_total": len(scores), "map_ci": interval, "map_per_moa": per_moa}


def _numbers(name: str, match: MatchResult | None) -> dict[str, Any]:
    """Return the entries of one measure; empty ones where it was not taken."""
    correct, total = (match.num_correct, match.num_total) if match else (0, 0)
    return {
        name: match.accuracy if match else None,
        f"{name}_correct": correct,
        f"{name}_total": total,
        f"{name}_ci": wilson_interval(correct, total),
        f"{name}_neighbours": match.neighbours.to_dict("records") if match else [],
    }


def _confusion(nsc: MatchResult, nscb: MatchResult | None) -> dict[str, Any]:
    """Return both matrices over the same labels: row = query's MoA, column = neighbour's."""
    labels = sorted({*nsc.labels, *(nscb.labels if nscb else ())})
    confusion: dict[str, Any] = {"labels": labels}
    for name, match in (("nsc", nsc), ("nscb", nscb)):
        matrix = [[0] * len(labels) for _ in labels]
        if match:
            at = [labels.index(label) for label in match.labels]
            for i, row in zip(at, match.confusion.tolist(), strict=True):
                for j, count in zip(at, row, strict=True):
                    matrix[i][j] = count
        confusion[name] = matrix
    return confusion


def _notes(
    profiles: pd.DataFrame, nsc: MatchResult, nscb: MatchResult | None, *, has_chance: bool
) -> list[str]:
    """Explain missing results, and point out possible mistakes in the table."""
    notes = []
    if nscb is None:
        has = "an empty" if BATCH in profiles else "no"
        notes.append(f"NSCB was not computed: the profiles have {has} {BATCH}")
    for name, match in (("NSC", nsc), ("NSCB", nscb), ("mAP", nsc)):
        if match and not match.num_total:
            notes.append(f"{name} is not defined: no treatment has a candidate with its MoA")
    if not has_chance:
        notes.append("chance was not computed: no permutations were asked for")
    joined = joined_labels(profiles) if nscb else None
    if joined:
        notes.append(
            f"NSCB takes {joined!r} as one batch; give several batches of a treatment as a list, "
            'in CSV ["A", "B"]'
        )
    return notes


def _plain(value: Any) -> Any:
    """Turn numpy's numbers into Python's, tuples into lists, and NaN into None."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
