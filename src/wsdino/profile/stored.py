"""What a saved normalisation must hold: the right entries, of the right shape, finite, of one sign.

A file may be whole and still hold what no fit makes: a deviation of 0 or below would turn features
into infinities, or over, without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsdino.profile.base import State


def require_entries(state: State, names: Sequence[str]) -> None:
    """Require that a state has these entries and no others.

    Raises
    ------
    ValueError
        It hasn't.
    """
    if set(state) != set(names):
        raise ValueError(f"it has the entries {sorted(state)}; expected {sorted(names)}")


def require_numbers(
    state: State, name: str, shape: tuple[int, ...], *, positive: bool = False
) -> None:
    """Require an array of finite float64 of a shape.

    Parameters
    ----------
    state, name
        Where it is.
    shape
        Its shape.
    positive
        Whether each must be above 0.

    Raises
    ------
    ValueError
        It is something else.
    """
    found = state[name]
    if not isinstance(found, np.ndarray) or found.dtype != np.float64 or found.shape != shape:
        what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else found
        raise ValueError(f"its {name} is {what!s:.60}; expected float64 of shape {shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"its {name} has missing or infinite values")
    if positive and not (found > 0).all():
        raise ValueError(f"its {name} has the value {found.min():g}; expected more than 0")


def require_positions(found: Any, num: int, what: str) -> None:
    """Require positions of features, ascending, of which there are `num`.

    Raises
    ------
    ValueError
        They are something else.
    """
    positions = np.asarray(found)
    is_right = positions.ndim == 1 and len(positions) > 0 and positions.dtype.kind == "i"
    if not is_right or positions[0] < 0 or positions[-1] >= num or (np.diff(positions) <= 0).any():
        raise ValueError(f"its {what} are {found!s:.60}; expected ascending numbers below {num}")


def require_kept(state: State, features: Sequence[str]) -> list[int]:
    """Require that what is kept are names of features, each once.

    Returns
    -------
    list of int
        Their positions.

    Raises
    ------
    ValueError
        They aren't.
    """
    position_of = {name: position for position, name in enumerate(features)}
    kept = state["kept"]
    found = [position_of.get(str(name), -1) for name in kept] if isinstance(kept, list) else []
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ValueError(f"its kept features are {kept!s:.60}; expected some of {len(features)}")
    return found
