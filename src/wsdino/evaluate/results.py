"""`results.json`: all numbers of an evaluation in one plain dict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.atomic import replace_file
from wsdino.errors import TableError
from wsdino.evaluate.heldout import held_out
from wsdino.evaluate.intervals import mean_average_precision, permutation_null, wilson_interval
from wsdino.evaluate.leakage import label_leakage
from wsdino.evaluate.matching import MatchResult, match_moa
from wsdino.profile.aggregate import ATTRIBUTE, profiles_of_normalised
from wsdino.profile.methods import find_normalisation
from wsdino.profile.normalise import normalise
from wsdino.tables.columns import BATCH, COMPOUND, CONTROL, MOA, PLATE, TREATMENT, WELL
from wsdino.tables.features import require_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

SCHEMA = 1
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
        Of the permutation null; 0 permutations: none.

    Returns
    -------
    dict
        Plain and ready for JSON. `schema`, `normalisation`, `aggregation`, `multi_batch`,
        `num_treatments` (annotated), `num_controls`, `num_unannotated`; for each of `nsc` and
        `nscb` the fraction itself (None without queries), `_correct`, `_total`, `_ci`, `_null`,
        `_neighbours`; `confusion` (`labels`, `nsc`, `nscb`), `left_out` (`nsc`, `nscb`), `map`,
        `map_per_moa` and `notes`. Without `Metadata_Batch` NSCB is None, and a note says so.

    Raises
    ------
    TableError
        See :func:`wsdino.evaluate.matching.match_moa`.
    """
    made = profiles.attrs.get(ATTRIBUTE, {})
    nsc = match_moa(profiles, multi_batch=multi_batch)
    has_batch = BATCH in profiles and bool(profiles[BATCH].notna().any())
    nscb = (
        match_moa(profiles, exclude_shared_batch=True, multi_batch=multi_batch)
        if has_batch
        else None
    )
    controls = (
        profiles[CONTROL].astype(bool) if CONTROL in profiles else profiles[MOA].isna() & False
    )
    mean_precision, precision_per_moa = mean_average_precision(profiles)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "normalisation": made.get("normalisation", _UNKNOWN),
        "aggregation": made.get("aggregation", "unknown"),
        "multi_batch": multi_batch,
        "num_treatments": nsc.num_total + len(nsc.left_out),
        "num_controls": int(controls.sum()),
        "num_unannotated": int((profiles[MOA].isna() & ~controls).sum()),
    }
    for name, match in (("nsc", nsc), ("nscb", nscb)):
        null = None
        if num_permutations and match:
            null = permutation_null(
                profiles,
                exclude_shared_batch=name == "nscb",
                multi_batch=multi_batch,
                num_permutations=num_permutations,
                seed=seed,
            )
        results |= _numbers(name, match) | {f"{name}_null": null.as_dict() if null else None}
    results["confusion"] = _confusion(nsc, nscb)
    results["left_out"] = {
        "nsc": nsc.left_out.to_dict("records"),
        "nscb": nscb.left_out.to_dict("records") if nscb else [],
    }
    results |= {"map": mean_precision, "map_per_moa": precision_per_moa}
    results["notes"] = _notes(nsc, nscb, has_batch=has_batch)
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
        :func:`wsdino.evaluate.heldout.held_out` finds.

    Raises
    ------
    TableError
        See the functions named.
    """
    require_columns(table, [*TREATMENT, MOA], purpose="evaluating sites")
    normalised, info = normalise(table, method=normalisation, **options)
    profiles = profiles_of_normalised(normalised, info, aggregation=aggregation)
    results = evaluate(
        profiles, multi_batch=multi_batch, num_permutations=num_permutations, seed=seed
    )
    results["leakage"] = leakage_of_normalised(normalised)
    if find_normalisation(normalisation).needs.label:
        results["held_out"] = held_out(
            table,
            normalisation=normalisation,
            aggregation=aggregation,
            multi_batch=multi_batch,
            seed=seed,
            **options,
        )
    return results


def evaluate_leakage(
    table: pd.DataFrame, *, normalisation: str = "tvn", **options: Any
) -> dict[str, Any]:
    """How much of batch and plate can be read off the features once they are normalised.

    Parameters
    ----------
    table
        Metadata and features of sites or wells.
    normalisation, **options
        See :func:`wsdino.profile.normalise.fit_normalisation`.

    Returns
    -------
    dict
        See :func:`leakage_of_normalised`.

    Raises
    ------
    TableError
        See :func:`wsdino.profile.normalise.fit_normalisation`.
    """
    return leakage_of_normalised(normalise(table, method=normalisation, **options)[0])


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
    replace_file(path, ".json", lambda partial: partial.write_text(text, encoding="utf-8"))


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
        msg = f"{path}: results have schema {found}; this version reads {SCHEMA}"
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
        `name`, `nsc` and `nscb` as `101/103 = 98.1 % [93.2, 99.5]`, `chance` (NSC's permutation
        null, in %), `map`; `-` where there is no number.
    """
    return [
        {
            "name": name,
            "nsc": _proportion(one, "nsc"),
            "nscb": _proportion(one, "nscb"),
            "chance": f"{100 * one['nsc_null']['mean']:.0f} %" if one.get("nsc_null") else "-",
            "map": f"{one['map']:.3f}" if one.get("map") is not None else "-",
        }
        for name, one in results.items()
    ]


def _proportion(results: Mapping[str, Any], name: str) -> str:
    if results.get(name) is None:
        return "-"
    low, high = results[f"{name}_ci"]
    counts = f"{results[f'{name}_correct']}/{results[f'{name}_total']}"
    return f"{counts} = {100 * results[name]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


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


def _notes(nsc: MatchResult, nscb: MatchResult | None, *, has_batch: bool) -> list[str]:
    notes = []
    if not has_batch:
        notes.append(f"NSCB was not computed: the profiles have no {BATCH}")
    for name, match in (("NSC", nsc), ("NSCB", nscb)):
        if match and not match.num_total:
            notes.append(f"{name} is not defined: no treatment has a candidate with its MoA")
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
