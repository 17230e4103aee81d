"""A normalisation that has been fitted: it transforms tables, and is saved and loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino import recorded
from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.outside import reading, require_bounded, require_shape
from wsdino.profile import methods
from wsdino.profile.methods import find_normalisation, usable_normalisations
from wsdino.runfolder import RunPaths
from wsdino.tables.features import (
    feature_columns,
    metadata_of,
    require_features,
    require_table,
    with_metadata,
)
from wsdino.tables.joining import JOINED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsdino.profile.base import Normalisation, State

FORMAT = 1
_HEADER, _ARRAY = "header", "array"


@dataclass(frozen=True, repr=False)
class Fitted:
    """A fitted normalisation.

    Attributes
    ----------
    normalisation
        What was fitted.
    features
        Names of the features it was fitted on, in order.
    state
        All that transforming takes: arrays and plain values.
    info
        `method`, `options`, `fitted_on`, `num_fitted` (rows), `num_components` (whitened features
        in all, or None), `note` and `warning`, as `results.json` holds it.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> wsdino.fit_normalisation(table, method="plate")
    <Fitted plate: 12 features, fitted on 108 rows>
    """

    normalisation: Normalisation
    features: tuple[str, ...]
    state: State
    info: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"<Fitted {self.info['method']}: {len(self.features)} features, "
            f"fitted on {self.info['num_fitted']} rows>"
        )

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """Normalise a table with the same features, such as new plates of the screen.

        What a normalisation takes from each plate (`plate`, `plate_controls`) it takes from the
        plates of this table.

        Parameters
        ----------
        table
            Metadata and features.

        Returns
        -------
        DataFrame
            The same rows and metadata. Whitened features are named `emb_<channel>_<index>`
            (`white_<index>` for features with other names), others keep their names.

        Raises
        ------
        TableError
            If the features are others, the table lacks the plates or controls that are needed, or
            the result isn't finite.
        """
        require_table(table)
        names = feature_columns(table)
        for these, those, where in (
            (self.features, names, "is missing in the table"),
            (names, self.features, "was not there when it was fitted"),
        ):
            other = [name for name in these if name not in set(those)]
            if other:
                raise TableError(
                    f"normalisation {self.normalisation.name} was fitted on other features: "
                    f"{other[0]} {where} ({len(other)} in all)"
                )
        metadata = metadata_of(table)
        if tuple(names) != self.features:
            table = pd.concat([metadata, table[list(self.features)]], axis=1)
        # Overflow is told below, for whatever reason there is some.
        with np.errstate(over="ignore", invalid="ignore"):
            columns = self.normalisation.method().transform(table, self.state)
        if not np.isfinite(columns.to_numpy()).all():
            raise TableError(
                f"normalisation {self.normalisation.name}: numbers grow beyond what there is; the "
                "table's features are far from those that it was fitted on"
            )
        return with_metadata(metadata, columns)

    def save(self, path: str | Path) -> None:
        """Write an `.npz` that :func:`load` reads back exactly; nothing in it is pickled.

        Parameters
        ----------
        path
            The file.

        Raises
        ------
        TableError
            If its name doesn't end in `.npz`.
        OutputError
            If the path can't be written.
        """
        path = _npz(path)
        arrays: dict[str, NDArray[Any]] = {}
        header = {
            "format": FORMAT,
            "method": self.normalisation.name,
            "features": list(self.features),
            "info": self.info,
            "state": _without_arrays(self.state, arrays),
        }
        arrays[_HEADER] = np.array(json.dumps(header, allow_nan=False))

        with writing(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


def fit(normalisation: Normalisation, table: pd.DataFrame, options: Mapping[str, Any]) -> Fitted:
    """Fit a normalisation; see :meth:`wsdino.profile.base.Normalisation.fit`.

    Parameters
    ----------
    normalisation
        What to fit.
    table
        Metadata and features of sites or wells.
    options
        Value by name; None stands for the default.

    Returns
    -------
    Fitted

    Raises
    ------
    TableError
        See :meth:`wsdino.profile.base.Normalisation.fit`.
    """
    resolved = normalisation.resolve(options)
    require_features(table)
    unmet = normalisation.unmet(table, resolved)
    if unmet:
        raise TableError(
            f"normalisation {normalisation.name} {unmet}; use one of "
            f"{', '.join(usable_normalisations(table))}"
        )
    joined = table.attrs.get(JOINED, [])
    if joined and not normalisation.scales:
        raise TableError(
            f"normalisation {normalisation.name} leaves the features of {' and '.join(joined)} in "
            "their own units; to combine several tables, use another"
        )
    found = normalisation.method().fit(table, resolved)
    labels = [f"weak labels ({resolved['label']}) were used"] if normalisation.needs.label else []
    together = [f"features of {' and '.join(joined)} together"] if joined else []
    info = {
        "method": normalisation.name,
        "options": resolved,
        "fitted_on": found.fitted_on,
        "num_fitted": int(found.num_fitted),
        "num_components": found.num_components,
        "note": "; ".join(filter(None, [*labels, *together, found.note])),
        "warning": found.warning,
    }
    return Fitted(normalisation, tuple(feature_columns(table)), found.state, info)


def load_normalisation(path: str | Path) -> Fitted:
    """Read what :meth:`Fitted.save` wrote.

    Parameters
    ----------
    path
        An `.npz`, or the folder of a run or an exported model that holds one.

    Returns
    -------
    Fitted
        Transforms exactly as the one that was saved.

    Raises
    ------
    TableError
        If the file is missing, damaged, of another kind or of a later format, or its normalisation
        is unknown.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> wsdino.fit_normalisation(table, method="tvn").save("tvn.npz")
    >>> wsdino.load_normalisation("tvn.npz").info["method"]
    'tvn'
    """
    folder = RunPaths(Path(path))
    path = folder.normalisation if folder.folder.is_dir() else _npz(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file; expected a fitted normalisation (.npz)")
    with reading(path, TableError, "holds no fitted normalisation"):
        require_bounded(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        header = json.loads(str(arrays.pop(_HEADER)))
        found = header["format"]
        if found == FORMAT:
            known = [entry.name for entry in methods.NORMALISATIONS]
            if (method := header["method"]) not in known:
                raise ValueError(f"its method is {method!r}; expected one of {', '.join(known)}")
            normalisation = find_normalisation(method)
            features = require_shape(header["features"], list[str])
            info = require_shape(header["info"], recorded.Normalisation)
            if lacking := recorded.Normalisation.__optional_keys__ - info.keys():
                raise ValueError(f"it doesn't say its {', '.join(sorted(lacking))}")
            if info["method"] != method or len(set(features)) < len(features):
                raise ValueError(f"it says {info['method']!r} of {method!r}, or a feature twice")
            state = _with_arrays(header["state"], arrays)
            normalisation.method().check(state, features)
            return Fitted(normalisation, tuple(features), state, info)
    raise TableError(f"{path}: has format {found}; this version reads {FORMAT}")


def _npz(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".npz":
        raise TableError(f"{path}: a fitted normalisation is saved as .npz; give such a name")
    return path


def _without_arrays(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return a value with a reference in place of each array, which goes to `arrays`."""
    if isinstance(value, np.ndarray):
        name = f"{_ARRAY}_{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, dict):
        return {key: _without_arrays(entry, arrays) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_arrays(entry, arrays) for entry in value]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Put the arrays back; the inverse of `_without_arrays`."""
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(entry, arrays) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_arrays(entry, arrays) for entry in value]
    return value
