"""Checksums at the end of NumPy files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from google_crc32c import value as crc32c

from wsdino.screen.sealed import load_sealed, require_intact, save_sealed, seal, unseal

if TYPE_CHECKING:
    from pathlib import Path

ARRAY = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    buffer = io.BytesIO()
    save_sealed(buffer, ARRAY)
    path = tmp_path / "array.npy"
    path.write_bytes(buffer.getvalue())
    return path


def test_every_flipped_bit_of_the_array_is_found(sealed: Path) -> None:
    np.testing.assert_array_equal(np.load(sealed), ARRAY)
    np.testing.assert_array_equal(load_sealed(sealed), ARRAY)
    whole = sealed.read_bytes()
    assert whole[-4:] == crc32c(whole[: 128 + ARRAY.nbytes]).to_bytes(4, "little")
    for place in range(128 + ARRAY.nbytes):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            sealed.write_bytes(damaged)
            with pytest.raises(ValueError, match="it differs from what was written"):
                require_intact(sealed)


def test_an_array_that_changes_is_unsealed_and_sealed_again(sealed: Path) -> None:
    whole = sealed.read_bytes()
    unseal(sealed)
    assert len(sealed.read_bytes()) == 128 + ARRAY.nbytes
    require_intact(sealed)
    mapped = np.lib.format.open_memmap(sealed, mode="r+")
    mapped[1, 2, 3] = -1
    mapped.flush()
    seal(sealed)
    assert load_sealed(sealed)[1, 2, 3] == -1
    mapped[1, 2, 3] = ARRAY[1, 2, 3]
    mapped.flush()
    with pytest.raises(ValueError, match="differs"):
        load_sealed(sealed)
    # Sealed once more, and with half a seal of a process that was killed, it is as at first.
    seal(sealed)
    sealed.write_bytes(sealed.read_bytes()[:-5])
    np.testing.assert_array_equal(load_sealed(sealed), ARRAY)
    seal(sealed)
    assert sealed.read_bytes() == whole


def test_what_has_no_checksum_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "small.npy"
    path.write_bytes(b"short")
    require_intact(path)
    np.save(path, ARRAY)
    np.testing.assert_array_equal(load_sealed(path), ARRAY)
