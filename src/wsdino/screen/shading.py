"""Which illumination function belongs to which site, and estimating those that are missing.

Functions are those that the table names (``FileName_Illum<Channel>``), or are estimated plate by
plate and kept beside the store's pixels, ``illumination/<batch>/<plate>/``, each plate whole or not
at all, so that a killed ingest goes on with the next.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from wsdino.progress import Meter, say
from wsdino.screen.convert import in_threads
from wsdino.screen.correction import Correction, Shading, Shadings, load_function
from wsdino.screen.images import Plane, describe, read_site, require_alike
from wsdino.screen.schema import channels_of, illuminations_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsdino.screen.illumination import Estimate, Estimator, IlluminationMethod

FOLDER, RECORD = "illumination", "functions.json"
PLATE = ["Metadata_Batch", "Metadata_Plate"]


def effective(correction: Correction, manifest: pd.DataFrame) -> Correction:
    """Say what a correction comes to for a manifest: without given functions `given` is `none`."""
    idle = correction.illumination == "given" and not any(given_functions(manifest).values())
    return Correction("none", correction.scale) if idle else correction


def given_functions(manifest: pd.DataFrame) -> dict[str, str | None]:
    """Return for each channel the illumination function's name in the manifest, None: it has none.

    ``IllumDNA`` belongs to the channel ``DNA`` or ``OrigDNA``.
    """
    named = set(illuminations_of(manifest))
    return {
        channel: next(
            (
                name
                for name in (f"Illum{channel}", f"Illum{channel.removeprefix('Orig')}")
                if name in named
            ),
            None,
        )
        for channel in channels_of(manifest)
    }


def known_shadings(
    out: Path, manifest: pd.DataFrame, correction: Correction
) -> list[Shadings] | None:
    """Return each site's shadings as far as they are on disk; None where a plate's aren't."""
    given = given_functions(manifest)
    method = correction.method
    columns: list[list[Shading | None]] = [[None] * len(manifest) for _ in given]
    for column, name in zip(columns, given.values(), strict=True):
        if method.uses_given and name is not None:
            folders, files = manifest[f"PathName_{name}"], manifest[f"FileName_{name}"]
            column[:] = [
                Shading(Path(folder, file), 0.0)
                for folder, file in zip(folders, files, strict=True)
            ]
    if method.estimator is not None:
        for plate, rows in _plates(manifest).items():
            folder = _plate_folder(out, plate)
            record = _read_record(folder)
            if record is None or record["method"] != method.name:
                return None
            for column, channel in zip(columns, given, strict=True):
                if given[channel] is None:
                    known = record["channels"][channel]
                    shading = Shading(folder / known["file"], known["offset"])
                    for row in rows:
                        column[row] = shading
    return list(zip(*columns, strict=True))


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
        files = manifest[[f"PathName_{name}", f"FileName_{name}"]].drop_duplicates()
        for folder, file in files.itertuples(index=False):
            load_function(Path(folder, file), field_shape)
    if method.estimator is not None and None in given.values():
        todo = {
            plate: rows
            for plate, rows in _plates(manifest).items()
            if not _is_current(_plate_folder(out, plate), planes, rows, method)
        }
        seen = {plate: _some(rows, method.max_sites) for plate, rows in todo.items()}
        with Meter("illumination", sum(map(len, seen.values()))) as meter:
            for plate, rows in seen.items():
                reader = _Reader(method.estimator(), expected, planes[0][0].path)
                jobs = [(row, planes[row]) for row in rows]
                with closing(in_threads(reader, jobs, num_threads=num_threads)) as done:
                    for _ in done:
                        meter.advance()
                estimate = reader.estimator.estimate()
                _write(_plate_folder(out, plate), estimate, list(given), method, len(rows))
    found = known_shadings(out, manifest, correction)
    assert found is not None, "every plate has its functions by now"
    return found


def functions_of(shadings: Shadings) -> list[Path]:
    """Files that a site's correction is made from."""
    return [shading.function for shading in shadings if shading is not None]


class _Reader:
    """Reads sites for an estimator."""

    def __init__(self, estimator: Estimator, expected: str, example: Path) -> None:
        self.estimator, self._expected, self._example = estimator, expected, example

    def __call__(self, site: int, planes: Sequence[Plane]) -> tuple[int, NDArray[np.float32]]:
        pixels = read_site(planes)
        require_alike(describe(pixels), planes[0].path, self._expected, self._example)
        self.estimator.add(site, pixels)
        return site, np.empty(0, np.float32)


def _say_what_is_applied(
    manifest: pd.DataFrame, given: dict[str, str | None], method: IlluminationMethod
) -> None:
    named = illuminations_of(manifest)
    if named and not method.uses_given:
        say(f"illumination {method.name}: {', '.join(named)} of the table are not applied")
        return
    used = [name for name in named if name in given.values()]
    if used:
        say(f"illumination: {', '.join(used)} of the table are applied")
    idle = [name for name in named if name not in used]
    if idle:
        say(f"{', '.join(idle)}: an illumination function of no channel here, not applied")


def _plates(manifest: pd.DataFrame) -> dict[tuple[str, str], NDArray[np.intp]]:
    """Rows of each (batch, plate)."""
    groups = manifest.groupby(PLATE, sort=False).indices
    return {(str(b), str(p)): np.asarray(rows, np.intp) for (b, p), rows in groups.items()}  # type: ignore[misc,has-type]


def _plate_folder(out: Path, plate: tuple[str, str]) -> Path:
    batch, name = plate
    return out / FOLDER / _safe(batch) / _safe(name)


def _safe(name: str) -> str:
    """Make a file name of any name, different for different names."""
    return quote(name, safe=" ").replace(".", "%2E")


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    except FileNotFoundError:
        return None
    return record


def _is_current(
    folder: Path,
    planes: Sequence[Sequence[Plane]],
    rows: NDArray[np.intp],
    method: IlluminationMethod,
) -> bool:
    """Whether a plate's functions are there, of this method, and no older than its images."""
    record = _read_record(folder)
    if record is None or record["method"] != method.name:
        return False
    files = [folder / channel["file"] for channel in record["channels"].values()]
    if not all(file.is_file() for file in files):
        return False
    written = min(file.stat().st_mtime_ns for file in files)
    sources = {plane.path for row in rows for plane in planes[row]}
    return all(not path.exists() or path.stat().st_mtime_ns <= written for path in sources)


def _some(rows: NDArray[np.intp], num: int | None) -> list[int]:
    """Take at most `num` of a plate's rows, evenly spread."""
    if num is None or len(rows) <= num:
        return [int(row) for row in rows]
    return [int(rows[i * len(rows) // num]) for i in range(num)]


def _write(
    folder: Path,
    estimate: Estimate,
    channels: Sequence[str],
    method: IlluminationMethod,
    num_sites: int,
) -> None:
    """Write a plate's functions, and last the record that says that they are all there."""
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"method": method.name, "num_sites": num_sites, "channels": {}}
    (folder / RECORD).unlink(missing_ok=True)
    for channel, function, offset in zip(
        channels, estimate.functions, estimate.offsets, strict=True
    ):
        path = folder / f"{_safe(channel)}.npy"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, function)
        partial.replace(path)
        record["channels"][channel] = {"file": path.name, "offset": offset}
    partial = (folder / RECORD).with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(folder / RECORD)
