"""Converting any table to our names and types: screens, plate maps and features alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.tables.columns import (
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    CONTROL_TYPE,
    MOA,
    PERT_TYPE,
    PLATE,
    PREFIX,
    SITE,
    SYNONYMS,
    TEXT,
    WELL,
    find_column,
    micromolar_per_unit,
    plain_name,
    without_spaces,
)
from wsdino.tables.control_words import control_of
from wsdino.tables.doses import (
    in_micromolar,
    merge_equal_doses,
    micromolar,
    units_of,
    with_unit_of_name,
)
from wsdino.tables.identity import (
    MISSING,
    known_texts,
    report_spellings,
    sites,
    texts,
    wells,
    with_controls,
    with_plates_of_batches,
)
from wsdino.tables.inferred import inferred, numeric
from wsdino.tables.lean import sharing, with_columns
from wsdino.tables.lists import LIST_COLUMNS, read_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.tables.columns import Synonyms


def tidy(
    table: pd.DataFrame, *, origin: str, columns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Convert the metadata of a table to our names and types.

    Parameters
    ----------
    table
        A table of any origin. It is not changed.
    origin
        Name of the table in messages.
    columns
        Our name -> the table's, as given by the user; those that the table lacks are ignored.

    Returns
    -------
    DataFrame
        The same rows with a fresh index. Plate, well, batch, compound and MoA are text (None if
        missing), wells are `B04`, sites are integers if all can be read, concentrations are float64
        in micromolar, and other `Metadata_*` columns of text become numbers or booleans if they
        hold nothing else. `Metadata_Control` is left to :func:`identify`. Features are unchanged,
        but for numbers that are kept as objects, such as decimals, which become float64.

    Raises
    ------
    TableError
        If two columns have one name, or a value can't be read.
    """
    attributes = table.attrs
    table = _of_all_channels(_with_plain_names(table, origin), origin)
    taken = _taken(table, columns or {})
    doses = taken.get(CONCENTRATION, CONCENTRATION)
    units = units_of(doses, table)
    table = _recognised(table, taken, origin)
    for name in TEXT:
        if name in table:
            table[name] = texts(table[name])
        if name in table and name in LIST_COLUMNS:
            table[name] = read_labels(table[name], origin=origin)
    if WELL in table:
        table[WELL] = wells(table[WELL], origin=origin)
    if SITE in table:
        found = sites(table[SITE])
        table[SITE] = inferred(table[SITE]) if found is None else found
    if MOA in table:
        table[MOA] = _mechanisms(table[MOA], origin)
    table = _with_solvents(table, origin)
    if CONCENTRATION in table and units is not None:
        table = with_unit_of_name(table, doses, units, origin=origin)
        table = in_micromolar(table, units, origin=origin)
    if CONCENTRATION in table:
        table[CONCENTRATION] = micromolar(table[CONCENTRATION], 1.0, origin=origin)
    known = {*TEXT, WELL, SITE, CONCENTRATION, CONTROL}
    for name in table.columns:
        if str(name).startswith(PREFIX) and name not in known:
            table[name] = inferred(table[name])
        elif not str(name).startswith(PREFIX) and table[name].dtype == object:
            table[name] = numeric(table[name])
    table = table.copy()
    table.attrs = attributes
    return table


def identify(
    table: pd.DataFrame, *, origin: str, controls: Sequence[str] | None = None
) -> pd.DataFrame:
    """Identify controls, treatments and plates, once all metadata is joined.

    Parameters
    ----------
    table
        What :func:`tidy` returned, joined with any plate map. It is not changed.
    origin
        Name of the table in messages.
    controls
        Compounds that are negative controls, in any case. None: `Metadata_Control` if it has any
        value, else DMSO.

    Returns
    -------
    DataFrame
        The same rows; see :mod:`wsdino.tables.identity`. Compounds without any concentration get a
        missing one.

    Raises
    ------
    TableError
        A control flag can't be read, or no compound has the names given.
    """
    attributes = table.attrs
    table = with_controls(table, controls, origin=origin)
    if COMPOUND in table and CONCENTRATION not in table:
        say(f"{origin}: no column {CONCENTRATION}, so each compound counts as one treatment")
        table = with_columns(table, {CONCENTRATION: float("nan")})
    table = merge_equal_doses(table, origin=origin)
    table = with_plates_of_batches(table, origin=origin)
    report_spellings(table, origin=origin)
    table.attrs = attributes
    return table


def has_values(table: pd.DataFrame, column: str) -> bool:
    """Whether a table has a column with at least one value."""
    if column not in table:
        return False
    values = table[column]
    if values.dtype == object or isinstance(values.dtype, pd.CategoricalDtype):
        return any(not isinstance(value, str) or value.strip() for value in values.dropna())
    return bool(values.notna().any())


def _with_plain_names(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Strip names, remove CellProfiler's prefix `Image_`, and drop unnamed row numbers."""
    table = _with_index(table, origin)
    table = sharing(table)
    table.columns = [without_spaces(name) for name in table.columns]
    unnamed = [name for name in table.columns if not name or name.startswith("Unnamed: ")]
    table = table.drop(columns=unnamed) if unnamed else table
    _require_unique(table, origin)
    is_screen = any(str(name).startswith("Image_FileName_") for name in table)
    prefix = "Image_" if is_screen else f"Image_{PREFIX}"
    names = [name for name in map(str, table.columns) if name.startswith(prefix)]
    plain = {name: name.removeprefix("Image_") for name in names}
    for name, short in plain.items():
        if short in table and not _agree(table[name], table[short]):
            raise TableError(
                f"{origin}: two columns are named {short}, one of them with the prefix Image_, and "
                "they differ; drop one"
            )
    twice = [name for name, short in plain.items() if short in table]
    table = table.drop(columns=twice) if twice else table
    table.columns = [plain.get(name, name) for name in table.columns]
    return table


def _with_index(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Make columns of what a data frame's index holds under a name, unless it has them already."""
    for name in [name for name in table.index.names if isinstance(name, str)]:
        if name in table:
            level = table.index.get_level_values(name).to_series(index=table.index)
            if not _agree(level, table[name]):
                raise TableError(
                    f"{origin}: its index and a column are both named {name}; drop one"
                )
            table = table.reset_index(name, drop=True)
    return table if set(table.index.names) == {None} else table.reset_index()


def _require_unique(table: pd.DataFrame, origin: str) -> None:
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise TableError(f"{origin}: two columns are named {twice}; column names must be unique")


def _agree(one: pd.Series, other: pd.Series) -> bool:
    pairs = zip(texts(one), texts(other), strict=True)
    return all(a == b for a, b in pairs if a is not None and b is not None)


def _taken(table: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, str]:
    """Return what is renamed, our name -> the table's; see :mod:`wsdino.tables.columns`."""
    taken: dict[str, str] = {}
    for ours, theirs in columns.items():
        found = find_column(theirs, [*table.columns])
        if found is not None:
            taken[ours] = found
    for synonyms in SYNONYMS:
        if synonyms.column not in taken and not has_values(table, synonyms.column):
            for theirs in _candidates(table, synonyms):
                if theirs not in taken.values():
                    taken[synonyms.column] = theirs
                    break
    return {ours: theirs for ours, theirs in taken.items() if ours != theirs}


def _recognised(table: pd.DataFrame, taken: Mapping[str, str], origin: str) -> pd.DataFrame:
    """Rename columns to ours, and report the renamed."""
    if not taken:
        return table
    named = ", ".join(f"{theirs} as {ours}{_unit(theirs)}" for ours, theirs in taken.items())
    say(f"{origin}: read {named}")
    new = {ours: _contents(table, theirs, ours, origin) for ours, theirs in taken.items()}
    # A column with another unit or other words is kept beside ours under its own name.
    kept = {name for name in taken.values() if name.startswith(PREFIX) and _differs(name)}
    gone = [name for name in {*taken.values(), *taken} if name in table and name not in kept]
    return with_columns(table.drop(columns=gone), new)


def _candidates(table: pd.DataFrame, synonyms: Synonyms) -> list[str]:
    """Return the columns that may be read as one of ours, the preferred one first."""
    found: dict[str, list[str]] = {}
    for name in table.columns:
        found.setdefault(plain_name(name), []).append(name)
    in_order = [name for other in synonyms.others for name in found.get(other, [])]
    in_order = [name for name in in_order if name != synonyms.column and has_values(table, name)]
    if synonyms.column == CONTROL:
        in_order = [name for name in in_order if _marks_controls(table[name])]
    return sorted(in_order, key=lambda name: not name.startswith(PREFIX))


def _marks_controls(values: pd.Series) -> bool:
    words = {str(value).strip() for value in values.dropna().unique()}
    return all(word.casefold() in MISSING or control_of(word) is not None for word in words)


def _differs(theirs: str) -> bool:
    """Whether a column's values change when it is read as ours."""
    return micromolar_per_unit(theirs) not in (None, 1.0) or plain_name(theirs) in (
        CONTROL_TYPE,
        PERT_TYPE,
    )


def _unit(theirs: str) -> str:
    factor = micromolar_per_unit(theirs)
    return "" if factor in (None, 1.0) else f" (times {factor:g})"


def _contents(table: pd.DataFrame, theirs: str, ours: str, origin: str) -> pd.Series:
    factor = micromolar_per_unit(theirs) if ours == CONCENTRATION else None
    if factor not in (None, 1.0):
        return micromolar(table[theirs], factor or 1.0, origin=origin)
    if ours == CONTROL and plain_name(theirs) == CONTROL_TYPE:
        return _control_types(table, theirs)
    return table[theirs]


def _control_types(table: pd.DataFrame, theirs: str) -> pd.Series:
    """Fill blanks in the type of control from the type of perturbation: blank means treated.

    JUMP's tables have both: `pert_type` is trt or control, `control_type` negcon, poscon_cp, ...
    """
    types = texts(table[theirs])
    other = next((name for name in table.columns if plain_name(name) == PERT_TYPE), None)
    filled = texts(table[other]) if other and _marks_controls(table[other]) else types.map(str)
    return types.where(types.notna(), filled.where(filled != "None", "trt"))


def _of_all_channels(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Merge `Metadata_Plate_<Channel>` into one plate, and likewise `Metadata_Well_<Channel>`.

    A channel has an image, or both a plate and a well: `Plate_Map_Name` is not one.
    """
    names = set(table.columns)
    ends = [name.removeprefix(f"{ours}") for ours in (PLATE, WELL) for name in table.columns]
    channels = [
        end
        for end in dict.fromkeys(ends)
        if end.startswith("_") and (f"FileName{end}" in names or {PLATE + end, WELL + end} <= names)
    ]
    for ours in (PLATE, WELL):
        copies = [ours + end for end in channels if ours + end in names]
        for copy in copies[1:]:
            if not _agree(table[copies[0]], table[copy]):
                raise TableError(
                    f"{origin}: {copies[0]} and {copy} differ; a site has a single plate and well"
                )
        if copies and not has_values(table, ours):
            table = with_columns(table, {ours: table[copies[0]]})
        # Without any, dropping them would only copy a large table.
        table = table.drop(columns=copies) if copies else table
    return table


# As one mechanism, those that nobody knows would match each other.
_UNKNOWN = frozenset(
    {
        "unknown",
        "not known",
        "not available",
        "n.a.",
        "unannotated",
        "undetermined",
        "tbd",
        "?",
        "-",
    }
)


def _mechanisms(values: pd.Series, origin: str) -> pd.Series:
    """Return mechanisms as text, None if missing, however other tools write a missing one."""
    found = texts(values)
    unknown = MISSING | _UNKNOWN
    odd = found.map(lambda text: isinstance(text, str) and text.casefold() in unknown).astype(bool)
    if odd.any():
        say(
            f"{origin}: {MOA} is '{found[odd].iloc[0]}' in {int(odd.sum())} rows, which is taken "
            "to mean unknown"
        )
    return found.where(~odd, None)


def _with_solvents(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Name wells without a compound after their solvent, as the Broad's plate maps intend."""
    solvent = next((name for name in table.columns if plain_name(name) == "solvent"), None)
    if solvent is None or COMPOUND not in table:
        return table
    compounds = table[COMPOUND]
    blank = compounds.isna()
    if CONCENTRATION in table:
        no_dose = texts(table[CONCENTRATION]).map(
            lambda dose: dose is None or str(dose).casefold() in MISSING
        )
        words = compounds.map(lambda name: isinstance(name, str) and name.casefold() in MISSING)
        blank |= words.astype(bool) & no_dose.astype(bool)
    solvents = known_texts(table[solvent])
    blank &= solvents.notna()
    if not blank.any():
        return table
    say(
        f"{origin}: {int(blank.sum())} wells have no compound, and are named after their solvent "
        f"({', '.join(sorted(set(solvents[blank])))})"
    )
    return with_columns(table, {COMPOUND: compounds.where(~blank, solvents)})
