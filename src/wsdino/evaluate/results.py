"""`results.json`: all results of an evaluation in one plain dict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.evaluate.confounders import leakage_sentences
from wsdino.evaluate.consistency import consistency, consistency_columns
from wsdino.evaluate.evidence import activity_or_note
from wsdino.evaluate.gallery import Gallery, make_gallery, unannotated, why_unmatched
from wsdino.evaluate.held_out import held_out_of
from wsdino.evaluate.intervals import (
    clustered_interval,
    mean_of_precisions,
    permutation_nulls,
    precisions_of,
    wilson_interval,
)
from wsdino.evaluate.leakage import leakage_of
from wsdino.evaluate.level import is_control, joined_labels, require_treatments
from wsdino.evaluate.matching import MatchResult, match_gallery, nearest, vote
from wsdino.evaluate.measures import BY_KEY, MEASURES
from wsdino.evaluate.plain import plain_values
from wsdino.outside import read_json
from wsdino.profile.aggregate import how_made, profiles_of_normalised
from wsdino.profile.methods import find_normalisation
from wsdino.profile.normalise import normalise
from wsdino.recorded import Evaluation, Results, fitting
from wsdino.tables.columns import BATCH, COMPOUND, PLATE, TREATMENT
from wsdino.tables.features import require_columns, require_table
from wsdino.tables.lists import LIST_COLUMNS, require_one_label

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

# 2: `left_out` names unannotated treatments and has mAP's, whose gallery is NSC's.
SCHEMA = 2
# Neighbours that vote, beside the nearest one.
KS = (3, 5)
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
        `_correct` and `_neighbours`, and the same, but for `_null`, of `nscp` (not same compound
        and plate); `nearest_k`, for each of the three what :func:`wsdino.evaluate.matching.vote`
        finds for 3 and 5 neighbours; `consistency`, for each column of MoA or targets what
        :func:`wsdino.evaluate.consistency.consistency` finds; `map_per_moa`; `gallery` (number of
        treatments) and `left_out` (treatments that are no query, controls apart: `compound`,
        `concentration`, `moa`, `reason`) of each measure; `confusion` (`labels`, `nsc`, `nscb`);
        `notes`, which say why a number is missing; and `warnings`: see :func:`warnings_of`.
        Without `Metadata_Batch` NSCB is None; without two annotated compounds all three are.

    Raises
    ------
    TableError
        See :func:`wsdino.evaluate.gallery.make_gallery`; an MoA may be missing.

    Examples
    --------
    >>> import wsdino
    >>> profiles = wsdino.make_profiles(wsdino.read_table("sites.csv"))
    >>> results = wsdino.evaluate_profiles(profiles, num_permutations=10)
    >>> results["nsc_total"], results["num_treatments"]
    (12, 12)
    """
    require_table(profiles, name="profiles")
    made = how_made(profiles)
    require_columns(profiles, [COMPOUND], purpose="evaluating")
    require_treatments(profiles, command=command)
    problem = why_unmatched(profiles)
    galleries = {} if problem else _galleries(profiles, multi_batch=multi_batch)
    found = {name: nearest(gallery, max(KS)) for name, gallery in galleries.items()}
    matches = {name: match_gallery(each, found[name]) for name, each in galleries.items()}
    nsc, nscb, nscp = (matches.get(name) for name in ("nsc", "nscb", "nscp"))
    measured = {name: match for name, match in matches.items() if name in BY_KEY}
    nulls = _nulls(galleries, num_permutations=num_permutations, seed=seed)
    controls = is_control(profiles)
    unknown = [] if problem else unannotated(profiles).to_dict("records")
    left_out = {
        name: [*match.left_out.to_dict("records"), *unknown] for name, match in measured.items()
    }
    num_in_gallery = {name: match.num_gallery for name, match in measured.items()}
    num_annotated = nsc.num_total + len(nsc.left_out) if nsc else 0
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "normalisation": made.get("normalisation", _UNKNOWN),
        "aggregation": made.get("aggregation", "unknown"),
        "multi_batch": multi_batch,
        "num_treatments": num_annotated,
        "num_controls": int(controls.sum()),
        "num_unannotated": int((~controls).sum()) - num_annotated,
        **_numbers("nsc", nsc),
        **_numbers("nscb", nscb),
        **_numbers("nscp", nscp),
        "nearest_k": {name: vote(each, KS, found[name]) for name, each in galleries.items()},
        **_precision(galleries.get("nsc"), seed=seed),
        **{f"{measure.key}_null": nulls.get(measure.key) for measure in MEASURES},
        "confusion": _confusion(nsc, nscb),
        # Queries and gallery of mAP are those of NSC.
        "gallery": {"nsc": 0, "nscb": 0} | num_in_gallery | {"map": num_in_gallery.get("nsc", 0)},
        "left_out": {"nsc": [], "nscb": []} | left_out | {"map": left_out.get("nsc", [])},
        "consistency": [
            consistency(profiles, column, seed=seed) for column in consistency_columns(profiles)
        ],
        "notes": _notes(profiles, problem, nsc, nscb, has_chance=num_permutations > 0),
    }
    samples = dict.fromkeys(null["sample"] for null in nulls.values() if null["sample"])
    results["notes"] += [f"chance and p are those of {sample}" for sample in samples]
    results["warnings"] = warnings_of(results)
    plain: dict[str, Any] = plain_values(results)
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
        As :func:`evaluate`, with `leakage`, of batch, plate, position and cell density: see
        :func:`wsdino.evaluate.leakage.leakage_of`; and `activity`: see
        :func:`wsdino.evaluate.evidence.activity`.
        Where the normalisation uses weak labels, `held_out` is what
        :func:`wsdino.evaluate.held_out.held_out_of` finds.

    Raises
    ------
    TableError
        See the functions named.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> results = wsdino.evaluate_sites(table, normalisation="weak_label", num_permutations=10)
    >>> results["held_out"]["nsc_total"] == results["nsc_total"]
    True
    """
    require_table(table)
    require_columns(table, TREATMENT, purpose="evaluating sites")
    require_one_label(table, LIST_COLUMNS, purpose="evaluating sites")
    normalised, info = normalise(table, method=normalisation, **options)
    profiles = profiles_of_normalised(normalised, info, aggregation=aggregation)
    results = evaluate(
        profiles, multi_batch=multi_batch, num_permutations=num_permutations, seed=seed
    )
    results["leakage"] = leakage_of(table, normalised)
    results["warnings"] = warnings_of(results)
    results["activity"] = activity_or_note(
        table, normalised, normalisation=normalisation, seed=seed, **options
    )
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


def warnings_of(results: Mapping[str, Any]) -> list[str]:
    """Say what to know before a score is believed.

    Parameters
    ----------
    results
        With `normalisation` and, perhaps, `leakage`.

    Returns
    -------
    list of str
        A sentence each: the normalisation's own warning, and what may be a technical effect.
    """
    own = results["normalisation"].get("warning")
    return [*([own] if own else []), *leakage_sentences(results.get("leakage"))]


def write_results(results: Mapping[str, Any], path: str | Path) -> None:
    """Write results as JSON, atomically.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    path = Path(path)
    text = json.dumps(plain_values(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
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
    results = read_json(path, TableError)
    found = results.get("schema")
    if found != SCHEMA:
        msg = f"{path}: results have schema {found}; this version reads {SCHEMA}: evaluate again"
        raise TableError(msg)
    kept, wrong = fitting(results, Evaluation, str(path))
    for name, each in kept.get("baselines", {}).items():
        wrong += fitting(each, Results, f"{path}: baselines.{name}")[1]
    for problem in wrong:
        raise TableError(f"{problem}; evaluate again")
    return kept


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


def _galleries(profiles: pd.DataFrame, *, multi_batch: str) -> dict[str, Gallery]:
    """Return the gallery of each way to match that the table has the columns for."""
    galleries = {"nsc": make_gallery(profiles, multi_batch=multi_batch)}
    for name, column in (("nscb", BATCH), ("nscp", PLATE)):
        if column in profiles and profiles[column].notna().any():
            galleries[name] = make_gallery(
                profiles,
                exclude_shared_batch=column == BATCH,
                exclude_shared_plate=column == PLATE,
                multi_batch=multi_batch,
            )
    return galleries


def _nulls(
    galleries: Mapping[str, Gallery], *, num_permutations: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the permutation null of each measure that has queries; none if none was asked for."""
    if not num_permutations or not galleries:
        return {}
    taken = {
        name: permutation_nulls(gallery, num_permutations=num_permutations, seed=seed)
        for name, gallery in galleries.items()
        if name in BY_KEY
    }
    nulls = {name: null["accuracy"] for name, null in taken.items()} | {"map": taken["nsc"]["map"]}
    return {name: null.as_dict() for name, null in nulls.items() if null}


def _precision(gallery: Gallery | None, *, seed: int) -> dict[str, Any]:
    """Return the entries of mAP; empty ones where it was not taken."""
    if gallery is None:
        return {"map": None, "map_total": 0, "map_ci": None, "map_per_moa": {}}
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


def _confusion(nsc: MatchResult | None, nscb: MatchResult | None) -> dict[str, Any]:
    """Return both matrices over the same labels: row = query's MoA, column = neighbour's."""
    labels = sorted({label for match in (nsc, nscb) if match for label in match.labels})
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
    profiles: pd.DataFrame,
    problem: str | None,
    nsc: MatchResult | None,
    nscb: MatchResult | None,
    *,
    has_chance: bool,
) -> list[str]:
    """Explain missing results, and point out possible mistakes in the table."""
    if problem:
        return [f"NSC, NSCB and mAP were not computed: {problem}"]
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
