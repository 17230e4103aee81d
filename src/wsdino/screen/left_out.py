"""The rows of a screen that a store leaves out, because their images were missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsdino.atomic import writing
from wsdino.counting import counted
from wsdino.progress import say
from wsdino.screen.images import Planes
from wsdino.screen.records import image_state
from wsdino.tables.files import read_file
from wsdino.tables.manifest import KEY

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from wsdino.screen.manifest import Rows

LEFT_OUT = "left_out.csv"


def write_left_out(out: Path, rows: Rows) -> None:
    """Note the rows that are left out, each with its reason, beside a store's manifest."""
    if len(rows.left_out):
        with writing(out / LEFT_OUT) as partial:
            rows.left_out.to_csv(partial, index=False)
    else:
        (out / LEFT_OUT).unlink(missing_ok=True)


def say_left_out(out: Path, rows: Rows) -> None:
    """Count the rows that are left out, and name the first."""
    if len(rows.left_out):
        total = len(rows.manifest) + len(rows.left_out)
        say(
            f"{out}: {len(rows.left_out)} of {counted(total, 'site')} left out because images "
            f"are missing ({LEFT_OUT} has the reasons), such as {rows.missing[0].text}"
        )


def without_left_out(out: Path, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those that a store left out and whose images are still missing."""
    if not (out / LEFT_OUT).is_file():
        return manifest
    plate, well, site = (read_file(out / LEFT_OUT)[name].astype(str) for name in KEY)
    known = set(zip(plate, well, site, strict=True))
    keys = manifest[KEY].astype(str).itertuples(index=False, name=None)
    is_left_out = np.array([key in known for key in keys])
    planes = Planes(manifest)
    for row in np.flatnonzero(is_left_out).tolist():
        is_left_out[row] = not all(
            image_state(part.path) is not None for plane in planes[row] for part in plane.parts
        )
    return manifest[~is_left_out].reset_index(drop=True)
