"""The checks of a screen: one table, from which names and documentation derive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsdino.screen.check import pixels, plates, wells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wsdino.screen.check.evidence import Evidence, Finding

MOST_LINES = 5
"""Findings of one check that are told one by one."""


@dataclass(frozen=True)
class Check:
    """A kind of silent error.

    Parameters
    ----------
    name
        Name, as in :attr:`~wsdino.screen.check.evidence.Finding.check`.
    help
        What it finds.
    find
        Finds it.
    """

    name: str
    help: str
    find: Callable[[Evidence], Iterator[Finding]]


VALUE_RANGE = Check(
    "value range",
    "8-bit data among 16-bit data, or under an input scaling for 16 bit",
    pixels.value_range,
)
CHECKS: tuple[Check, ...] = (
    Check("blank", "channels that are black, constant or nothing but noise", pixels.blank),
    Check("saturated", "channels cut off at the camera's limit", pixels.saturated),
    Check("same pixels", "images whose pixels occur under two names", pixels.same_pixels),
    VALUE_RANGE,
    Check("swapped", "channels that look like each other's on the other plates", plates.swapped),
    Check("magnification", "plates at another magnification or binning", plates.magnification),
    Check("controls", "controls that differ from those of all other plates", wells.controls),
    Check(
        "shifted labels",
        "labels off by a well: replicates agree better after a shift",
        wells.shifted,
    ),
)


def run_checks(evidence: Evidence, checks: Iterable[Check] | None = None) -> list[Finding]:
    """Run all checks, or some, in their order."""
    chosen = CHECKS if checks is None else checks
    return [finding for check in chosen for finding in check.find(evidence)]


def lines(findings: Iterable[Finding]) -> list[str]:
    """Tell findings in a line each; of many of one kind the first few, and how many more."""
    by_check: dict[str, list[str]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding.text)
    told = []
    for check, texts in by_check.items():
        told += [f"{check}: {text}" for text in texts[:MOST_LINES]]
        if len(texts) > MOST_LINES:
            told.append(f"{check}: {len(texts) - MOST_LINES} more like these")
    return told
