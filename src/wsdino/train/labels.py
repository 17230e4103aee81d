"""Weak labels: a manifest column; images with the same value are treated as similar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class WeakLabels:
    """The weak label of every site.

    Parameters
    ----------
    codes
        (N,) int64: index into `names`, -1 for sites that are not trained on.
    names
        Name of each label; numbers if each image is its own label.
    """

    codes: NDArray[np.int64]
    names: list[str] | range

    @property
    def sites(self) -> NDArray[np.int64]:
        """Rows that are trained on."""
        return np.flatnonzero(self.codes >= 0)


def weak_labels(
    manifest: pd.DataFrame, label: str, *, include_controls: bool = False
) -> WeakLabels:
    """Read weak labels from a manifest.

    Parameters
    ----------
    manifest
        N rows.
    label
        ``none`` (each image its own label: plain DINO), ``compound``, ``treatment`` (compound and
        concentration), or the name of any manifest column, with or without ``Metadata_``.
    include_controls
        Whether negative controls are trained on, as one more label.

    Raises
    ------
    ConfigError
        If the column is missing, empty or constant.
    """
    trained = np.ones(len(manifest), dtype=bool)
    if not include_controls:
        trained = ~manifest["Metadata_Control"].to_numpy(dtype=bool)
    if label == "none":
        codes = np.where(trained, np.cumsum(trained) - 1, -1)
        names: list[str] | range = range(int(trained.sum()))
    else:
        values, found = _label_values(manifest, label)
        values[~trained] = -1
        # Names that no trained site has are left out, and the others stay in order.
        used = np.bincount(values[values >= 0], minlength=len(found)) > 0
        names = [name for name, is_used in zip(found, used, strict=True) if is_used]
        codes = np.append(np.cumsum(used) - 1, -1)[values]
    if len(names) < 2:
        raise ConfigError(
            f"pairing.label {label!r}: {len(names)} distinct value(s) among the {trained.sum()} "
            "sites to train on; a weak label needs at least two"
        )
    return WeakLabels(codes, names)


def _label_values(manifest: pd.DataFrame, label: str) -> tuple[NDArray[np.int64], list[str]]:
    """Code of every site, -1 where its value is missing, and the sorted names of the codes."""
    if label == "treatment":
        compounds, names = _named(manifest["Metadata_Compound"])
        doses, concentrations = pd.factorize(manifest["Metadata_Concentration"])
        pairs, found = pd.factorize(compounds * (len(concentrations) + 1) + doses + 1)
        parts = [divmod(pair, len(concentrations) + 1) for pair in found.tolist()]
        # A missing concentration is not shown, but is a treatment like any other.
        both = [f"{names[i]} {concentrations[j - 1]:g} uM" if j else names[i] for i, j in parts]
        return _sorted(np.where(compounds < 0, -1, pairs), both)
    wanted = {label, f"Metadata_{label}", f"Metadata_{label.capitalize()}"}
    column = next((name for name in manifest.columns if name in wanted), None)
    if column is None:
        known = [c for c in manifest.columns if c.startswith("Metadata_")]
        near = did_you_mean(label, ("none", "compound", "treatment", *known))
        near = near or did_you_mean(f"Metadata_{label}", known)
        raise ConfigError(
            f"pairing.label {label!r}: no such column{near}; use none, compound, treatment or one "
            f"of {', '.join(known)}"
        )
    return _named(manifest[column])


def _named(values: pd.Series[str]) -> tuple[NDArray[np.int64], list[str]]:
    # Convert only the few distinct values to names, not every row.
    codes, found = pd.factorize(values)
    return _sorted(codes, [str(value) for value in found])


def _sorted(codes: NDArray[np.int64], names: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Order codes by name; merge values with the same name (1 and "1")."""
    ordered, rank = np.unique(np.array([*names, ""], dtype=object)[:-1], return_inverse=True)
    return np.append(rank, -1)[codes], ordered.tolist()
