"""Fields that are asked for by site, well or compound."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from wsdino.errors import InputError, did_you_mean
from wsdino.report.images import example_sites
from wsdino.tables.columns import COMPOUND, PLATE, WELL
from wsdino.tables.identity import normalise_well

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def asked_sites(
    manifest: pd.DataFrame,
    *,
    sites: Sequence[int] = (),
    wells: Sequence[str] = (),
    compounds: Sequence[str] = (),
    num: int = 1,
) -> list[int]:
    """Find the sites that are asked for by number, by well, or by compound.

    Parameters
    ----------
    manifest
        Of a store.
    sites
        Rows.
    wells
        `PLATE/WELL`, such as `Week1_22123/B03`.
    compounds
        Names; upper and lower case don't matter where that is unambiguous.
    num
        Sites of each well, and of each compound, spread over doses, plates and wells.

    Returns
    -------
    list of int
        Rows, each once, in the order asked for.

    Raises
    ------
    InputError
        There is no such site, well or compound, or nothing is asked for.
    """
    manifest = manifest.reset_index(drop=True)
    chosen = list(sites)
    for site in chosen:
        if not 0 <= site < len(manifest):
            raise InputError(f"site {site}: the store has the sites 0 to {len(manifest) - 1}")
    for asked in wells:
        rows = manifest[_is_well(manifest, asked)]
        chosen += [int(rows.index[at]) for at in example_sites(rows, num=num)]
    for asked in compounds:
        rows = manifest[_is_compound(manifest, asked)]
        chosen += [int(rows.index[at]) for at in example_sites(rows, num=num)]
    if not chosen:
        raise InputError("no field is asked for; give --site, --well PLATE/B03 or --compound NAME")
    return list(dict.fromkeys(chosen))


def _is_well(manifest: pd.DataFrame, asked: str) -> pd.Series[bool]:
    plate, _, name = asked.rpartition("/")
    well = normalise_well(name)
    if not plate:
        raise InputError(f"--well {asked}: expected PLATE/WELL, such as Week1_22123/B03")
    if well is None:
        raise InputError(f"--well {asked}: {name!r} is no well; expected one such as B03")
    if not {PLATE, WELL} <= set(manifest):
        raise InputError(f"--well {asked}: the store's manifest lacks {PLATE} or {WELL}")
    plates = manifest[PLATE].astype(str)
    if not (plates == plate).any():
        known = sorted(set(plates))
        near, some = did_you_mean(plate, known), ", ".join(known[:3])
        raise InputError(
            f"--well {asked}: the store has no plate {plate!r}{near}; it has {some} ..."
        )
    found: pd.Series[bool] = (plates == plate) & (manifest[WELL].astype(str) == well)
    if not found.any():
        raise InputError(f"--well {asked}: plate {plate} has no image of {well}")
    return found


def _is_compound(manifest: pd.DataFrame, asked: str) -> pd.Series[bool]:
    if COMPOUND not in manifest:
        raise InputError(f"--compound {asked}: the store's manifest lacks {COMPOUND}")
    names = manifest[COMPOUND].astype(str)
    known = set(names)
    same = [name for name in known if name.casefold() == asked.strip().casefold()]
    name = asked if asked in known else same[0] if len(same) == 1 else None
    if name is None:
        close = sorted(same) or difflib.get_close_matches(asked, sorted(known), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"--compound {asked}: the store has no such compound{hint}")
    found: pd.Series[bool] = names == name
    return found
