"""How uneven illumination may be corrected: one table, from which choices, help and errors derive.

The estimators themselves are imported when they are needed, so that the command line starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsdino.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.screen.estimators import Estimator

MAX_SITES = 1000
"""Sites of a plate that :class:`~wsdino.screen.estimators.SmoothFit` looks at, evenly spread."""


@dataclass(frozen=True)
class IlluminationMethod:
    """A way to correct uneven illumination.

    Parameters
    ----------
    name, description
        For people who choose.
    uses_given
        Whether functions that the table names are applied (and nothing is estimated for their
        channels).
    estimator
        Makes what estimates the others; None: they stay as they are.
    max_sites
        Sites of a plate that are enough, evenly spread; None: all are seen.
    """

    name: str
    description: str
    uses_given: bool = True
    estimator: Callable[[], Estimator] | None = None
    max_sites: int | None = None


def _paper_median() -> Estimator:
    from wsdino.screen.estimators import PaperMedian

    return PaperMedian()


def _smooth_fit() -> Estimator:
    from wsdino.screen.estimators import SmoothFit

    return SmoothFit()


METHODS = (
    IlluminationMethod("none", "images as they are", uses_given=False),
    IlluminationMethod("given", "the functions that the table names (FileName_Illum<Channel>)"),
    IlluminationMethod(
        "paper",
        "the median-filtered mean of all images of a plate's channel, as in WS-DINO's pipelines",
        estimator=_paper_median,
    ),
    IlluminationMethod(
        "smooth",
        "a smooth robust fit to each plate's channel, with its dark offset subtracted first",
        estimator=_smooth_fit,
        max_sites=MAX_SITES,
    ),
)
DEFAULT = "given"


def described_methods() -> str:
    """List the methods for people: `name: description; ...`."""
    return "; ".join(f"{method.name}: {method.description}" for method in METHODS)


def illumination_method(name: str) -> IlluminationMethod:
    """Return a method by its name.

    Raises
    ------
    InputError
        If there is no such method.
    """
    for method in METHODS:
        if method.name == name:
            return method
    names = [method.name for method in METHODS]
    raise InputError(
        f"illumination {name!r}: no such method{did_you_mean(name, names)}; give one of "
        f"{', '.join(names)}"
    )
