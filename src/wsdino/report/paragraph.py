"""A methods paragraph to paste into a paper, from what the run recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.evaluate.measures import BY_KEY
from wsdino.profile.methods import AGGREGATIONS
from wsdino.report.words import is_number, number
from wsdino.runrecord import Omitted, RunRecord
from wsdino.train.objectives import OBJECTIVES
from wsdino.train.objectives.distill import DISTILL

if TYPE_CHECKING:
    from collections.abc import Mapping

# The weak label (pairing.label) that is none.
UNLABELLED = "none"


def methods_paragraph(record: RunRecord) -> dict[str, Any]:
    """Describe how the numbers of a run were made; only what was recorded is said.

    Parameters
    ----------
    record
        Contents of the run folder.

    Returns
    -------
    dict
        `text`.

    Raises
    ------
    Omitted
        There are no results.
    """
    results = record.results
    if not results:
        raise Omitted(record.problems.get("results.json", "results.json is empty"))
    parts = (_network(record), _profiles(results), _matching(results), _activity(results))
    return {"text": " ".join(part for part in parts if part)}


def starting_weights(config: Mapping[str, Any]) -> str:
    """Name the weights that training with a config started from; no folders, which are private."""
    weights = config.get("model", {}).get("weights")
    if weights is None:
        return "random weights"
    names = weights.values() if isinstance(weights, dict) else [weights]
    return ", ".join(Path(name).name for name in names)


def _network(record: RunRecord) -> str:
    version = record.environment.get("versions", {}).get("wsdino")
    made = f"wsdino {version}" if version else "wsdino"
    label, sites = record.coverage.get("label"), record.coverage.get("num_sites")
    if not label or not is_number(sites):
        return f"Embeddings of whole fields were made with {made}."
    config = record.settings
    name = config.get("objective", {}).get("name")
    start = f", starting from {starting_weights(config)}" if "model" in config else ""
    labels = number(record.coverage.get("num_labels"))
    on, used = f"on {number(sites)} fields", f"with {label} as the weak label"
    if label != UNLABELLED:
        on += f" of {labels} labels"
    if name in (None, DISTILL.name):
        how = "by self-distillation (DINO, arXiv 2104.14294)"
        used += " (WS-DINO, arXiv 2209.07819)"
    else:
        known = {each.name: each.help for each in OBJECTIVES}
        how = f"by the objective {name} ({known.get(name, 'of another version')})"
    used = "without weak labels" if label == UNLABELLED else used
    return f"Embeddings of whole fields were learnt with {made} {how} {used}, {on}{start}."


def _profiles(results: Mapping[str, Any]) -> str:
    made = results.get("normalisation", {})
    if not made.get("method"):
        return ""
    fitted = f", fitted on {made['fitted_on']}" if made.get("fitted_on") else ""
    rows = f" ({number(made['num_fitted'])} rows)" if made.get("num_fitted") else ""
    text = f"Features were normalised by {made['method']}{fitted}{rows}"
    if results.get("aggregation"):
        named = {each.name: each.help for each in AGGREGATIONS}
        how = str(results["aggregation"])
        text += f" and aggregated to treatments ({named.get(how, how)})"
    return f"{text}."


def _matching(results: Mapping[str, Any]) -> str:
    if not is_number(results.get("nsc")):
        return ""
    nscb = ""
    if is_number(results.get("nscb")):
        nscb = " or, for NSCB, of another compound and batch"
    null = results.get("nsc_null")
    chance = ""
    if null and is_number(null.get("num_permutations")):
        chance = (
            f"; p values are from {number(null['num_permutations'])} permutations of mechanisms "
            "over compounds"
        )
    return (
        "Mechanisms of action were matched by the nearest treatment of another compound (NSC)"
        f"{nscb} by cosine similarity; intervals at 95 % are {BY_KEY['nsc'].interval} for shares "
        f"and from a {BY_KEY['map'].interval} for mean average precision{chance}."
    )


def _activity(results: Mapping[str, Any]) -> str:
    found = results.get("activity", {})
    if not found.get("num_tested"):
        return ""
    return (
        "Phenotypic activity is the mean average precision of a treatment's wells against the "
        "negative controls of their plate, with p values from "
        f"{number(found.get('null_size'))} random rankings; treatments count as active at a false "
        f"discovery rate of {100 * found['fdr']:g} % (Benjamini-Hochberg)."
    )
