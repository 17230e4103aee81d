"""What a screen consists of, from its table, its folders and the headers of its images."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.device import num_cpus
from wsdino.errors import ImageError
from wsdino.remote import absolute, is_remote, shown
from wsdino.screen.formats import FORMATS, NUMPY
from wsdino.screen.headers import read_headers
from wsdino.screen.images import Plane, Planes, describe, read_site
from wsdino.screen.manifest import read_rows
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    MOA,
    PIXEL_SIZE,
    PLATE,
    SITE,
    WELL,
)
from wsdino.tables.manifest import channels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from wsdino.screen.selection import Selection
    from wsdino.tables.platemap import PlateMap
    from wsdino.tables.welltables import WellTable

MOST_NAMES = 10
"""Files that are named where many are counted."""
UNKNOWN = "unknown size"
"""Kind of images whose header alone doesn't tell."""


@dataclass(frozen=True)
class Survey:
    """What is there.

    Parameters
    ----------
    manifest
        The sites whose images all exist.
    facts
        As JSON has them, see :func:`survey`.
    field_shape
        Height and width of most images in px; None if no image can be read.
    dtype
        Their type.
    """

    manifest: pd.DataFrame
    facts: dict[str, Any]
    field_shape: tuple[int, int] | None
    dtype: np.dtype[Any]


def survey(
    source: str | Path,
    *,
    platemap: str | Path | pd.DataFrame | WellTable | PlateMap | None = None,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    selection: Selection | None = None,
    workers: int | None = None,
) -> Survey:
    """Look at a screen without converting anything: its table, its files, and their headers.

    Parameters
    ----------
    source, platemap, controls, columns, selection
        As for :func:`wsdino.screen.manifest.read_manifest`.
    workers
        Threads that read headers; None: one for each CPU.

    Returns
    -------
    Survey
        Its facts are ``source``, ``batches``, ``plates``, ``wells``, ``sites``, ``sites_per_well``,
        ``channels`` and ``pixel_sizes`` (widths of a pixel in micrometres); ``images``: ``files``,
        their ``kinds`` (size and type, how many, an example), and files that are ``missing``,
        ``unreadable`` and ``unnamed`` (below the screen's folders, in no row), each with a count
        and the first names; ``compounds``, ``treatments``, ``annotated_compounds``; ``controls``:
        names, ``wells``, ``sites``, and plates without any; ``replicates``: wells, plates and
        batches of a treatment, minimum, median and maximum.

    Raises
    ------
    TableError, ImageError
        As `read_manifest` does, but for images that are missing, unless all are.
    """
    rows = read_rows(
        source,
        platemap=platemap,
        controls=controls,
        columns=columns,
        selection=selection,
        missing="leave-out",
    )
    manifest = rows.manifest
    planes = Planes(manifest)
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    unreadable = []
    for path, found in read_headers(planes, num_threads=workers or num_cpus()):
        if isinstance(found, ImageError):
            unreadable.append(str(found))
            continue
        kind = found or UNKNOWN
        kinds[kind] += 1
        examples[kind] = min(examples.get(kind, shown(path)), shown(path))
    named = {part.path for site in planes for plane in site for part in plane.parts}
    images = {
        "files": len(named),
        "kinds": [
            {"kind": kind, "files": num, "example": examples[kind]}
            for kind, num in kinds.most_common()
        ],
        "missing": _counted([image.text for image in rows.missing]),
        "left_out_sites": len(rows.left_out),
        "unreadable": _counted(sorted(unreadable)),
        "unnamed": _counted(_unnamed(Path(source), named)),
    }
    facts = {
        "source": shown(absolute(Path(source))),
        "batches": int(manifest[BATCH].nunique()),
        "plates": int(manifest.groupby([BATCH, PLATE]).ngroups),
        "wells": int(manifest.groupby([BATCH, PLATE, WELL]).ngroups),
        "sites": len(manifest),
        "sites_per_well": _range(manifest.groupby([BATCH, PLATE, WELL])[SITE].size()),
        "channels": channels_of(manifest),
        "pixel_sizes": sorted(set(manifest[PIXEL_SIZE].dropna())) if PIXEL_SIZE in manifest else [],
        "images": images,
        **_treatments(manifest),
    }
    shape, dtype = _common_kind(kinds, planes)
    return Survey(manifest, facts, shape, dtype)


def _counted(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:MOST_NAMES])}


def _range(values: Iterable[int]) -> list[float]:
    """Minimum, median and maximum."""
    found = np.array(list(values))
    return [float(f(found)) for f in (np.min, np.median, np.max)] if len(found) else []


def _common_kind(
    kinds: Counter[str], planes: Sequence[Sequence[Plane]]
) -> tuple[tuple[int, int] | None, np.dtype[Any]]:
    known = [kind for kind, _ in kinds.most_common() if kind != UNKNOWN]
    if not known and kinds:
        # Where no header tells, as of images at addresses, one image is read.
        with suppress(ImageError):
            known = [describe(read_site(planes[0][:1]))]
    if not known:
        return None, np.dtype(np.uint16)
    width, _, height, dtype = known[0].split()
    return (int(height), int(width)), np.dtype(dtype)


def _treatments(manifest: pd.DataFrame) -> dict[str, Any]:
    is_control = manifest[CONTROL].to_numpy(dtype=bool)
    treated, controls = manifest[~is_control], manifest[is_control]
    pairs = treated.groupby([COMPOUND, CONCENTRATION], dropna=False)
    has_some = manifest.groupby([BATCH, PLATE])[CONTROL].any()
    without = has_some[~has_some].index.get_level_values(PLATE).astype(str).tolist()
    wells = treated[BATCH].astype(str) + "\0" + treated[PLATE] + "\0" + treated[WELL]
    keys = [treated[COMPOUND], treated[CONCENTRATION]]
    on_plates = (treated[BATCH].astype(str) + "\0" + treated[PLATE]).groupby(keys, dropna=False)
    return {
        "compounds": int(treated[COMPOUND].nunique()),
        "treatments": int(pairs.ngroups),
        "annotated_compounds": int(treated.loc[treated[MOA].notna(), COMPOUND].nunique()),
        "mechanisms": int(treated[MOA].nunique()),
        "controls": {
            "compounds": sorted(controls[COMPOUND].unique()),
            "wells": int(controls.groupby([BATCH, PLATE, WELL]).ngroups),
            "sites": len(controls),
            "plates_without": _counted(without),
        },
        "replicates": {
            "wells": _range(wells.groupby(keys, dropna=False).nunique()),
            "plates": _range(on_plates.nunique()),
            "batches": _range(pairs[BATCH].nunique()),
        },
    }


def _unnamed(source: Path, named: set[Path]) -> list[str]:
    """List the image files in the screen's folders that no row names.

    Of a folder all that lies below it is looked at, of a table the folders of its images. What lies
    in an OME-Zarr image is no file of its own, and thumbnails are not looked for.
    """
    known = {os.path.normcase(path) for path in named}
    if source.is_dir():
        files = _files_below(source.absolute())
    else:
        folders = {path.parent for path in named if not is_remote(path)}
        files = (path for folder in folders for path in folder.iterdir() if path.is_file())
    # NumPy arrays hold images, and much else.
    suffixes = {suffix for known in FORMATS for suffix in known.suffixes} - set(NUMPY)
    return sorted(
        str(path)
        for path in files
        if path.suffix.lower() in suffixes
        and "thumb" not in path.name.lower()
        and os.path.normcase(path) not in known
    )


def _files_below(folder: Path) -> Iterable[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.lower().endswith(".zarr")]
        yield from (Path(base, name) for name in names)
