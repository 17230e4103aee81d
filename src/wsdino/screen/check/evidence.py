"""What the checks of a screen look at: measures of its sites, summed up by plate and by well."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.screen.measures import NOISE, NUM_BANDS
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, CONTROL, PLATE, WELL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# A channel counts on a plate if it shows more than noise in this share of its sites.
SOUND = 0.5
# The finest and the coarsest half octave hang on camera noise and on how a field happens to lie.
BANDS = slice(1, NUM_BANDS - 1)


@dataclass(frozen=True)
class Finding:
    """Something that a check found.

    Parameters
    ----------
    check
        Name of the check.
    text
        One line that says where and what.
    """

    check: str
    text: str


@dataclass(frozen=True)
class Wells:
    """The wells of a screen with their features.

    Parameters
    ----------
    plates, names
        (n,) plate and name of each well.
    treatments
        (n,) code of what it received, compound and concentration.
    controls
        (n,) bool.
    features
        (n, F) logarithms of brightness, foreground, focus and scale, and power spectra, of all
        sound channels; means over the well's sites, NaN where it shows nothing.
    """

    plates: NDArray[Any]
    names: NDArray[Any]
    treatments: NDArray[np.intp]
    controls: NDArray[np.bool_]
    features: Floats


@dataclass(frozen=True)
class Evidence:
    """Measures of a screen's N sites in C channels.

    Parameters
    ----------
    manifest
        N rows.
    channels
        Names of the C channels.
    measures
        (N,) of :func:`~wsdino.screen.measures.measures_type`.
    statistics
        As in :attr:`wsdino.screen.store.Store.statistics`, each (N, C).
    dtype
        Type of the stored pixels.
    scaling
        Bounds of a fixed input scaling that the pixels are about to meet; None: not known yet.
    """

    manifest: pd.DataFrame
    channels: tuple[str, ...]
    measures: NDArray[Any]
    statistics: Mapping[str, NDArray[np.float32]]
    dtype: np.dtype[Any]
    scaling: tuple[float, float] | None = None

    @cached_property
    def names(self) -> NDArray[Any]:
        """(N,) name of each site's plate; with its batch if two batches have one of that name."""
        pairs = self.manifest[[BATCH, PLATE]].drop_duplicates()
        shared = set(pairs.loc[pairs[PLATE].duplicated(), PLATE])
        plate, batch = self.manifest[PLATE].astype(str), self.manifest[BATCH].astype(str)
        is_shared = self.manifest[PLATE].isin(shared)
        return plate.where(~is_shared, batch + "/" + plate).to_numpy(dtype=object)

    @cached_property
    def plates(self) -> dict[str, NDArray[np.intp]]:
        """Rows of each plate, in order of first appearance."""
        codes, names = pd.factorize(self.names)
        return {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}

    @cached_property
    def shows(self) -> NDArray[np.bool_]:
        """(N, C): whether a channel shows more than noise."""
        found: NDArray[np.bool_] = self.measures["relatedness"] >= NOISE
        return found

    @cached_property
    def sound(self) -> list[int]:
        """Channels that show more than noise in most sites of every plate."""
        shares = [self.shows[rows].mean(axis=0) for rows in self.plates.values()]
        return np.flatnonzero(np.min(shares, axis=0) >= SOUND).tolist()

    @cached_property
    def spectra(self) -> Floats:
        """(N, C, NUM_BANDS): log2 power per band relative to the mean of all; NaN: nothing."""
        found = np.where(self.shows[..., None], self.measures["spectrum"], np.nan)
        known = ~np.isnan(found).all(axis=(0, 1))
        level = found[..., known].mean(axis=2, keepdims=True) if known.any() else 0.0
        return np.asarray(found - level, np.float64)

    @cached_property
    def descriptors(self) -> Floats:
        """(N, C, F): what a channel looks like in a site; NaN where it shows nothing."""
        at = self.statistics
        shape = (
            np.log((at["std"] + 1) / (at["mean"] + 1)),
            np.log((at["p99"] - at["p50"] + 1) / (at["p50"] - at["p01"] + 1)),
            np.log(self.measures["foreground"] + 0.01),
            np.log(self.measures["focus"] + 0.01),
            np.log(at["mean"] + 1),
        )
        numbers = np.where(self.shows[..., None], np.stack(shape, axis=2), np.nan)
        spectra = self.spectra[..., ~np.isnan(self.spectra).all(axis=(0, 1))]
        return np.concatenate([spectra, numbers], axis=2)

    @cached_property
    def wells(self) -> Wells:
        """Wells with their features, in order of first appearance."""
        at = self.statistics
        numbers = (
            *(np.log2(at[name] + 1) for name in ("mean", "std", "p50", "p99")),
            np.log2(self.measures["foreground"] + 0.01),
            np.log2(self.measures["extent"] + 1),
            np.log2(self.measures["focus"] + 0.01),
        )
        each = np.where(self.shows[..., None], np.stack(numbers, axis=2), np.nan)
        bands = self.spectra[..., BANDS]
        bands = bands[..., ~np.isnan(bands).all(axis=(0, 1))]
        every = np.concatenate([bands, each], axis=2)[:, self.sound]
        table = pd.DataFrame(every.reshape(len(every), -1))
        key = [self.names, self.manifest[WELL].to_numpy()]
        first = self.manifest.groupby(key, sort=False).first()
        index = first.index.to_frame(index=False)
        pairs = first[[COMPOUND, CONCENTRATION]].reset_index(drop=True)
        codes = pairs.groupby([COMPOUND, CONCENTRATION], dropna=False).ngroup()
        return Wells(
            plates=index.iloc[:, 0].to_numpy(),
            names=index.iloc[:, 1].to_numpy(),
            treatments=codes.to_numpy().astype(np.intp),
            controls=first[CONTROL].to_numpy(dtype=bool),
            features=table.groupby(key, sort=False).mean().to_numpy(),
        )


def by_plate(values: Floats, plates: NDArray[Any]) -> dict[str, Floats]:
    """Return the rows of each plate."""
    return {str(plate): values[plates == plate] for plate in pd.unique(plates)}
