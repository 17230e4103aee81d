"""How a site is encoded: one Blosc frame, of LZ4 on bit planes."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import imagecodecs
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# LZ4 on bit planes takes a millisecond per megapixel either way and saves a quarter on camera
# noise; stronger codecs gain little more.
LEVEL = 5
CODEC: Literal["lz4"] = "lz4"
SHUFFLE: Literal["bitshuffle"] = "bitshuffle"

# Of a frame's header: flags and length of a block. What can't be compressed follows it as it is.
_HEADER, _FLAGS, _BLOCK = 16, 2, slice(8, 12)
_AS_IT_IS, _SHUFFLED = 0x02, 0x04


def memory_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Return how much memory the encoding of a site takes."""
    return 2 * math.prod(shape) * dtype.itemsize + _HEADER


def encode(pixels: NDArray[Any], memory: NDArray[np.uint8] | None = None) -> memoryview:
    """Encode a site.

    The frame is what Blosc makes by itself, byte for byte. Bits are shuffled here, which takes half
    the time, and the frame's header says so.

    Parameters
    ----------
    pixels
        (C, H, W) uint8 or uint16, contiguous.
    memory
        Of length :func:`memory_bytes`, which the frame will be in; None: new memory.
    """
    if memory is None:
        memory = np.empty(memory_bytes(pixels.shape, pixels.dtype), np.uint8)
    shuffled, out = memory[: pixels.nbytes], memory[pixels.nbytes :]
    block = _block_bytes(pixels.nbytes, pixels.itemsize)
    if pixels.itemsize == 2 and block % 16 == pixels.nbytes % 16 == 0:
        from wsdino.screen.bits import shuffle_bits

        shuffle_bits(pixels.reshape(-1).view(np.uint64), shuffled, block)
        frame = _encoded(shuffled.view(pixels.dtype), "noshuffle", out)
        if not frame[_FLAGS] & _AS_IT_IS:
            frame[_FLAGS] |= _SHUFFLED
            return frame
    return _encoded(pixels, SHUFFLE, out)


def _encoded(pixels: NDArray[Any], shuffle: str, out: NDArray[np.uint8]) -> memoryview:
    # Given bytes, it would shuffle the bits of bytes, whatever size of numbers it is told.
    # Its stubs know bytes only.
    untyped: Any = imagecodecs
    return memoryview(
        untyped.blosc_encode(
            pixels, level=LEVEL, compressor=CODEC, shuffle=shuffle, numthreads=1, out=out
        )
    )


@cache
def _block_bytes(num_bytes: int, itemsize: int) -> int:
    """Return how long the blocks are that Blosc shuffles and encodes, one by one."""
    nothing, out = np.zeros(num_bytes, np.uint8), np.empty(num_bytes + _HEADER, np.uint8)
    frame = _encoded(nothing.view(f"u{itemsize}"), SHUFFLE, out)
    return int.from_bytes(frame[_BLOCK], "little")
