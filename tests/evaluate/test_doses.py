from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

from wsdino.evaluate.doses import distances_to_controls, dose_curves, fit_dose_curve
from wsdino.evaluate.wells import wells_of

DOSES = np.array([0.1, 0.3, 1.0, 3.0, 10.0, 30.0])


def hill(dose: np.ndarray, bottom: float, top: float, ec50: float, slope: float) -> np.ndarray:
    return bottom + (top - bottom) / (1 + (ec50 / dose) ** slope)


def noisy(seed: int = 0, scale: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    dose = np.repeat(DOSES, 4)
    noise = np.random.default_rng(seed).normal(scale=scale, size=len(dose))
    return dose, hill(dose, 1.0, 6.0, 2.0, 1.5) + noise


def test_the_curve_is_that_of_scipy() -> None:
    dose, distance = noisy()
    found = fit_dose_curve(dose, distance)
    (bottom, top, ec50, slope), _ = curve_fit(
        hill,
        dose,
        distance,
        p0=[1, 5, 1, 1],
        bounds=([-np.inf, -np.inf, 0.1, 0.5], [np.inf, np.inf, 30, 8]),
    )
    assert found.bottom == pytest.approx(bottom, abs=0.02)
    assert found.top == pytest.approx(top, abs=0.05)
    assert found.ec50 == pytest.approx(ec50, rel=0.02)
    assert found.slope == pytest.approx(slope, rel=0.05)
    least = ((distance - hill(dose, bottom, top, ec50, slope)) ** 2).sum()
    spread = ((distance - distance.mean()) ** 2).sum()
    assert found.r_squared == pytest.approx(1 - least / spread, abs=1e-4)
    assert found.num_wells == 24


def test_intervals_cover_the_truth_and_shrink_with_the_noise() -> None:
    inside, widths = 0, {}
    for scale in (0.1, 0.5):
        for seed in range(10):
            low, high = fit_dose_curve(*noisy(seed, scale), num_resamples=200).ec50_ci
            inside += low <= 2.0 <= high
            widths.setdefault(scale, []).append(np.log(high / low))
    assert inside >= 16
    assert np.mean(widths[0.5]) > 2 * np.mean(widths[0.1])


def test_rounding_decides_nothing() -> None:
    """Of few wells many resamples hold two or three doses, through which many curves go."""
    generator = np.random.default_rng(3)
    dose = np.repeat([1.0, 10.0, 100.0, 1000.0], 2)
    for _ in range(10):
        distance = generator.uniform(1, 2, size=len(dose))
        one, other = (fit_dose_curve(dose, times * distance) for times in (1.0, 3.7))
        for name in ("bottom", "top", "top_ci", "fitted", "fitted_low", "fitted_high"):
            assert getattr(other, name) == pytest.approx(
                3.7 * np.array(getattr(one, name)), rel=1e-6
            )
        ec50s = [[found.ec50 or 0, *(found.ec50_ci or (0, 0))] for found in (one, other)]
        assert ec50s[1] == pytest.approx(ec50s[0], rel=1e-6)
        # Nor is a curve followed far beyond what its wells show.
        assert -20 < min(one.fitted_low) <= max(one.fitted_high) < 20


def test_a_flat_curve_has_no_ec50() -> None:
    dose = np.repeat(DOSES, 2)
    found = fit_dose_curve(dose, np.linspace(3, 1, len(dose)))
    assert found.ec50 is found.slope is found.ec50_ci is None
    assert found.top == found.bottom == pytest.approx(2)
    assert not found.ec50_at_edge


def test_a_curve_that_only_starts_to_rise_is_at_the_edge() -> None:
    dose = np.repeat(DOSES, 2)
    assert fit_dose_curve(dose, hill(dose, 1, 9, 300.0, 2)).ec50_at_edge


def wells(num_controls: int, *, seed: int = 0, num_features: int = 40) -> pd.DataFrame:
    """Two plates with an offset each; a compound that moves with its dose."""
    generator, rows = np.random.default_rng(seed), []
    direction = generator.normal(size=num_features)
    for plate in range(2):
        kinds = [("DMSO", 0.0, 0.0)] * num_controls
        kinds += [("drug", dose, hill(dose, 0, 4.0, 2.0, 2.0)) for dose in DOSES for _ in range(2)]
        for number, (name, dose, effect) in enumerate(kinds):
            features = 20 * plate + effect * direction + generator.normal(size=num_features)
            metadata = {"Metadata_Plate": f"P{plate}", "Metadata_Well": f"A{number + 1:02d}"}
            metadata |= {"Metadata_Compound": name, "Metadata_Concentration": dose}
            metadata |= {"Metadata_Control": name == "DMSO"}
            rows.append(metadata | {f"x{i}": value for i, value in enumerate(features)})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("num_controls", [2, 4, 20])
def test_distance_is_one_for_a_control_however_many_there_are(num_controls: int) -> None:
    """A compound without effect is as far from the controls as they are from each other."""
    table = wells(num_controls)
    idle = table["Metadata_Compound"].eq("drug") & table["Metadata_Concentration"].eq(0.1)
    made = wells_of(table)
    distance, p95 = distances_to_controls(made)
    assert np.median(distance[made.is_control]) == pytest.approx(1)
    assert distance[idle.to_numpy()].mean() == pytest.approx(1, abs=0.2)
    assert 1 <= p95 < 1.6
    rows = np.flatnonzero(table["Metadata_Plate"] == "P1")
    controls = rows[:num_controls]
    one, others = controls[0], controls[1:]
    naive = np.linalg.norm(made.features[one] - made.features[others].mean(axis=0))
    apart = [
        np.linalg.norm(made.features[row] - np.delete(made.features[own], i, 0).mean(axis=0))
        for own in (np.arange(num_controls), controls)
        for i, row in enumerate(own)
    ]
    assert distance[one] == pytest.approx(naive / np.median(apart))


def test_a_compound_with_doses_gets_a_curve() -> None:
    made = wells_of(wells(8))
    distance, _ = distances_to_controls(made)
    (curve,) = dose_curves(made, distance)
    assert curve["compound"] == "drug"
    assert curve["doses"] == tuple(DOSES)
    assert 1 < curve["ec50"] < 5
    low, high = curve["ec50_ci"]
    assert low <= curve["ec50"] <= high
    assert all(a <= b + 1e-9 for a, b in zip(curve["fitted"], curve["fitted"][1:], strict=False))
    assert curve["top_ci"][0] > 2


def test_without_two_controls_on_a_plate_there_is_no_distance() -> None:
    table = wells(1)
    distance, p95 = distances_to_controls(wells_of(table))
    assert p95 is None
    assert np.isnan(distance).all()
