"""Distance to controls, and how it grows with the dose.

A well's distance is Euclidean, to the mean of the controls on its plate, over the median distance
of a control to the mean of the *other* controls on its plate (over all plates): 1 is what a control
has. Both are corrected for the noise of a mean of few controls.

A compound with four doses or more gets Hill's curve: distance = bottom + (top - bottom) /
(1 + (EC50 / dose)^slope), with top >= bottom, the EC50 among the doses tested and a slope from 0.5
to 8. For a given EC50 and slope the rest is linear, so that a grid of both, refined once around its
best point, finds the least squares, and does so again for each resample of a bootstrap over wells.
Of curves that fit alike the lowest is taken, and none of which the doses drawn show less than a
hundredth of its height.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.evaluate.wells import Wells, groups_of
from wsdino.tables.columns import COMPOUND, CONCENTRATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_DOSES = 4
NUM_RESAMPLES = 200
SLOPES = (0.5, 8.0)
_NUM_EC50, _NUM_SLOPES = 41, 13
_REFINEMENTS = 6
_AROUND = np.linspace(-1, 1, 5)


@dataclass(frozen=True)
class DoseCurve:
    """Hill's curve of a compound; see :func:`fit_dose_curve`.

    Attributes
    ----------
    doses
        Distinct doses in micromolar, ascending.
    distances
        Median distance at each.
    fitted, fitted_low, fitted_high
        The curve at each dose, and its pointwise interval at 95 %.
    bottom, top, ec50, slope
        Parameters of the curve; EC50 in micromolar. A flat curve has neither EC50 nor slope (None).
    top_ci, ec50_ci
        Intervals at 95 %; that of the EC50 is over the resamples whose curve isn't flat.
    r_squared
        Share of the variance of the wells' distances that the curve explains.
    ec50_at_edge
        Whether the EC50 lies above the last but one dose or below the second: no plateau was seen
        on that side, and the true one may lie beyond the doses tested.
    num_wells
        Wells behind it.
    """

    doses: tuple[float, ...]
    distances: tuple[float, ...]
    fitted: tuple[float, ...]
    fitted_low: tuple[float, ...]
    fitted_high: tuple[float, ...]
    bottom: float
    top: float
    ec50: float | None
    slope: float | None
    top_ci: tuple[float, float]
    ec50_ci: tuple[float, float] | None
    r_squared: float
    ec50_at_edge: bool
    num_wells: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict."""
        return asdict(self)


def distances_to_controls(wells: Wells) -> tuple[NDArray[np.float64], float | None]:
    """Distance of each well to the controls on its plate.

    Parameters
    ----------
    wells
        n wells.

    Returns
    -------
    distance : ndarray
        (n,) as the module says; NaN on plates without a control (for a control: without another),
        and everywhere if no plate has two.
    p95 : float or None
        95th percentile of the controls' own distances.
    """
    raw = np.full(len(wells), np.nan)
    for rows in groups_of(wells.plate, np.arange(len(wells))):
        is_control = wells.is_control[rows]
        num = int(is_control.sum())
        if not num:
            continue
        features = wells.features[rows].astype(np.float64)
        apart = np.linalg.norm(features - features[is_control].mean(axis=0), axis=1)
        raw[rows[~is_control]] = apart[~is_control] / np.sqrt(1 + 1 / num)
        if num > 1:
            others = num / (num - 1) / np.sqrt(1 + 1 / (num - 1))
            raw[rows[is_control]] = apart[is_control] * others
    own = raw[wells.is_control & np.isfinite(raw)]
    if not len(own) or np.median(own) == 0:
        return np.full(len(wells), np.nan), None
    scaled: NDArray[np.float64] = raw / np.median(own)
    return scaled, float(np.percentile(own / np.median(own), 95))


def dose_curves(
    wells: Wells,
    distance: NDArray[np.float64],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Fit a curve to each compound with enough doses.

    Parameters
    ----------
    wells
        n wells.
    distance
        (n,) what :func:`distances_to_controls` found.
    num_resamples, seed
        Of the bootstrap.

    Returns
    -------
    list of dict
        `compound` and the fields of :class:`DoseCurve`, by compound.
    """
    dose = wells.metadata[CONCENTRATION].to_numpy(dtype=np.float64)
    usable = ~wells.is_control & np.isfinite(distance) & (dose > 0)
    names = wells.metadata[COMPOUND].astype(str)
    codes = np.asarray(names.groupby(names, sort=True).ngroup(), dtype=np.intp)
    curves = []
    for rows in groups_of(codes, np.flatnonzero(usable)):
        if len(np.unique(dose[rows])) >= MIN_DOSES:
            curve = fit_dose_curve(
                dose[rows], distance[rows], num_resamples=num_resamples, seed=seed
            )
            curves.append({"compound": names.iloc[rows[0]], **curve.as_dict()})
    return curves


def fit_dose_curve(
    dose: NDArray[np.float64],
    distance: NDArray[np.float64],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> DoseCurve:
    """Fit Hill's curve to wells by least squares.

    Parameters
    ----------
    dose
        (n,) in micromolar, positive, at least :data:`MIN_DOSES` distinct ones.
    distance
        (n,) finite.
    num_resamples, seed
        Of the bootstrap, which draws wells with replacement.

    Returns
    -------
    DoseCurve

    Examples
    --------
    >>> import wsdino
    >>> import numpy as np
    >>> dose = np.repeat([0.1, 0.3, 1.0, 3.0, 10.0, 30.0], 3)
    >>> distance = 1 + 4 / (1 + (2.0 / dose) ** 2)
    >>> round(wsdino.fit_dose_curve(dose, distance, num_resamples=20).ec50, 1)
    2.0
    """
    doses, which = np.unique(dose, return_inverse=True)
    log_doses = np.log(doses)
    ends = (log_doses[0], log_doses[-1])
    ec50s, slopes = np.linspace(*ends, _NUM_EC50), np.geomspace(*SLOPES, _NUM_SLOPES)
    grid = _grid(ec50s, slopes)
    one = np.ones((1, len(dose)))
    best = _fit(one, which, log_doses, distance, grid)[0]
    step = np.array([ec50s[1] - ec50s[0], np.log(slopes[1] / slopes[0])])
    for _ in range(_REFINEMENTS):
        near = _grid(
            np.clip(best[0] + _AROUND * step[0], *ends),
            np.clip(best[1] * np.exp(_AROUND * step[1]), *SLOPES),
        )
        best = _fit(one, which, log_doses, distance, near)[0]
        step /= 2
    drawn = _draws(len(dose), num_resamples, seed)
    resampled = _resampled(drawn, which, log_doses, distance, grid)
    bands = np.percentile(hill(log_doses, resampled), [2.5, 97.5], axis=0)
    top = np.percentile(resampled[:, 2] + resampled[:, 3], [2.5, 97.5])
    is_flat = bool(best[3] == 0)
    rising = resampled[resampled[:, 3] > 0, 0]
    ec50 = np.exp(np.percentile(rising, [2.5, 97.5])) if len(rising) and not is_flat else None
    fitted = hill(log_doses, best[None])[0]
    left = float(((distance - fitted[which]) ** 2).sum())
    spread = float(((distance - distance.mean()) ** 2).sum())
    return DoseCurve(
        doses=tuple(doses.tolist()),
        distances=tuple(float(np.median(distance[which == i])) for i in range(len(doses))),
        fitted=tuple(fitted.tolist()),
        fitted_low=tuple(bands[0].tolist()),
        fitted_high=tuple(bands[1].tolist()),
        bottom=float(best[2]),
        top=float(best[2] + best[3]),
        ec50=None if is_flat else float(np.exp(best[0])),
        slope=None if is_flat else float(best[1]),
        top_ci=(float(top[0]), float(top[1])),
        ec50_ci=None if ec50 is None else (float(ec50[0]), float(ec50[1])),
        r_squared=1 - left / spread if spread > 0 else 0.0,
        ec50_at_edge=not is_flat and not log_doses[1] <= best[0] <= log_doses[-2],
        num_wells=len(dose),
    )


@lru_cache(maxsize=8)
def _draws(num: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often (num_resamples, num) each well is drawn; most compounds have as many wells."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(num, np.full(num, 1 / num), size=num_resamples)
    counts: NDArray[np.float64] = drawn.astype(np.float64)
    counts.setflags(write=False)
    return counts


def _resampled(
    weights: NDArray[np.float64],
    which: NDArray[np.intp],
    log_doses: NDArray[np.float64],
    distance: NDArray[np.float64],
    grid: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Fit each resample on the grid, and once more on as fine a one of the region they chose."""
    coarse = _fit(weights, which, log_doses, distance, grid)
    axes = []
    for column, num in ((0, _NUM_EC50), (1, _NUM_SLOPES)):
        values = np.unique(grid[:, column])
        chosen = np.searchsorted(values, coarse[:, column])
        low, high = max(0, chosen.min() - 1), min(len(values) - 1, chosen.max() + 1)
        axes.append(np.linspace(values[low], values[high], num))
    fine = _grid(*axes)
    return _fit(weights, which, log_doses, distance, fine)


def _grid(ec50s: NDArray[np.float64], slopes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (G, 2) every pair, the slope changing fastest."""
    return np.column_stack([np.repeat(ec50s, len(slopes)), np.tile(slopes, len(ec50s))])


def hill(log_doses: NDArray[np.float64], curves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values (curves, doses) of Hill's curves.

    Parameters
    ----------
    log_doses
        (doses,) natural logarithms.
    curves
        (curves, 4): natural logarithm of the EC50, slope, bottom and amplitude.
    """
    ec50, slope, bottom, amplitude = curves.T[:, :, None]
    height = 1 / (1 + np.exp(np.clip(slope * (ec50 - log_doses), -500, 500)))
    values: NDArray[np.float64] = bottom + amplitude * height
    return values


def _fit(
    weights: NDArray[np.float64],
    which: NDArray[np.intp],
    log_doses: NDArray[np.float64],
    distance: NDArray[np.float64],
    grid: NDArray[np.float64],
) -> NDArray[np.float64]:
    """For each weighting (B, n) of the wells, the best of a grid (G, 2): (B, 4) curves."""
    flat = np.concatenate([grid, np.tile([0.0, 1.0], (len(grid), 1))], axis=1)
    shape = hill(log_doses, flat)
    # Sums over wells become sums over doses.
    member = np.zeros((len(which), len(log_doses)))
    member[np.arange(len(which)), which] = 1
    count, first = weights @ member, (weights * distance) @ member
    # Numba is imported where curves are fitted.
    from wsdino.evaluate.dose_grid import best_on_grid

    chosen, bottom, amplitude = best_on_grid(count, first, shape)
    return np.column_stack([grid[chosen], bottom, amplitude])
