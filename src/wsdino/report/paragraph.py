"""A methods paragraph to paste into a paper, from what the run recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsdino.evaluate.measures import BY_KEY
from wsdino.report.words import is_number, number
from wsdino.runrecord import Omitted, RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def _network(record: RunRecord) -> str:
    version = (record.environment.get("versions") or {}).get("wsdino")
    made = f"wsdino {version}" if version else "wsdino"
    label, sites = record.coverage.get("label"), record.coverage.get("num_sites")
    if label and is_number(sites):
        labels = number(record.coverage.get("num_labels"))
        return (
            f"Embeddings of whole fields were learnt with {made} by self-distillation (DINO, "
            f"arXiv 2104.14294) with {label} as the weak label (WS-DINO, arXiv 2209.07819), on "
            f"{number(sites)} fields of {labels} labels."
        )
    return f"Embeddings of whole fields were made with {made}."


def _profiles(results: Mapping[str, Any]) -> str:
    made = results.get("normalisation")
    if not isinstance(made, dict) or not made.get("method"):
        return ""
    fitted = f", fitted on {made['fitted_on']}" if made.get("fitted_on") else ""
    rows = f" ({number(made['num_fitted'])} rows)" if made.get("num_fitted") else ""
    text = f"Features were normalised by {made['method']}{fitted}{rows}"
    if results.get("aggregation"):
        text += f" and aggregated to treatments ({results['aggregation']})"
    return f"{text}."


def _matching(results: Mapping[str, Any]) -> str:
    if not is_number(results.get("nsc")):
        return ""
    nscb = ""
    if is_number(results.get("nscb")):
        nscb = " or, for NSCB, of another compound and batch"
    null = results.get("nsc_null")
    chance = ""
    if isinstance(null, dict) and is_number(null.get("num_permutations")):
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
    found = results.get("activity")
    if not isinstance(found, dict) or not found.get("num_tested"):
        return ""
    return (
        "Phenotypic activity is the mean average precision of a treatment's wells against the "
        "negative controls of their plate, with p values from "
        f"{number(found.get('null_size'))} random rankings; treatments count as active at a false "
        f"discovery rate of {100 * found['fdr']:g} % (Benjamini-Hochberg)."
    )
