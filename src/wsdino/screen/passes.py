"""The passes over a field's pixels that its measures and statistics rest on, compiled.

Import it where pixels are at hand, not with the module: numba comes with the extra `images`, and
tables are read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsdino.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.uint8] | NDArray[np.uint16]


@kernel
def count_values(field: Integers, counts: NDArray[np.uint32]) -> None:
    """Count how often each value occurs in a field, into counts by value."""
    height, width = field.shape
    for y in range(height):
        for x in range(width):
            counts[field[y, x]] += np.uint32(1)


@kernel
def average_fours(field: Integers, small: Integers) -> None:
    """Average 2 x 2 pixels, rounded down; a last row or column without a partner is left out."""
    height, width = small.shape
    for y in range(height):
        for x in range(width):
            above = np.uint32(field[2 * y, 2 * x]) + np.uint32(field[2 * y, 2 * x + 1])
            below = np.uint32(field[2 * y + 1, 2 * x]) + np.uint32(field[2 * y + 1, 2 * x + 1])
            small[y, x] = (above + below) >> np.uint32(2)


@kernel
def chords_above(field: Integers, threshold: int) -> tuple[int, int]:
    """Count the pixels above a threshold, and the chords that rows and columns cut out of them."""
    height, width = field.shape
    num, ends = 0, 0
    for y in range(height):
        bright = np.uint32(0)
        for x in range(width):
            bright += np.uint32(field[y, x] > threshold)
        # A chord ends where the next pixel is dark, or at the border.
        last = np.uint32(field[y, width - 1] > threshold)
        for x in range(width - 1):
            last += np.uint32((field[y, x] > threshold) & (field[y, x + 1] <= threshold))
        if y == height - 1:
            last += bright
        else:
            for x in range(width):
                last += np.uint32((field[y, x] > threshold) & (field[y + 1, x] <= threshold))
        num += int(bright)
        ends += int(last)
    return num, ends


@kernel
def variance(field: Floats) -> float:
    """Return the mean squared deviation from the mean."""
    height, width = field.shape
    total, squares = 0.0, 0.0
    # A row at a time in single precision, all of them in double.
    for y in range(height):
        row = np.float32(0)
        for x in range(width):
            row += field[y, x]
        total += float(row)
    mean = np.float32(total / field.size)
    for y in range(height):
        row = np.float32(0)
        for x in range(width):
            row += (field[y, x] - mean) * (field[y, x] - mean)
        squares += float(row)
    return squares / field.size


@kernel
def squared_differences(field: Floats, lag: int) -> tuple[float, float]:
    """Sum the squared differences of pixels `lag` apart, down and across."""
    down, across = 0.0, 0.0
    for y in range(len(field)):
        across += _squared_difference(field[y, :-lag], field[y, lag:])
        if y >= lag:
            down += _squared_difference(field[y - lag], field[y])
    return down, across


@kernel
def _squared_difference(one: Floats, other: Floats) -> float:
    total = np.float32(0)
    for x in range(len(one)):
        difference = other[x] - one[x]
        total += difference * difference
    return float(total)


@kernel
def windowed(field: Floats, window: Floats) -> Floats:
    """Subtract a square field's mean under a window, and multiply it by the window."""
    side = len(field)
    total = 0.0
    for y in range(side):
        row = np.float32(0)
        for x in range(side):
            row += field[y, x] * window[x]
        total += row * window[y]
    weight = 0.0
    for x in range(side):
        weight += window[x]
    mean = np.float32(total / (weight * weight))
    found = np.empty((side, side), np.float32)
    for y in range(side):
        for x in range(side):
            found[y, x] = (field[y, x] - mean) * (window[y] * window[x])
    return found


@kernel
def power_in_bands(transformed: NDArray[np.complex64], starts: NDArray[np.int64]) -> Floats:
    """Sum the power of coefficients by band.

    Parameters
    ----------
    transformed
        (H, W) coefficients.
    starts
        (H, B + 1): in each row, band b has the columns from ``starts[:, b + 1]`` up to
        ``starts[:, b]``.
    """
    num_bands = starts.shape[1] - 1
    sums = np.zeros(num_bands, np.float64)
    for y in range(len(transformed)):
        for band in range(num_bands):
            power = np.float32(0)
            for x in range(starts[y, band + 1], starts[y, band]):
                value = transformed[y, x]
                power += value.real * value.real + value.imag * value.imag
            sums[band] += power
    return sums.astype(np.float32)
