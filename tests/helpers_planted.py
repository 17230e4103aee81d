"""A simulated screen's measures with an error planted, as an error of its files would make them.

Pixels are changed and measured again; what is swapped or moved whole is swapped or moved in the
measures, which comes to the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from wsdino.screen.measures import site_measures
from wsdino.screen.statistics import site_statistics
from wsdino.screen.store import STATISTIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.screen.check.evidence import Evidence
    from wsdino.screen.store import Store

    Pixels = np.ndarray
    Change = Callable[[Pixels, np.random.Generator], Pixels]
    Plant = Callable[[Evidence, Store, str, np.random.Generator], Evidence]

LABELS = ["Metadata_Compound", "Metadata_Concentration", "Metadata_Control", "Metadata_MoA"]


def redrawn(
    evidence: Evidence, store: Store, rows: np.ndarray, change: Change, *, seed: int = 0
) -> Evidence:
    """Measure some sites again after changing their pixels (C, H, W)."""
    rng = np.random.default_rng(seed)
    measures = evidence.measures.copy()
    statistics = {name: values.copy() for name, values in evidence.statistics.items()}
    for row in rows:
        pixels = change(store[int(row)], rng)
        measures[row] = site_measures(pixels)
        for name, values in zip(STATISTIC_NAMES, site_statistics(pixels).T, strict=True):
            statistics[name][row] = values
    return replace(evidence, measures=measures, statistics=statistics)


def with_channels_swapped(evidence: Evidence, plate: str, one: int, other: int) -> Evidence:
    rows, measures = evidence.plates[plate], evidence.measures.copy()
    order = list(range(len(evidence.channels)))
    order[one], order[other] = other, one
    for name in measures.dtype.names:
        measures[name][rows] = measures[name][rows][:, order]
    statistics = {name: values.copy() for name, values in evidence.statistics.items()}
    for values in statistics.values():
        values[rows] = values[rows][:, order]
    return replace(evidence, measures=measures, statistics=statistics)


def with_labels_moved(evidence: Evidence, plate: str, step: int = 1) -> Evidence:
    """Give each well of a plate the labels of the next one used, row by row."""
    rows, manifest = evidence.plates[plate], evidence.manifest.copy()
    wells = sorted(manifest.loc[rows, "Metadata_Well"].unique())
    labels = manifest.loc[rows].groupby("Metadata_Well")[LABELS].first().loc[np.roll(wells, step)]
    labels.index = wells
    manifest.loc[rows, LABELS] = labels.loc[manifest.loc[rows, "Metadata_Well"]].to_numpy()
    manifest["Metadata_Control"] = manifest["Metadata_Control"].astype(bool)
    return replace(evidence, manifest=manifest)


def magnified(pixels: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    """The middle of a field at twice the magnification."""
    height, width = (side // 4 for side in pixels.shape[1:])
    middle = pixels[:, height:-height, width:-width].astype(np.float32)
    return np.stack([ndimage.zoom(each, 2, order=3) for each in middle]).clip(0).astype(np.uint16)


def brighter(pixels: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    return (2.0 * pixels).clip(0, 65535).astype(np.uint16)


def in_8_bit(pixels: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    return (pixels // 16).clip(0, 255).astype(np.uint16)


def changed_channel(channel: int, change: Change) -> Change:
    def changed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
        pixels = pixels.copy()
        pixels[channel] = change(pixels[channel], rng)
        return pixels

    return changed


def black(pixels: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    return np.zeros_like(pixels)


def constant(pixels: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    return np.full_like(pixels, 317)


def dark(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The camera's offset and noise, without light."""
    return rng.normal(200, 10, pixels.shape).clip(0).astype(np.uint16)


def saturated(pixels: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001
    return (8.0 * pixels).clip(0, 4095).astype(np.uint16)


def with_pixels_copied(evidence: Evidence, source: int, target: int, channel: int) -> Evidence:
    """Give a site the pixels that another has in a channel."""
    measures = evidence.measures.copy()
    for name in measures.dtype.names:
        measures[name][target, channel] = measures[name][source, channel]
    statistics = {name: values.copy() for name, values in evidence.statistics.items()}
    for values in statistics.values():
        values[target, channel] = values[source, channel]
    return replace(evidence, measures=measures, statistics=statistics)


def with_other_controls(evidence: Evidence, plate: str, rng: np.random.Generator) -> Evidence:
    """Exchange the labels of a plate's controls with those of as many treated wells."""
    rows, manifest = evidence.plates[plate], evidence.manifest.copy()
    labels = manifest.loc[rows].groupby("Metadata_Well")[LABELS].first()
    is_control = labels["Metadata_Control"].to_numpy(dtype=bool)
    own, treated = labels.index[is_control], labels.index[~is_control]
    others = rng.permutation(treated)[: len(own)]
    partner = dict(zip(own, others, strict=True)) | dict(zip(others, own, strict=True))
    wells = manifest.loc[rows, "Metadata_Well"]
    manifest.loc[rows, LABELS] = labels.loc[[partner.get(w, w) for w in wells]].to_numpy()
    manifest["Metadata_Control"] = manifest["Metadata_Control"].astype(bool)
    return replace(evidence, manifest=manifest)


def _of_channel(change: Change) -> Plant:
    def plant(evidence: Evidence, store: Store, plate: str, rng: np.random.Generator) -> Evidence:
        channel = int(rng.integers(len(evidence.channels)))
        return redrawn(evidence, store, evidence.plates[plate], changed_channel(channel, change))

    return plant


def _swap(evidence: Evidence, store: Store, plate: str, rng: np.random.Generator) -> Evidence:  # noqa: ARG001
    one, other = rng.choice(len(evidence.channels), 2, replace=False)
    return with_channels_swapped(evidence, plate, int(one), int(other))


def _copy(evidence: Evidence, store: Store, plate: str, rng: np.random.Generator) -> Evidence:  # noqa: ARG001
    source, target = rng.choice(evidence.plates[plate], 2, replace=False)
    return with_pixels_copied(evidence, int(source), int(target), 0)


def _of_plate(change: Change) -> Plant:
    return lambda evidence, store, plate, rng: redrawn(  # noqa: ARG005
        evidence, store, evidence.plates[plate], change
    )


def _bright_controls(
    evidence: Evidence,
    store: Store,
    plate: str,
    rng: np.random.Generator,  # noqa: ARG001
) -> Evidence:
    rows = evidence.plates[plate]
    is_control = evidence.manifest.loc[rows, "Metadata_Control"].to_numpy(dtype=bool)
    return redrawn(evidence, store, rows[is_control], brighter)


@dataclass(frozen=True)
class Planted:
    """An error of one plate.

    Parameters
    ----------
    name
        What it is.
    check
        The check that has to say it.
    plant
        Plants it on a plate.
    """

    name: str
    check: str
    plant: Plant


PLANTED = (
    Planted("two channels swapped", "swapped", _swap),
    Planted("a black channel", "blank", _of_channel(black)),
    Planted("a constant channel", "blank", _of_channel(constant)),
    Planted("a channel without light", "blank", _of_channel(dark)),
    Planted("a saturated channel", "saturated", _of_channel(saturated)),
    Planted("the pixels of another site in one channel", "same pixels", _copy),
    Planted("twice the magnification", "magnification", _of_plate(magnified)),
    Planted("controls twice as bright", "controls", _bright_controls),
    Planted(
        "treated wells called controls",
        "controls",
        lambda evidence, store, plate, rng: with_other_controls(evidence, plate, rng),  # noqa: ARG005
    ),
    Planted(
        "labels moved by a well",
        "shifted labels",
        lambda evidence, store, plate, rng: with_labels_moved(evidence, plate),  # noqa: ARG005
    ),
    Planted("8 bit among 16 bit", "value range", _of_plate(in_8_bit)),
)
