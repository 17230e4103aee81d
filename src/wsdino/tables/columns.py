"""Column names: ours, and those of other tools.

Each of our columns is read from the first of these that the table has: the column that the user
names (`--column Metadata_Compound=pert_iname`); our own name; the first of :data:`SYNONYMS` that
starts with `Metadata_`, in the table's order; the first without that prefix. A column without any
value is skipped. Case, spaces and CellProfiler's prefix `Image_` don't matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsdino.errors import InputError, TableError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

PREFIX = "Metadata_"
# Of the measures of image quality that ingest adds.
QUALITY = f"{PREFIX}QC_"
PLATE, WELL, SITE = "Metadata_Plate", "Metadata_Well", "Metadata_Site"
BATCH, COMPOUND, CONCENTRATION = "Metadata_Batch", "Metadata_Compound", "Metadata_Concentration"
MOA, CONTROL = "Metadata_MoA", "Metadata_Control"
# Width of a pixel of the images, in micrometres, and between what it must be.
PIXEL_SIZE, MIN_PIXEL_SIZE, MAX_PIXEL_SIZE = "Metadata_PixelSize", 0.01, 100.0
TREATMENT = (COMPOUND, CONCENTRATION)
METADATA = (PLATE, WELL, SITE, BATCH, COMPOUND, CONCENTRATION, MOA, CONTROL)
TEXT = (PLATE, WELL, BATCH, COMPOUND, MOA)
# The name of a plate's plate map. It isn't a plate, although CellProfiler's table of BBBC021 has
# names of the same form (`Metadata_Plate_DAPI`).
PLATE_MAP = "Metadata_Plate_Map_Name"
CONTROL_TYPE, PERT_TYPE = "control_type", "pert_type"
# Prefixes of the columns that say where the pixels of a channel are, each before `_<Channel>`.
Z_PLANE, TIME_POINT = "ZPlane", "TimePoint"
FILE_PREFIXES = ("FileName", "PathName", "URL", "Frame", "Series", Z_PLANE, TIME_POINT)
_SPACED = re.compile(
    rf"((?:Image_)?(?:{'|'.join(FILE_PREFIXES)}|Metadata))\s*_\s*(Illum|Orig)?\s*(.+)", re.DOTALL
)
FILE_COLUMN = re.compile(rf"(?:Image_)?(?:{'|'.join(FILE_PREFIXES)})_.+")

# Micromolar per unit, by the suffix of a column's name.
UNITS = {
    "um": 1.0,
    "micromolar": 1.0,
    "umol_l": 1.0,
    "nm": 1e-3,
    "nanomolar": 1e-3,
    "nmol_l": 1e-3,
    "mm": 1e3,
    "millimolar": 1e3,
    "mmol_l": 1e3,
    "pm": 1e-6,
    "picomolar": 1e-6,
    "m": 1e6,
    "molar": 1e6,
}
_DOSES = ("concentration", "conc", "compound_concentration", "pert_dose", "dose")
# Names of whole columns whose unit is part of the word.
_PER_LITER = {
    "umoles_per_liter": 1.0,
    "micromoles_per_liter": 1.0,
    "mmoles_per_liter": 1e3,
    "mmoles_per_liter2": 1e3,
    "millimoles_per_liter": 1e3,
    "nmoles_per_liter": 1e-3,
}
UNIT_COLUMNS = tuple(f"{dose}_unit{s}" for dose in _DOSES for s in ("", "s"))


@dataclass(frozen=True)
class Synonyms:
    """Names that other tools give to one of our columns.

    Parameters
    ----------
    column
        Our name.
    others
        Their names, in the form of :func:`plain_name`; the first that a table has is used.
    """

    column: str
    others: tuple[str, ...]


SYNONYMS = (
    Synonyms(
        PLATE,
        (
            "plate",
            "assay_plate_barcode",
            "plate_barcode",
            "platebarcode",
            "barcode",
            "plate_id",
            "plateid",
            "plate_name",
            "platename",
        ),
    ),
    Synonyms(
        WELL,
        (
            "well",
            "well_position",
            "wellposition",
            "cpd_well_position",
            "assay_plate_well",
            "assay_well",
            "well_id",
            "wellid",
            "well_name",
            "wellname",
        ),
    ),
    Synonyms(SITE, ("site", "field", "fieldid", "field_id", "fov", "imagesite")),
    Synonyms(BATCH, ("batch", "batch_id", "batch_name", "batchname", "batch_number")),
    # A name takes precedence over a sample identifier: one compound may have several samples.
    Synonyms(
        COMPOUND,
        (
            "compound",
            "pert_iname",
            "compound_name",
            "compoundname",
            "cpd_name",
            "drug_name",
            "drug",
            "broad_sample",
            "jcp2022",
            "jcp2022_id",
            "pert_id",
            "compound_id",
            "compoundid",
        ),
    ),
    Synonyms(
        CONCENTRATION,
        (
            *(f"{dose}{unit}" for dose in _DOSES for unit in ("", *(f"_{u}" for u in UNITS))),
            *_PER_LITER,
        ),
    ),
    Synonyms(
        MOA,
        (
            "moa",
            "mechanism_of_action",
            "mechanismofaction",
            "mechanism",
            "mode_of_action",
            "pert_moa",
        ),
    ),
    Synonyms(
        CONTROL,
        (
            "control",
            "is_control",
            "iscontrol",
            "negative_control",
            "is_negative_control",
            "negcon",
            CONTROL_TYPE,
            PERT_TYPE,
        ),
    ),
    Synonyms(
        PIXEL_SIZE,
        (
            *(
                f"pixel{sign}size{unit}"
                for sign in ("", "_")
                for unit in ("", "_um", "_micrometer")
            ),
            "um_per_pixel",
            "microns_per_pixel",
            "micrometers_per_pixel",
        ),
    ),
)
_OURS = {name: synonyms.column for synonyms in SYNONYMS for name in synonyms.others}


def without_spaces(name: str) -> str:
    """Remove spaces around a column's name and its parts: `FileName_ DNA ` -> `FileName_DNA`."""
    name = str(name).strip()
    found = _SPACED.fullmatch(name)
    return name if found is None else f"{found[1]}_{found[2] or ''}{found[3]}"


def plain_name(name: str) -> str:
    """Normalise a name, dropping prefix, case and signs: `Metadata_Dose (µM)` -> `dose_um`."""
    name = without_spaces(name).removeprefix("Image_").removeprefix(PREFIX).casefold()
    name = name.removeprefix(PREFIX.casefold()).replace("\N{GREEK SMALL LETTER MU}", "u")
    return re.sub(r"\W+", "_", name).strip("_")


def micromolar_per_unit(name: str) -> float | None:
    """Micromolar per unit of a column, from its name; None if the name has no unit."""
    plain = plain_name(name)
    if plain in _PER_LITER:
        return _PER_LITER[plain]
    dose = next((dose for dose in _DOSES if plain.startswith(f"{dose}_")), None)
    return UNITS.get(plain.removeprefix(f"{dose}_")) if dose else None


def is_text(name: str) -> bool:
    """Whether a column must be read as text, so that no reader may guess its type."""
    name = without_spaces(name)
    return (
        name.removeprefix("Image_").casefold().startswith(PREFIX.casefold())
        or FILE_COLUMN.fullmatch(name) is not None
        or plain_name(name) in _OURS
    )


def our_column(name: str) -> str | None:
    """Return which of our columns a name, with or without `Metadata_`, may stand for."""
    return _OURS.get(plain_name(name))


def parse_columns(settings: Sequence[str] | None) -> dict[str, str]:
    """Parse settings such as `Metadata_Compound=pert_iname`.

    Returns
    -------
    dict
        Our name -> the table's.

    Raises
    ------
    InputError
        If one has another form, or one of our columns is named twice.
    """
    columns: dict[str, str] = {}
    for setting in settings or ():
        ours, equals, theirs = (part.strip() for part in setting.partition("="))
        if not (ours and equals and theirs):
            raise InputError(
                f"--column {setting!r}: use the form Metadata_Compound=NAME, where NAME is a "
                "column of the table"
            )
        ours = ours if ours.startswith(PREFIX) else PREFIX + ours
        known = {name.casefold(): name for name in METADATA}
        ours = known.get(ours.casefold(), ours)
        if ours in columns:
            raise InputError(f"--column {setting!r}: {ours} is already read from {columns[ours]}")
        columns[ours] = theirs
    return columns


def find_column(name: str, names: Collection[str]) -> str | None:
    """Return which of a table's columns a user means by `name`, whose prefix may be left out."""
    for candidate in (name, PREFIX + name, f"Image_{PREFIX}{name}"):
        if candidate in names:
            return candidate
    return None


def require_sources(columns: Mapping[str, str], names: Collection[str], *, origin: str) -> None:
    """Raise TableError if a column that the user named does not exist."""
    for ours, theirs in columns.items():
        if find_column(theirs, names) is None:
            raise TableError(
                f"{origin}: no column {theirs}, from which {ours} is to be read"
                f"{did_you_mean(theirs, names)}; the table has {', '.join(names)}"
            )
