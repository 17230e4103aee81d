"""Weak labels: the manifest column that says which images are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import ConfigError

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
        One name a label.
    """

    codes: NDArray[np.int64]
    names: list[str]

    @property
    def sites(self) -> NDArray[np.int64]:
        """Rows that are trained on."""
        return np.flatnonzero(self.codes >= 0)


def weak_labels(
    manifest: pd.DataFrame, label: str, *, include_controls: bool = False
) -> WeakLabels:
    """Read weak labels off a manifest.

    Parameters
    ----------
    manifest
        Contract 4.1, N rows.
    label
        ``none`` (each image its own label: plain DINO), ``compound``, ``treatment`` (compound and
        concentration), or the name of any manifest column, with or without ``Metadata_``.
    include_controls
        Whether negative controls are trained on, as one more label.

    Raises
    ------
    ConfigError
        If the column is absent, empty or the same for every site.
    """
    trained = np.ones(len(manifest), dtype=bool)
    if not include_controls:
        trained = ~manifest["Metadata_Control"].to_numpy(dtype=bool)
    values = _label_values(manifest, label)
    trained &= values.notna().to_numpy()
    codes = np.full(len(manifest), -1, dtype=np.int64)
    found, names = pd.factorize(values[trained], sort=True)
    codes[trained] = found
    if len(names) < 2:
        raise ConfigError(
            f"pairing.label {label!r}: {len(names)} distinct value(s) among the {trained.sum()} "
            "sites to train on; a weak label needs at least two"
        )
    return WeakLabels(codes, [str(name) for name in names])


def _label_values(manifest: pd.DataFrame, label: str) -> pd.Series[str]:
    if label == "none":
        # Zero-padded, so that sorting the names keeps the order of the rows.
        return pd.Series([f"{i:09d}" for i in range(len(manifest))], index=manifest.index)
    if label == "treatment":
        compound = manifest["Metadata_Compound"].astype(str)
        return compound + " " + manifest["Metadata_Concentration"].map("{:g} uM".format)
    wanted = {label, f"Metadata_{label}", f"Metadata_{label.capitalize()}"}
    column = next((name for name in manifest.columns if name in wanted), None)
    if column is None:
        known = ", ".join(c for c in manifest.columns if c.startswith("Metadata_"))
        raise ConfigError(
            f"pairing.label {label!r}: no such column; use none, compound, treatment or one of "
            f"{known}"
        )
    values: pd.Series[str] = manifest[column]
    return values.where(values.isna(), values.astype(str))
