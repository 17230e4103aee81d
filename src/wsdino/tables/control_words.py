"""Words by which tables mark negative controls."""

from __future__ import annotations

import re

_CONTROL = frozenset(
    [
        "true",
        "1",
        "1.0",
        "yes",
        "y",
        "t",
        "negcon",
        "neg",
        "neg_control",
        "negative",
        "negative_control",
        "control",
        "ctrl",
        "ctl",
        "dmso",
        "vehicle",
        "vehicle_control",
        "solvent",
        "ctl_vehicle",
        "ctl_untrt",
        "untreated",
        "mock",
    ]
)
_TREATED = frozenset(
    [
        "false",
        "0",
        "0.0",
        "no",
        "n",
        "f",
        "trt",
        "trt_cp",
        "treated",
        "treatment",
        "test",
        "compound",
        "sample",
        "pos",
        "poscon",
        "pos_control",
        "positive",
        "positive_control",
    ]
)


def control_of(word: str) -> bool | None:
    """Whether a word marks a negative control; None if the word is unknown."""
    plain = re.sub(r"[\s\-]+", "_", word.strip().casefold())
    if plain in _CONTROL or plain.startswith("negcon"):
        return True
    if plain in _TREATED or plain.startswith(("poscon", "trt_")):
        return False
    return None
