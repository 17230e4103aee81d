"""A fitted whitening by weak label as a file."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.profile.shrinkage import Choice
from wsdino.profile.weak_label import WeakLabelWhitening

SUFFIX = ".npz"
_VERSION = 1
_ARRAYS = ("plates", "centres", "kept", "location", "scale", "origin", "projection")
_NUMBERS = ("num_features", "num_fitted", "num_labels", "num_replicated", "num_controls")


def save_weak_label(whitening: WeakLabelWhitening, path: str | Path) -> None:
    """Write a whitening, atomically.

    Parameters
    ----------
    whitening
        As :func:`wsdino.profile.weak_label.fit_weak_label` returns it.
    path
        `.npz`; its folder is made where it is missing. The numbers are kept exactly.

    Raises
    ------
    TableError
        If the name ends otherwise.
    OutputError
        If the path can't be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        msg = f"{path}: unknown format for a fitted whitening; expected a name ending in {SUFFIX}"
        raise TableError(msg)
    header = {
        "version": _VERSION,
        "softening": whitening.softening,
        "choice": whitening.choice.as_dict(),
        "notes": list(whitening.notes),
        **{name: getattr(whitening, name) for name in _NUMBERS},
    }
    arrays = {name: getattr(whitening, name) for name in _ARRAYS}
    arrays["header"] = np.array(json.dumps(header))
    with writing(path) as partial:
        np.savez(partial, **arrays)


def load_weak_label(path: str | Path) -> WeakLabelWhitening:
    """Read a whitening that :func:`save_weak_label` wrote; nothing is unpickled.

    Parameters
    ----------
    path
        `.npz`.

    Returns
    -------
    WeakLabelWhitening
        Transforms exactly as the one that was saved.

    Raises
    ------
    TableError
        If the file is missing, damaged, or of another kind or version.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file; expected a fitted weak_label whitening ({SUFFIX})"
        raise TableError(msg)
    try:
        # From memory: of a damaged file NumPy would leave its own handle open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            fields: dict[str, Any] = {name: file[name] for name in _ARRAYS}
        fields |= {name: int(header[name]) for name in _NUMBERS}
        found = header["version"]
        choice = header["choice"]
        whitening = WeakLabelWhitening(
            **fields,
            softening=header["softening"],
            choice=Choice(
                value=float(choice["value"]),
                rule=str(choice["rule"]),
                candidates=tuple(choice["candidates"]),
                scores=tuple(choice["scores"]),
                note=str(choice["note"]),
            ),
            notes=tuple(header["notes"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        msg = f"{path}: can't be read as a weak_label whitening; fit and save it again"
        raise TableError(msg) from error
    if found != _VERSION:
        msg = f"{path}: a weak_label whitening of version {found}; this wsdino reads {_VERSION}"
        raise TableError(msg)
    return whitening
