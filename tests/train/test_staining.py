"""Varied staining against formulas, one amount at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from wsdino.train.crops import draw_crops
from wsdino.train.staining import AMOUNTS, GRAINS, NUM_SHEETS, draw_stains, stained
from wsdino.train.views import ViewPlan

NAMES = [each.name for each in AMOUNTS]


def crops_of(num: int = 4, channels: int = 3, side: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(num, channels, side, side, generator=generator)


def alone(crops: Tensor, **amounts: float) -> np.ndarray:
    """Stain by some amounts alone; NumPy float64."""
    given = torch.zeros(*crops.shape[:2], len(AMOUNTS))
    for name, amount in amounts.items():
        given[..., NAMES.index(name)] = amount
    places = torch.full((*crops.shape[:2], 2 * NUM_SHEETS), 5)
    return stained(crops, given, places).double().numpy()


def standard(values: np.ndarray) -> np.ndarray:
    middle = values.mean(axis=(2, 3), keepdims=True)
    return (values - middle) / values.std(axis=(2, 3), keepdims=True)


def test_without_any_amount_nothing_changes() -> None:
    crops = crops_of()
    np.testing.assert_allclose(alone(crops), crops.double().numpy(), atol=1e-5)


def test_mean_and_deviation_of_each_channel_stay() -> None:
    crops = crops_of()
    amounts, places = draw_stains((4, 3), 1.0, np.random.default_rng(1))
    found = stained(crops, torch.from_numpy(amounts), torch.from_numpy(places))
    assert (found - crops).abs().amax(dim=(2, 3)).min() > 0.1
    torch.testing.assert_close(found.mean(dim=(2, 3)), crops.mean(dim=(2, 3)))
    torch.testing.assert_close(found.std(dim=(2, 3)), crops.std(dim=(2, 3)))


def test_a_constant_channel_stays_as_it_is() -> None:
    crops = crops_of()
    crops[:, 1] = 0.7
    amounts, places = draw_stains((4, 3), 1.0, np.random.default_rng(1))
    found = stained(crops, torch.from_numpy(amounts), torch.from_numpy(places))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:, 1], crops[:, 1])


def test_light_of_the_next_channels_is_added() -> None:
    crops = crops_of()
    x = crops.double().numpy()
    expected = x + 0.1 * x[:, [1, 2, 0]] + 0.05 * x[:, [2, 0, 1]]
    found = alone(crops, next_channel=0.1, channel_after=0.05)
    np.testing.assert_allclose(standard(found), standard(expected), atol=1e-4)
    # Of two channels there is one other, and one has none.
    two = x[:, :2] + 0.1 * x[:, [1, 0]]
    found = alone(crops[:, :2], next_channel=0.1, channel_after=0.05)
    np.testing.assert_allclose(standard(found), standard(two), atol=1e-4)
    found = alone(crops[:, :1], next_channel=0.1, channel_after=0.05)
    np.testing.assert_allclose(found, x[:, :1], atol=1e-4)


@pytest.mark.parametrize("amount", [0.6, -0.6])
def test_saturation_compresses_or_expands_what_is_bright(amount: float) -> None:
    crops = crops_of()
    x = crops.double().numpy()
    light = x - x.min(axis=(2, 3), keepdims=True)
    share = light / light.max(axis=(2, 3), keepdims=True)
    bent = 1.6 * light / (1 + 0.6 * share) if amount > 0 else light * (1 + 0.6 * share) / 1.6
    found = alone(crops, saturation=amount)
    np.testing.assert_allclose(standard(found), standard(bent), atol=1e-4)


@pytest.mark.parametrize("amount", [0.9, -0.5])
def test_focus_blurs_or_sharpens(amount: float) -> None:
    crops = crops_of(1, 1, 12)
    x = crops.double().numpy()[0, 0]
    padded = np.pad(x, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    expected = x + amount * (windows.mean(axis=(2, 3)) - x)
    found = alone(crops, focus=amount)
    np.testing.assert_allclose(
        standard(found)[0, 0], standard(expected[None, None])[0, 0], atol=1e-4
    )
    assert (np.abs(np.diff(found[0, 0])).sum() < np.abs(np.diff(x)).sum()) == (amount > 0)


def test_uneven_stain_multiplies_and_texture_adds_the_same_noise() -> None:
    """On flat light both show their noise, which varies over the length that it should."""
    crops = torch.ones(1, 1, 96, 96)
    crops[..., 0, 0] = 0.0  # light begins there
    for name, length in GRAINS.items():
        found = standard(alone(crops, **{name: 0.2}))[0, 0, 10:, 10:]
        ahead = {lag: float(np.corrcoef(found[lag:].ravel(), found[:-lag].ravel())[0, 1])
                 for lag in (1, length, 3 * length) if lag < 80}  # fmt: skip
        assert ahead[1] > 0.4
        assert ahead[length] < ahead[1]
        if 3 * length < 80:
            assert abs(ahead[3 * length]) < 0.35


def test_crystals_cover_the_share_that_they_should() -> None:
    crops = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0))
    bright = standard(alone(crops, crystals=0.002, crystal_brightness=40.0))[0, 0] > 3
    # Each is 3 px wide.
    assert bright.mean() == pytest.approx(9 * 0.002, rel=0.2)


def test_haze_takes_contrast_from_what_is_small() -> None:
    crops = crops_of(1, 1, 48)
    found = alone(crops, haze=0.4)[0, 0]
    coarse = found.reshape(4, 12, 4, 12).mean(axis=(1, 3))
    before = crops.numpy()[0, 0].reshape(4, 12, 4, 12).mean(axis=(1, 3))
    assert coarse.std() > 1.2 * before.std()


def test_strength_multiplies_the_amounts_and_none_draws_nothing() -> None:
    one, two = (draw_stains((50, 8, 3), s, np.random.default_rng(0))[0] for s in (1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    for index, each in enumerate(AMOUNTS):
        own = one[..., index]
        assert own.min() == pytest.approx(each.least, abs=0.02 * (each.most - each.least))
        assert own.max() == pytest.approx(each.most, rel=0.02)
    rng, same = np.random.default_rng(4), np.random.default_rng(4)
    amounts, places = draw_stains((2, 8, 3), 0.0, rng)
    assert (amounts.size, places.size) == (0, 0)
    assert rng.random() == same.random()


def test_crops_lie_where_they_lay_without_staining() -> None:
    plain, varied = (
        draw_crops(
            ViewPlan(2, 16, staining=strength),
            6,
            field_shape=(40, 50),
            num_channels=3,
            rng=np.random.default_rng(2),
        )
        for strength in (0.0, 1.0)
    )
    for name in ("side", "top", "left", "flip_y", "flip_x", "transpose", "factor", "shift"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(varied, name), err_msg=name)
    assert plain.stains.shape == (2, 6, 3, 0)
    assert varied.stains.shape == (2, 6, 3, len(AMOUNTS))
    part = varied.part(slice(2, 4))
    np.testing.assert_array_equal(part.stains, varied.stains[:, 2:4])
    np.testing.assert_array_equal(part.grains, varied.grains[:, 2:4])
