"""Checks that compare a plate's channels with those of the other plates."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from wsdino.screen.check.evidence import Evidence, Finding
from wsdino.screen.measures import NUM_BANDS
from wsdino.tables.columns import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Nats by which two channels of a plate, taken for each other, have to look more like themselves.
# On simulated plates of one site per well the gain is at most -0.4, and at least 1.6 where two
# channels were swapped.
SWAP_GAIN = 1.0
# No single site says more than this, so that a strange one doesn't decide.
MOST_NATS = 7.0
# Sites of each plate that channels are learned from.
LEARNED_PER_PLATE = 40
FEW_SITES = 3
# Magnification, in octaves: by how much foreground and spectrum have to move at least, and how many
# times further than plates and sites differ anyway. On clean simulated plates the spectrum moves by
# at most 0.31, and at twice the magnification by at least 0.40.
EXTENT_MOVES, SPECTRUM_MOVES, TIMES_SPREAD = 0.4, 0.35, 2.0
LEAST_EXTENT, LEAST_SPECTRUM = 0.08, 0.06
OF_SITES_EXTENT, OF_SITES_SPECTRUM = 0.4, 0.3
# Cells of a batch may be smaller or larger than those of others: of a plate that is far from the
# others of its batch, this share of the moves from all others suffices.
OF_BATCH = 0.75
# A median of fewer other plates is none.
FEW_PLATES = 3


def swapped(evidence: Evidence) -> Iterator[Finding]:
    """Channels of a plate that look like each other's on the other plates.

    Linear discriminant analysis learns from the other plates what each channel looks like
    (spectrum, contrast, foreground, focus, brightness); a plate's own channels are swapped if its
    sites are more likely that way round. The clearest case is put right before the next is looked
    for, so that a swapped plate doesn't cast doubt on the others.
    """
    channels, plates = evidence.sound, list(evidence.plates.items())
    if len(channels) < 2 or len(plates) < 2:
        return
    looks = evidence.descriptors[:, channels].copy()
    is_whole = np.asarray(np.isfinite(looks).all(axis=(1, 2)))
    rows = [each[is_whole[each]] for _, each in plates]
    left = {number for number, each in enumerate(rows) if len(each) >= FEW_SITES}
    while left:
        gains = {number: _swap_gain(looks, rows, number) for number in left}
        worst = max(gains, key=lambda number: gains[number][0])
        gain, (one, other) = gains[worst]
        if gain < SWAP_GAIN:
            return
        left.remove(worst)
        own = looks[rows[worst]]
        own[:, [one, other]] = own[:, [other, one]]
        looks[rows[worst]] = own
        a, b = (evidence.channels[channels[index]] for index in (one, other))
        yield Finding(
            "swapped",
            f"plate {plates[worst][0]}: {a} looks like {b} of the other plates, and {b} like {a}: "
            "swapped files?" + (" (or those of the only other plate)" if len(plates) == 2 else ""),
        )


def _swap_gain(
    looks: Floats, rows: list[NDArray[np.intp]], plate: int
) -> tuple[float, tuple[int, int]]:
    """By how much a plate is likelier with two channels swapped, nats per site, and which two."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    learned = [
        each[np.linspace(0, len(each) - 1, min(len(each), LEARNED_PER_PLATE)).astype(int)]
        for number, each in enumerate(rows)
        if number != plate and len(each)
    ]
    num_channels, num_features = looks.shape[1:]
    if sum(map(len, learned)) < FEW_SITES:
        return -np.inf, (0, 1)
    known = looks[np.concatenate(learned)]
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    # Whatever doesn't vary at all says nothing, and can't be scaled.
    varies = known.reshape(-1, num_features).std(axis=0) > 0
    model.fit(
        known.reshape(-1, num_features)[:, varies], np.tile(np.arange(num_channels), len(known))
    )
    own = looks[rows[plate]].reshape(-1, num_features)[:, varies]
    nats = np.maximum(model.predict_log_proba(own), -MOST_NATS)
    means = np.median(nats.reshape(-1, num_channels, num_channels), axis=0)
    return max(
        (float(means[a, b] + means[b, a] - means[a, a] - means[b, b]), (a, b))
        for a, b in combinations(range(num_channels), 2)
    )


def magnification(evidence: Evidence) -> Iterator[Finding]:
    """Plates whose cells are larger or smaller than on all other plates, by an octave or so.

    It is looked for in the channel whose sizes differ least between the sites of a plate, which
    stains nuclei as a rule: in others, textures and densities differ as much between treatments.
    Two sizes must move together: the width of the foreground's pieces, and the place of the power
    spectrum's centre; both further than plates differ otherwise, and than sites of a plate do.
    Where a batch's cells are smaller, or larger, its plates are compared with each other, too.
    """
    if len(evidence.plates) <= FEW_PLATES or not evidence.sound:
        return
    sizes = np.stack([_extent(evidence), -_spectral_centre(evidence)], axis=2)[:, evidence.sound]
    plates = [sizes[rows] for rows in evidence.plates.values()]
    every = np.stack([np.nanmedian(each, axis=0) for each in plates])
    deviations = [_spread(each, centre) for each, centre in zip(plates, every, strict=True)]
    of_sites = np.median(deviations, axis=0)
    steadiest = int(of_sites.prod(axis=1).argmin())
    medians, floor = every[:, steadiest], of_sites[steadiest] * (OF_SITES_EXTENT, OF_SITES_SPECTRUM)
    moved, times = np.zeros_like(medians), np.zeros(len(medians))
    for number in range(len(medians)):
        others = np.delete(medians, number, axis=0)
        usual = np.median(others, axis=0)
        spread = np.maximum(_spread(others, usual), floor)
        spread = np.maximum(spread, (LEAST_EXTENT, LEAST_SPECTRUM))
        moved[number] = medians[number] - usual
        # The spectrum moves by half as much: much of it is not of cells.
        times[number] = np.min(np.abs(moved[number]) * (1, 2) / spread)
    batches = np.array(
        [evidence.manifest[BATCH].iloc[each[0]] for each in evidence.plates.values()]
    )
    for number, plate in enumerate(evidence.plates):
        own, mates = moved[number], batches == batches[number]
        mates[number] = False
        found = _is_far(own)
        if not found and mates.any():
            within = medians[number] - np.median(medians[mates], axis=0)
            furthest = (np.abs(own) > np.abs(moved[mates])).all()
            same_way = (own * within > 0).all()
            found = _is_far(own, OF_BATCH) and _is_far(within) and bool(furthest and same_way)
        if found and times[number] >= TIMES_SPREAD:
            yield Finding(
                "magnification",
                f"plate {plate}: what {evidence.channels[evidence.sound[steadiest]]} shows is "
                f"{2 ** own[0]:.1f} times as large as on the other plates: another magnification "
                "or binning?",
            )


def _is_far(moved: Floats, share: float = 1) -> bool:
    """Whether foreground and spectrum have moved together, and by a share of the least moves."""
    return bool(
        moved[0] * moved[1] > 0
        and (np.abs(moved) >= share * np.array([EXTENT_MOVES, SPECTRUM_MOVES])).all()
    )


def _extent(evidence: Evidence) -> Floats:
    """(N, C): width of the foreground's pieces, log2 px."""
    found = np.log2(evidence.measures["extent"] + 0.1)
    return np.where(evidence.shows, found, np.nan).astype(np.float64)


def _spectral_centre(evidence: Evidence) -> Floats:
    """(N, C): mean of log2 frequency, weighted by the power per octave, cycles per px."""
    bands = np.arange(NUM_BANDS)[1:]
    frequency = 0.5 * 2.0 ** -((bands + 0.5) / 2)
    weight = 2.0 ** evidence.spectra[..., 1:] * frequency**2
    total = np.nansum(weight, axis=2)
    centre: Floats = np.nansum(weight * np.log2(frequency), axis=2) / np.where(total, total, np.nan)
    return centre


def _spread(values: Floats, centre: Floats) -> Floats:
    """Return the median absolute deviation, scaled to a normal distribution's standard one."""
    spread: Floats = 1.4826 * np.nanmedian(np.abs(values - centre), axis=0)
    return spread
