from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pytest

from wsdino.screen.frames import encode, memory_bytes

RNG = np.random.default_rng(0)
KINDS = {
    "noise": lambda shape: RNG.integers(0, 2**16, shape),
    "camera": lambda shape: RNG.poisson(RNG.gamma(2, 200, shape[-1]), shape),
    "black": np.zeros,
    "white": lambda shape: np.full(shape, 2**16 - 1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 3, 5), (1, 8, 8), (2, 64, 64), (3, 7, 1000), (2, 33, 48), (3, 300, 400)],
)
def test_a_frame_is_blosc_s_byte_for_byte(shape: tuple[int, ...], dtype: Any, kind: str) -> None:
    untyped: Any = imagecodecs
    pixels = KINDS[kind](shape).astype(dtype)
    memory = np.full(memory_bytes(pixels.shape, pixels.dtype), 7, np.uint8)
    frame = encode(pixels, memory)
    assert np.shares_memory(np.asarray(frame), memory)
    expected = untyped.blosc_encode(
        pixels, level=5, compressor="lz4", shuffle="bitshuffle", numthreads=1
    )
    assert bytes(frame) == bytes(encode(pixels)) == bytes(expected)
    assert bytes(untyped.blosc_decode(frame)) == pixels.tobytes()
