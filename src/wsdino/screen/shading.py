"""Which illumination function belongs to which site, and estimating those that are missing.

Functions are those that the table names (``FileName_Illum<Channel>``), or are estimated plate by
plate and kept beside the store's pixels, ``illumination/<batch>/<plate>/``, each plate whole or not
at all, so that a killed ingest goes on with the next.

A plate's record says what its functions were estimated from, and what they are: as for sites, what
is current is decided by these and never by what is older than what.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from typing_extensions import TypedDict

from wsdino.atomic import write_text, writing_buffered
from wsdino.errors import StoreError
from wsdino.outside import read_json, reading
from wsdino.progress import Meter, say
from wsdino.screen.convert import in_threads
from wsdino.screen.correction import (
    Correction,
    Shading,
    Shadings,
    correction_of,
    load_function,
)
from wsdino.screen.images import Plane, describe, read_site, require_alike
from wsdino.screen.records import digest_of, image_state, image_states
from wsdino.tables.manifest import given_functions, illuminations_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from wsdino.screen.estimators import Estimate, Estimator
    from wsdino.screen.illumination import IlluminationMethod
    from wsdino.screen.store import Store

FOLDER, RECORD = "illumination", "functions.json"
PLATE = ["Metadata_Batch", "Metadata_Plate"]


class _Function(TypedDict):
    file: str
    offset: float
    digest: int


class _Record(TypedDict):
    """What RECORD holds, among other things."""

    method: str
    sources: int
    channels: dict[str, _Function]


def effective(correction: Correction, manifest: pd.DataFrame) -> Correction:
    """Return the correction that applies to a manifest: without functions, `given` is `none`."""
    idle = correction.illumination == "given" and not any(given_functions(manifest).values())
    return Correction("none", correction.scale) if idle else correction


def known_shadings(
    out: Path, manifest: pd.DataFrame, correction: Correction
) -> list[Shadings] | None:
    """Return each site's shadings as far as they are on disk; None where a plate's aren't."""
    given = given_functions(manifest)
    method = correction.method
    columns: list[list[Shading | None]] = [[None] * len(manifest) for _ in given]
    for column, name in zip(columns, given.values(), strict=True):
        if method.uses_given and name is not None:
            places, files = manifest[f"PathName_{name}"], manifest[f"FileName_{name}"]
            paths = [Path(place, file) for place, file in zip(places, files, strict=True)]
            states = {path: image_state(path) for path in dict.fromkeys(paths)}
            frames = manifest.get(f"Frame_{name}", [None] * len(manifest))
            column[:] = [
                Shading(path, 0.0, states[path], None if frame is None else int(frame))
                for path, frame in zip(paths, frames, strict=True)
            ]
    if method.estimator is not None:
        own_folders = _plate_folders(out, manifest)
        for plate, rows in _plates(manifest).items():
            folder = own_folders[plate]
            record = _read_record(folder)
            estimated = {name for name, own in given.items() if own is None}
            if record is None or record["method"] != method.name:
                return None
            if not estimated <= set(record["channels"]):
                return None
            for column, channel in zip(columns, given, strict=True):
                if given[channel] is None:
                    known = record["channels"][channel]
                    state = digest_of(f"{known['digest']} {known['offset']}".encode())
                    shading = Shading(folder / known["file"], known["offset"], state)
                    for row in rows:
                        column[row] = shading
    return list(zip(*columns, strict=True))


def plate_shadings(store: Store) -> tuple[str, list[tuple[int, str, Shading]]]:
    """Return how a store's images were corrected, and the function of each plate and channel.

    Returns
    -------
    method : str
        A name in :data:`~wsdino.screen.illumination.METHODS`.
    functions : list
        Row of a plate's first site, channel, and what that was divided by; none where nothing was.
    """
    correction, whole = correction_of(store.attributes), store.whole
    known = known_shadings(whole.path, whole.manifest, correction) or []
    # Of the sites that this store consists of, whichever those are.
    rows = np.arange(len(whole)) if store.rows is None else store.rows
    found = [
        (int(own[0]), channel, shading)
        for own in (_plates(store.manifest).values() if known else ())
        for channel, shading in zip(store.channels, known[rows[own[0]]], strict=True)
        if shading is not None
    ]
    return correction.method.name, found


def prepare_shadings(
    out: Path,
    manifest: pd.DataFrame,
    planes: Sequence[Sequence[Plane]],
    correction: Correction,
    *,
    field_shape: tuple[int, int],
    expected: str,
    num_threads: int,
) -> list[Shadings]:
    """Return each site's shadings, after estimating those of plates that lack them.

    Parameters
    ----------
    out
        Folder of the store.
    manifest, planes
        Of N sites.
    correction
        What is wanted.
    field_shape
        Height and width of the images, px.
    expected
        Size and type of every image, see :func:`~wsdino.screen.images.describe`.
    num_threads
        Threads that read images.

    Raises
    ------
    ImageError
        An image or a given function can't be read, or is unlike the others.
    """
    method, given = correction.method, given_functions(manifest)
    _say_what_is_applied(manifest, given, method)
    names = [name for name in given.values() if name is not None and method.uses_given]
    for name in names:
        columns = [f"PathName_{name}", f"FileName_{name}", f"Frame_{name}"]
        files = manifest.reindex(columns=columns).drop_duplicates()
        for folder, file, frame in files.itertuples(index=False):
            which = None if pd.isna(frame) else int(frame)
            load_function(Path(folder, file), field_shape, frame=which)
    if method.estimator is not None and None in given.values():
        seen = {plate: _some(rows, method.max_sites) for plate, rows in _plates(manifest).items()}
        # What changes while it is read will differ from this the next time.
        sources = {plate: _sources(planes, rows) for plate, rows in seen.items()}
        folders = _plate_folders(out, manifest)
        for plate, digest in sources.items():
            if _is_current(folders[plate], digest, method):
                del seen[plate]
        with Meter("illumination", sum(map(len, seen.values()))) as meter:
            for plate, rows in seen.items():
                reader = _Reader(method.estimator(), expected, planes[0][0].path)
                jobs = [(row, planes[row]) for row in rows]
                with closing(in_threads(reader, jobs, num_threads=num_threads)) as done:
                    for _ in done:
                        meter.advance()
                estimate = reader.estimator.estimate()
                about = {
                    "method": method.name,
                    "num_sites": len(rows),
                    "sources": sources[plate],
                }
                _write(folders[plate], estimate, list(given), about)
    found = known_shadings(out, manifest, correction)
    assert found is not None, "every plate has its functions by now"
    return found


class _Reader:
    """Reads sites for an estimator."""

    def __init__(self, estimator: Estimator, expected: str, example: Path) -> None:
        self.estimator, self._expected, self._example = estimator, expected, example

    def __call__(self, site: int, planes: Sequence[Plane]) -> None:
        pixels = read_site(planes)
        require_alike(describe(pixels), planes[0].path, self._expected, self._example)
        self.estimator.add(site, pixels)


def _say_what_is_applied(
    manifest: pd.DataFrame, given: dict[str, str | None], method: IlluminationMethod
) -> None:
    named = illuminations_of(manifest)
    if named and not method.uses_given:
        say(f"illumination {method.name}: the table's {', '.join(named)} are not applied")
        return
    used = [name for name in named if name in given.values()]
    if used:
        say(f"illumination: the table's {', '.join(used)} are applied")
    idle = [name for name in named if name not in used]
    if idle:
        say(f"illumination: no channel has the name of {', '.join(idle)}, so not applied")


def _plates(manifest: pd.DataFrame) -> dict[tuple[str, str], NDArray[np.intp]]:
    """Rows of each (batch, plate)."""
    groups = manifest.groupby(PLATE, sort=False).indices
    return {(str(b), str(p)): np.asarray(rows, np.intp) for (b, p), rows in groups.items()}  # type: ignore[misc,has-type]


def _plate_folders(out: Path, manifest: pd.DataFrame) -> dict[tuple[str, str], Path]:
    """Folder of the functions of each (batch, plate)."""
    plates = list(_plates(manifest))
    folders = _file_names(batch for batch, _ in plates)
    names = {b: _file_names(name for batch, name in plates if batch == b) for b in folders}
    return {(b, name): out / FOLDER / folders[b] / names[b][name] for b, name in plates}


def _file_names(names: Iterable[str]) -> dict[str, str]:
    """Make a file name of any name, different for different names even if case doesn't count."""
    found: dict[str, str] = {}
    taken = set[str]()
    for name in sorted(set(names)):
        file = quote(name, safe=" ").replace(".", "%2E")
        while file.casefold() in taken:
            file += "~"
        taken.add(file.casefold())
        found[name] = file
    return found


def _read_record(folder: Path) -> dict[str, Any] | None:
    with suppress(StoreError):
        record: dict[str, Any] = read_json(folder / RECORD, StoreError, _Record)
        return record
    return None


def _sources(planes: Sequence[Sequence[Plane]], rows: Sequence[int]) -> int:
    """Digest of how the images of some sites look now."""
    states = image_states([plane for row in rows for plane in planes[row]])
    return digest_of(" ".join(map(str, states)).encode())


def _is_current(folder: Path, sources: int, method: IlluminationMethod) -> bool:
    """Whether a plate's functions are there as they were made, by this method, of these images."""
    record = _read_record(folder)
    if record is None or (record["method"], record["sources"]) != (method.name, sources):
        return False
    with suppress(StoreError), reading(folder, StoreError):
        return all(
            digest_of((folder / channel["file"]).read_bytes()) == channel["digest"]
            for channel in record["channels"].values()
        )
    return False


def _some(rows: NDArray[np.intp], num: int | None) -> list[int]:
    """Take at most `num` of a plate's rows, evenly spread."""
    if num is None or len(rows) <= num:
        return [int(row) for row in rows]
    return [int(rows[i * len(rows) // num]) for i in range(num)]


def _write(
    folder: Path, estimate: Estimate, channels: Sequence[str], about: dict[str, Any]
) -> None:
    """Write a plate's functions, and last the record that says that they are all there."""
    (folder / RECORD).unlink(missing_ok=True)
    found: dict[str, Any] = {}
    files = _file_names(channels)
    for channel, function, offset in zip(
        channels, estimate.functions, estimate.offsets, strict=True
    ):
        path = folder / f"{files[channel]}.npy"
        with writing_buffered(path) as buffer:
            np.save(buffer, function)
        digest = digest_of(path.read_bytes())
        found[channel] = {"file": path.name, "offset": offset, "digest": digest}
    write_text(folder / RECORD, json.dumps(about | {"channels": found}, indent=1) + "\n")
