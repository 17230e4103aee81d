"""Formatting numbers and names for the report and the terminal."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeGuard

from wsdino import baselines
from wsdino.evaluate.measures import BY_KEY, MEASURES
from wsdino.runrecord import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsdino.evaluate.measures import Measure

# Shown for a missing value.
DASH = "-"
DISTANCE = "Distance to controls"


def encodable(text: str) -> str:
    """Put `?` in place of what no file of text can hold.

    Halves of characters (surrogates) come from JSON, and from names of files in another encoding.
    """
    return text.encode(errors="replace").decode()


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; a boolean is not."""
    return type(value) is not bool and isinstance(value, Real) and math.isfinite(value)


def display_name(name: str) -> str:
    """Return the label of a run or baseline."""
    known = {RUN: "this run"} | {entry.name: entry.label for entry in baselines.BASELINES}
    return known.get(name, name)


def number(value: Any, digits: int = 3) -> str:
    """Format a number for a table; a dash where there is none.

    Parameters
    ----------
    value
        Anything; only finite numbers are formatted.
    digits
        Significant digits of a float.

    Returns
    -------
    str
        The number, or a dash.
    """
    is_whole = isinstance(value, Integral)
    if not is_number(value):
        return DASH
    return f"{value:,}" if is_whole else f"{value:.{digits}g}"


def decimal(value: Any) -> str:
    """Format a share or a similarity with three decimals; a dash where there is none."""
    return f"{value:.3f}" if is_number(value) else DASH


def percent(value: Any) -> str:
    """Format a fraction as percent with one decimal; a dash where there is none."""
    return f"{100 * value:.1f} %" if is_number(value) else DASH


def interval(results: Mapping[str, Any], measure: str) -> tuple[float, float] | None:
    """Return the confidence interval of a measure as fractions, or None where there is none."""
    pair = results.get(f"{measure}_ci")
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    return (float(pair[0]), float(pair[1])) if all(map(is_number, pair)) else None


def measure_text(results: Mapping[str, Any], measure: str) -> str:
    """Format a measure: a share in percent, another with three decimals; a dash without it."""
    value = results.get(measure)
    return percent(value) if BY_KEY[measure].is_share else decimal(value)


def interval_text(results: Mapping[str, Any], measure: str) -> str:
    """Format the confidence interval of a measure in its units, without a name; may be empty."""
    pair = interval(results, measure)
    if pair is None:
        return ""
    if BY_KEY[measure].is_share:
        return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"
    return f"[{pair[0]:.3f}, {pair[1]:.3f}]"


def count_text(results: Mapping[str, Any], measure: str) -> str:
    """Format the number of queries of a measure, `right/all` of a share; may be empty."""
    right, total = results.get(f"{measure}_correct"), results.get(f"{measure}_total")
    if not is_number(total):
        return ""
    if BY_KEY[measure].is_share:
        return f"{right}/{total}" if is_number(right) else ""
    return str(total)


def concentration(value: Any) -> str:
    """Format a concentration in micromolar; empty where there is none."""
    return f"{value:g} µM" if is_number(value) else ""


def normalisation_text(made: Mapping[str, Any]) -> str:
    """Name a normalisation, and what it was fitted on."""
    fitted = f" fitted on {made['fitted_on']}" if made.get("fitted_on") else ""
    return f"normalisation {made.get('method')}{fitted}"


def annotated_text(results: Mapping[str, Any]) -> str:
    """Say after the number of treatments with a mechanism that it is theirs, if others have none.

    Either empty or ` with a mechanism, 3 without`.
    """
    unknown = results.get("num_unannotated")
    return f" with a mechanism, {unknown} without" if unknown else ""


def weak_label_of(results: Mapping[str, Any]) -> Any:
    """Return the weak label that the normalisation used, or None."""
    return results.get("normalisation", {}).get("options", {}).get("label")


def well_distance(results: Mapping[str, Any]) -> str:
    """Name the distance to controls of a well, in features as the normalisation leaves them.

    Where that used weak labels it isn't what activity has of the same wells, whose compounds are
    left out of the fit (:func:`wsdino.evaluate.evidence.activity_of`), and so is called otherwise.
    """
    return f"{DISTANCE}, own label in the fit" if weak_label_of(results) else DISTANCE


def held_out_text(results: Mapping[str, Any]) -> str:
    """Describe the use of weak labels, and the results without the query's; may be empty."""
    label = weak_label_of(results)
    if not label:
        return ""
    used = f"weak labels ({label}) were used"
    found = results.get("held_out")
    if found is None:
        return (
            f"{used}, including those of the queries; results with the query's compound left out "
            "of the fit require the sites (wsdino evaluate SITES --from-sites)"
        )
    if "note" in found:
        return f"{used}; the query's compound could not be left out of the fit: {found['note']}"
    numbers = (
        f"{measure.name} {held_out_number(found, measure)}"
        for measure in MEASURES
        if is_number(found.get(measure.key))
    )
    return (
        f"{used}; with the query's compound left out of the fit ({found['num_folds']} folds over "
        f"compounds, mean of {found['num_seeds']} seeds): {', '.join(numbers) or 'no queries'}"
    )


def held_out_number(found: Mapping[str, Any], measure: Measure) -> str:
    """Format a measure with the query's compound left out of the fit; a dash without it."""
    value = found.get(measure.key)
    return percent(value) if measure.is_share else decimal(value)


def beside_results(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the numbers under each further normalisation as if they were a run's own.

    Parameters
    ----------
    results
        Results of a run, with those under further normalisations in `beside`, its baselines' too.

    Returns
    -------
    dict
        Normalisation -> results, with `baselines` where they were judged under it.
    """
    baselines = results.get("baselines") or {}
    return {
        method: {
            **own,
            "baselines": {
                name: each["beside"][method]
                for name, each in baselines.items()
                if method in (each.get("beside") or {})
            },
        }
        for method, own in (results.get("beside") or {}).items()
    }
