"""The check of a store: its findings beside it, and the quality of its sites in its manifest."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from wsdino.atomic import write_text, writing, writing_buffered
from wsdino.device import num_cpus
from wsdino.errors import OutputError, StoreError
from wsdino.lock import one_writer
from wsdino.outside import read_json, reading
from wsdino.progress import Meter, say
from wsdino.screen.check.evidence import Evidence, Finding
from wsdino.screen.check.table import VALUE_RANGE, lines, run_checks
from wsdino.screen.convert import in_threads
from wsdino.screen.measures import (
    MEASURES,
    digest_named,
    no_measures,
    site_measures,
    unmeasured,
)
from wsdino.screen.sealed import load_sealed, save_sealed
from wsdino.screen.store import MANIFEST, Store, open_store
from wsdino.tables.columns import QUALITY
from wsdino.tables.parquet import write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FINDINGS = "check.json"
VERSION = 2
"""Changes whenever the same screen may be found otherwise."""
QUALITIES = ("Focus", "Saturation", "Foreground", "Intensity")


class _Record(TypedDict):
    """What FINDINGS holds."""

    made_from: str
    findings: list[dict[str, str]]


def quality_column(quality: str, channel: str) -> str:
    """Name the manifest's column of a quality of a channel."""
    return f"{QUALITY}{quality}_{channel}"


def quality_columns(channels: Sequence[str]) -> list[str]:
    """Name the manifest's columns of all qualities of all channels."""
    return [quality_column(quality, channel) for quality in QUALITIES for channel in channels]


def checked(path: Path) -> Store:
    """Check a finished store, write what is found beside it, say it, and open the store.

    The caller holds the store's lock. Sites that were never measured, in a store of an earlier
    version, are read now. A store that can't be written to is checked without a record.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    Store
        With :func:`quality_columns` in its manifest.
    """
    store = open_store(path)
    measures = measures_of(store)
    with suppress(OutputError):
        with_quality = _with_quality(store, measures)
        if not with_quality.equals(store.manifest):
            with writing(path / MANIFEST) as partial:
                write_parquet(with_quality, partial)
            store = open_store(path)
        record = {
            "made_from": _digest(store, measures),
            "findings": [asdict(finding) for finding in findings_of(store, measures)],
        }
        write_text(path / FINDINGS, json.dumps(record, indent=1) + "\n")
    for line in lines(findings_of(store, measures)):
        say(f"{path}: warning: {line}")
    return store


def findings_of(store: Store, measures: NDArray[Any] | None = None) -> list[Finding]:
    """Return what was found in a store, read from its record where that is current.

    Parameters
    ----------
    store
        All of its sites.
    measures
        (N,) of its sites; None: those that it has, or they are taken now.
    """
    measures = measures_of(store) if measures is None else measures
    with suppress(StoreError):
        record = read_json(store.path / FINDINGS, StoreError, _Record)
        if record["made_from"] == _digest(store, measures):
            with reading(store.path / FINDINGS, StoreError):
                return [Finding(**found) for found in record["findings"]]
    return run_checks(evidence_of(store, measures))


def warnings_of(store: Store, *, scaling: tuple[float, float] | None = None) -> list[str]:
    """Tell in a line each what looks wrong in a store, and under a fixed input scaling.

    Parameters
    ----------
    store
        Any of its sites; all are looked at.
    scaling
        Bounds of a fixed input scaling; None: there is none.
    """
    whole = store.whole
    measures = measures_of(whole)
    findings = findings_of(whole, measures)
    if scaling is not None:
        findings += run_checks(evidence_of(whole, measures, scaling=scaling), [VALUE_RANGE])
    return lines(findings)


def evidence_of(
    store: Store,
    measures: NDArray[Any] | None = None,
    *,
    scaling: tuple[float, float] | None = None,
) -> Evidence:
    """Gather what the checks look at.

    Parameters
    ----------
    store
        All of its sites.
    measures
        (N,) of its sites, as for :func:`findings_of`.
    scaling
        As in :class:`~wsdino.screen.check.evidence.Evidence`.
    """
    return Evidence(
        manifest=store.manifest,
        channels=store.channels,
        measures=measures_of(store) if measures is None else measures,
        statistics=store.statistics,
        dtype=store.dtype,
        scaling=scaling,
    )


def measures_of(store: Store) -> NDArray[Any]:
    """Return the (N,) measures of a store; sites that were never measured are read, and noted.

    So are all of them where their file is damaged: as stored, since saturated pixels of images that
    were corrected show only in those.
    """
    path = store.path / MEASURES
    found = no_measures(len(store), len(store.channels))
    try:
        with reading(path, StoreError, "damaged"):
            stored = load_sealed(path)
        if (stored.shape, stored.dtype) == (found.shape, found.dtype):
            found = stored
    except StoreError as error:
        if path.is_file():
            say(f"{error}; the store's pixels are measured again")
    missing = unmeasured(found).tolist()
    digest = digest_named(store.attributes)

    def measure(site: int) -> None:
        found[site] = site_measures(store[site], digest=digest)

    with Meter("measure", len(missing), last_line=False) as meter:
        for _ in in_threads(measure, [(site,) for site in missing], num_threads=num_cpus()):
            meter.advance()
    if missing:
        # A store that can't be written to is read again next time.
        with (
            suppress(OutputError),
            one_writer(store.path),
            writing_buffered(path) as buffer,
        ):
            save_sealed(buffer, found)
    return found


def _with_quality(store: Store, measures: NDArray[Any]) -> pd.DataFrame:
    """Return the manifest with the quality of each site, after its other metadata."""
    values = {
        "Focus": measures["focus"],
        "Saturation": measures["saturation"],
        "Foreground": measures["foreground"],
        "Intensity": store.statistics["mean"],
    }
    quality = pd.DataFrame(
        {
            quality_column(name, channel): values[name][:, index].astype(np.float64)
            for name in QUALITIES
            for index, channel in enumerate(store.channels)
        },
        index=store.manifest.index,
    )
    rest = store.manifest.drop(columns=list(quality), errors="ignore")
    metadata = [name for name in rest if str(name).startswith("Metadata_")]
    return pd.concat([rest[metadata], quality, rest.drop(columns=metadata)], axis=1)


def _digest(store: Store, measures: NDArray[Any]) -> str:
    """Digest of what the checks look at."""
    digest = hashlib.sha256(f"{VERSION} {store.channels} {store.dtype}".encode())
    digest.update(store.manifest_digest.encode())
    digest.update(measures.tobytes())
    for values in store.statistics.values():
        digest.update(values.tobytes())
    return digest.hexdigest()
