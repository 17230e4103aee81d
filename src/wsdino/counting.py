"""Numbers of things, in words."""

from __future__ import annotations


def counted(num: int, thing: str, things: str | None = None) -> str:
    """Return a number with its noun, in the singular for one.

    Parameters
    ----------
    num
        How many.
    thing
        One of them.
    things
        Several of them; None: `thing` with an s.

    Returns
    -------
    str
        Such as "1 batch" or "1,200 batches".
    """
    return f"{num:,} {thing if num == 1 else things or f'{thing}s'}"
