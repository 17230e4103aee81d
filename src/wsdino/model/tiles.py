"""Tiles: covering a whole field at native scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from wsdino.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

PAPER = "paper"
"""The grid of tiles that stands for the boxes which the WS-DINO code evaluates."""
TileGrid = tuple[int, int] | Literal["paper"]
Box = tuple[slice, slice]
"""Rows and columns of a tile, px."""

# Evaluation crops of WS-DINO's Eval_BBBC021.py: two are wider than the training's crops.
PAPER_FIELD, PAPER_TILE = (512, 640), 224
PAPER_ROWS = (slice(32, 256), slice(256, 480))
PAPER_COLUMNS = (slice(64, 320), slice(320, 544))


def tile_boxes(field_shape: tuple[int, int], tile: int | None, grid: TileGrid | None) -> list[Box]:
    """Where the tiles of a field lie, row by row.

    Parameters
    ----------
    field_shape
        Height and width of the field in px.
    tile
        Side of a tile in px; None: one tile, the whole field.
    grid
        Rows and columns of tiles, spread evenly from edge to edge; None: as few as cover the field;
        ``paper``: the four boxes of the WS-DINO code, two of them 256 px wide, which are made for
        fields of 512 x 640 px and tiles of 224 px.

    Raises
    ------
    ModelError
        If a tile is larger than the field, or the paper's boxes don't belong to such fields.
    """
    if isinstance(grid, str):
        if tile != PAPER_TILE:
            raise ModelError(
                f"embed.tile {tile}: the boxes of embed.tile_grid {PAPER} are for tiles of "
                f"{PAPER_TILE} px; give rows and columns, such as embed.tile_grid=[2,2], or null"
            )
        if tuple(field_shape) != PAPER_FIELD:
            raise ModelError(
                f"embed.tile_grid {PAPER}: its boxes are for fields of 512 x 640 px (height x "
                f"width), and these are {field_shape[0]} x {field_shape[1]}; ingest with a "
                "screen.scale that makes them so (0.5 of 1024 x 1280), or give "
                "embed.tile_grid=[2,2]"
            )
        return [(rows, columns) for rows in PAPER_ROWS for columns in PAPER_COLUMNS]
    if tile is None:
        return [(slice(0, field_shape[0]), slice(0, field_shape[1]))]
    num_rows, num_columns = grid or (None, None)
    rows, columns = (
        [slice(start, start + tile) for start in tile_starts(side, tile, num)]
        for side, num in zip(field_shape, (num_rows, num_columns), strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def tile_sides(tile: int | None, grid: TileGrid | None) -> set[int]:
    """Heights and widths in px that tiles have; none where whole fields are seen."""
    if grid == PAPER:
        return {side.stop - side.start for side in (*PAPER_ROWS, *PAPER_COLUMNS)}
    return {tile} if tile else set()


def tile_shapes(tile: int, grid: TileGrid | None) -> list[tuple[int, int]]:
    """Heights and widths in px that tiles of side `tile` have together, smallest first."""
    if grid == PAPER:
        sides = [
            [side.stop - side.start for side in along] for along in (PAPER_ROWS, PAPER_COLUMNS)
        ]
        return sorted({(height, width) for height in sides[0] for width in sides[1]})
    return [(tile, tile)]


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


def alike(tiles: Sequence[Tensor], num: int) -> list[list[int]]:
    """Divide the positions of tiles into groups of at most `num` tiles that have one shape."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, tile in enumerate(tiles):
        by_shape.setdefault(tuple(tile.shape), []).append(index)
    return [
        same[start : start + num]
        for same in by_shape.values()
        for start in range(0, len(same), num)
    ]
