"""The search of a grid of curves, compiled: most of the time that curves of dose take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsdino.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Gains that differ by less, of the largest, are equal.
_TIE = 1e-9
# Of a curve's height among the doses drawn, where all of it is 1: a hundredth of it, squared.
_MIN_VARIANCE = 1e-4


@kernel
def best_on_grid(
    count: NDArray[np.float64], first: NDArray[np.float64], shape: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Fit bottom and amplitude of each curve of a grid to weighted wells; return the best curve.

    Where many curves fit alike, as through two doses or with plateaus that no dose is near the end
    of, it is the lowest of them: rounding must not decide.

    Parameters
    ----------
    count, first
        (B, D) weights, and sums of the weighted distances, of each of D doses.
    shape
        (G, D) height of each curve from 0 to 1 at each dose.

    Returns
    -------
    chosen : ndarray
        (B,) intp, the curve.
    bottom, amplitude : ndarray
        (B,) float64; the amplitude is 0 where no rising curve fits better than a flat one.
    """
    num, num_curves, num_doses = len(count), len(shape), shape.shape[1]
    chosen = np.zeros(num, dtype=np.intp)
    bottom, amplitude = np.zeros(num), np.zeros(num)
    heights, gains = np.empty(num_curves), np.empty(num_curves)
    for row in range(num):
        total, sum_y = 0.0, 0.0
        for dose in range(num_doses):
            total += count[row, dose]
            sum_y += first[row, dose]
        mean, most = sum_y / total, 0.0
        for curve in range(num_curves):
            sum_g, sum_gg, covariance = 0.0, 0.0, 0.0
            for dose in range(num_doses):
                height, weight = shape[curve, dose], count[row, dose]
                sum_g += weight * height
                sum_gg += weight * height * height
                covariance += (first[row, dose] - mean * weight) * height
            variance = sum_gg - sum_g * sum_g / total
            # A resample may lack the doses at which a curve rises, and says nothing of it then.
            is_rising = covariance > 0 and variance > _MIN_VARIANCE * total
            heights[curve] = covariance / variance if is_rising else 0.0
            gains[curve] = covariance * heights[curve] if is_rising else 0.0
            most = max(most, gains[curve])
        if most > 0:
            for curve in range(num_curves):
                is_best = gains[curve] >= (1 - _TIE) * most
                if is_best and (amplitude[row] == 0 or heights[curve] < amplitude[row]):
                    chosen[row], amplitude[row] = curve, heights[curve]
        sum_g = 0.0
        for dose in range(num_doses):
            sum_g += count[row, dose] * shape[chosen[row], dose]
        bottom[row] = mean - amplitude[row] * sum_g / total
    return chosen, bottom, amplitude
