"""Illumination: what is planted is found, what is given is applied, the paper's way is its own."""

from __future__ import annotations

import csv
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from helpers_bucket import NEEDS_REMOTE
from helpers_run import call
from helpers_screen import write_bbbc021_folder, write_rows
from wsdino.errors import ImageError, InputError, OutputError
from wsdino.screen.correction import Correction, Shading, corrected, resized
from wsdino.screen.estimators import PaperMedian, SmoothFit
from wsdino.screen.illumination import METHODS, illumination_method
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import channels_of, read_manifest
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsdino.screen.store import Store


def lamp_of(height: int, width: int, *, centre: tuple[float, float], fall: float) -> np.ndarray:
    """A lamp off the middle of the field, with a mean of 1."""
    y = (2 * np.arange(height)[:, None] + 1) / height - 1 - centre[0]
    x = (2 * np.arange(width) + 1) / width - 1 - centre[1]
    lamp = np.exp(-fall * (y**2 + x**2))
    return lamp / lamp.mean()


def cells_of(
    rng: np.random.Generator, height: int, width: int, background: float = 150
) -> np.ndarray:
    """Many small cells, also across the edges, on a background: what an even lamp would show."""
    margin = 20
    shape = (height + 2 * margin, width + 2 * margin)
    points = rng.lognormal(0, 0.4, shape) * (rng.random(shape) < 1 / 100)
    light = 30_000 * gaussian_filter(points, 2.5)[margin:-margin, margin:-margin]
    return rng.lognormal(0, 0.2) * (background * rng.uniform(0.8, 1.2) + light)


def expose(light: np.ndarray, lamp: np.ndarray, offset: float, rng: np.random.Generator) -> Any:
    mean = offset + lamp * light
    return np.rint(mean + rng.normal(0, np.sqrt(2 * mean + 36))).clip(0, 65535).astype(np.uint16)


# Centre and fall of the lamp, the camera's offset, and the background's light.
PLANTED = {
    "DAPI": ((-0.2, 0.15), 0.25, 0.0, 150.0),
    "Actin": ((0.1, -0.3), 0.15, 400.0, 150.0),
    "Dark": ((0.2, 0.0), 0.2, 300.0, 0.0),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plates of 60 sites, 256 x 320 px; the second plate's lamps are the first's, mirrored."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    rows = []
    for plate in ("P1", "P2"):
        for site in range(60):
            row: dict[str, Any] = {
                "Metadata_Plate": plate,
                "Metadata_Well": f"B{site // 4 + 2:02d}",
                "Metadata_Site": site % 4 + 1,
                "Metadata_Batch": "one",
                "Metadata_Compound": "DMSO" if site < 8 else f"compound {site // 4}",
                "Metadata_Concentration": 0 if site < 8 else 1,
            }
            for channel, (_, _, offset, background) in PLANTED.items():
                lamp = planted_lamp(plate, channel)
                image = expose(cells_of(rng, *lamp.shape, background), lamp, offset, rng)
                row[f"FileName_{channel}"] = f"{plate}_{site}_{channel}.tif"
                tifffile.imwrite(folder / row[f"FileName_{channel}"], image)
            rows.append(row)
    write_rows(folder / "manifest.csv", rows)
    return folder


@pytest.fixture(scope="module")
def smooth(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The corrected store of these plates, not to be changed."""
    out = tmp_path_factory.mktemp("smooth") / "store"
    return ingest(planted / "manifest.csv", out, illumination="smooth")


def planted_lamp(plate: str, channel: str) -> np.ndarray:
    centre, fall, _, _ = PLANTED[channel]
    lamp = lamp_of(256, 320, centre=centre, fall=fall)
    return lamp if plate == "P1" else lamp[::-1, ::-1]


def unevenness(values: np.ndarray) -> float:
    """Root mean square of the relative deviation from the mean."""
    return float(values.std() / values.mean())


def test_planted_lamps_are_taken_out(smooth: Store) -> None:
    for plate in ("P1", "P2"):
        folder = smooth.path / "illumination" / "one" / plate
        record = json.loads((folder / "functions.json").read_text(encoding="utf-8"))
        assert (record["method"], record["num_sites"]) == ("smooth", 60)
        for channel, (_, _, offset, _) in PLANTED.items():
            lamp, function = planted_lamp(plate, channel), np.load(folder / f"{channel}.npy")
            assert (function.dtype, function.shape) == (np.float32, (256, 320))
            assert unevenness(lamp) > 0.06
            assert unevenness(function / lamp) < 0.02
            found = record["channels"][channel]["offset"]
            assert abs(found - offset) < 30
            # What counts is what is left in dim and in bright pixels.
            for light in (150, 600, 4000):
                left = ((offset + lamp * light) - found) / function
                assert unevenness(left) < 0.02


def test_a_store_holds_the_corrected_pixels(planted: Path, smooth: Store, tmp_path: Path) -> None:
    store, manifest = smooth, read_manifest(planted / "manifest.csv")
    row = 77
    plate = manifest["Metadata_Plate"][row]
    folder = store.path / "illumination" / "one" / plate
    record = json.loads((folder / "functions.json").read_text(encoding="utf-8"))["channels"]
    for index, channel in enumerate(PLANTED):
        raw = tifffile.imread(planted / manifest[f"FileName_{channel}"][row]).astype(float)
        offset = record[channel]["offset"]
        expected = (raw - offset) / np.load(folder / f"{channel}.npy") + offset
        gap = np.abs(store[row][index] - expected.clip(0, 65535))
        assert gap.max() < 0.51
    assert store.attributes["correction"]["illumination"] == "smooth"
    # The means over a plate are even now.
    lit = np.flatnonzero(manifest["Metadata_Plate"] == "P1")
    blocks = store.read(lit).mean(axis=0).reshape(3, 4, 64, 4, 80).mean(axis=(2, 4))
    raw = open_store(_plain(planted, tmp_path)).read(lit).mean(axis=0)
    before = raw.reshape(3, 4, 64, 4, 80).mean(axis=(2, 4))
    for channel in range(3):
        assert unevenness(blocks[channel]) < 0.6 * unevenness(before[channel])


def _plain(planted: Path, tmp_path: Path) -> Path:
    ingest(planted / "manifest.csv", tmp_path / "plain")
    return tmp_path / "plain"


def test_even_lamps_stay_even_and_few_sites_say_little() -> None:
    rng = np.random.default_rng(1)
    for num in (1, 2, 12):
        fit = SmoothFit()
        for site in range(num):
            fit.add(site, expose(cells_of(rng, 128, 160), np.ones((128, 160)), 100, rng)[None])
        estimate = fit.estimate()
        assert unevenness(estimate.functions) < 0.04
        assert np.isfinite(estimate.functions).all()
    black = SmoothFit()
    black.add(0, np.zeros((2, 40, 50), np.uint8))
    np.testing.assert_array_equal(black.estimate().functions, np.ones((2, 40, 50)))
    assert black.estimate().offsets == (0.0, 0.0)


@pytest.mark.parametrize("estimator", [SmoothFit, PaperMedian])
def test_the_order_of_sites_is_of_no_consequence(estimator: Callable[[], Any]) -> None:
    rng = np.random.default_rng(2)
    sites = rng.integers(50, 900, (6, 2, 48, 64), dtype=np.uint16)
    estimates = []
    for order in (range(6), reversed(range(6))):
        own = estimator()
        for site in order:
            own.add(site, sites[site])
        estimates.append(own.estimate())
    np.testing.assert_array_equal(estimates[0].functions, estimates[1].functions)
    assert estimates[0].offsets == estimates[1].offsets


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_papers_way_is_that_of_its_pipeline(dtype: type) -> None:
    """Mean, median over a disk of size / 2.35 px, robust minimum: pixel by pixel."""
    rng = np.random.default_rng(3)
    top = np.iinfo(dtype).max
    sites = rng.integers(0, top // 8, (5, 1, 19, 26), dtype=dtype)
    own = PaperMedian(filter_size=12)
    for site, pixels in enumerate(sites):
        own.add(site, pixels)
    mean = np.floor(sites[:, 0].astype(float).mean(axis=0) / top * 65535 + 1e-9)
    radius = 5  # int(12 / 2.35 + 0.5)
    smooth = np.empty_like(mean)
    for y in range(19):
        for x in range(26):
            near = [
                mean[j, i]
                for j in range(19)
                for i in range(26)
                if (j - y) ** 2 + (i - x) ** 2 <= radius**2
            ]
            # Of an even number the rank filter takes the upper of the two middle values.
            smooth[y, x] = sorted(near)[len(near) // 2]
    positive = np.sort(smooth[smooth > 0])
    minimum = positive[int(0.02 * len(positive))]
    expected = np.maximum(smooth, minimum) / minimum
    found = own.estimate()
    np.testing.assert_allclose(found.functions[0], expected, rtol=1e-6)
    assert found.functions.min() == 1
    assert found.offsets == (0.0,)
    assert PaperMedian().radius_px == 136


def test_the_papers_way_on_plates(planted: Path, tmp_path: Path) -> None:
    """Fields smaller than the filter are nearly even to it; it divides and halves them."""
    store = ingest(planted / "manifest.csv", tmp_path / "store", illumination="paper", scale=0.5)
    assert store.field_shape == (128, 160)
    manifest, row = read_manifest(planted / "manifest.csv"), 11
    folder = tmp_path / "store" / "illumination" / "one" / "P1"
    for index, channel in enumerate(PLANTED):
        function = np.load(folder / f"{channel}.npy")
        assert function.min() == 1
        raw = tifffile.imread(planted / manifest[f"FileName_{channel}"][row])
        expected = naive_half((raw / function).clip(0, 65535))
        assert np.abs(store[row][index] - expected).max() < 0.6


def naive_half(image: np.ndarray) -> np.ndarray:
    """Halve by its definition: Gaussian of half a pixel, cubic convolution between pixels."""
    smooth = gaussian_filter(image.astype(float), 0.5, mode="reflect")
    padded = np.pad(smooth, 2, mode="symmetric")
    taps = np.array([-1, 9, 9, -1]) / 16  # Catmull-Rom, half way between two pixels
    rows = sum(t * padded[i + 1 : i + 1 + image.shape[0] : 2] for i, t in enumerate(taps))
    both = sum(t * rows[:, i + 1 : i + 1 + image.shape[1] : 2] for i, t in enumerate(taps))
    return np.asarray(both).clip(smooth.min(), smooth.max())


def test_halving_is_cubic_convolution() -> None:
    image = np.random.default_rng(4).integers(0, 65535, (38, 50)).astype(np.float32)
    found = resized(image, (19, 25))
    np.testing.assert_allclose(found, naive_half(image), rtol=1e-4, atol=0.5)
    flat = np.full((30, 41), 777, np.float32)
    np.testing.assert_allclose(resized(flat, (13, 20)), 777, rtol=1e-6)


def test_pixels_are_clipped_to_their_type(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.array([[0.5, 1.0], [2.0, 4.0]]))
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        pixels = np.full((2, 2, 2), top, dtype)
        found = corrected(pixels, (Shading(tmp_path / "f.npy", 0.0), None), scale=1)
        assert found.dtype == dtype
        half, quarter = round(top / 2), round(top / 4)
        np.testing.assert_array_equal(found[0], [[top, top], [half, quarter]])
        np.testing.assert_array_equal(found[1], pixels[1])
        low = corrected(pixels // 8, (Shading(tmp_path / "f.npy", float(top)), None), scale=1)
        assert low[0, 0, 0] == 0
        assert corrected(pixels, (None, None), scale=1) is pixels


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """CellProfiler's LoadData with functions of two of three channels, in a folder beside it."""
    folder = tmp_path / "gallery"
    (folder / "illum").mkdir(parents=True)
    rng = np.random.default_rng(5)
    rows = []
    for plate in ("BR1", "BR2"):
        for channel in ("DNA", "ER"):
            function = rng.uniform(0.5, 2, (20, 24))
            np.save(folder / "illum" / f"{plate}_Illum{channel}.npy", function)
        for well in ("A01", "B02"):
            row = {
                "FileName_IllumDNA": f"{plate}_IllumDNA.npy",
                "PathName_IllumDNA": "illum",
                "FileName_IllumER": f"{plate}_IllumER.npy",
                "PathName_IllumER": "illum",
                "Metadata_Plate": plate,
                "Metadata_Well": well,
                "Metadata_Site": 1,
                "Metadata_Compound": "DMSO" if well == "A01" else "taxol",
            }
            for channel in ("OrigDNA", "ER", "OrigRNA"):
                row[f"FileName_{channel}"] = f"{plate}{well}{channel}.tif"
                image = rng.integers(0, 60_000, (20, 24), dtype=np.uint16)
                tifffile.imwrite(folder / row[f"FileName_{channel}"], image)
            rows.append(row)
    write_rows(folder / "load_data.csv", rows)
    return folder / "load_data.csv"


def expected_site(table: Path, row: int, *, functions: bool) -> np.ndarray:
    manifest = read_manifest(table)
    planes = []
    for channel, name in (("OrigDNA", "IllumDNA"), ("ER", "IllumER"), ("OrigRNA", None)):
        plane = tifffile.imread(table.parent / manifest[f"FileName_{channel}"][row]).astype(float)
        if name and functions:
            plane /= np.load(table.parent / "illum" / manifest[f"FileName_{name}"][row])
        planes.append(plane.clip(0, 65535))
    return np.stack(planes)


@pytest.mark.parametrize("illumination", [None, "given", "none", "smooth"])
def test_given_functions_divide_and_are_no_channels(
    table: Path, tmp_path: Path, illumination: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {} if illumination is None else {"illumination": illumination}
    manifest = read_manifest(table)
    assert channels_of(manifest) == ["OrigDNA", "ER", "OrigRNA"]
    capsys.readouterr()
    store = ingest(table, tmp_path / "store", **options)
    assert store.channels == ("OrigDNA", "ER", "OrigRNA")
    told = capsys.readouterr().err
    done = "not applied" if illumination == "none" else "applied"
    assert f"the table's IllumDNA, IllumER are {done}" in told
    for row in range(4):
        expected = expected_site(table, row, functions=illumination != "none")
        channels = slice(0, 2) if illumination == "smooth" else slice(0, 3)
        gap = np.abs(store[row] - expected)[channels]
        assert gap.max() < 0.51
    assert (tmp_path / "store" / "illumination").exists() == (illumination == "smooth")


def test_a_function_that_changes_changes_its_plate(table: Path, tmp_path: Path) -> None:
    ingest(table, tmp_path / "store")
    chunks = sorted((tmp_path / "store" / "images.zarr").glob("c.*"))
    before = [chunk.stat().st_mtime_ns for chunk in chunks]
    ingest(table, tmp_path / "store")
    assert [chunk.stat().st_mtime_ns for chunk in chunks] == before
    # As a copy that keeps its old time may be: which of two is older says nothing.
    function = table.parent / "illum" / "BR2_IllumER.npy"
    np.save(function, np.full((20, 24), 3.0))
    os.utime(function, (1e9, 1e9))
    store = ingest(table, tmp_path / "store")
    changed = [chunk.stat().st_mtime_ns != old for chunk, old in zip(chunks, before, strict=True)]
    assert changed == [False, False, True, True]
    for row in range(4):
        assert np.abs(store[row] - expected_site(table, row, functions=True)).max() < 0.51


def test_a_store_that_was_copied_is_as_current_as_before(planted: Path, tmp_path: Path) -> None:
    """Times of estimated functions are of no consequence; a function that is not its own is."""
    screen, out = shutil.copytree(planted, tmp_path / "screen"), tmp_path / "copy"
    first = ingest(screen / "manifest.csv", tmp_path / "store", illumination="smooth")
    for path in shutil.copytree(tmp_path / "store", out).rglob("*"):
        os.utime(path)
    chunk, function = out / "images.zarr" / "c.5.0.0.0", out / "illumination" / "one" / "P1"
    before = chunk.stat().st_mtime_ns
    ingest(screen / "manifest.csv", out, illumination="smooth")
    assert chunk.stat().st_mtime_ns == before
    # Where there is something to do, a plate's functions must be what they were estimated as.
    kept = (function / "DAPI.npy").read_bytes()
    np.save(function / "DAPI.npy", np.full((256, 320), 2, np.float32))
    (out / "images.zarr" / "c.7.0.0.0").unlink()
    again = ingest(screen / "manifest.csv", out, illumination="smooth")
    assert (function / "DAPI.npy").read_bytes() == kept
    assert chunk.stat().st_mtime_ns == before
    np.testing.assert_array_equal(again[7], first[7])
    # Without its images it is whole still.
    for image in screen.glob("*.tif"):
        image.unlink()
    assert len(ingest(screen / "manifest.csv", out, illumination="smooth")) == 120


def test_names_that_differ_only_by_case_have_files_of_their_own(tmp_path: Path) -> None:
    """As on macOS, where `er.npy` would replace `ER.npy`."""
    rows, rng = [], np.random.default_rng(0)
    for plate, level in (("P1", 400), ("p1", 900)):
        for site in range(1, 5):
            row = {"Metadata_Plate": plate, "Metadata_Well": "A01", "Metadata_Site": site}
            row |= {"Metadata_Batch": "one", "Metadata_Compound": "DMSO"}
            for channel, factor in (("ER", 1), ("er", 2)):
                pixels = rng.poisson(level * factor, (48, 48)).astype(np.uint16)
                row[f"FileName_{channel}"] = f"{plate}_{site}_{factor}_{level}.tif"
                tifffile.imwrite(tmp_path / row[f"FileName_{channel}"], pixels)
            rows.append(row)
    write_rows(tmp_path / "manifest.csv", rows)
    ingest(tmp_path / "manifest.csv", tmp_path / "store", illumination="smooth")
    folder = tmp_path / "store" / "illumination"
    files = {str(path.relative_to(folder)).casefold() for path in folder.rglob("*.npy")}
    assert len(files) == 4
    for record in folder.rglob("*.json"):
        for name, known in json.loads(record.read_text(encoding="utf-8"))["channels"].items():
            assert known["file"].startswith(name)
    chunk = tmp_path / "store" / "images.zarr" / "c.7.0.0.0"
    before = chunk.stat().st_mtime_ns
    ingest(tmp_path / "manifest.csv", tmp_path / "store", illumination="smooth")
    assert chunk.stat().st_mtime_ns == before


def edited(table: Path, change: Callable[[dict[str, str]], None]) -> Path:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    write_rows(table, rows)
    return table


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (np.ones((24, 20)), "BR1_IllumDNA.npy: the illumination function is 24 x 20, and the "),
        (np.zeros((20, 24)), "BR1_IllumDNA.npy: an illumination function must be positive"),
        (np.full((20, 24), np.nan), "BR1_IllumDNA.npy: an illumination function must be positive"),
        (b"no array", "BR1_IllumDNA.npy: not a readable illumination function"),
        (None, "BR1_IllumDNA.npy (channel IllumDNA, plate BR1, well A01, site 1) does not exist"),
    ],
)
def test_functions_that_fit_not_are_refused(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    function: Any,
    line: str,
) -> None:
    path = table.parent / "illum" / "BR1_IllumDNA.npy"
    if function is None:
        path.unlink()
    elif isinstance(function, bytes):
        path.write_bytes(function)
    else:
        np.save(path, function)
    assert call(monkeypatch, "ingest", table, "--out", tmp_path / "store") == 2
    told = [text for text in capfd.readouterr().err.splitlines() if text.startswith("wsdino: ")]
    assert len(told) == 1
    assert line in told[0]


def test_a_function_of_no_channel_is_said(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(row: dict[str, str]) -> None:
        row["FileName_IllumBrightfield"] = row["FileName_IllumER"]
        row["PathName_IllumBrightfield"] = "illum"

    store = ingest(edited(table, change), tmp_path / "store")
    said = "illumination: no channel has the name of IllumBrightfield, so not applied"
    assert said in capsys.readouterr().err
    assert store.channels == ("OrigDNA", "ER", "OrigRNA")

    def urls(row: dict[str, str]) -> None:
        for name in ("IllumDNA", "IllumER", "IllumBrightfield"):
            del row[f"FileName_{name}"], row[f"PathName_{name}"]
        row["URL_IllumDNA"] = "s3://bucket/IllumDNA.npy"

    pytest.importorskip("s3fs", reason=NEEDS_REMOTE)
    # Nobody listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ImageError, match=r"s3://bucket/IllumDNA.npy: can't be looked up"):
        ingest(edited(table, urls), tmp_path / "other")


def test_a_stopped_ingest_goes_on_plate_by_plate(
    planted: Path, smooth: Store, tmp_path: Path
) -> None:
    screen, out, whole = tmp_path / "screen", tmp_path / "store", smooth
    shutil.copytree(planted, screen)
    damaged = screen / "P2_7_DAPI.tif"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:1000])
    with pytest.raises(ImageError, match=r"P2_7_DAPI.tif: damaged"):
        ingest(screen / "manifest.csv", out, illumination="smooth", workers=1)
    first = out / "illumination" / "one" / "P1" / "functions.json"
    written = first.stat().st_mtime_ns
    assert not (out / "illumination" / "one" / "P2").exists()
    damaged.write_bytes(content)
    store = ingest(screen / "manifest.csv", out, illumination="smooth", workers=2)
    assert first.stat().st_mtime_ns == written
    np.testing.assert_array_equal(store.read(range(120)), whole.read(range(120)))
    # A mended image changes what all sites of its plate are divided by, and those alone.
    tifffile.imwrite(damaged, np.zeros((256, 320), np.uint16))
    again = ingest(screen / "manifest.csv", out, illumination="smooth")
    assert first.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.read(range(60)), whole.read(range(60)))
    assert (
        (again.read(range(60, 120))[:, 0] != whole.read(range(60, 120))[:, 0])
        .any(axis=(1, 2))
        .all()
    )
    # Finished, it needs neither images nor functions any more.
    shutil.rmtree(out / "illumination")
    for image in screen.glob("*.tif"):
        image.unlink()
    assert len(ingest(screen / "manifest.csv", out, illumination="smooth")) == 120


def test_another_correction_is_another_store(tmp_path: Path) -> None:
    source = write_bbbc021_folder(tmp_path / "screen", num_weeks=1, num_plates=1)
    ingest(source, tmp_path / "store")
    for options in ({"illumination": "paper"}, {"scale": 0.5}):
        with pytest.raises(OutputError, match=r"illumination none and scale 1, and .* are wanted"):
            ingest(source, tmp_path / "store", **options)
    # Without functions in the table, given is none: stores of before stay what they are.
    ingest(source, tmp_path / "store", illumination="none")
    attributes = tmp_path / "store" / "images.zarr" / "zarr.json"
    described = json.loads(attributes.read_text(encoding="utf-8"))
    del described["attributes"]["correction"]
    attributes.write_text(json.dumps(described), encoding="utf-8")
    assert len(ingest(source, tmp_path / "store")) == 18
    half = ingest(source, tmp_path / "half", scale=0.5)
    assert half.field_shape == (32, 32)
    assert len(ingest(source, tmp_path / "half", scale=0.5)) == 18


def test_what_is_out_of_range_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for scale in (0, -1, 1.5, float("nan")):
        with pytest.raises(InputError, match="more than 0 and at most 1"):
            Correction(scale=scale)
    with pytest.raises(InputError, match="give one of none, given, paper, smooth"):
        illumination_method("basic")
    assert Correction(scale=0.5).shape((3, 1024, 1280)) == (512, 640)
    assert Correction(scale=0.001).shape((10, 10)) == (1, 1)
    assert call(monkeypatch, "ingest", tmp_path, "--out", "x", "--illumination", "basic") == 2
    assert "illumination 'basic'" in capfd.readouterr().err
    setting = ("--set", "screen.illumination=basic")
    assert call(monkeypatch, "run", "paper", *setting, "--out", tmp_path / "run") == 2
    assert "config key screen.illumination: illumination 'basic'" in capfd.readouterr().err
    assert call(monkeypatch, "ingest", "--help") == 0
    words = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for method in METHODS:
        assert f"{method.name}: " in words
