"""The simulated screen: what is written, and that it is what was asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_run import COMMAND, ended, finish, start
from wsdino.errors import InputError, ManifestError, OutputError
from wsdino.screen.manifest import read_manifest
from wsdino.simulate import Difficulty, layout_table, simulate
from wsdino.simulate.plates import describe_sites
from wsdino.simulate.render import render
from wsdino.simulate.traits import INDEX

SIZE = 64


@pytest.fixture(scope="module")
def tiny_layout(tmp_path_factory):
    """A manifest of two plates with one control, one known and one unknown compound."""
    rows = [
        {
            "Metadata_Plate": f"Week{batch}_{batch}1", "Metadata_Well": well, "Metadata_Site": site,
            "Metadata_Batch": f"Week{batch}", "Metadata_Compound": compound,
            "Metadata_Concentration": dose, "Metadata_MoA": moa,
            "Metadata_Control": compound == "DMSO",
            **{f"FileName_{c}": f"{batch}{well}{site}{c}.tif" for c in ("a", "b")},
        }
        for batch in (1, 2)
        for well, compound, dose, moa in (
            ("B02", "DMSO", 0.0, None), ("C05", "AZ138", 3.0, "Eg5 inhibitors"),
            ("C06", "AZ138", 0.03, "Eg5 inhibitors"), ("D05", "mystery", 1.0, None),
        )
        for site in (1, 2)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("layout") / "manifest.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def screen(tiny_layout, tmp_path_factory):
    out = tmp_path_factory.mktemp("screen") / "out"
    return simulate(out, layout=tiny_layout, size=SIZE, seed=3, workers=1)


def pixels(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*.tif"))}


def test_the_reader_reads_it(screen, tiny_layout):
    manifest, asked = read_manifest(screen), read_manifest(tiny_layout, check_files=False)
    same = ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Batch",
            "Metadata_Compound", "Metadata_Concentration", "Metadata_Control"]  # fmt: skip
    pd.testing.assert_frame_equal(manifest[same], asked[same])
    assert set(manifest["Metadata_PixelSize"]) == {1.2}
    treated = ~manifest["Metadata_Control"]
    known = manifest["Metadata_Compound"] == "AZ138"
    assert (manifest.loc[known, "Metadata_MoA"] == "Eg5 inhibitors").all()
    assert manifest.loc[treated & ~known, "Metadata_MoA"].isna().all()


def test_columns_are_those_of_bbbc021(screen, real_data):
    ours = pd.read_csv(screen / "BBBC021_v1_image.csv")
    theirs = pd.read_csv(real_data / "bbbc021_fields_256" / "BBBC021_v1_image.csv")
    assert list(ours.columns) == list(theirs.columns)
    moa = pd.read_csv(screen / "BBBC021_v1_moa.csv")
    assert list(moa.columns) == ["compound", "concentration", "moa"]


def test_images_are_16_bit_and_differ(screen):
    table = pd.read_csv(screen / "BBBC021_v1_image.csv")
    seen = set()
    for channel, wavelength in (("DAPI", "_w1"), ("Tubulin", "_w2"), ("Actin", "_w4")):
        for path, name in zip(
            table[f"Image_PathName_{channel}"], table[f"Image_FileName_{channel}"], strict=True
        ):
            assert wavelength in name
            image = tifffile.imread(screen / path / name)
            assert image.dtype == np.uint16
            assert image.shape == (SIZE, SIZE)
            assert image.std() > 10
            seen.add(image.tobytes())
    assert len(seen) == 3 * len(table)


def test_workers_do_not_matter(screen, tiny_layout, tmp_path, monkeypatch):
    monkeypatch.setattr("wsdino.simulate.write.CHUNK", 3)
    other = simulate(tmp_path / "two", layout=tiny_layout, size=SIZE, seed=3, workers=2)
    assert pixels(other) == pixels(screen)
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv", "spec.json", "truth.parquet"):
        assert (other / name).read_bytes() == (screen / name).read_bytes()


def test_another_seed_gives_other_pixels(screen, tiny_layout, tmp_path):
    other = pixels(simulate(tmp_path / "s", layout=tiny_layout, size=SIZE, seed=4, workers=1))
    first = pixels(screen)
    assert other.keys() == first.keys()
    assert not any(other[name] == first[name] for name in first)


def test_resumes_what_is_missing_and_keeps_the_rest(tiny_layout, tmp_path):
    out = tmp_path / "out"
    simulate(out, layout=tiny_layout, size=SIZE, workers=1)
    before = pixels(out)
    gone, *kept = sorted(before)
    stamps = {name: (out / name).stat().st_mtime_ns for name in kept if name.parent != gone.parent}
    (out / gone).unlink()
    (out / "BBBC021_v1_image.csv").unlink()
    simulate(out, layout=tiny_layout, size=SIZE, workers=1)
    assert pixels(out) == before
    assert (out / "BBBC021_v1_image.csv").is_file()
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert not list(out.rglob(".partial-*"))


def test_killed_runs_go_on_to_the_same_files(tiny_layout, tmp_path, monkeypatch):
    arguments = ["--layout", tiny_layout, "--size", 128, "--seed", 3, "--workers", 2]
    monkeypatch.setattr("wsdino.simulate.write.CHUNK", 1)
    whole = simulate(tmp_path / "whole", layout=tiny_layout, size=128, seed=3, workers=1)
    process = start(
        *("simulate", "--out", tmp_path / "killed", *arguments),
        code=f"import os; os.setsid(); {COMMAND}",
    )
    deadline = time.monotonic() + 250
    while not list(tmp_path.glob("killed/**/*.tif")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert not (tmp_path / "killed" / "BBBC021_v1_image.csv").exists()
    (
        tmp_path / "killed" / next(iter(pixels(whole))).parent / ".partial-0123456789ab-half.tif"
    ).touch()
    simulate(tmp_path / "killed", layout=tiny_layout, size=128, seed=3, workers=1)
    assert pixels(tmp_path / "killed") == pixels(whole)
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv", "spec.json", "truth.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes()
    assert not list(tmp_path.rglob(".partial-*"))


def test_a_script_that_every_worker_runs_again_is_told(tiny_layout, tmp_path):
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(
        "from wsdino.simulate import simulate\n"
        f"simulate({str(out)!r}, layout={str(tiny_layout)!r}, size={SIZE}, workers=2)\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("wsdino.errors.InputError: no process that draws could start")
    assert 'below if __name__ == "__main__":, or give workers=1' in last
    assert "writing there" not in done.stderr
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize(
    "change",
    [{"seed": 9}, {"size": 48}, {"zoom": 0.5}, {"sites": 1}, {"difficulty": Difficulty(edge=0)}],
    ids=lambda change: next(iter(change)),
)
def test_refuses_the_folder_of_another_screen(screen, tiny_layout, change):
    arguments = {"layout": tiny_layout, "size": SIZE, "seed": 3, **change}
    with pytest.raises(OutputError, match="holds a screen simulated with"):
        simulate(screen, workers=1, **arguments)


def test_names_the_number_that_differs(screen, tiny_layout):
    other = Difficulty.of(["edge=0.25"])
    with pytest.raises(OutputError, match=r"with difficulty edge 0\.5, not 0\.25; give another"):
        simulate(screen, layout=tiny_layout, size=SIZE, seed=3, difficulty=other, workers=1)


def test_a_difficulty_is_given_by_name_too(tiny_layout, tmp_path):
    hard = Difficulty.of(["hard"])
    for name, difficulty in (("named", "hard"), ("numbers", hard)):
        simulate(
            tmp_path / name, layout=tiny_layout, size=32, sites=1, difficulty=difficulty, workers=1
        )
    assert pixels(tmp_path / "named") == pixels(tmp_path / "numbers")
    with pytest.raises(InputError, match="did you mean hard"):
        simulate(tmp_path / "no", layout=tiny_layout, difficulty="hrad")
    assert not (tmp_path / "no").exists()


def test_refuses_a_folder_with_something_else(tiny_layout, tmp_path):
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="holds no simulated screen"):
        simulate(tmp_path, layout=tiny_layout, size=SIZE)
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "spec.json").write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match=r"spec\.json"):
        simulate(tmp_path, layout=tiny_layout, size=SIZE)
    with pytest.raises(OutputError, match="exists"):
        simulate(tmp_path / "spec.json", layout=tiny_layout, size=SIZE)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 8}, "size: 8"),
        ({"zoom": 0.0}, "zoom: 0.0"),
        ({"sites": 0}, "sites: 0"),
        ({"workers": 0}, "workers: 0"),
        ({"layout": "large"}, "large"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, match):
    with pytest.raises(InputError, match=match) as caught:
        simulate(tmp_path / "out", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("column", ["Metadata_Plate", "Metadata_Batch"])
@pytest.mark.parametrize("name", ["../outside", "..", "a/b", "a\\b", "/tmp/x"])
def test_a_layout_names_no_place_outside(tiny_layout, tmp_path, column, name):
    table = pd.read_csv(tiny_layout)
    table.loc[3, column] = name
    table.to_csv(tmp_path / "layout.csv", index=False)
    with pytest.raises(ManifestError, match=rf"layout.csv: {column} is ") as caught:
        simulate(tmp_path / "in" / "out", layout=tmp_path / "layout.csv", size=SIZE)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["layout.csv"]


def test_command_line(tiny_layout, tmp_path):
    command = ("simulate", "--layout", tiny_layout, "--size", 32, "--workers", 1, "--sites", 1,
               "--zoom", 0.5)  # fmt: skip
    settings = ("--difficulty", "effect=0.5", "--difficulty", "hard", "--difficulty", "edge=0")
    assert ended(*command, *settings, "--out", tmp_path / "out")[0] == 0
    spec = json.loads((tmp_path / "out" / "spec.json").read_text(encoding="utf-8"))
    assert (spec["num_sites"], spec["zoom"], spec["size"]) == (8, 0.5, 32)
    hard = Difficulty.of(["hard"])
    assert spec["difficulty"] == asdict(replace(hard, effect=0.5, edge=0.0))
    status, _, err = ended(*command, "--difficulty", "efect=1", "--out", tmp_path / "no")
    assert status == 2
    assert err.startswith(
        "wsdino: difficulty 'efect=1': no such parameter, did you mean effect?; give one of "
    )
    assert err.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_batches_vary_more_than_plates():
    layout = layout_table("bbbc021", sites=1)
    quiet = replace(
        Difficulty(), well_gain=0, well_blur=0, well_density=0, well_background=0, edge=0
    )
    sites = describe_sites(layout, quiet, seed=0, size=SIZE)
    table = pd.DataFrame({
        "batch": layout["batch"], "plate": layout["plate"],
        **{f"gain{c}": [np.log(s.optics.gain[c]) for s in sites] for c in range(3)},
        **{f"blur{c}": [np.log(s.optics.blur[c]) for s in sites] for c in range(3)},
        **{f"background{c}": [np.log(s.optics.background[c]) for s in sites] for c in range(3)},
        "density": [np.log(s.traits[INDEX["density"]]) for s in sites],
    })[layout["compound"] == "DMSO"]  # fmt: skip
    plates = table.groupby(["batch", "plate"]).median()
    within = plates.groupby("batch").var().mean()
    between = plates.groupby("batch").mean().var()
    assert (within > 0).all()
    assert np.exp(np.log(between / within).mean()) > 1.5


def test_each_batch_responds_in_its_own_way():
    layout = layout_table("bbbc021", sites=1)
    usual, same = (
        describe_sites(layout, replace(Difficulty(), batch_response=r), seed=0, size=SIZE)
        for r in (0.6, 0.0)
    )
    treated = [(a.compound, b.compound) for a, b in zip(usual, same, strict=True) if a.compound]
    # a few traits no compound changes but by its mechanism
    varied = np.all([plain.effects != 0 for _, plain in treated], axis=0)
    factors = pd.DataFrame(
        [np.log(a.effects[varied] / b.effects[varied]) for a, b in treated],
        index=layout.loc[layout["compound"] != "DMSO", "batch"],
    )
    by_batch = factors.groupby(level=0)
    assert (by_batch.std().max() < 1e-9).all(), "all compounds of a batch alike"
    means = by_batch.mean().to_numpy()
    assert means.std() == pytest.approx(0.6, rel=0.1)
    alike = np.corrcoef(means)[~np.eye(len(means), dtype=bool)]
    assert abs(alike).max() < 0.6, "batches apart"


def test_artefacts_come_at_their_rate():
    layout = layout_table("bbbc021")
    d = replace(Difficulty(), defocus_rate=0.1, debris_rate=0.5)
    sites = describe_sites(layout, d, seed=0, size=512)
    blurred = np.mean([min(site.optics.blur) > 1.5 for site in sites])
    assert blurred == pytest.approx(0.1, abs=0.03)
    assert np.mean([site.debris for site in sites]) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("name", [field.name for field in fields(Difficulty)])
def test_every_difficulty_parameter_matters(tiny_layout, name):
    layout = layout_table(tiny_layout)
    base = replace(Difficulty.of(["hard"]), defocus_rate=0.5, debris_rate=20.0)
    changed = replace(base, **{name: 0.0})
    images = [
        [render(site, seed=1, size=SIZE) for site in describe_sites(layout, d, seed=1, size=SIZE)]
        for d in (base, changed)
    ]
    assert not np.array_equal(*images)


def test_zoom_enlarges_nuclei(tiny_layout):
    site = describe_sites(layout_table(tiny_layout), Difficulty(), seed=0, size=SIZE)[0]
    plain = replace(site, debris=0)
    bright = [
        (render(plain, seed=0, size=size, zoom=zoom)[0] > 1500).sum()
        for size, zoom in ((128, 1.0), (256, 2.0))
    ]
    assert bright[1] == pytest.approx(4 * bright[0], rel=0.25)


def test_truth_tells_what_was_done(screen):
    truth = pd.read_parquet(screen / "truth.parquet")
    manifest = read_manifest(screen)
    for name in ("Plate", "Well", "Site", "Compound", "Concentration", "Control"):
        assert (truth[f"Metadata_{name}"].to_numpy() == manifest[f"Metadata_{name}"]).all()
    control = truth["Metadata_Control"]
    effects = truth.filter(like="effect_")
    assert (truth.loc[control, ["activity", "penetrance", "strength"]] == 0).all(axis=None)
    assert (effects[control] == 0).all(axis=None)
    assert truth.loc[control, "ec50"].isna().all()
    strong = truth[truth["Metadata_Concentration"] == 3.0]
    weak = truth[truth["Metadata_Concentration"] == 0.03]
    assert strong["activity"].min() > weak["activity"].max() > 0
    assert (strong["effect_mitotic"] > 0.1).all()
    expected = 1 / (1 + (weak["ec50"] / 0.03) ** 1.6)
    np.testing.assert_allclose(weak["activity"], expected)
    # sites of a well share everything but artefacts; wells of a plate don't
    wells = truth.groupby(["Metadata_Plate", "Metadata_Well"])
    assert (wells["trait_cell_radius"].nunique() == 1).all()
    assert truth["trait_cell_radius"].nunique() == len(wells)


def test_spec_records_the_parameters(screen):
    spec = json.loads((screen / "spec.json").read_text(encoding="utf-8"))
    assert (spec["seed"], spec["size"], spec["num_sites"]) == (3, SIZE, 16)
    assert spec["difficulty"]["effect"] == Difficulty().effect


def test_fields_can_be_wider_than_high(tiny_layout, screen, tmp_path):
    """As most cameras' are: the middle rows of the square field, pixel for pixel."""
    out = simulate(tmp_path / "wide", layout=tiny_layout, size=SIZE, height=40, seed=3, workers=1)
    for name, path in ((p.relative_to(out), p) for p in sorted(out.rglob("*.tif"))):
        np.testing.assert_array_equal(tifffile.imread(path), tifffile.imread(screen / name)[12:52])
    with pytest.raises(OutputError, match="simulated with height 40, not None"):
        simulate(out, layout=tiny_layout, size=SIZE, seed=3)
    for height in (8, 65):
        with pytest.raises(InputError, match=r"height: .* give 32 to 64, the size"):
            simulate(tmp_path / "other", layout=tiny_layout, size=SIZE, height=height)
    # What was begun before there were heights goes on.
    described = json.loads((screen / "spec.json").read_text(encoding="utf-8"))
    del described["height"]
    before = shutil.copytree(screen, tmp_path / "before")
    (before / "spec.json").write_text(json.dumps(described), encoding="utf-8")
    simulate(before, layout=tiny_layout, size=SIZE, seed=3, workers=1)
