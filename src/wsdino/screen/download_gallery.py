"""Downloading plates of the Cell Painting Gallery: resumable, verified, file by file.

Source: https://broadinstitute.github.io/cellpainting-gallery/data_structure.html; a bucket of
Amazon S3 that answers without an account, listed by its ListObjectsV2. What arrives is the tree
that :mod:`wsdino.screen.layouts.gallery` reads, with the tables cut down to what was downloaded.
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from wsdino.atomic import writing
from wsdino.errors import InputError, OutputError, did_you_mean
from wsdino.progress import Meter, say
from wsdino.screen.download import downloading
from wsdino.screen.fetch import fetch, read_url, require_address
from wsdino.screen.layouts.gallery import below_anchor
from wsdino.screen.layouts.gallery_copy import LOAD_DATA, TABLES
from wsdino.screen.layouts.xml import parse_text
from wsdino.tables.files import is_table, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

GALLERY = "https://cellpainting-gallery.s3.amazonaws.com"
ADVICE = "--source must be a bucket with the Gallery's tree"
NUM_READERS = 8
# Tables of metadata are small; what else lies beside them isn't needed.
_METADATA = ("workspace/metadata/platemaps/{batch}/", "workspace/metadata/external_metadata/")


class Item(NamedTuple):
    """A file of the Gallery: its size, and its ETag."""

    size: int
    tag: str


@dataclass(frozen=True)
class Plate:
    """A plate of the Gallery: `cpg0000-jump-pilot`, `source_4`, `2020_11_04_CPJUMP1`, ..."""

    project: str
    source: str
    batch: str
    name: str

    @property
    def top(self) -> str:
        """Return the beginning of all keys of the plate's source."""
        return f"{self.project}/{self.source}/"

    @property
    def tables(self) -> str:
        """Return the beginning of the keys of the plate's tables."""
        return f"{self.top}workspace/{LOAD_DATA}/{self.batch}/{self.name}/"

    def key(self, folder: str, name: str) -> str | None:
        """Return the key of a file that the plate's table names; None if it isn't the plate's."""
        inside = below_anchor(folder)
        if inside is None or PurePosixPath(name).name != name:
            return None
        return self.top + "/".join(("images", self.batch, *inside, name))


def download_gallery(
    project: str,
    out: Path,
    *,
    plates: Sequence[str] | None,
    sites: int | None = None,
    source: str = GALLERY,
) -> None:
    """Download plates into the Gallery's own tree, or resume a stopped download.

    After each plate, `out` holds a screen that can be ingested: the plate's table lists the sites
    whose images and illumination functions are all there. Nothing is kept twice, and the bytes of a
    plate are compared with the free disk before its first image.

    Parameters
    ----------
    project
        Such as ``cpg0000-jump-pilot``.
    out
        Folder to write: new, empty, or an earlier download of the project.
    plates
        Names such as ``BR00116991``.
    sites
        How many sites of each well, the first of its table; None: all.
    source
        Address of the bucket.

    Raises
    ------
    InputError
        There is no such project or plate, or no plate is named.
    OutputError
        `out` holds something else, can't be written, or has too little space.
    WsdinoError
        The connection keeps failing.
    """
    source = require_address(source)
    if sites is not None and sites < 1:
        raise InputError(f"--sites {sites}: must be at least 1")
    with downloading(out, project) as hidden:
        known = _plates(source, project)
        if not plates:
            some = ", ".join(sorted(known)[:3])
            raise InputError(
                f"{project}: has {len(known)} plates, such as {some}; name those to download by "
                "--plate"
            )
        wanted = [_wanted(name, known, project) for name in dict.fromkeys(plates)]
        for plate in wanted:
            _download_plate(source, plate, out, hidden, sites)


def _wanted(name: str, known: dict[str, list[Plate]], project: str) -> Plate:
    """Return the plate of a name, or of a batch and a name: `2020_11_04_CPJUMP1/BR00116991`."""
    batch, _, plain = name.rpartition("/")
    found = [plate for plate in known.get(plain, []) if batch in ("", plate.batch)]
    if not found:
        some = did_you_mean(plain, known) or f"; it has {', '.join(sorted(known)[:3])}, ..."
        raise InputError(f"--plate {name}: not a plate of {project}{some}")
    if len(found) > 1:
        batches = " and ".join(f"{plate.batch}/{plate.name}" for plate in found)
        raise InputError(f"--plate {name}: there are {batches}; name one of them")
    return found[0]


def _plates(source: str, project: str) -> dict[str, list[Plate]]:
    """Return all plates of a project that have a table of images, by their names."""
    found: dict[str, list[Plate]] = {}
    for one in _folders(source, f"{project}/"):
        for batch in _folders(source, f"{project}/{one}/workspace/{LOAD_DATA}/"):
            for name in _folders(source, f"{project}/{one}/workspace/{LOAD_DATA}/{batch}/"):
                found.setdefault(name, []).append(Plate(project, one, batch, name))
    if not found:
        raise InputError(f"{project}: {source} has no such project, or none with {LOAD_DATA}")
    return found


def _folders(source: str, prefix: str) -> list[str]:
    return [key.removeprefix(prefix).rstrip("/") for key, _ in _listed(source, prefix, "/")]


def _listed(source: str, prefix: str, delimiter: str = "") -> Iterator[tuple[str, Item]]:
    """List the files whose keys begin with a prefix, or the folders up to the delimiter."""
    question = {"list-type": "2", "prefix": prefix}
    if delimiter:
        question["delimiter"] = delimiter
    while True:
        url = f"{source}/?{urlencode(question)}"
        root = parse_text(read_url(url, advice=ADVICE), origin=url)
        for entry in root.iterfind("CommonPrefixes" if delimiter else "Contents"):
            key = entry.findtext("Prefix" if delimiter else "Key") or ""
            yield key, Item(int(entry.findtext("Size") or 0), entry.findtext("ETag") or "")
        token = root.findtext("NextContinuationToken")
        if not token:
            return
        question["continuation-token"] = token


def _download_plate(source: str, plate: Plate, out: Path, hidden: Path, sites: int | None) -> None:
    tables = dict(_listed(source, plate.tables))
    name = next((key for stem in TABLES for key in tables if _is_named(key, stem)), None)
    if name is None:
        raise InputError(
            f"{source}/{plate.tables}: no table named {' or '.join(TABLES)}; it has "
            f"{', '.join(PurePosixPath(key).name for key in tables) or 'nothing'}"
        )
    whole = hidden / name
    files = {key: _Local(key, item, whole) for key, item in [(name, tables[name])]}
    for place in _METADATA:
        for key, item in _listed(source, plate.top + place.format(batch=plate.batch)):
            if is_table(Path(key)):
                files[key] = _Local(key, item, _place(out, plate, key))
    _fetch_all(f"{plate.name}, tables", files, source, out, hidden)
    table = read_file(whole)
    keys = _keys_of(table, plate, whole)
    wanted = _first_sites(table, sites)
    prefixes = {str(PurePosixPath(key).parent) + "/" for row in keys for key in row}
    there = {key: item for prefix in sorted(prefixes) for key, item in _listed(source, prefix)}
    images = {}
    for row in wanted:
        for key in keys[row]:
            if key not in there:
                raise InputError(
                    f"{source}: has no {key}, which {PurePosixPath(name).name} of {plate.name} "
                    "lists; nothing of this plate can be trusted to be complete"
                )
            images[key] = _Local(key, there[key], _place(out, plate, key))
    _fetch_all(plate.name, images, source, out, hidden)
    done = [
        all(key in there and _is_whole(_place(out, plate, key), there[key]) for key in row)
        for row in keys
    ]
    stem = next(stem for stem in TABLES if _is_named(name, stem))
    with writing(_place(out, plate, f"{plate.tables}{stem}.csv")) as partial:
        table[done].to_csv(partial, index=False)
    say(f"{plate.name}: {sum(done)} of {len(done)} sites are there")


def _is_named(key: str, stem: str) -> bool:
    return is_table(Path(key)) and PurePosixPath(key).name.split(".", 1)[0] == stem


class _Local(NamedTuple):
    """A file that is wanted, and where it goes."""

    key: str
    item: Item
    path: Path


def _place(out: Path, plate: Plate, key: str) -> Path:
    return out / key.removeprefix(f"{plate.project}/")


def _is_whole(path: Path, item: Item) -> bool:
    return path.is_file() and path.stat().st_size == item.size


def _keys_of(table: pd.DataFrame, plate: Plate, path: Path) -> list[list[str]]:
    """Return the keys of the images and functions of each row of a plate's table."""
    columns = []
    for name in (str(column) for column in table.columns):
        if name.startswith("FileName_"):
            folders = table.get(name.replace("FileName_", "PathName_", 1))
            if folders is not None:
                columns.append(list(zip(folders, table[name], strict=True)))
        elif name.startswith("URL_") and name.replace("URL_", "FileName_", 1) not in table:
            places = [str(url).rpartition("/") for url in table[name]]
            columns.append([(folder, file) for folder, _, file in places])
    if not columns:
        raise InputError(f"{path}: names no images (FileName_ and PathName_, or URL_)")
    rows = []
    for row in zip(*columns, strict=True):
        keys = [plate.key(str(folder), str(name)) for folder, name in row]
        if None in keys:
            folder, name = row[keys.index(None)]
            raise InputError(f"{path}: {folder}/{name} lies outside the tree of {plate.top}")
        rows.append([key for key in keys if key])
    return rows


def _first_sites(table: pd.DataFrame, num: int | None) -> list[int]:
    """Return the rows of the first sites of each well, in the table's order."""
    wells = table.get("Metadata_Well")
    if num is None:
        return list(range(len(table)))
    if wells is None:
        raise InputError("--sites: the plate's table has no column Metadata_Well; download all")
    return [row for row, place in enumerate(wells.groupby(wells).cumcount()) if place < num]


def _fetch_all(what: str, files: dict[str, _Local], source: str, out: Path, hidden: Path) -> None:
    """Download the files that aren't there yet, several at a time."""
    missing = [file for file in files.values() if not _is_whole(file.path, file.item)]
    needed, free = sum(file.item.size for file in missing), shutil.disk_usage(out).free
    if needed > free:
        raise OutputError(
            f"{out}: {what} takes {needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} GiB are "
            "free; name fewer plates, or fewer --sites"
        )
    with (
        Meter(what, len(files), len(files) - len(missing)) as meter,
        ThreadPoolExecutor(NUM_READERS) as pool,
    ):

        def one(file: _Local) -> None:
            name = hashlib.sha256(f"{source}/{file.key}".encode()).hexdigest()
            fetch(
                f"{source}/{quote(file.key)}",
                file.path,
                advice=ADVICE,
                partial=hidden / f"{name}.partial",
                size=file.item.size,
                tag=file.item.tag,
                shows=False,
            )

        try:
            for _ in pool.map(one, missing):
                meter.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
