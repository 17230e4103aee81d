"""Random numbers by name: the same for a seed and a key, whatever was drawn before."""

from __future__ import annotations

import hashlib
import uuid

import numpy as np


def _digest(seed: int, key: tuple[object, ...]) -> bytes:
    return hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).digest()


def generator(seed: int, *key: object) -> np.random.Generator:
    """Return the random generator that belongs to `key` (a plate, a site, ...) under `seed`."""
    return np.random.default_rng(np.frombuffer(_digest(seed, key), dtype=np.uint32))


def guid(*key: object) -> str:
    """Return an identifier in the form of BBBC021's file names, always the same for a key."""
    return str(uuid.UUID(bytes=_digest(0, key)[:16])).upper()
