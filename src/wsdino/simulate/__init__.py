"""Simulated screens: cells under twelve mechanisms, in BBBC021's file layout.

Drawn from scratch, so that the whole chain can be tried, tested and measured without a data set,
and with known ground truth. The functions are imported when they are first used: the command line's
help only needs the names of the difficulties.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .difficulty import DIFFICULTIES, Difficulty

if TYPE_CHECKING:
    from .layouts import layout_table
    from .write import simulate

__all__ = ["DIFFICULTIES", "Difficulty", "layout_table", "simulate"]

_HOMES = {"layout_table": "layouts", "simulate": "write"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
