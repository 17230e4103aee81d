"""Bringing the labels of a store's sites up to date, without touching their pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from wsdino.atomic import writing
from wsdino.errors import StoreError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.screen.check.stored import quality_columns
from wsdino.screen.store import MANIFEST
from wsdino.tables.columns import PIXEL_SIZE, PREFIX
from wsdino.tables.manifest import channels_of
from wsdino.tables.parquet import read_parquet, write_parquet

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


def write_manifest(out: Path, manifest: pd.DataFrame) -> None:
    """Write a store's manifest."""
    with writing(out / MANIFEST) as partial:
        write_parquet(manifest, partial)


def update_metadata(out: Path, manifest: pd.DataFrame) -> None:
    """Replace the metadata of a finished store, and say what changes.

    Parameters
    ----------
    out
        Folder of the store.
    manifest
        Row i is site i. Its metadata are taken; the store's file names and measures are kept.
    """
    if not (out / MANIFEST).is_file():
        write_manifest(out, manifest)
        return
    stored = read_parquet(out / MANIFEST)
    if PIXEL_SIZE in stored and PIXEL_SIZE not in manifest:
        # It may have been read from the images, which may be gone.
        manifest = manifest.assign(**{PIXEL_SIZE: stored[PIXEL_SIZE]})
    measured = set(quality_columns(channels_of(stored)))
    labels = _labels(manifest, measured)
    own = stored[[name for name in stored if name not in _labels(stored, measured)]]
    if not pd.concat([labels, own], axis=1).equals(stored):
        say_changes(out, manifest)
        write_manifest(out, pd.concat([labels, own], axis=1))


def say_changes(out: Path, manifest: pd.DataFrame) -> None:
    """Say which labels of a store's sites will be others.

    Parameters
    ----------
    out
        Folder of the store, with its manifest as it was.
    manifest
        Row i is site i; there may be more rows.
    """
    try:
        with reading(out / MANIFEST, StoreError):
            stored = read_parquet(out / MANIFEST)
    except StoreError:
        return  # missing or damaged: there is nothing to compare with
    measured = set(quality_columns(channels_of(stored)))
    old = _labels(stored, measured)
    new = _labels(manifest.iloc[: len(old)].reset_index(drop=True), measured)
    kinds = {"new": set(new) - set(old), "gone": set(old) - set(new)}
    both = [name for name in new if name in old]
    differs = {name: _differs(old[name], new[name]) for name in both}
    columns = [
        f"{name} ({int(differs[name].sum())} of {len(old)} sites)"
        for name in both
        if differs[name].any()
    ]
    columns += [
        f"{name} ({kind})" for kind, names in kinds.items() for name in sorted(map(str, names))
    ]
    if columns:
        say(
            f"{out}: the source's metadata has changed; {MANIFEST} is updated, pixels stay as they "
            f"are: {', '.join(columns)}"
        )


def _labels(manifest: pd.DataFrame, measured: set[str]) -> pd.DataFrame:
    names = [str(name) for name in manifest.columns]
    return manifest[[name for name in names if name.startswith(PREFIX) and name not in measured]]


def _differs(old: pd.Series, new: pd.Series) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    is_same = (old.astype(object) == new.astype(object)) | (old.isna() & new.isna())
    return ~is_same.to_numpy(dtype=bool)
