"""Which rows of a screen's table are sites of a store already, and which are new."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.errors import OutputError, StoreError
from wsdino.outside import reading
from wsdino.remote import is_remote
from wsdino.screen.correction import correction_of
from wsdino.screen.planes import Planes
from wsdino.screen.store import MANIFEST
from wsdino.tables.manifest import KEY, channels_of, given_functions
from wsdino.tables.parquet import read_parquet

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import zarr

    from wsdino.screen.correction import Correction


def fingerprint(manifest: pd.DataFrame, correction: Correction) -> str:
    """Return a digest of which images make up the sites, whatever the case of their names."""
    digest = hashlib.sha256("\0".join(channels_of(manifest)).encode())
    for site in Planes(manifest):
        for plane in site:
            digest.update(f"\0{plane.name}".casefold().encode())
    for column in _function_columns(manifest, correction):
        cells = map(str, manifest[column])
        digest.update("\0".join([column, *cells]).casefold().encode())
    return digest.hexdigest()


def _function_columns(manifest: pd.DataFrame, correction: Correction) -> list[str]:
    """Name the columns of the illumination functions that are applied."""
    names = given_functions(manifest).values() if correction.method.uses_given else ()
    return [
        column
        for name in filter(None, names)
        for column in (f"PathName_{name}", f"FileName_{name}", f"Frame_{name}")
        if column in manifest
    ]


def _keys(manifest: pd.DataFrame, correction: Correction) -> list[str]:
    """Say for each row which images, and which functions, make up its site."""
    columns = _function_columns(manifest, correction)
    functions = manifest[columns].astype(str).to_numpy()
    return [
        "\0".join([*(plane.name for plane in site), *columns, *named]).casefold()
        for site, named in zip(Planes(manifest), functions.tolist(), strict=True)
    ]


def in_store_order(
    out: Path, images: zarr.Array[Any], manifest: pd.DataFrame, correction: Correction
) -> pd.DataFrame:
    """Return a table with the sites of a store first, in the store's order, and then new ones.

    Parameters
    ----------
    out
        Folder of the store.
    images
        Its array.
    manifest
        Of the screen as it is now.
    correction
        What is wanted.

    Returns
    -------
    pandas.DataFrame
        `manifest`, or its rows in another order.

    Raises
    ------
    OutputError
        The store is of other images, lacks some that the screen now has, or was made otherwise.
    """
    made = correction_of(images.attrs)
    if made != correction:
        raise OutputError(
            f"{out}: holds a store made with illumination {made.illumination} and scale "
            f"{made.scale:g}, and {correction.illumination} and {correction.scale:g} are wanted; "
            "name another folder, or delete this one"
        )
    provenance: Any = images.attrs["provenance"]
    is_same = provenance["images_sha256"] == fingerprint(manifest, correction)
    if is_same and len(manifest) == images.shape[0]:
        return manifest
    stored = stored_manifest(out, images)
    channels: Any = images.attrs["channels"]
    if stored is not None and channels_of(manifest) == channels == channels_of(stored):
        known = _keys(stored, correction)
        rows = {key: row for row, key in enumerate(_keys(manifest, correction))}
        if len(rows) == len(manifest) and rows.keys() >= set(known):
            old = [rows[key] for key in known]
            new = np.setdiff1d(np.arange(len(manifest)), old)
            return manifest.iloc[[*old, *new]].reset_index(drop=True)
        if _same_names_gone(stored, manifest):
            return manifest
        _refuse_lost(out, stored, [key not in rows for key in known])
    now, then = len(manifest), images.shape[0]
    sites = "" if now == then else f" (it has {then} sites, and the screen now has {now})"
    if channels_of(manifest) != channels:
        sites = f" (its channels are {', '.join(channels)}, and now {_listed(manifest)})"
    raise OutputError(
        f"{out}: holds a store of other images{sites}, from {provenance['source']}; name another "
        "folder, or delete this one"
    )


def _listed(manifest: pd.DataFrame) -> str:
    return ", ".join(channels_of(manifest))


def _refuse_lost(out: Path, stored: pd.DataFrame, is_lost: list[bool]) -> None:
    """Refuse a screen that lacks some sites of a store: its pixels would be left without a row."""
    num = sum(is_lost)
    if num == len(stored):
        return
    plate, well, site = stored.loc[is_lost.index(True), KEY]
    raise OutputError(
        f"{out}: {num} of the store's {len(stored)} sites are no longer in the screen, such as "
        f"plate {plate}, well {well}, site {site}; sites are added to a store and never removed: "
        "put them back and leave them out when the store is used (screen.keep), name another "
        "folder, or delete this one"
    )


def stored_manifest(out: Path, images: zarr.Array[Any]) -> pd.DataFrame | None:
    """Read a store's manifest; None if it is missing, damaged or that of other sites.

    One that was to grow when its ingest was stopped may list new sites already, after its own.
    """
    num = images.shape[0]
    with suppress(StoreError), reading(out / MANIFEST, StoreError):
        stored = read_parquet(out / MANIFEST)
        if len(stored) == num or (len(stored) > num and not images.attrs["complete"]):
            return stored.iloc[:num]
    return None


def _same_names_gone(stored: pd.DataFrame, manifest: pd.DataFrame) -> bool:
    """Whether a store is of images of the same names, which are nowhere any more.

    A table whose folders had been found elsewhere names the ones of its own again then. Names that
    several plates have tell nothing of which site is which, unless the rows say so themselves.
    """
    names = [f"FileName_{channel}" for channel in channels_of(manifest)]
    if len(stored) != len(manifest):
        return False
    places = [site[0].path for site in Planes(manifest)]
    if any(is_remote(path) or path.exists() for path in places):
        return False
    own = names if not manifest.duplicated(names).any() else [*names, *KEY]
    return set(own) <= set(stored) and stored[own].equals(manifest[own])
