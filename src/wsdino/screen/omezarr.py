"""OME-Zarr plates (NGFF 0.4 and 0.5, high-content screening layout) as a table of sites.

Source: https://ngff.openmicroscopy.org/0.5/ ("plate", "well", "multiscales", "omero" metadata).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from zarr.errors import ContainsArrayError

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.outside import reading
from wsdino.progress import Meter, say
from wsdino.remote import address_of, is_remote, named, options_of, shown
from wsdino.screen.choosing import ACQUISITION
from wsdino.screen.layouts.listing import unique_names
from wsdino.screen.layouts.places import folders_below
from wsdino.screen.lengths import pixel_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsdino.screen.formats import Taken

_SUFFIX = re.compile(r"(\.ome)?\.zarr$", re.IGNORECASE)
PROJECTION = "_mip"
METADATA_FILES = ("zarr.json", ".zattrs")
# Letters that tifffile uses for the axes of the specification.
_AXES = {"t": "T", "c": "C", "z": "Z", "y": "Y", "x": "X"}


class _NotAGroupError(TableError):
    """A folder of Zarr holds an array, where a group was looked for."""


def find_plates(folder: Path) -> list[Path]:
    """Return the OME-Zarr plates at or below a folder, by name; empty if there are none."""
    if _is_plate(folder):
        return [folder]
    inside = [
        one.path / name
        for one in folders_below(folder)
        for name in one.folders
        if name.lower().endswith(".zarr")
    ]
    return _without_projections([path for path in inside if _is_plate(path)])


def _without_projections(plates: list[Path]) -> list[Path]:
    """Leave out maximum projections that Fractal made of plates beside them, and say so."""
    stems = {plate: plate.parent / _SUFFIX.sub("", plate.name) for plate in plates}
    known = set(stems.values())
    derived = [
        plate
        for plate, stem in stems.items()
        if stem.name.endswith(PROJECTION)
        and stem.parent / stem.name.removesuffix(PROJECTION) in known
    ]
    if derived:
        say(
            f"{plates[0].parent}: {counted(len(derived), 'plate')} left out (projections of "
            f"others), such as {derived[0].name}; name one alone to read it"
        )
    return [plate for plate in plates if plate not in derived]


def _is_plate(folder: Path) -> bool:
    if not is_remote(folder) and not any((folder / name).is_file() for name in METADATA_FILES):
        return False
    try:
        return "plate" in _metadata(folder)
    except TableError as error:
        if not is_remote(folder) and not isinstance(error, _NotAGroupError):
            raise
        return False  # such as the pixels of a store


def read_plates(plates: Sequence[Path]) -> pd.DataFrame:
    """List the sites of plates.

    Parameters
    ----------
    plates
        Folders of OME-Zarr plates.

    Returns
    -------
    pandas.DataFrame
        A row per field with `Metadata_Plate` (the plate's name, or its folder's),
        `Metadata_Well`, `Metadata_Site` (the field's own number if it has one),
        `Metadata_Acquisition` if there are several, and for each channel `PathName_`, `FileName_`
        (the field's group) and `Frame_`.

    Raises
    ------
    TableError
        Metadata is missing or damaged, two plates have the same name, or images differ from the
        first in their channels.
    """
    rows: list[dict[str, Any]] = []
    # By acquisition, which may have channels of its own: the channels, and their first image.
    known: dict[Any, tuple[list[str], Path]] = {}
    names = _plate_names(plates)
    copies: list[str] = []
    with Meter("plates", len(plates), last_line=False) as meter:
        for plate, name in zip(plates, names, strict=True):
            for row, image in _sites(plate, name, copies):
                found, is_named = _channels(image)
                if not known and not is_named:
                    say(
                        f"{image}: its OME-Zarr metadata (omero) doesn't give every channel a "
                        f"unique name; the channels are named {', '.join(found)}"
                    )
                channels, first = known.setdefault(row[ACQUISITION], (found, image))
                if sorted(found) != sorted(channels):
                    raise TableError(
                        f"{image}: its channels are {', '.join(found)}, but those of {first} are "
                        f"{', '.join(channels)}; all images of a screen must have the same"
                    )
                for channel in channels:
                    row |= {
                        f"PathName_{channel}": str(image.parent),
                        f"FileName_{channel}": image.name,
                        f"Frame_{channel}": found.index(channel),
                    }
                rows.append(row)
            meter.advance()
    _say_acquisitions(plates, rows)
    if copies:
        say(
            f"{plates[0].parent}: {counted(len(copies), 'image')} left out (derived from another "
            f"image of the same well), such as {copies[0]}"
        )
    return pd.DataFrame(rows)


def _say_acquisitions(plates: Sequence[Path], rows: list[dict[str, Any]]) -> None:
    """Say what the acquisitions of images are called; leave them out where there is only one."""
    found = {row[ACQUISITION] for row in rows}
    if len(found) < 2:
        for row in rows:
            del row[ACQUISITION]
        return
    names: dict[str, str] = {}
    for plate in plates:
        for one in _metadata(plate)["plate"].get("acquisitions") or []:
            names[str(one.get("id"))] = str(one.get("name") or "unnamed")
    known = ", ".join(f"{one} ({names.get(str(one), 'unnamed')})" for one in sorted(found, key=str))
    say(f"{plates[0].parent}: the images are of acquisitions {known}")


def _plate_names(plates: Sequence[Path]) -> list[str]:
    """Return each plate's name: from its metadata, else from its folder.

    Instruments give every plate the same name, so shared names are replaced by the folders'.
    """
    folders = [_SUFFIX.sub("", plate.name) for plate in plates]
    given = [str(_metadata(plate)["plate"].get("name") or "").strip() for plate in plates]
    shared = {name for name in given if name and given.count(name) > 1}
    if shared:
        name = min(shared)
        say(
            f"{plates[0].parent}: {given.count(name)} plates are all named '{name}', so they are "
            "named after their folders"
        )
    names = [
        name if name and name not in shared else folder
        for name, folder in zip(given, folders, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{plates[0].parent}: two plates are named '{name}'; rename a folder")
    return names


def _sites(plate: Path, name: str, copies: list[str]) -> Iterator[tuple[dict[str, Any], Path]]:
    """List a plate's fields; paths of images derived from another one are added to `copies`."""
    described = _metadata(plate)["plate"]
    entries = described.get("wells")
    for index, well in enumerate(_listed(described, "wells", plate)):
        folder = plate / well
        place = _place(described, (entries or [])[index], well, plate)
        content = _part(_metadata(folder), "well", folder)
        images = _listed(content, "images", folder)
        fields = [image for image in images if not _is_copy(image, images)]
        copies += [str(folder / image) for image in images if image not in fields]
        acquisitions = {
            image: entry.get("acquisition")
            for image, entry in zip(images, content["images"], strict=True)
        }
        several = len({acquisitions[image] for image in fields}) > 1
        for number, image in enumerate(fields):
            digits = re.match(r"\d+", image)
            row = {
                "Metadata_Plate": name,
                "Metadata_Well": place,
                "Metadata_Site": int(digits[0]) if digits else number,
                ACQUISITION: acquisitions[image],
            }
            if several:
                # Each acquisition numbers its fields on.
                same = [one for one in fields if acquisitions[one] == acquisitions[image]]
                row["Metadata_Site"] = same.index(image)
            yield row, folder / image


def _is_copy(image: str, images: Sequence[str]) -> bool:
    """Whether an image, such as Fractal's `0_illum_corr`, is derived from another of its well."""
    return any(image.startswith(f"{other}_") for other in images)


def _place(described: dict[str, Any], entry: dict[str, Any], well: str, plate: Path) -> str:
    """Return the well's name from its path, or from its indices if the path consists of these."""
    parts = Path(well).parts
    names = [
        [str(line.get("name")) for line in described.get(key) or []] for key in ("rows", "columns")
    ]
    is_named = not parts[0].isdecimal() if parts else False
    if is_named:
        return "".join(parts)
    indices = [entry.get("rowIndex"), entry.get("columnIndex")]
    if [str(index) for index in indices] != list(parts) or not all(
        isinstance(index, int) and index < len(lines)
        for index, lines in zip(indices, names, strict=True)
    ):
        raise TableError(
            f"{plate}: the path {well} of a well is not a row and column, and its rowIndex "
            f"{indices[0]} and columnIndex {indices[1]} don't fit it; correct the plate's metadata"
        )
    found = [lines[index] for index, lines in zip(indices, names, strict=True) if index is not None]
    if found[0].isdecimal():
        # Rows that are numbers too, from 0 as iohub writes positions of a stage.
        row, column = (int(index) + 1 for index in indices if index is not None)
        return f"r{row}c{column}"
    return "".join(found)


def _listed(described: dict[str, Any], key: str, folder: Path) -> list[str]:
    """Return the paths of a list of wells or images."""
    entries = described.get(key)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries
    ):
        raise TableError(
            f"{folder}: its OME-Zarr metadata has no list of {key} that each have a path"
        )
    return [entry["path"] for entry in entries]


def _channels(image: Path) -> tuple[list[str], bool]:
    """Return the names of an image's channels, and whether all of them are its own labels.

    A missing or duplicate label gets the channel's number.
    """
    metadata = _metadata(image)
    omero = metadata.get("omero")
    listed = omero.get("channels") if isinstance(omero, dict) else None
    labels = [str(channel.get("label") or "").strip() for channel in listed or []]
    num_channels = _num_channels(image, metadata)
    if num_channels is None and not labels:
        raise TableError(f"{image}: not an OME-Zarr image, or damaged")
    if num_channels is None:
        num_channels = len(labels)
    if len(labels) > num_channels:
        raise TableError(
            f"{image}: has {num_channels} channels, but its metadata names {', '.join(labels)}"
        )
    labels += [""] * (num_channels - len(labels))
    names = list(unique_names({str(i): label for i, label in enumerate(labels)}).values())
    return names, names == labels


def _num_channels(image: Path, metadata: dict[str, Any]) -> int | None:
    """Return how many channels an image's array has; None if it can't be read."""
    try:
        with reading(named(image), TableError):
            scale = metadata["multiscales"][0]
            shape = _zarr_array(image / scale["datasets"][0]["path"]).shape
            names = _axis_names(scale)
    except TableError:
        return None
    if len(names) != len(shape):
        return None
    return int(shape[names.index("c")]) if "c" in names else 1


def _axis_names(scale: dict[str, Any]) -> list[str]:
    """Return the names of an image's axes; before version 0.3 they were always the same five."""
    axes = scale.get("axes") or list("tczyx")
    return [str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes]


def read_image(image: Path, taken: Taken) -> tuple[np.ndarray[Any, np.dtype[Any]], str]:
    """Read part of the full resolution of an OME-Zarr image.

    Parameters
    ----------
    image
        The image's group.
    taken
        Says what to take, given the axes' letters and the shape.

    Returns
    -------
    pixels, axes
        That part of the stored array, (..., H, W), and a letter of TCZYX for each axis.

    Raises
    ------
    ValueError
        It is not such an image, or a whole plane was never written (Zarr reads that as zeros).
    OSError, KeyError
        Errors of Zarr for damaged groups and arrays.
    """
    array, axes = _open_image(image)
    pixels = np.asarray(array[taken(axes, array.shape)])
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    is_empty = (planes == (array.fill_value or 0)).all(axis=(1, 2))
    if is_empty.any() and array.nchunks_initialized < array.nchunks:
        raise ValueError(f"{int(is_empty.sum())} of {len(planes)} planes have no pixels")
    return pixels, axes


def size_of_image(image: Path) -> tuple[int, int, np.dtype[Any]]:
    """Return height, width and type of an OME-Zarr image without reading its pixels."""
    array, axes = _open_image(image)
    sizes = dict(zip(axes, array.shape, strict=True))
    return sizes["Y"], sizes["X"], np.dtype(array.dtype)


def pixel_size_of_image(image: Path) -> float | None:
    """Return the width of a pixel of an OME-Zarr image's full resolution, in micrometres.

    Without a unit of the axis x nothing is known, whatever its scale.
    """
    scales = _metadata(image)["multiscales"][0]
    x = _axis_names(scales).index("x")
    axis = (scales.get("axes") or {x: None})[x]
    unit = axis.get("unit") if isinstance(axis, dict) else None
    # Those of all resolutions come on top of those of the resolution.
    given = [*(scales.get("coordinateTransformations") or ())]
    given += scales["datasets"][0].get("coordinateTransformations") or ()
    factors = [one["scale"][x] for one in given if one.get("type") == "scale"]
    return pixel_size(np.prod(factors), unit) if factors else None


def _open_image(image: Path) -> tuple[zarr.Array[Any], str]:
    """Open the full resolution of an image, and return a letter for each of its axes."""
    scales = _metadata(image).get("multiscales")
    if not scales:
        raise ValueError("not an OME-Zarr image (there are no multiscales)")
    array = _zarr_array(image / scales[0]["datasets"][0]["path"])
    return array, "".join(_AXES.get(name, "?") for name in _axis_names(scales[0]))


def _metadata(folder: Path) -> dict[str, Any]:
    """Return a group's OME-Zarr metadata, which version 0.5 has under `ome`."""
    with reading(named(folder), TableError, "damaged OME-Zarr metadata"):
        try:
            group = zarr.open_group(shown(folder), mode="r", **_options(folder))
            attributes = group.attrs.asdict()
        except FileNotFoundError as error:
            missing = f"{shown(folder)}: not an OME-Zarr group, although the plate lists it"
            raise TableError(missing) from error
        except ContainsArrayError as error:
            raise _NotAGroupError(f"{folder}: a Zarr array, not an OME-Zarr group") from error
    return _part(attributes, "ome", folder) if "ome" in attributes else attributes


def _zarr_array(path: Path) -> zarr.Array[Any]:
    return zarr.open_array(shown(path), mode="r", **_options(path))


def _options(path: Path) -> dict[str, Any]:
    address = address_of(path)
    return {} if address is None else {"storage_options": options_of(address)}


def _part(metadata: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    part = metadata.get(key)
    if not isinstance(part, dict):
        raise TableError(f"{folder}: its OME-Zarr metadata has no {key}")
    return part
