"""Tiles: covering a whole field at native scale."""

from __future__ import annotations

import math

from wsdino.errors import ModelError


def tile_starts(length: int, tile: int, num_tiles: int | None = None) -> list[int]:
    """First pixel of each tile along one axis.

    Parameters
    ----------
    length, tile
        Sides of field and tile in px.
    num_tiles
        Number of tiles, spaced evenly from edge to edge; by default as few as cover the axis.

    Raises
    ------
    ModelError
        If a tile is larger than the field.
    """
    if tile > length:
        raise ModelError(f"embed.tile {tile} px is larger than the field's side of {length} px")
    num = num_tiles or math.ceil(length / tile)
    if num == 1:
        return [(length - tile) // 2]
    return [round(i * (length - tile) / (num - 1)) for i in range(num)]
