"""Checks that need no plate to compare with: pixels that can't be a picture of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.screen.check.evidence import Evidence, Finding
from wsdino.tables.columns import SITE, WELL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BRIGHTEST_8_BIT = 255
# Share of a field's pixels at the camera's limit, in half of a plate's fields.
SATURATED = 0.01
# Share of a fixed scaling's range that the bright pixels of half of the fields have to reach.
LEAST_RANGE = 0.05


def blank(evidence: Evidence) -> Iterator[Finding]:
    """Channels that are black, constant, or nothing but noise."""
    top, low = evidence.measures["maximum"], evidence.measures["minimum"]
    for plate, rows in evidence.plates.items():
        for index, channel in enumerate(evidence.channels):
            where = f"plate {plate}, {channel}"
            constant = rows[top[rows, index] == low[rows, index]]
            if len(constant):
                value = f"{top[constant[0], index]:g}"
                yield Finding(
                    "blank",
                    f"{where}: {'black' if value == '0' else 'constant'}, every pixel is {value}, "
                    f"in {_sites(evidence, constant, rows)}",
                )
                continue
            noise = rows[~evidence.shows[rows, index]]
            if 2 * len(noise) > len(rows):
                yield Finding(
                    "blank",
                    f"{where}: nothing but noise in {_sites(evidence, noise, rows)}; was the lamp "
                    "on, and is this the channel's stain?",
                )


def saturated(evidence: Evidence) -> Iterator[Finding]:
    """Channels whose bright pixels are cut off at the camera's limit."""
    share = evidence.measures["saturation"]
    for plate, rows in evidence.plates.items():
        for index, channel in enumerate(evidence.channels):
            median = float(np.median(share[rows, index]))
            if median >= SATURATED:
                yield Finding(
                    "saturated",
                    f"plate {plate}, {channel}: saturated, in half of the sites at least "
                    f"{100 * median:.0f} % of the pixels are at the camera's limit",
                )


def same_pixels(evidence: Evidence) -> Iterator[Finding]:
    """Images whose pixels are those of another image, under another name."""
    num_channels = len(evidence.channels)
    digests: NDArray[np.uint64] = evidence.measures["digest"].ravel()
    differ = evidence.measures["maximum"] != evidence.measures["minimum"]
    images = pd.Series(digests)[differ.ravel()]
    twice = images[images.duplicated(keep=False)]
    if twice.empty:
        return
    first = twice.index[twice == twice.iloc[0]][:2]
    names = [_image(evidence, *divmod(int(image), num_channels)) for image in first]
    yield Finding(
        "same pixels",
        f"{names[0]}: the same pixels as {names[1]}; "
        f"{len(twice)} of {len(digests)} images share theirs with another",
    )


def value_range(evidence: Evidence) -> Iterator[Finding]:
    """8-bit data in 16-bit images, or under an input scaling for 16 bit."""
    if evidence.scaling is not None:
        yield from _under_scaling(evidence, *evidence.scaling)
        return
    if evidence.dtype.itemsize < 2:
        return
    top = {plate: evidence.measures["maximum"][rows] for plate, rows in evidence.plates.items()}
    small = [plate for plate, found in top.items() if found.max() <= BRIGHTEST_8_BIT]
    if len(small) == len(top):
        yield Finding(
            "value range",
            f"no pixel is above {BRIGHTEST_8_BIT}: 8-bit data in 16-bit images; give a fixed input "
            f"scaling a range to match (input.high)",
        )
        return
    highest = max(found.max() for found in top.values())
    for plate in small:
        if top[plate].max() > 0:
            yield Finding(
                "value range",
                f"plate {plate}: no pixel is above {BRIGHTEST_8_BIT}, and other plates reach "
                f"{highest:g}: 8-bit data among 16-bit data",
            )


def _under_scaling(evidence: Evidence, low: float, high: float) -> Iterator[Finding]:
    for index, channel in enumerate(evidence.channels):
        bright = float(np.median(evidence.statistics["p99"][:, index]))
        if bright - low < LEAST_RANGE * (high - low):
            kind = "8-bit data" if evidence.measures["maximum"].max() <= BRIGHTEST_8_BIT else "data"
            yield Finding(
                "value range",
                f"{channel}: in half of the sites 99 % of the pixels lie below {bright:g}, and the "
                f"input scaling goes from {low:g} to {high:g}: {kind} under a scaling for brighter "
                "images; set input.high, or input.method field",
            )


def _sites(evidence: Evidence, found: NDArray[np.intp], rows: NDArray[np.intp]) -> str:
    """Count sites, and name one if they are few."""
    count = f"{len(found)} of {len(rows)} sites"
    if len(found) == len(rows):
        return "every site"
    row = evidence.manifest.iloc[found[0]]
    return f"{count} (such as well {row[WELL]}, site {row[SITE]})"


def _image(evidence: Evidence, site: int, channel: int) -> str:
    row = evidence.manifest.iloc[site]
    plate, name = evidence.names[site], evidence.channels[channel]
    return f"plate {plate}, well {row[WELL]}, site {row[SITE]}, {name}"
