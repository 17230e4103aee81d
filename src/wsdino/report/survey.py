"""A screen's survey for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def print_survey(found: Mapping[str, Any]) -> None:
    """Print what :func:`wsdino.inspection.inspect` found, on standard output."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for line in survey_lines(found):
        console.print(line)
    console.print()
    console.print(_labels(found["labels"]))
    console.print()
    console.print(_presets(found["presets"]))
    for row in found["presets"]:
        if "unfit" in row:
            console.print(f"{row['preset']}: {row['unfit']}")
    console.print(f"({found['model']})")


def survey_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Tell the facts in a line each."""
    images, controls = found["images"], found["controls"]
    yield (
        f"{found['source']}: {found['batches']} batches, {found['plates']} plates, "
        f"{found['wells']} wells, {found['sites']} sites ({_range(found['sites_per_well'])} per "
        f"well), channels {', '.join(found['channels'])}"
    )
    yield f"images: {images['files']} files"
    for kind in images["kinds"]:
        yield f"  {kind['files']} of {kind['kind']}, such as {kind['example']}"
    widths = " and ".join(f"{width:.4g}" for width in found["pixel_sizes"])
    yield f"  pixels are {widths} µm wide" if widths else "  the width of a pixel isn't known"
    if len(images["kinds"]) > 1:
        yield "  all images of a screen must have the same size and type: ingest will refuse this"
    yield from _files(
        "missing", images["missing"], f"; sites that lack some: {images['left_out_sites']}"
    )
    yield from _files("unreadable", images["unreadable"])
    yield from _files("in no row of the table", images["unnamed"])
    replicates = found["replicates"]
    yield (
        f"treatments: {found['treatments']} of {found['compounds']} compounds, "
        f"{found['annotated_compounds']} of them with a known mechanism ({found['mechanisms']} "
        "mechanisms)"
    )
    if found["treatments"]:
        yield (
            "replicates of a treatment: "
            + ", ".join(
                f"{_range(replicates[name])} {name}" for name in ("wells", "plates", "batches")
            )
            + " (least to most, and median)"
        )
    names = ", ".join(controls["compounds"]) or "none"
    yield f"controls: {names}; {controls['wells']} wells, {controls['sites']} sites"
    yield from _files("plates without controls", controls["plates_without"])
    if found["store_bytes"] is not None:
        yield f"store: at most {_bytes(found['store_bytes'])}, at full size and uncompressed"


def _files(what: str, found: Mapping[str, Any], more: str = "") -> Iterator[str]:
    if found["count"]:
        yield f"  {what}: {found['count']}{more}"
        yield from (f"    {name}" for name in found["first"])
        if found["count"] > len(found["first"]):
            yield f"    and {found['count'] - len(found['first'])} more"


def _range(values: list[float]) -> str:
    least, median, most = values
    return f"{least:g}" if least == most else f"{least:g} to {most:g}, {median:g}"


def _labels(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("weak label")
    for heading in ("values", "sites", "partner in another well", "plate", "batch"):
        table.add_column(heading, justify="right")
    for row in rows:
        counts = (row[f"with_partner_on_another_{where}"] for where in ("well", "plate", "batch"))
        table.add_row(
            row["label"],
            str(row["values"]),
            str(row["sites"]),
            *(f"{count} ({100 * count / row['sites']:.0f} %)" for count in counts),
        )
    return table


def _presets(rows: list[dict[str, Any]]) -> Table:
    cores = next((row["cpu_cores"] for row in rows if "cpu_cores" in row), 1)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("preset")
    for heading in ("images seen", f"{cores} CPU cores", "GPU", "memory", "fields"):
        table.add_column(heading, justify="right")
    for row in rows:
        if "unfit" in row:
            table.add_row(row["preset"], "doesn't fit")
            continue
        table.add_row(
            row["preset"],
            f"{row['images_seen']:,}",
            _hours(row["cpu_hours"]),
            _hours(row["gpu_hours"]),
            _bytes(row["memory_bytes"]),
            _bytes(row["fields_bytes"]),
        )
    return table


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.2g} min"
    return f"{hours:.2g} h" if hours < 48 else f"{hours / 24:,.0f} d"


def _bytes(num: float) -> str:
    for unit in ("kiB", "MiB", "GiB"):
        num /= 1024
        if num < 1024 or unit == "GiB":
            break
    return f"{num:,.0f} {unit}" if num >= 10 else f"{num:.1f} {unit}"
