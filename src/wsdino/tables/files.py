"""Table files of any origin: CSV in its dialects, compressed or not, Parquet and AnnData."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.outside import reading, unzipped
from wsdino.progress import say
from wsdino.remote import is_remote, local_copy, named
from wsdino.tables.columns import FILE_COLUMN, TEXT, is_text, our_column
from wsdino.tables.h5ad import SUFFIX as H5AD
from wsdino.tables.h5ad import read_anndata
from wsdino.tables.parquet import read_parquet

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from contextlib import AbstractContextManager

# Suffixes that wsdino writes, and those that it reads.
SUFFIXES = (".parquet", ".csv", ".csv.gz", H5AD)
READABLE = (*SUFFIXES, ".tsv", ".tsv.gz", ".txt", ".txt.gz")
_DELIMITERS = (",", ";", "\t", "|")
_BLOCK = 1 << 20
# Longer than any header.
_HEADER_BYTES = 1 << 22
_PARQUET, _GZIP, _ZIP = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"


def is_table(path: Path) -> bool:
    """Whether `path` has the suffix of a table that :func:`read_file` reads."""
    return path.name.lower().endswith(READABLE)


def suffix_of(path: Path) -> str:
    """Return the format to write, from a path's suffix; TableError if it is unknown."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    msg = f"{path}: unknown table format; expected a name that ends in {', '.join(SUFFIXES)}"
    raise TableError(msg)


def read_file(path: str | Path, *, text: Collection[str] | None = ()) -> pd.DataFrame:
    """Read a table without interpreting it.

    Parameters
    ----------
    path
        File, or address (:mod:`wsdino.remote`), of Parquet, of AnnData
        (:func:`wsdino.tables.h5ad.read_anndata`), or of CSV: separated by comma,
        semicolon or tab, with decimal points (or decimal commas if the comma is not the separator),
        in UTF-8, UTF-16 or Windows-1252 (which is reported), with any line endings, and
        gzip-compressed or not.
    text
        Additional columns of a CSV to read as text; None: all.

    Returns
    -------
    DataFrame
        From a CSV, metadata, file names and columns with a known name
        (:func:`~wsdino.tables.columns.is_text`) are text, with None for blank cells: "0042", "NA"
        and "None" are kept. Other columns have the type that their values suggest.

    Raises
    ------
    TableError
        The file is missing, damaged, empty, or of another format.
    """
    path = Path(path)
    if not path.is_file() and not is_remote(path):
        raise TableError(f"{path}: no such file; expected a table ({', '.join(READABLE)})")
    if not is_table(path):
        raise TableError(
            f"{path}: unknown table format; expected a name that ends in {', '.join(READABLE)}"
        )
    with reading(named(path), TableError, "can't be read as a table"), local_copy(path) as file:
        if path.name.lower().endswith(H5AD):
            return read_anndata(file)
        if not path.name.lower().endswith((".parquet", ".gz")) and _is_plain(file):
            return _read_csv(file, path, text)
        if path.name.lower().endswith(".parquet"):
            return _read_lean(file)
        data = file.read_bytes()
        if data[:4] == _PARQUET:
            return _read_lean(io.BytesIO(data))
        if path.name.lower().endswith(".gz") or data[:2] == _GZIP:
            data = unzipped(data)
        if data[:4] == _ZIP:
            raise TableError(
                f"{path}: this is an archive or an Excel workbook; save the sheet as CSV"
            )
        return _read_csv(_plain(_decoded(data, path)), path, text)


def _read_lean(source: Path | io.BytesIO) -> pd.DataFrame:
    """Read Parquet, and give back the memory that reading took."""
    table = read_parquet(source)
    release_memory()
    return table


def release_memory() -> None:
    """Give back to the system what Arrow keeps of the tables that are gone."""
    if arrow := sys.modules.get("pyarrow"):
        arrow.default_memory_pool().release_unused()


def column_names(path: Path) -> list[str]:
    """Return the names of a table's columns without reading it; empty if it can't be read."""
    with suppress(TableError), reading(path, TableError):
        if path.name.lower().endswith(H5AD):
            return [str(name) for name in read_anndata(path).columns]
        if path.name.lower().endswith(".parquet"):
            from pyarrow import parquet

            return [str(name) for name in parquet.read_schema(path).names]
        with path.open("rb") as file:
            is_packed = file.read(2) == _GZIP
        with gzip.open(path) if is_packed else path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
        # The end may cut a character in two; only the first line matters.
        content = _plain(start.decode(_unicode(start) or "utf-8-sig", errors="replace"))
        rows = _first_rows(io.StringIO(content), _delimiter(content.split("\n", 1)[0]))
        return [name.strip() for name in rows[0]] if rows else []
    return []


def _delimiter(header: str) -> str:
    """Return the delimiter: the one that splits the header into the most cells."""
    return max(_DELIMITERS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


def _is_plain(file: Path) -> bool:
    """Whether a file is a CSV that can be parsed as it is, without a copy of it in memory.

    UTF-8 without a byte order mark, lines that end in a line feed, a header in the first.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open("rb") as opened:
        block = opened.read(_BLOCK)
        begins_otherwise = (_PARQUET, _GZIP, _ZIP, b"\xef\xbb\xbf", b"\n", b"sep=", b'"sep=')
        if not block or block.startswith(begins_otherwise):
            return False
        while block:
            if b"\r" in block or b"\0" in block:
                return False
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                return False
            block = opened.read(_BLOCK)
    return not decoder.getstate()[0]


def _unicode(data: bytes) -> str | None:
    """Return a file's UTF-16 encoding; None if it is not in UTF-16."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" not in data[:100]:
        return None
    return "utf-16-le" if data[:100].find(b"\0") % 2 == 1 else "utf-16-be"


def _decoded(data: bytes, path: Path) -> str:
    if (encoding := _unicode(data)) is not None:
        return data.decode(encoding)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        say(f"{path}: not UTF-8, so it is read as Windows-1252 (Latin-1)")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        # The five bytes that Windows-1252 doesn't define are control characters in Latin-1.
        return data.decode("latin-1")


def _plain(content: str) -> str:
    """Normalise a CSV's line endings; drop leading empty lines and Excel's `sep=;`."""
    content = content.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    first, _, rest = content.partition("\n")
    is_hint = len(first.strip().strip('"')) <= 5 and first.strip().strip('"').startswith("sep=")
    return rest.lstrip("\n") if is_hint else content


def _read_csv(source: Path | str, path: Path, text: Collection[str] | None) -> pd.DataFrame:
    """Parse a CSV: a plain file, see :func:`_is_plain`, or its content."""

    def opened() -> AbstractContextManager[TextIO]:
        if isinstance(source, str):
            return io.StringIO(source)
        return source.open(encoding="utf-8", newline="\n")

    with opened() as lines:
        header = next((line for line in lines if line.strip()), "")
    if not header:
        raise TableError(f"{path}: can't be read as a table: it is empty")
    with opened() as lines:
        delimiter = _delimiter(next(lines).rstrip("\n"))
    with opened() as lines:
        first = _first_rows(lines, delimiter)
    names = _names(first, path)
    if len(names) > len(first[0]) and not names[0]:
        with opened() as lines:
            _require_whole_rows(lines, delimiter, first, path)
    with opened() as lines:
        num_lines = _rows_of_header(lines, delimiter)
    is_name = [text is None or is_text(name) or name in text for name in names]
    # Number the columns: several may be unnamed, and pandas must not rename any.
    columns = range(len(names))
    missing: dict[Any, list[str]] = {
        column: [""] if is_name[column] else sorted(_MISSING_NUMBERS) for column in columns
    }
    with opened() as content, warnings.catch_warnings():
        # Cells beyond the header would be dropped.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(
            content,
            sep=delimiter,
            header=None,
            skiprows=num_lines,
            names=list(columns),
            index_col=False,
            dtype={column: str for column in columns if is_name[column]},
            keep_default_na=False,
            na_values=missing,
            skipinitialspace=True,
            low_memory=False,
        )
    table.columns = pd.Index(names, dtype=object)
    named = [position for position, name in enumerate(names) if name]
    table = table.iloc[:, named]
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise TableError(f"{path}: two columns are named {twice}; column names must be unique")
    if delimiter != ",":
        table = _with_decimal_points(table, path)
    return table


_MISSING_NUMBERS = frozenset(
    [
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)


def _first_rows(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    """Return the header and the first row below it, if there is one."""
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    found: list[list[str]] = []
    for row in rows:
        if row:
            found.append(row)
        if len(found) == 2:
            break
    return found


def _rows_of_header(lines: Iterable[str], delimiter: str) -> int:
    """Count the lines of the header; quoted names may contain line breaks."""
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    next(rows)
    return rows.line_num


def _names(rows: list[list[str]], path: Path) -> list[str]:
    """Return the names of the columns; unnamed ones are empty."""
    names = [name.strip() for name in rows[0]]
    width = len(rows[1]) if len(rows) > 1 else len(names)
    if width == len(names) + 1 and rows[1][-1].strip():
        # R writes row numbers without a column name.
        return ["", *names]
    if width > len(names) and not any(cell.strip() for cell in rows[1][len(names) :]):
        return names + [""] * (width - len(names))
    if width > len(names):
        raise TableError(
            f"{path}: can't be read as a table: the first row has {width} cells but the header has "
            f"{len(names)}"
        )
    return names


def _require_whole_rows(
    lines: Iterable[str], delimiter: str, first: list[list[str]], path: Path
) -> None:
    """Refuse a row that is shorter than the first, whose first cell then is no row's number."""
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for number, row in enumerate(rows):
        if number and row and len(row) != len(first[1]):
            raise TableError(
                f"{path}: can't be read as a table: the header has {len(first[0])} cells, data row "
                f"1 {len(first[1])} and data row {number} {len(row)}; cells that hold "
                f"{delimiter!r} must be in quotes"
            )


def _with_decimal_points(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Read `0,5` as a number in columns of such values, unless the comma is the delimiter."""
    changed = []
    for name in table.columns:
        if table[name].dtype != object or FILE_COLUMN.fullmatch(name) or our_column(name) in TEXT:
            continue
        cells = table[name].dropna().astype(str).str.strip()
        commas = cells.str.fullmatch(r"-?\d+,\d+([eE][+-]?\d+)?")
        if not commas.any() or not (commas | cells.str.fullmatch(_PLAIN_NUMBER)).all():
            continue
        points = table[name].where(
            table[name].isna(), table[name].astype(str).str.replace(",", ".", regex=False)
        )
        table[name] = points if is_text(name) else pd.to_numeric(points)
        changed.append(name)
    if changed:
        say(
            f"{path}: read decimal commas as points in {counted(len(changed), 'column')}, such as "
            f"{changed[0]}"
        )
    return table


# Where commas are decimal, the point of 1.000 would be one of thousands.
_PLAIN_NUMBER = r"-?\d+([eE][+-]?\d+)?"
