"""One self-contained HTML file about a run."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from wsdino.atomic import visible, write_text, writing
from wsdino.errors import InputError, OutputError
from wsdino.report.parts import Shown, sections_of, shared_values, styles_of
from wsdino.report.pictures import colour_matrix
from wsdino.report.words import encodable
from wsdino.runfolder import RunPaths
from wsdino.runrecord import RunRecord, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from jinja2 import Environment
    from markupsafe import Markup

    from wsdino.report.attentive import Attentive
    from wsdino.report.images import Fields

NUM_EXAMPLE_FIELDS = 3
_BESIDE = re.compile(r"[0-9a-f]{16}\.jpg")


def write_report(
    run: Path,
    *,
    store: Fields | None = None,
    model: Attentive | None = None,
    warnings: Sequence[str] | None = None,
    sites: pd.DataFrame | None = None,
    out: Path | None = None,
    num_example_fields: int = NUM_EXAMPLE_FIELDS,
    attention_sites: Sequence[int] | None = None,
    seed: int = 0,
) -> Path:
    """Write the report on a run as one self-contained HTML file.

    A section is left out if its input is missing or damaged, and the report says why. Of thousands
    of treatments the pictures that would make the file too large lie in a folder beside it, which
    has its name: `report-pictures`.

    Parameters
    ----------
    run
        Run folder.
    store
        An open store, for example fields and attention maps.
    model
        A model, for attention maps; see :class:`wsdino.report.attentive.Attentive`.
    warnings
        What looks wrong in the screen, a line each; None: it wasn't checked.
    sites
        Metadata and features of the run's sites as its normalisation leaves them, for maps of
        wells and sites, and for plates.
    out
        The file to write; default `RUN/report.html`.
    num_example_fields
        Fields shown of each mechanism.
    attention_sites
        Rows of the store's manifest to show attention of; default: a few with different
        mechanisms.
    seed
        Seed of the map of treatments.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        `run` is not a folder, or the store lacks one of `attention_sites`.
    OutputError
        `out` is a folder, or is not in an existing folder.
    """
    record = read_run(run)
    path = out if out is not None else RunPaths(run).report
    if path.is_dir() or not path.parent.is_dir():
        raise OutputError(f"{path}: can't write a report there; give a file in an existing folder")
    for site in attention_sites or ():
        if store is not None and not 0 <= site < len(store):
            raise InputError(f"site {site}: the store has the sites 0 to {len(store) - 1}")
    folder = path.with_name(f"{path.stem}-pictures")
    shown = Shown(
        record=record,
        store=store,
        model=model,
        warnings=warnings,
        sites=sites,
        styles=styles_of(record, store),
        num_example_fields=num_example_fields,
        attention_sites=attention_sites,
        seed=seed,
        beside=folder.name,
    )
    page, pictures = _render(shown), shown.pictures
    beside = pictures.beside if pictures else {}
    for name, content in beside.items():
        with writing(folder / name) as partial:
            partial.write_bytes(content)
    write_text(path, encodable(page))
    _remove_others(folder, set(beside))
    return path


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove the pictures of an earlier report; what isn't one of our pictures stays."""
    for name in visible(folder) - names:
        if _BESIDE.fullmatch(name):
            (folder / name).unlink()
    with suppress(OSError):
        folder.rmdir()


@cache
def templates() -> Environment:
    """Return the environment with the report's templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("wsdino.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["json"] = _json
    return found


def _render(what: Shown) -> str:
    shown, omitted = sections_of(what)
    omitted |= {
        f"Baseline {name.removeprefix('baselines/')}": reason
        for name, reason in what.record.problems.items()
        if name.startswith("baselines/")
    }
    pictures = what.pictures
    return (
        templates()
        .get_template("report.html")
        .render(
            **shared_values(what, shown, omitted),
            colour_matrix=colour_matrix(pictures),
            num_beside=pictures.num_beside if pictures else 0,
            folder=what.beside,
            command=_command(what.record),
            version=_version(what.record),
        )
    )


def _json(value: Any) -> Markup:
    """Write a value as JSON that can't end the script element it stands in."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704


def _version(record: RunRecord) -> str:
    """Return the version that made the run, which may differ from the one writing the report."""
    return record.environment.get("versions", {}).get("wsdino") or ""


def _command(record: RunRecord) -> str:
    """Return the command that makes this run: the recorded one, else one for its config."""
    noted = record.environment.get("command")
    if isinstance(noted, list):
        return shlex.join(str(word) for word in noted)
    return str(noted) if noted else f"wsdino run {shlex.quote(f'{record.name}/config.yaml')}"
