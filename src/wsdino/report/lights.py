"""The first screen: three lights, each with one sentence and what to do next.

A light rests on one number of `results.json`, which its sentence gives. Where that number is
missing, it is grey, and the sentence gives the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.errors import InputError
from wsdino.evaluate.confounders import (
    CONFOUNDERS,
    leakage_level,
    listed,
    shared_beyond_chance,
)
from wsdino.evaluate.intervals import clustered_interval
from wsdino.evaluate.measures import BY_KEY
from wsdino.report.words import (
    concentration,
    count_text,
    display_name,
    is_number,
    number,
    percent,
)
from wsdino.runrecord import Omitted, RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHARED = {each.name: each.shared for each in CONFOUNDERS}
_ALWAYS = ("batch", "plate")
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Light:
    """One light of the first screen.

    Attributes
    ----------
    name
        The question that it answers.
    level
        `good`, `warning`, `bad` or `unknown`.
    title
        The answer in a few words.
    sentence
        The number it rests on.
    advice
        What to do next.
    """

    name: str
    level: str
    title: str
    sentence: str
    advice: str


def lights(record: RunRecord) -> dict[str, Any]:
    """Say at a glance what was found.

    Parameters
    ----------
    record
        Contents of the run folder.

    Returns
    -------
    dict
        `lights`: phenotype, mechanism and technical effects.

    Raises
    ------
    Omitted
        There are no results.
    """
    if not record.results:
        raise Omitted(record.problems.get("results.json", "results.json is empty"))
    return {"lights": [_phenotype(record), _mechanism(record), _technical(record)]}


def _phenotype(record: RunRecord) -> Light:
    name = "Phenotype"
    found = record.results.get("activity", {})
    notes = found.get("notes", [])
    tested, active = found.get("num_tested"), found.get("num_active")
    if not is_number(tested) or not tested or not is_number(active):
        reason = "; ".join(notes) or "results.json has no activity"
        return Light(
            name,
            "unknown",
            "Not measured",
            _sentence(reason),
            "Activity compares replicates of a treatment with negative controls on the same plate: "
            "mark these in Metadata_Control or name them (screen.controls in the config), and run "
            "again into another folder.",
        )
    rate = f"{100 * found['fdr']:g} %" if is_number(found.get("fdr")) else "the chosen level"
    sentence = (
        f"{active} of {tested} treatments ({percent(active / tested)}) differ from the controls on "
        f"their plates, at a false discovery rate of {rate}."
    )
    if not active:
        return Light(
            name,
            "bad",
            "No treatment is active",
            sentence,
            "Look at the plates for focus and cell density, check which wells are controls, and "
            "whether the treatments have replicates; neighbours and mechanisms mean little here.",
        )
    few = [note for note in notes if "by chance" in note]
    if few:
        return Light(
            name,
            "warning",
            "Active treatments, on little evidence",
            f"{sentence} {_sentence(few[0])}",
            "More replicates or more control wells a plate would tell; until then look at the "
            "fields of each active treatment beside DMSO.",
        )
    return Light(
        name,
        "good",
        f"{active} active treatments" if active > 1 else "One active treatment",
        sentence,
        "Start with the treatments at the top of the table, and see their fields beside DMSO.",
    )


def _mechanism(record: RunRecord) -> Light:
    name, results = "Mechanism", record.results
    measure = BY_KEY["nsc"]
    value = results.get("nsc")
    if not is_number(value):
        notes = results.get("notes")
        reason = next(
            (str(n) for n in notes or [] if "mechanism" in str(n).lower() or "MoA" in str(n)),
            "no mechanism could be matched",
        )
        return Light(
            name,
            "unknown",
            "Not measured",
            _sentence(reason),
            "Activity and nearest neighbours don't need mechanisms; with some in Metadata_MoA they "
            "can be matched.",
        )
    text = f"{measure.name} is {percent(value)}"
    count = count_text(results, "nsc")
    text += f" ({count})" if count else ""
    null = results.get("nsc_null")
    p = null.get("p_value") if null else None
    if not null or not is_number(null.get("mean")) or not is_number(p):
        chance = "chance was not estimated"
    else:
        chance = f"by chance it would be {percent(null['mean'])} (p = {number(p, 2)})"
        if float(p) >= SIGNIFICANT:
            return Light(
                name,
                "bad",
                "Not above chance",
                f"{text}; {chance}.",
                "Don't read mechanisms off neighbours. See whether treatments are active at all, "
                "and how the training went.",
            )
    level, title, beside, advice = _beside_baseline(record)
    return Light(name, level, title, f"{text}; {chance}. {beside}", advice)


def _beside_baseline(record: RunRecord) -> tuple[str, str, str, str]:
    """Compare with the best baseline; return level, title, sentence and advice."""
    theirs = {n: r for n, r in record.baselines.items() if is_number(r.get("nsc"))}
    if not theirs:
        return (
            "warning",
            "Above chance, without a baseline",
            "There is no baseline to compare with.",
            "Run the baselines (baselines.names in the config) to know what any features find.",
        )
    best = max(theirs, key=lambda name: float(theirs[name]["nsc"]))
    label = display_name(best)
    paired = paired_difference(record.results, theirs[best])
    if paired is None:
        return (
            "warning",
            "No paired comparison",
            f"The best baseline, {label}, has too few treatments in common to compare in pairs.",
            "Evaluate the run and its baselines on the same treatments.",
        )
    difference, low, high = (100 * part for part in paired)
    sentence = (
        f"Against the best baseline, {label} ({percent(theirs[best]['nsc'])}): "
        f"{difference:+.1f} points, paired 95 % interval {low:+.1f} to {high:+.1f}."
    )
    if low > 0:
        return (
            "good",
            "Above chance and the best baseline",
            sentence,
            "See the table of mechanisms: which are found, and which are taken for each other.",
        )
    if high < 0:
        return (
            "bad",
            "Below the best baseline",
            sentence,
            f"Use the profiles of {label}, or join both (profile.with in the config).",
        )
    return (
        "warning",
        "Above chance, not clearly above the best baseline",
        sentence,
        f"On this screen {label} does about as well; more compounds, or further seeds, would tell.",
    )


def paired_difference(
    first: Mapping[str, Any], second: Mapping[str, Any], *, measure: str = "nsc", seed: int = 0
) -> tuple[float, float, float] | None:
    """Compare two results by the queries that both have.

    Parameters
    ----------
    first, second
        Results with the neighbours of the measure.
    measure
        `nsc` or `nscb`.
    seed
        Of the bootstrap over compounds (:func:`wsdino.evaluate.intervals.clustered_interval`).

    Returns
    -------
    tuple or None
        Difference of the shares right, first less second, and its 95 % interval; None if they have
        no queries in common, or those of one compound only.
    """
    mine, theirs = _answers(first, measure), _answers(second, measure)
    common = [key for key in mine if key in theirs]
    if not common:
        return None
    change = np.array([float(mine[key]) - float(theirs[key]) for key in common])
    compounds = np.array([compound for compound, _ in common], dtype=object).astype(str)
    try:
        low, high = clustered_interval(change, compounds, seed=seed)
    except InputError:
        return None
    return float(change.mean()), low, high


def _answers(results: Mapping[str, Any], measure: str) -> dict[tuple[str, str], bool]:
    return {
        (str(row.get("compound")), concentration(row.get("concentration"))): row["correct"]
        for row in results.get(f"{measure}_neighbours", [])
        if row.get("correct") is not None
    }


def _technical(record: RunRecord) -> Light:
    name = "Technical effects"
    measured = {
        label: values
        for label, values in (record.results.get("leakage") or {}).items()
        if values and is_number(values.get("accuracy")) and is_number(values.get("chance"))
    }
    warned = record.results.get("normalisation", {}).get("warning")
    note = f" {warned}" if warned else ""
    if not measured:
        return Light(
            name,
            "unknown",
            "Not measured",
            "results.json doesn't say how much of batch and plate is in the profiles; that takes "
            f"several of them, and wells.{note}",
            "Give Metadata_Plate and Metadata_Batch, in the screen's table or a plate map "
            "(screen.platemap in the config), and run again into another folder.",
        )
    levels = {label: leakage_level(values) for label, values in measured.items()}
    level = next((each for each in ("bad", "warning") if each in levels.values()), "good")
    # Batch and plate are named in any case, others where something is the matter.
    shown = [
        f"{shared} in {percent(values['accuracy'])} of cases (by chance "
        f"{percent(values['chance'])})"
        for label, values in measured.items()
        if (shared := _SHARED.get(label)) and (label in _ALWAYS or levels[label] != "good")
    ]
    sentence = (
        f"The most similar well of another compound is {listed(shown)}.{note}"
        if shown
        else f"What was measured is shared no more often than by chance.{note}"
    )
    if level == "good":
        return Light(
            name,
            "warning" if warned else "good",
            "The normalisation warns" if warned else "Little of batch and plate in the profiles",
            sentence,
            "Use more control wells, or a normalisation that needs fewer of them."
            if warned
            else "The section on technical effects has position and cell density, too.",
        )
    told = [each for each in CONFOUNDERS if levels.get(each.name, "good") != "good"]
    return Light(
        name,
        level,
        shared_beyond_chance(told),
        sentence,
        "Trust neighbours from another batch (NSCB) more than those of the same one; colour the "
        "map by batch, plate and density, and try another normalisation, such as one per plate "
        "(profile.normalise: plate in the config).",
    )


def _sentence(words: str) -> str:
    words = words.strip().rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."
