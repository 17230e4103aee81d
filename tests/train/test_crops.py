from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from wsdino.errors import ConfigError
from wsdino.model.upload import as_tensor
from wsdino.train.crops import CropDraw, cut, draw_crops, resize_weights
from wsdino.train.views import ViewPlan

FIELD = (40, 56)
CLIP = (-4.0, 8.0)


def fields_of(dtype: type, num: int = 5, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (num, channels, *FIELD), endpoint=True, dtype=dtype)


def scaling_of(fields: np.ndarray) -> tuple[Tensor, Tensor]:
    """Standard scores, a little off, so that a wrong channel or site shows."""
    rng = np.random.default_rng(1)
    shape = fields.shape[:2]
    mean, std = fields.mean(axis=(2, 3)), fields.std(axis=(2, 3))
    offset = (mean * rng.uniform(0.8, 1.2, shape)).astype(np.float32)
    return torch.from_numpy(offset), torch.from_numpy((1 / std).astype(np.float32))


def naive_cut(
    fields: np.ndarray, sites: np.ndarray, draw: CropDraw, size: int, offset: Tensor, gain: Tensor
) -> Tensor:
    """Image by image: cut, scale, flip, resize, transpose, jitter, with torch's own operations."""
    views = []
    for v, b in np.ndindex(sites.shape):
        site, side = sites[v, b], draw.side[v, b]
        top, left = draw.top[v, b], draw.left[v, b]
        crop = fields[site, :, top : top + side, left : left + side].astype(np.float64)
        x = torch.from_numpy(crop)
        x = (x - offset[site].double()[:, None, None]) * gain[site].double()[:, None, None]
        x = x.clamp(*CLIP)
        if draw.flip_y[v, b]:
            x = x.flip(-2)
        if draw.flip_x[v, b]:
            x = x.flip(-1)
        x = functional.interpolate(x[None], size=(size, size), mode="bicubic", antialias=True)[0]
        if draw.transpose[v, b]:
            x = x.transpose(-1, -2)
        factor, shift = (
            torch.from_numpy(y[v, b])[:, None, None] for y in (draw.factor, draw.shift)
        )
        views.append(x * factor + shift)
    return torch.stack(views).float()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("size", "area"),
    [(16, (0.2, 0.6)), (48, (0.02, 0.2)), (24, (0.05, 0.7)), (24, None)],
    ids=["shrinking", "enlarging", "both", "native"],
)
def test_cut_equals_crop_and_resize_one_by_one(
    dtype: type, size: int, area: tuple[float, float] | None
) -> None:
    fields, rng = fields_of(dtype), np.random.default_rng(2)
    offset, gain = scaling_of(fields)
    plan = ViewPlan(num_views=3, size=size, area=area, brightness=0.3, contrast=0.4)
    draw = draw_crops(plan, 6, field_shape=FIELD, num_channels=2, rng=rng)
    sites = rng.integers(0, len(fields), (3, 6))
    views = cut(as_tensor(fields), sites, draw, size=size, offset=offset, gain=gain, clip=CLIP)
    assert views.dtype == torch.float32
    assert views.shape == (18, 2, size, size)
    expected = naive_cut(fields, sites, draw, size, offset, gain)
    torch.testing.assert_close(views, expected, rtol=1e-4, atol=2e-5)


def test_native_scale_changes_no_pixel() -> None:
    fields, rng = fields_of(np.uint16), np.random.default_rng(3)
    assert fields.max() > 2**15, "values that are negative as int16"
    plan = ViewPlan(num_views=2, size=20)
    draw = draw_crops(plan, 8, field_shape=FIELD, num_channels=2, rng=rng)
    sites = rng.integers(0, len(fields), (2, 8))
    ones = torch.ones(fields.shape[:2])
    views = cut(
        as_tensor(fields), sites, draw, size=20, offset=0 * ones, gain=ones, clip=(0, 2.0**16)
    ).unflatten(0, sites.shape)
    for v, b in np.ndindex(sites.shape):
        top, left = draw.top[v, b], draw.left[v, b]
        crop = fields[sites[v, b], :, top : top + 20, left : left + 20]
        crop = crop[:, ::-1] if draw.flip_y[v, b] else crop
        crop = crop[:, :, ::-1] if draw.flip_x[v, b] else crop
        crop = crop.swapaxes(1, 2) if draw.transpose[v, b] else crop
        np.testing.assert_array_equal(views[v, b].numpy(), crop.astype(np.float32))


def test_the_crop_of_one_side_pixel_count_needs_no_resizing() -> None:
    """A share of the area that happens to give `size` px is left as it is."""
    fields = fields_of(np.uint8)
    plan = ViewPlan(num_views=1, size=20, flip=False, rotate=False)
    rng = np.random.default_rng(0)
    native = draw_crops(plan, 4, field_shape=FIELD, num_channels=2, rng=rng)
    share = 400 / (FIELD[0] * FIELD[1])
    drawn = draw_crops(
        replace(plan, area=(share, share)), 4, field_shape=FIELD, num_channels=2, rng=rng
    )
    assert (drawn.side == 20).all()
    offset, gain = scaling_of(fields)
    same = replace(drawn, top=native.top, left=native.left)
    sites = np.zeros((1, 4), dtype=np.int64)
    views = [
        cut(as_tensor(fields), sites, d, size=20, offset=offset, gain=gain, clip=CLIP)
        for d in (native, same)
    ]
    torch.testing.assert_close(views[0], views[1], rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(side=st.integers(1, 60), size=st.integers(1, 60), extra=st.integers(0, 5))
def test_resize_weights_equal_interpolate(side: int, size: int, extra: int) -> None:
    weights = resize_weights(torch.tensor([side]), size, side + extra)[0]
    assert (weights[:, side:] == 0).all()
    identity = torch.eye(side)[None, None]
    expected = functional.interpolate(identity, (size, side), mode="bicubic", antialias=True)[0, 0]
    torch.testing.assert_close(weights[:, :side], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    low=st.floats(0.01, 0.1),
    high=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
)
def test_draws_lie_in_the_field_and_keep_to_the_area(
    height: int, width: int, low: float, high: float, seed: int
) -> None:
    plan = ViewPlan(num_views=2, size=8, area=(low, high))
    drawing = {"field_shape": (height, width), "num_channels": 1}
    if np.rint(np.sqrt(high * height * width)) > min(height, width):
        with pytest.raises(ConfigError, match=rf"does not fit fields of {height} x {width} px"):
            draw_crops(plan, 3, rng=np.random.default_rng(seed), **drawing)
        return
    draw = draw_crops(plan, 50, rng=np.random.default_rng(seed), **drawing)
    assert (draw.top >= 0).all()
    assert (draw.top + draw.side <= height).all()
    assert (draw.left >= 0).all()
    assert (draw.left + draw.side <= width).all()
    side = np.sqrt([low * height * width, high * height * width])
    assert (draw.side >= max(side[0] - 0.5, 1)).all()
    assert (draw.side <= max(side[1] + 0.5, 1)).all()


def test_draws_reach_all_of_the_field_and_both_ends_of_the_area() -> None:
    plan = ViewPlan(num_views=4, size=8, area=(0.1, 0.5))
    rng = np.random.default_rng(0)
    draw = draw_crops(plan, 2000, field_shape=FIELD, num_channels=1, rng=rng)
    share = draw.side**2 / (FIELD[0] * FIELD[1])
    assert share.min() < 0.12
    assert share.max() > 0.48
    # The area, not the side, is uniform.
    assert share.mean() == pytest.approx(0.3, abs=0.01)
    assert draw.top.min() == draw.left.min() == 0
    assert (draw.top + draw.side).max() == FIELD[0]
    assert (draw.left + draw.side).max() == FIELD[1]
    for altered in (draw.flip_y, draw.flip_x, draw.transpose):
        assert altered.mean() == pytest.approx(0.5, abs=0.03)


def test_what_is_not_asked_for_is_not_drawn() -> None:
    plan = ViewPlan(num_views=2, size=8, flip=False, rotate=False)
    rng = np.random.default_rng(0)
    draw = draw_crops(plan, 50, field_shape=FIELD, num_channels=3, rng=rng)
    assert not (draw.flip_y | draw.flip_x | draw.transpose).any()
    assert (draw.factor == 1).all()
    assert (draw.shift == 0).all()


def test_jitter_is_within_its_bounds_and_differs_between_channels() -> None:
    plan = ViewPlan(num_views=2, size=8, brightness=0.2, contrast=0.5)
    rng = np.random.default_rng(0)
    draw = draw_crops(plan, 500, field_shape=FIELD, num_channels=2, rng=rng)
    for values, middle, amount in ((draw.factor, 1, 0.5), (draw.shift, 0, 0.2)):
        assert values.shape == (2, 500, 2)
        assert np.abs(values - middle).max() <= amount + 1e-6
        assert values.std() == pytest.approx(amount / np.sqrt(3), rel=0.05)
        assert abs(np.corrcoef(values[..., 0].ravel(), values[..., 1].ravel())[0, 1]) < 0.1


def test_part_takes_images() -> None:
    plan = ViewPlan(num_views=2, size=8, contrast=0.1)
    rng = np.random.default_rng(0)
    draw = draw_crops(plan, 6, field_shape=FIELD, num_channels=2, rng=rng)
    part = draw.part(slice(2, 4))
    np.testing.assert_array_equal(part.top, draw.top[:, 2:4])
    np.testing.assert_array_equal(part.factor, draw.factor[:, 2:4])


@pytest.mark.parametrize(
    ("plan", "option"),
    [
        (ViewPlan(num_views=1, size=41), "lower .*size"),
        (ViewPlan(num_views=1, size=8, area=(0.01, 0.9)), "lower .*area"),
    ],
)
def test_a_crop_that_may_not_fit_is_refused_at_once(plan: ViewPlan, option: str) -> None:
    """Even if this draw would fit: a run must not fail at step 1000."""
    with pytest.raises(ConfigError, match=option) as caught:
        draw_crops(plan, 1, field_shape=FIELD, num_channels=1, rng=np.random.default_rng(0))
    assert "40 x 56" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_area_upside_down_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"area \[0.5, 0.1\]"):
        ViewPlan(num_views=1, size=8, area=(0.5, 0.1))
