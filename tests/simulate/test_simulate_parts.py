"""The parts of the simulated screen: layouts, dose response, cells, optics."""

from __future__ import annotations

import gzip
import itertools
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest

from wsdino.errors import ManifestError
from wsdino.simulate import layout_table, layouts, raster
from wsdino.simulate.cells import draw, seed_cells
from wsdino.simulate.handling import (
    HANDLING,
    PROPERTIES,
    ROW,
    SHAPE,
    STAINING_ROWS,
    handling_of,
)
from wsdino.simulate.keys import generator, guid
from wsdino.simulate.optics import COUNTS, Optics, blur, expose
from wsdino.simulate.phenotypes import MECHANISMS, hill, make_compound
from wsdino.simulate.traits import BASE, INDEX, NAMES, SPREAD, apply_effects, as_vector

NOTHING = np.zeros(len(NAMES))


def culture_of(moa=None, seed=0, size=256, **traits):
    values = BASE.copy()
    for name, value in traits.items():
        values[INDEX[name]] = value
    return seed_cells(
        values, as_vector(MECHANISMS.get(moa, {})), penetrance=1.0 if moa else 0.0, strength=1.0,
        size=size, zoom=1.0, rng=np.random.default_rng(seed),
    )  # fmt: skip


# layouts


def test_bbbc021_layout_has_the_published_numbers():
    table = layout_table("bbbc021")
    treated = table[table["compound"] != "DMSO"]
    assert (len(table), len(treated)) == (3848, 2528)
    assert table["plate"].nunique() == 55
    assert table["batch"].nunique() == 10
    assert treated["moa"].nunique() == 12
    assert treated["compound"].nunique() == 38
    assert len(treated[["compound", "concentration"]].drop_duplicates()) == 103
    controls = table[table["compound"] == "DMSO"].drop_duplicates(["plate", "well"])
    assert (controls.groupby("plate").size() == 6).all()
    assert (controls["concentration"] == 0).all()
    plates_of = treated.groupby(["compound", "concentration"])["plate"].nunique()
    assert sorted(plates_of.unique()) == [2, 3, 55]
    assert (plates_of == 55).sum() == 1


def test_bbbc021_layout_agrees_with_the_real_tables(real_data):
    ours = layout_table("bbbc021")
    theirs = layout_table(real_data / "bbbc021_profiles" / "BBBC021_v1_image.csv.gz")
    theirs = theirs[theirs["moa"].notna()]
    keys = ["compound", "concentration", "moa", "plate"]
    counts = [table.groupby(keys).size().sort_index() for table in (ours, theirs)]
    pd.testing.assert_series_equal(*counts)


def test_small_layout_defines_nsc_and_nscb_for_every_treatment():
    table = layout_table("small")
    assert 300 <= len(table) <= 500
    assert set(table["moa"]) == set(MECHANISMS) | {"DMSO"}
    treated = table[table["compound"] != "DMSO"].drop_duplicates(["compound", "concentration"])
    for row in treated.itertuples():
        mates = treated[(treated["moa"] == row.moa) & (treated["compound"] != row.compound)]
        assert len(mates) >= 2
        assert (mates["batch"] != row.batch).any()
    replicates = table.groupby(["compound", "concentration"])["plate"].nunique()
    assert (replicates >= 2).all()
    assert (table[table["compound"] == "DMSO"].groupby("plate")["well"].nunique() == 6).all()


@pytest.mark.parametrize("name", layouts.BUILT_IN)
def test_no_well_is_used_twice(name):
    table = layout_table(name)
    assert not table.duplicated(["plate", "well", "site"]).any()
    assert table.groupby(["plate", "well"])["compound"].nunique().max() == 1
    assert table["well"].str.fullmatch(r"[B-G](0[2-9]|1[01])").all()
    for channel in layouts.CHANNELS:
        assert table[f"file_{channel}"].is_unique


def test_sites_per_well():
    assert len(layout_table("small", sites=1)) * 3 == len(layout_table("small"))
    assert set(layout_table("bbbc021", sites=2)["site"]) == {1, 2}


def test_image_table_keeps_names_and_wells(real_data, tmp_path):
    source = real_data / "bbbc021_fields_256" / "BBBC021_v1_image.csv"
    plain = layout_table(source)
    raw = pd.read_csv(source)
    assert (plain["file_Tubulin"] == raw["Image_FileName_Tubulin"]).all()
    assert (plain["folder"] == raw["Image_PathName_DAPI"]).all()
    packed = tmp_path / "BBBC021_v1_image.csv.gz"
    with source.open("rb") as read, gzip.open(packed, "wb") as write:
        shutil.copyfileobj(read, write)
    # without a table of mechanisms beside it, the published ones are used
    pd.testing.assert_frame_equal(layout_table(packed), plain)
    assert len(layout_table(source, sites=1)) == 165


def test_unknown_layout():
    with pytest.raises(ManifestError, match="no-such-layout"):
        layout_table("no-such-layout")


# compounds


@pytest.mark.parametrize("ec50", [0.01, 1.0, 30.0])
def test_hill_is_monotone_and_half_at_its_ec50(ec50):
    doses = np.geomspace(1e-4, 1e4, 50)
    activity = [hill(dose, ec50) for dose in doses]
    assert all(a < b for a, b in itertools.pairwise(activity))
    assert hill(ec50, ec50) == pytest.approx(0.5)
    assert hill(0, ec50) == 0
    assert 0 <= activity[0] < 0.3
    assert 0.7 < activity[-1] <= 1


def test_compounds_of_one_mechanism_are_alike_but_not_the_same():
    options = {"seed": 1, "effect": 1.0, "lean": 0.2, "signature": 1.0}
    one, two = (make_compound(n, "Eg5 inhibitors", [1, 3], **options) for n in ("one", "two"))
    other = make_compound("three", "Epithelial", [1, 3], **options)
    assert one.ec50 != two.ec50
    assert not np.allclose(one.effects, two.effects)
    a, b, c = ((compound.effects / SPREAD.clip(0.01)) for compound in (one, two, other))
    assert np.corrcoef(a, b)[0, 1] > np.corrcoef(a, c)[0, 1] + 0.2
    again = make_compound("one", "Eg5 inhibitors", [1, 3], **options)
    np.testing.assert_array_equal(again.effects, one.effects)


def test_effects_name_known_traits_and_stay_within_range():
    for effects in MECHANISMS.values():
        assert set(effects) <= set(NAMES)
    wild = apply_effects(BASE, np.full(len(NAMES), 50.0))
    tame = apply_effects(wild, np.full(len(NAMES), 1.0))
    np.testing.assert_array_equal(wild, tame)
    assert np.isfinite(wild).all()
    np.testing.assert_allclose(apply_effects(BASE, NOTHING), BASE)


def test_keys_are_independent_of_order():
    assert generator(1, "a", 2).random() == generator(1, "a", 2).random()
    assert generator(1, "a", 2).random() != generator(1, "a", 3).random()
    assert generator(1, "a", 2).random() != generator(2, "a", 2).random()
    assert guid("x") == guid("x") != guid("y")


# cells


def test_mechanisms_change_the_states_they_should():
    def share(moa, *states):
        cultures = [culture_of(moa, seed, size=512) for seed in range(3)]
        return np.concatenate([c.has(*states) for c in cultures]).mean()

    assert share("Eg5 inhibitors", "monopolar") > 0.3 > 0.05 > share(None, "monopolar")
    assert share("Microtubule destabilizers", "fragmented") > 0.2 > share(None, "fragmented")
    assert share("Microtubule stabilizers", "micronucleated") > 0.2
    assert share("DNA damage", "bipolar") < share(None, "bipolar")


def test_cells_keep_their_distance():
    culture = culture_of(density=90.0, colony=1.0)
    radius = culture.traits["cell_radius"]
    for i in range(len(culture)):
        d = np.hypot(culture.y - culture.y[i], culture.x - culture.x[i])
        d[i] = np.inf
        assert (d >= 0.53 * (radius + radius[i])).all()


def test_a_cell_keeps_its_stain_however_it_lies():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(4, dtype=np.int32), 16).reshape(8, 8)
    owner[0, 0] = -1
    parts = tuple(rng.random((8, 8), dtype=np.float32) for _ in range(3))
    parts[2][owner == 1] = 0
    shares = rng.dirichlet(np.ones(3), 4).astype(np.float32)
    levels = rng.random(4, dtype=np.float32) + 0.5
    image = raster.compose(parts, owner, shares, levels)
    assert image[0, 0] == 0
    for cell in range(4):
        mine = owner == cell
        assert image[mine].sum() == pytest.approx(levels[cell] * mine.sum(), rel=1e-4)


def test_claim_finds_the_nearest_cell():
    rng = np.random.default_rng(1)
    cells = np.zeros(5, raster.CELL)
    cells["y"], cells["x"] = rng.uniform(8, 40, (2, 5))
    angle = rng.uniform(0, math.pi, 5)
    cells["cos"], cells["sin"] = np.cos(angle), np.sin(angle)
    cells["long"], cells["short"], cells["reach"] = 12, 9, 1.0
    outlines = np.ones((5, raster.NUM_ANGLES), np.float32)
    owner, near, second = raster.claim(cells, outlines, 48)
    y, x = np.mgrid[:48, :48]
    distances = []
    for cell in cells:
        dy, dx = y - cell["y"], x - cell["x"]
        u = (cell["cos"] * dx + cell["sin"] * dy) / 12
        v = (cell["cos"] * dy - cell["sin"] * dx) / 9
        distances.append(np.hypot(u, v))
    ranked = np.sort(distances, axis=0)
    inside = ranked[0] < 1
    assert (owner[inside] == np.argmin(distances, axis=0)[inside]).all()
    np.testing.assert_allclose(near[inside], ranked[0][inside], atol=1e-3)
    both = ranked[1] < 1
    np.testing.assert_allclose(second[both], ranked[1][both], atol=1e-3)


def test_fast_angle():
    angles = np.linspace(-math.pi, math.pi, 999)[1:-1]
    ours = [raster.angle_of(math.sin(a), math.cos(a)) for a in angles]
    np.testing.assert_allclose(ours, angles, atol=0.005)


def test_filaments_stop_at_their_cell():
    filament = np.zeros(1, raster.FILAMENT)
    filament["y"], filament["x"], filament["length"], filament["weight"] = 8, 4, 20, 1
    owner = np.zeros((16, 32), np.int32)[:16, :16].copy()
    owner[:, 10:] = 1
    canvas = raster.trace(filament, owner, np.zeros((16, 16), np.float32), 0.5)
    assert canvas[:, 4:10].sum() == pytest.approx(6, abs=0.6)
    assert canvas[:, 11:].sum() == 0
    assert canvas[8].sum() == pytest.approx(canvas.sum())


def test_drawn_field_is_finite_and_bright_where_cells_are():
    for moa in MECHANISMS:
        stains = draw(culture_of(moa, size=96), 96, np.random.default_rng(0))
        assert stains.shape == (3, 96, 96)
        assert stains.dtype == np.float32
        assert np.isfinite(stains).all()
        assert (stains >= 0).all()
        assert (stains[1:] > 0.1).mean() > 0.05


def test_noise_tile():
    tile = raster.noise_tile(2.0)
    assert abs(tile.mean()) < 1e-3
    assert tile.std() == pytest.approx(1, abs=1e-3)


# optics


@pytest.mark.parametrize("sigma", [0.0, 0.6, 1.3, 3.7])
def test_blur_is_gaussian(sigma):
    image = np.random.default_rng(0).random((40, 56), dtype=np.float32)
    expected = gaussian_filter(image, sigma, mode="nearest", radius=int(3 * sigma + 0.5))
    np.testing.assert_allclose(blur(image, sigma), expected if sigma else image, atol=1e-5)


def optics(**changes):
    ideal = {
        "blur": (0.0,) * 3, "gain": (1.0,) * 3, "background": (300.0,) * 3, "haze": (0.0,) * 3,
        "saturation": (0.0,) * 3, "shade": ((0.0, 0.0, 0.0),) * 3,
    }  # fmt: skip
    return Optics(**(ideal | changes))


def test_noise_has_the_variance_of_photons_and_camera():
    flat = np.full((3, 200, 200), 0.5, np.float32)
    counts = expose(flat, optics(), np.random.default_rng(0)).astype(float)
    mean = 0.5 * COUNTS + 300
    assert counts.dtype == float
    assert counts.mean() == pytest.approx(mean, rel=1e-3)
    assert counts.var() == pytest.approx(2 * mean + 36, rel=0.02)


def test_noise_is_normal():
    rng = np.random.default_rng(5)
    counts = expose(np.full((3, 301, 333), 0.5, np.float32), optics(), rng)[0]
    # Counts are integers; a uniform offset makes them continuous again.
    values = counts + rng.uniform(-0.5, 0.5, counts.shape)
    noise = (values - values.mean()) / values.std()
    assert values.std() > 20, "rounding is small beside the noise"
    assert kstest(noise.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.01


def test_mottle_texture_and_bleed():
    def mean_and_deviation(level, **changes):
        stains = np.zeros((3, 256, 256), np.float32)
        stains[0] = level
        how = optics(background=(1000.0,) * 3, **changes)
        counts = expose(stains, how, np.random.default_rng(0)).astype(float)
        quiet = np.sqrt(2 * counts.mean(axis=(1, 2)) + 36)
        return counts.mean(axis=(1, 2)), np.sqrt(counts.var(axis=(1, 2)) - quiet**2 + 1)

    # mottling is relative to the stain
    _, one = mean_and_deviation(0.5, mottle=((0.2, 0.0),) * 3)
    _, two = mean_and_deviation(1.0, mottle=((0.0, 0.2),) * 3)
    assert one[0] == pytest.approx(0.2 * 0.5 * COUNTS, rel=0.02)
    assert two[0] == pytest.approx(0.2 * COUNTS, rel=0.02)
    assert (one[1:] < 5).all()
    # texture is not
    for scale in range(3):
        amounts = tuple(0.05 * (scale == other) for other in range(3))
        _, both = mean_and_deviation(0.5, texture=(amounts,) * 3)
        assert both == pytest.approx(np.full(3, 0.05 * COUNTS), rel=0.05)
    # the next channel of actin is DNA, the one after tubulin is DNA
    mean, _ = mean_and_deviation(0.5, bleed=((0.0, 0.0), (0.0, 0.1), (0.2, 0.0)))
    assert mean - 1000 == pytest.approx(COUNTS * np.array([0.5, 0.05, 0.1]), rel=0.01)


def test_handling():
    zeros = handling_of(np.zeros(SHAPE))
    for name, row in ROW.items():
        assert tuple(zeros[row]) == HANDLING[name].base
    more, most = handling_of(np.ones(SHAPE)), handling_of(np.full(SHAPE, 99.0))
    expected = [np.array(p.base) * math.exp(p.spread) for p in HANDLING.values()]
    np.testing.assert_allclose(more, expected)
    assert (most >= more).all()
    assert (most[STAINING_ROWS] == [[HANDLING[PROPERTIES[r]].at_most] for r in STAINING_ROWS]).all()


def test_some_cells_have_copied_their_dna():
    culture = culture_of(size=1024, copied=0.4, dna_unevenness=0.0)
    content = culture.traits["dna_content"]
    assert (content > 1.5).mean() == pytest.approx(0.4, abs=0.06)
    bigger = culture.traits["nucleus_radius"]
    ratio = bigger[content > 1.5].mean() / bigger[content < 1.5].mean()
    assert ratio == pytest.approx(2 ** (1 / 3), rel=0.03)


def test_shade_and_haze():
    flat = np.full((3, 64, 64), 1.0, np.float32)
    shaded = expose(flat, optics(shade=((0, 0, 0.5), (0.3, 0, 0), (0, 0.3, 0))),
                    np.random.default_rng(0)).astype(float)  # fmt: skip
    assert shaded[0, 28:36, 28:36].mean() > 1.5 * shaded[0, :4, :4].mean()
    assert shaded[1, -8:].mean() > 1.3 * shaded[1, :8].mean()
    assert shaded[2, :, -8:].mean() > 1.3 * shaded[2, :, :8].mean()
    dots = np.zeros((3, 64, 64), np.float32)
    dots[:, ::4, ::4] = 4
    sharp, dull = (
        expose(dots, optics(haze=(h,) * 3), np.random.default_rng(0)).astype(float)
        for h in (0.0, 0.5)
    )
    assert dull.mean() == pytest.approx(sharp.mean(), rel=0.01)
    assert dull.std() < 0.6 * sharp.std()


def test_bright_fields_do_not_wrap():
    flat = np.full((3, 32, 32), 1e4, np.float32)
    assert (expose(flat, optics(), np.random.default_rng(0)) == 65535).all()
