"""OME-Zarr plates (NGFF 0.4 and 0.5, high-content screening layout) as a table of sites.

Source: https://ngff.openmicroscopy.org/0.5/ ("plate", "well", "multiscales", "omero" metadata).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr

from wsdino.errors import TableError
from wsdino.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

METADATA_FILES = ("zarr.json", ".zattrs")
# An axis that the specification knows, as the letter that tifffile has for it.
_AXES = {"t": "T", "c": "C", "z": "Z", "y": "Y", "x": "X"}


def find_plates(folder: Path) -> list[Path]:
    """Return the OME-Zarr plates that a folder is or holds, by name; none where there is none."""
    if _is_plate(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in inside if path.suffix.lower() == ".zarr" and _is_plate(path)]


def _is_plate(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in METADATA_FILES):
        return False
    return "plate" in _metadata(folder)


def read_plates(plates: Sequence[Path]) -> pd.DataFrame:
    """List the sites of plates.

    Parameters
    ----------
    plates
        Folders of OME-Zarr plates.

    Returns
    -------
    pandas.DataFrame
        A row per field with `Metadata_Plate` (the plate's name, or that of its folder),
        `Metadata_Well`, `Metadata_Site` (the field's own number where it has one), and for each
        channel `PathName_`, `FileName_` (the field's group) and `Frame_`.

    Raises
    ------
    TableError
        Metadata are missing or damaged, a plate has several acquisitions, or images have other
        channels than the first.
    """
    rows: list[dict[str, Any]] = []
    channels: list[str] = []
    first = Path()
    with Meter("plates", len(plates), last_line=False) as meter:
        for plate in plates:
            for row, image in _sites(plate):
                found = _channels(image)
                if not channels:
                    channels, first = found, image
                if found != channels:
                    raise TableError(
                        f"{image}: its channels are {', '.join(found)}, but those of {first} are "
                        f"{', '.join(channels)}; all images of a screen must have the same"
                    )
                for frame, channel in enumerate(channels):
                    row |= {
                        f"PathName_{channel}": str(image.parent),
                        f"FileName_{channel}": image.name,
                        f"Frame_{channel}": frame,
                    }
                rows.append(row)
            meter.advance()
    return pd.DataFrame(rows)


def _sites(plate: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    described = _metadata(plate)["plate"]
    acquisitions = described.get("acquisitions") or []
    if len(acquisitions) > 1:
        raise TableError(
            f"{plate}: has {len(acquisitions)} acquisitions; a screen has one, so split the plate"
        )
    name = str(described.get("name") or plate.name.split(".", maxsplit=1)[0])
    for well in _listed(described, "wells", plate):
        folder = plate / well
        place = "".join(Path(well).parts)
        for index, image in enumerate(
            _listed(_part(_metadata(folder), "well", folder), "images", folder)
        ):
            site = int(image) if image.isdecimal() else index
            row = {"Metadata_Plate": name, "Metadata_Well": place, "Metadata_Site": site}
            yield row, folder / image


def _listed(described: dict[str, Any], key: str, folder: Path) -> list[str]:
    """Return the paths of a list of wells or images."""
    entries = described.get(key)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries
    ):
        raise TableError(f"{folder}: its OME-Zarr metadata list no {key} with a path each")
    return [entry["path"] for entry in entries]


def _channels(image: Path) -> list[str]:
    metadata = _metadata(image)
    labels = [
        str(channel.get("label") or "").strip()
        for channel in _part(metadata, "omero", image).get("channels") or []
    ]
    if not labels or not all(labels) or len(set(labels)) < len(labels):
        raise TableError(
            f"{image}: its channels are {labels}; OME-Zarr metadata must give each a label of its "
            "own under omero"
        )
    return labels


def read_image(image: Path) -> tuple[np.ndarray[Any, np.dtype[Any]], str]:
    """Read the full resolution of an OME-Zarr image.

    Parameters
    ----------
    image
        The image's group.

    Returns
    -------
    pixels, axes
        As they are stored, (..., H, W), and a letter of TCZYX for each axis.

    Raises
    ------
    ValueError
        It is no such image, or a whole plane was never written: Zarr reads that as zeros.
    OSError, KeyError
        What Zarr says of damaged groups and arrays.
    """
    scales = _metadata(image).get("multiscales")
    if not scales:
        raise ValueError("no OME-Zarr image (there are no multiscales)")
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in scales[0]["axes"]]
    array = zarr.open_array(image / scales[0]["datasets"][0]["path"], mode="r")
    pixels = np.asarray(array[...])
    axes = "".join(_AXES.get(name, "?") for name in names)
    if len(axes) != pixels.ndim:
        raise ValueError(f"{pixels.ndim} axes, of which the metadata name {len(axes)}")
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    is_empty = (planes == (array.fill_value or 0)).all(axis=(1, 2))
    if is_empty.any() and array.nchunks_initialized < array.nchunks:
        raise ValueError(f"{int(is_empty.sum())} of {len(planes)} planes have no pixels")
    return pixels, axes


def _metadata(folder: Path) -> dict[str, Any]:
    """Return a group's OME-Zarr metadata: version 0.5 has them under `ome`."""
    try:
        attributes = zarr.open_group(folder, mode="r").attrs.asdict()
    except FileNotFoundError as error:
        raise TableError(f"{folder}: no OME-Zarr group, though the plate lists it") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TableError(f"{folder}: damaged OME-Zarr metadata: {reason}") from error
    return _part(attributes, "ome", folder) if "ome" in attributes else attributes


def _part(metadata: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    part = metadata.get(key)
    if not isinstance(part, dict):
        raise TableError(f"{folder}: its OME-Zarr metadata have no {key}")
    return part
