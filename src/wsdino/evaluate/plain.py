"""Results as JSON holds them."""

from __future__ import annotations

import math
from typing import Any


def plain_values(value: Any) -> Any:
    """Turn numpy's numbers in a value into Python's, tuples into lists, and NaN into None."""
    if isinstance(value, dict):
        return {str(key): plain_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
