"""Plate layouts: two built-in ones, and any given as a table.

A layout is a table with one row per site, as :func:`layout_table` documents it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import InputError, ManifestError, did_you_mean
from wsdino.screen.manifest import read_manifest

from .keys import guid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHANNELS = ("DAPI", "Tubulin", "Actin")
WAVELENGTHS = {"DAPI": "w1", "Tubulin": "w2", "Actin": "w4"}  # as BBBC021 numbers them
CONTROL = "DMSO"
BUILT_IN = ("small", "bbbc021")
# the published plates' control wells, and those with taxol on each of them
CONTROL_WELLS = ("B02", "C02", "D02", "E11", "F11", "G11")
REFERENCE_WELLS = ("B11", "C11", "D11", "E02", "F02", "G02")
REFERENCE = ("taxol", 0.3)


@dataclass(frozen=True)
class Series:
    """One compound of a built-in layout: its mechanism, concentrations (uM) and plates."""

    compound: str
    moa: str
    concentrations: tuple[float, ...]
    plates: str


def _series(moa: str, *rows: tuple[str, str, tuple[float, ...]]) -> list[Series]:
    return [Series(compound, moa, doses, plates) for compound, plates, doses in rows]


# Groups of replicate plates, named for week and order within it, and BBBC021's own plate numbers.
BBBC021_PLATES: dict[str, tuple[str, ...]] = {
    "1a": ("22123", "22141", "22161"), "1b": ("22361", "22381", "22401"),
    "2a": ("24121", "24141", "24161"), "2b": ("24361", "24381", "24401"),
    "3a": ("25421", "25441", "25461"), "3b": ("25681", "25701", "25721"),
    "4a": ("27481", "27521", "27542"), "4b": ("27801", "27821", "27861"),
    "5a": ("28901", "28921", "28961"), "5b": ("29301", "29321", "29341"),
    "6a": ("31641", "31661", "31681"), "6b": ("32061", "32121", "32161"),
    "7a": ("34341", "34381", "34641"), "7b": ("34661", "34681"),
    "8a": ("38203", "38221", "38241"), "8b": ("38341", "38342"),
    "9a": ("39206", "39221", "39222"), "9b": ("39282", "39283", "39301"),
    "10a": ("40111", "40115", "40119"),
}  # fmt: skip

# The annotated treatments of BBBC021_v1_moa.csv with the plates that hold them.
BBBC021_SERIES: tuple[Series, ...] = (
    *_series("Actin disruptors", ("cytochalasin B", "1a", (10, 30)),
             ("cytochalasin D", "2a", (0.3,)), ("latrunculin B", "1b", (1, 3))),
    *_series("Aurora kinase inhibitors", ("AZ-A", "1a", (0.1, 0.3, 1, 3, 10, 30)),
             ("AZ258", "4b", (0.1, 0.3, 1)), ("AZ841", "3a", (0.1, 0.3, 1))),
    *_series("Cholesterol-lowering", ("mevinolin/lovastatin", "9a", (1.5, 5, 15)),
             ("simvastatin", "9b", (2, 6, 20))),
    *_series("DNA damage", ("chlorambucil", "3b", (10,)), ("cisplatin", "3b", (10,)),
             ("etoposide", "3a", (1, 3, 10)), ("mitomycin C", "4b", (0.1, 0.3, 1, 3))),
    *_series("DNA replication", ("camptothecin", "8a", (0.003, 0.01, 0.03)),
             ("floxuridine", "9b", (10, 30)), ("methotrexate", "2a", (10,)),
             ("mitoxantrone", "9b", (0.003, 0.01))),
    *_series("Eg5 inhibitors", ("AZ-C", "3a", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)),
             ("AZ138", "10a", (0.03, 0.1, 0.3, 1, 3))),
    *_series("Epithelial", ("AZ-J", "5a", (1, 3, 10)), ("AZ-U", "10a", (1, 3, 10)),
             ("PP-2", "8b", (3, 10))),
    *_series("Kinase inhibitors", ("PD-169316", "7b", (3, 10)), ("alsterpaullone", "7b", (1, 3)),
             ("bryostatin", "7b", (0.3,))),
    *_series("Microtubule destabilizers", ("colchicine", "1b", (0.03,)),
             ("demecolcine", "3b", (0.3, 1, 3, 10)), ("nocodazole", "1a", (1, 3)),
             ("vincristine", "3a", (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))),
    *_series("Microtubule stabilizers", ("docetaxel", "7a", (0.03, 0.1, 0.3)),
             ("epothilone B", "1b", (0.1, 0.3, 1)), ("taxol", "1a", (0.3, 1, 3))),
    *_series("Protein degradation", ("ALLN", "2a", (3, 100)), ("MG-132", "2b", (0.1, 3)),
             ("lactacystin", "6a", (10,)), ("proteasome inhibitor I", "7a", (0.1, 3))),
    *_series("Protein synthesis", ("anisomycin", "4a", (0.3, 1)),
             ("cyclohexamide", "4b", (5, 15, 50)), ("emetine", "3b", (0.1, 0.3, 1))),
)  # fmt: skip

# Three compounds of each mechanism: the first two on the same plates, the third in another batch,
# so that every treatment has neighbours of its mechanism within its batch or beyond it. The first
# comes at two concentrations. BBBC021 has two statins and two Eg5 inhibitors; a third is added.
SMALL_PLATES: dict[str, tuple[str, ...]] = {
    "1a": ("101", "102"),
    "2a": ("201", "202"),
    "3a": ("301", "302"),
}
_SMALL_COMPOUNDS: dict[str, tuple[tuple[str, float], ...]] = {
    "Actin disruptors": (("cytochalasin B", 30), ("latrunculin B", 3), ("cytochalasin D", 0.3)),
    "Aurora kinase inhibitors": (("AZ-A", 10), ("AZ258", 1), ("AZ841", 1)),
    "Cholesterol-lowering": (
        ("simvastatin", 20), ("mevinolin/lovastatin", 15), ("fluvastatin", 10)),
    "DNA damage": (("etoposide", 10), ("cisplatin", 10), ("mitomycin C", 3)),
    "DNA replication": (("camptothecin", 0.03), ("methotrexate", 10), ("floxuridine", 30)),
    "Eg5 inhibitors": (("AZ138", 3), ("AZ-C", 0.3), ("monastrol", 100)),
    "Epithelial": (("AZ-U", 10), ("AZ-J", 10), ("PP-2", 10)),
    "Kinase inhibitors": (("PD-169316", 10), ("alsterpaullone", 3), ("bryostatin", 0.3)),
    "Microtubule destabilizers": (("vincristine", 1), ("nocodazole", 3), ("colchicine", 0.03)),
    "Microtubule stabilizers": (("taxol", 1), ("docetaxel", 0.3), ("epothilone B", 1)),
    "Protein degradation": (("MG-132", 3), ("ALLN", 100), ("lactacystin", 10)),
    "Protein synthesis": (("emetine", 1), ("anisomycin", 1), ("cyclohexamide", 50)),
}  # fmt: skip
SMALL_SERIES: tuple[Series, ...] = tuple(
    Series(
        compound,
        moa,
        (round(top / 3, 6), top) if order == 0 else (top,),
        f"{1 + (row + (order == 2)) % 3}a",
    )
    for row, (moa, trio) in enumerate(_SMALL_COMPOUNDS.items())
    for order, (compound, top) in enumerate(trio)
)
_ROWS, _COLUMNS = "BCDEFG", range(3, 11)
_KNOWN_MOA = {series.compound: series.moa for series in BBBC021_SERIES}


def layout_table(layout: str | Path, *, sites: int | None = None) -> pd.DataFrame:
    """Return the sites of a layout.

    Parameters
    ----------
    layout
        ``"small"`` (36 compounds of 12 mechanisms, 48 treatments, 3 batches of 2 replicate plates,
        396 sites), ``"bbbc021"`` (the annotated part of BBBC021: 38 compounds, 103
        treatments, 55 plates in 10 weeks, 3,848 sites), or the path of an image table in
        BBBC021's format, of a folder that holds one, or of a manifest.
    sites
        Sites per well: built-in layouts get this many (default 3 and 4), of a table's wells the
        first this many are kept (default all).

    Returns
    -------
    pandas.DataFrame
        One row per site: batch, plate, well, compound, moa (None if unknown) as str, site,
        replicate as int, concentration (micromolar) as float, folder (relative to the screen's)
        and file_DAPI, file_Tubulin, file_Actin as str.

    Raises
    ------
    InputError
        `sites` is less than one.
    TableError
        There is no such layout or table, or the table can't be read.
    """
    if sites is not None and sites < 1:
        raise InputError(f"sites: {sites} per well; give at least 1")
    if str(layout) == "small":
        return _named(_built_in(SMALL_SERIES, SMALL_PLATES, sites or 3, reference=False))
    if str(layout) == "bbbc021":
        return _named(_built_in(BBBC021_SERIES, BBBC021_PLATES, sites or 4, reference=True))
    if not Path(layout).exists() and (near := did_you_mean(str(layout), BUILT_IN)):
        raise ManifestError(f"layout {layout}: no such layout or table{near}")
    table = _from_table(layout)
    if sites is not None:
        order = table.groupby(["plate", "well"])["site"].rank(method="first")
        table = table[order <= sites].reset_index(drop=True)
    return table


def treatments_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the annotated treatments of a layout: compound, concentration, moa; no twins."""
    known = table[table["moa"].notna()]
    return known[["compound", "concentration", "moa"]].drop_duplicates().reset_index(drop=True)


def _built_in(
    all_series: Sequence[Series],
    plates: Mapping[str, tuple[str, ...]],
    sites: int,
    *,
    reference: bool,
) -> pd.DataFrame:
    """Fill plates: each compound's series in a row, along the columns."""
    rows = []
    for group, numbers in plates.items():
        wells = list(_wells([s for s in all_series if s.plates == group], reference=reference))
        batch = f"Week{group[:-1]}"
        for replicate, number in enumerate(numbers, start=1):
            rows += [
                (batch, f"{batch}_{number}", well, site, replicate, *treatment)
                for well, treatment in wells
                for site in range(1, sites + 1)
            ]
    columns = ["batch", "plate", "well", "site", "replicate", "compound", "concentration", "moa"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        ["batch", "plate", "well", "site"], ignore_index=True
    )


def _wells(
    group: Sequence[Series], *, reference: bool
) -> Iterator[tuple[str, tuple[str, float, str]]]:
    for well in CONTROL_WELLS:
        yield well, (CONTROL, 0.0, CONTROL)
    if reference:
        for well in REFERENCE_WELLS:
            yield well, (*REFERENCE, _KNOWN_MOA[REFERENCE[0]])
    free = {row: list(_COLUMNS) for row in _ROWS}
    for series in group:
        # the emptiest row, which keeps a series together and spreads compounds over the plate
        row = max(_ROWS, key=lambda name: len(free[name]))
        for dose in series.concentrations:
            yield f"{row}{free[row].pop(0):02d}", (series.compound, float(dose), series.moa)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Add folders and file names in BBBC021's style."""
    table["folder"] = table["batch"] + "/" + table["plate"]
    for channel in CHANNELS:
        table[f"file_{channel}"] = [
            f"{row.batch}_{row.well}_s{row.site}_{WAVELENGTHS[channel]}"
            f"{guid(row.plate, row.well, row.site, channel)}.tif"
            for row in table.itertuples()
        ]
    return table


def _from_table(path: str | Path) -> pd.DataFrame:
    manifest = read_manifest(path, check_files=False)
    moa = manifest["Metadata_MoA"]
    if moa.isna().all():
        moa = manifest["Metadata_Compound"].map(_KNOWN_MOA)
    control = manifest["Metadata_Control"].to_numpy(dtype=bool)
    replicate = manifest.get("Metadata_Replicate", pd.Series(1, index=manifest.index))
    table = pd.DataFrame(
        {
            "batch": manifest["Metadata_Batch"],
            "plate": manifest["Metadata_Plate"],
            "well": manifest["Metadata_Well"],
            "site": manifest["Metadata_Site"],
            "replicate": replicate,
            "compound": manifest["Metadata_Compound"].where(~control, CONTROL),
            "concentration": manifest["Metadata_Concentration"].where(~control, 0.0),
            "moa": moa.astype(object).where(moa.notna(), None),
        }
    )
    table.loc[control, "moa"] = CONTROL
    for column in ("batch", "plate"):
        _require_folder_names(table[column], f"{path}: Metadata_{column.title()}")
    table = _named(table)
    own = [f"FileName_{channel}" for channel in CHANNELS]
    if set(own) <= set(manifest.columns) and _are_bbbc021_names(manifest[own]):
        for channel, column in zip(CHANNELS, own, strict=True):
            table[f"file_{channel}"] = manifest[column].astype(str)
    return table


def _require_folder_names(names: pd.Series[str], what: str) -> None:
    """Refuse batches and plates that can't be names of folders, such as ``../x``."""
    for name in names.astype(str).unique():
        if name in {"", ".", ".."} or set(name) & set("/\\\0"):
            raise ManifestError(
                f"{what} is {name!r}; a simulated screen has a folder of that name, so it must not "
                "contain / or \\, or be . or .."
            )


def _are_bbbc021_names(names: pd.DataFrame) -> bool:
    """Whether all files are TIFFs named after site and wavelength, so that names can be kept."""
    return all(
        names[column].astype(str).str.contains(rf"_s\d+_{wavelength}.*\.tif$", regex=True).all()
        for column, wavelength in zip(names.columns, WAVELENGTHS.values(), strict=True)
    )
