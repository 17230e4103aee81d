"""Quality measures of fields against naive computations and known pictures."""

from __future__ import annotations

import zlib

import google_crc32c
import numpy as np
import pytest
from scipy import fft, ndimage
from skimage.filters import threshold_otsu

from wsdino.screen.measures import (
    NUM_BANDS,
    focus_of,
    foreground_of,
    relatedness_of,
    saturation_of,
    site_measures,
    spectrum_of,
)
from wsdino.screen.passes import chords_above, squared_differences, variance
from wsdino.screen.records import crc_of
from wsdino.screen.statistics import histogram


def discs(
    size: int = 96, radius: float = 6, *, num: int = 12, blur: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Bright discs on a dark ground, with camera noise; uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    field = np.full((size, size), 200.0)
    for cy, cx in rng.uniform(0, size, (num, 2)):
        field[np.hypot(y - cy, x - cx) < radius] = 2000
    field = ndimage.gaussian_filter(field, blur)
    return (field + rng.normal(0, 20, field.shape)).round().clip(0, 65535).astype(np.uint16)


def test_focus_falls_with_blur_and_hardly_changes_with_noise() -> None:
    sharp, soft, softer = (discs(blur=blur).astype(np.float32) for blur in (0.5, 2, 4))
    found = [focus_of(field) for field in (sharp, soft, softer)]
    assert found[0] > 1.5 * found[1] > 1.5 * found[2]
    noisy = soft + np.random.default_rng(1).normal(0, 100, soft.shape).astype(np.float32)
    assert focus_of(noisy) == pytest.approx(found[1], abs=0.02)
    ramp = np.add.outer(np.arange(64.0), np.arange(64.0)).astype(np.float32)
    # Differences that grow with the square of the distance, the limit of blur.
    assert focus_of(ramp) == pytest.approx(3 / 63, rel=1e-4)
    assert focus_of(np.ones((32, 32), np.float32)) == 0


def test_neighbours_are_related_in_pictures_and_not_in_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(500, 30, (128, 128)).astype(np.float32)
    assert abs(relatedness_of(noise)) < 0.05
    field = discs(blur=1).astype(np.float32)
    centred = field - field.mean()
    naive = np.mean(
        [
            (centred[1:] * centred[:-1]).mean() / centred.var(),
            (centred[:, 1:] * centred[:, :-1]).mean() / centred.var(),
        ]
    )
    assert relatedness_of(field) == pytest.approx(naive, abs=0.02)
    assert relatedness_of(np.full((8, 8), 7, np.float32)) == 0


def test_foreground_is_what_otsus_threshold_says() -> None:
    field = discs(97, radius=9, blur=1)
    small = field[:96, :96].reshape(48, 2, 48, 2).astype(int).sum(axis=(1, 3)) >> 2
    bright = small > threshold_otsu(small, nbins=int(np.ptp(small)) + 1)
    share, extent = foreground_of(field)
    assert share == pytest.approx(bright.mean(), abs=0.01)
    chords = [
        length
        for line in [*bright, *bright.T]
        for length in np.diff(np.flatnonzero(np.diff(np.r_[0, line.astype(int), 0])))[::2]
    ]
    assert extent == pytest.approx(2 * np.mean(chords), rel=0.03)
    assert foreground_of(np.full((10, 10), 300, np.uint16)) == (0, 0)


def test_extent_grows_with_magnification() -> None:
    one, two = (foreground_of(discs(256, radius, num=6))[1] for radius in (8, 16))
    assert two / one == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize(
    ("top", "expected"), [(255, 0.25), (4095, 0.25), (65535, 0.25), (65520, 0.25), (3000, 0.0)]
)
def test_saturation_is_at_a_cameras_limit_only(top: int, expected: float) -> None:
    image = np.full((8, 8), 17, np.uint16)
    image[:2] = top
    assert saturation_of(image) == expected


def test_saturation_shows_in_the_images_before_correction() -> None:
    raw = np.full((1, 64, 64), 100, np.uint16)
    raw[:, :16] = 4095
    corrected = (raw * 0.7).astype(np.uint16)
    assert site_measures(corrected)["saturation"].tolist() == [0]
    assert site_measures(corrected, raw)["saturation"].tolist() == [0.25]


@pytest.mark.parametrize("period", [4, 16, 64])
def test_the_spectrum_has_its_power_where_the_detail_is(period: int) -> None:
    wave = np.sin(2 * np.pi * np.arange(256) / period).astype(np.float32)
    field = np.broadcast_to(wave, (256, 256)).copy()
    found = spectrum_of(field)
    assert found.shape == (NUM_BANDS,)
    # Half octaves from 1/2 cycle per pixel down: a period of 4 px begins the third.
    assert np.nanargmax(found) in {
        int(2 * np.log2(period / 2)),
        int(2 * np.log2(period / 2)) - 1,
    }


def test_small_and_blank_fields_have_no_numbers_instead_of_wrong_ones() -> None:
    assert np.isnan(spectrum_of(np.zeros((96, 96), np.float32))).all()
    tiny = spectrum_of(np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32))
    assert np.isnan(tiny[-4:]).all()
    assert np.isfinite(tiny[:4]).all()
    blank = site_measures(np.zeros((2, 5, 7), np.uint8))
    assert blank["maximum"].tolist() == [0, 0]
    assert blank["focus"].tolist() == [0, 0]
    assert blank["extent"].tolist() == [0, 0]


def test_the_same_pixels_have_the_same_digest_and_others_another() -> None:
    one, other = discs(seed=1), discs(seed=2)
    found = site_measures(np.stack([one, other, one]))["digest"]
    assert found[0] == found[2] != found[1]


def test_a_digest_of_two_checksums_is_theirs() -> None:
    content = discs().tobytes()
    assert divmod(crc_of(content), 2**32) == (zlib.crc32(content), google_crc32c.value(content))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 33)])
def test_passes_over_the_pixels_count_and_sum_right(dtype: type, shape: tuple[int, int]) -> None:
    field = np.random.default_rng(2).gamma(0.7, 60, shape).clip(0, 255).astype(dtype)
    # A view whose rows don't follow each other in memory, too.
    for pixels in (field, np.repeat(np.repeat(field, 2, 0), 3, 1)[::2, ::3]):
        np.testing.assert_array_equal(histogram(pixels), np.bincount(pixels.ravel()))
    bright = np.pad(field > 40, ((0, 1), (0, 1)))
    ends = sum((bright & ~np.roll(bright, -1, axis)).sum() for axis in (0, 1))
    assert chords_above(field, dtype(40)) == (bright.sum(), ends)
    floats = field.astype(np.float32) * 100
    assert variance(floats) == pytest.approx(floats.astype(float).var(), rel=1e-5)
    for lag in (1, 2, 8):
        wide = floats.astype(float)
        expected = (
            ((wide[lag:] - wide[:-lag]) ** 2).sum(),
            ((wide[:, lag:] - wide[:, :-lag]) ** 2).sum(),
        )
        assert squared_differences(floats, lag) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", [1, 9, 37, 255])
def test_the_spectrum_is_the_mean_power_of_each_half_octave(side: int) -> None:
    field = discs(side, radius=3).astype(np.float32)
    hann = np.hanning(side + 2)[1:-1]
    window = np.outer(hann, hann)
    centred = (field - (field * window).sum() / window.sum()) * window
    power = np.abs(fft.rfft2(centred)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    found = spectrum_of(field)
    for band in range(NUM_BANDS):
        top, low = 0.5 * 2 ** (-band / 2), 0.5 * 2 ** (-(band + 1) / 2)
        inside = power[(frequency > low * (1 + 1e-9)) & (frequency <= top * (1 + 1e-9))]
        expected = np.log2(inside.mean()) if len(inside) else np.nan
        assert found[band] == pytest.approx(expected, abs=2e-3, nan_ok=True), band
