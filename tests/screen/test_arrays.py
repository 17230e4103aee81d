"""NumPy arrays of fields and crops, and files of microscopes' own formats."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_layouts import write_lif
from helpers_nd2 import write_nd2
from wsdino.errors import ImageError, InputError, TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PIXELS = np.random.default_rng(0).integers(1, 60_000, (6, 3, 20, 24)).astype(np.uint16)
TABLE = pd.DataFrame(
    {
        "Metadata_Plate": ["0012"] * 6,
        "Metadata_Well": ["A1", "A1", "B2", "B2", "B2", "C3"],
        "Metadata_Site": [1, 2, 1, 2, 3, 1],
        "Metadata_Compound": ["DMSO", "DMSO", "x", "x", "x", "y"],
    }
)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 2, 3, 1), PIXELS),
        (PIXELS[:, 0], PIXELS[:, :1]),
        ((PIXELS >> 8).astype(np.uint8), (PIXELS >> 8).astype(np.uint8)),
    ],
    ids=["channels first", "channels last", "one channel", "uint8"],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_array_and_its_table(
    tmp_path: Path, pixels: np.ndarray, expected: np.ndarray, suffix: str
) -> None:
    np.save(tmp_path / "fields.npy", pixels)
    if suffix == ".csv":
        TABLE.to_csv(tmp_path / "fields.csv", index=False)
    else:
        TABLE.to_parquet(tmp_path / "fields.parquet")
    store = ingest(tmp_path / "fields.npy", tmp_path / "store")
    np.testing.assert_array_equal(store.read(range(6)), expected)
    assert store.channels == tuple(f"channel_{i}" for i in range(expected.shape[1]))
    assert store.manifest["Metadata_Plate"].unique().tolist() == ["0012"]
    assert store.manifest["Metadata_Well"].tolist() == ["A01", "A01", "B02", "B02", "B02", "C03"]
    assert store.manifest["Metadata_Control"].tolist() == [True, True, *[False] * 4]


@pytest.mark.parametrize("beside", [False, True])
def test_an_archive_names_channels_and_may_hold_its_table(tmp_path: Path, beside: bool) -> None:
    columns = {} if beside else {n: TABLE[n].to_numpy(dtype=str) for n in TABLE}
    np.savez_compressed(
        tmp_path / "a.npz", images=PIXELS, channels=["DNA", "ER", "RNA"], other=[1, 2], **columns
    )
    if beside:
        TABLE.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    selection = Selection(channels=("RNA", "Nuclei=DNA"))
    store = ingest(tmp_path / "a.npz", tmp_path / "store", selection=selection)
    assert store.channels == ("RNA", "Nuclei")
    np.testing.assert_array_equal(store.read(range(6)), PIXELS[:, [2, 0]])
    assert store.manifest["Metadata_Site"].tolist() == [1, 2, 1, 2, 3, 1]
    # A changed archive is read anew.
    np.savez(tmp_path / "a.npz", images=PIXELS[::-1], channels=["DNA", "ER", "RNA"], **columns)
    again = ingest(tmp_path / "a.npz", tmp_path / "store", selection=selection)
    np.testing.assert_array_equal(again.read(range(6)), PIXELS[::-1][:, [2, 0]])


def test_crops_of_one_site_are_numbered_within_their_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "crops.npy", PIXELS)
    TABLE.assign(Metadata_Site=[1, 1, 1, 2, 2, 1]).to_csv(tmp_path / "crops.csv", index=False)
    found = read_manifest(tmp_path / "crops.npy")
    assert found["Metadata_Site"].tolist() == [1, 2, 1, 2, 3, 1]
    assert found["Metadata_Field"].tolist() == [1, 1, 1, 2, 2, 1]
    assert "several of one site, which is kept as Metadata_Field" in capsys.readouterr().err
    TABLE.drop(columns="Metadata_Site").to_csv(tmp_path / "crops.csv", index=False)
    assert read_manifest(tmp_path / "crops.npy")["Metadata_Site"].tolist() == [1, 2, 1, 2, 3, 1]


def test_a_table_may_name_an_array_for_each_site(tmp_path: Path) -> None:
    table = TABLE.copy()
    for i, image in enumerate(PIXELS):
        np.save(tmp_path / f"{i}.npy", image)
    for c in range(3):
        table[f"FileName_{c}"], table[f"Frame_{c}"] = [f"{i}.npy" for i in range(6)], c
    table.to_csv(tmp_path / "t.csv", index=False)
    store = ingest(tmp_path / "t.csv", tmp_path / "store")
    np.testing.assert_array_equal(store.read(range(6)), PIXELS)


@pytest.mark.parametrize(
    ("save", "line"),
    [
        ({"images": PIXELS[:5]}, "has 5 images, but its table has 6 rows"),
        ({"images": PIXELS[:, :, :4, :5]}, "the array is 6 x 3 x 4 x 5; it must be images x"),
        ({"images": PIXELS, "channels": ["a"]}, "has 3 channels, but names a"),
        ({"pixels": PIXELS}, "has no array named images; it has pixels"),
        ({"images": PIXELS.astype(np.float32)}, "pixels are float32; they must be uint8 or uint16"),
    ],
)
def test_arrays_that_are_wrong_are_one_line(
    tmp_path: Path, save: dict[str, np.ndarray], line: str
) -> None:
    np.savez(tmp_path / "a.npz", **save)
    TABLE.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match=line) as caught:
        ingest(tmp_path / "a.npz", tmp_path / "store")
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))
    assert not (tmp_path / "store").exists()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(TableError, match=r"a.npy: no table of its images; a.csv beside it must"):
        read_manifest(tmp_path / "a.npy")
    TABLE.drop(columns="Metadata_Well").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(TableError, match="its table has no column Metadata_Well"):
        read_manifest(tmp_path / "a.npy")
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"a.npz: damaged or incomplete: not an array"):
        read_manifest(tmp_path / "a.npz")


@pytest.mark.skipif(find_spec("bioio") is not None, reason="bioio is installed")
@pytest.mark.parametrize("suffix", [".czi", ".nd2", ".lif"])
def test_what_bioio_reads_says_how_to_install_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"P1_B04{suffix}"
    path.write_bytes(b"not read")
    for source in (path, tmp_path):
        with pytest.raises(InputError) as caught:
            read_manifest(source)
        assert str(caught.value) == (
            f"{path}: reading {suffix} files needs bioio: pip install 'wsdino[bioio]'"
        )


@pytest.mark.parametrize(
    ("needs", "name", "write"),
    [("bioio_lif", "scan.lif", write_lif), ("bioio_nd2", "scan.nd2", write_nd2)],
    ids=["LIF", "ND2"],
)
def test_files_whose_positions_are_named_by_wells(
    tmp_path: Path, needs: str, name: str, write: Callable[..., None]
) -> None:
    pytest.importorskip(needs)
    pixels = np.random.default_rng(1).integers(1, 60_000, (3, 3, 2, 6, 8)).astype(np.uint16)
    path = tmp_path / name
    positions = dict(zip(("B04", "Well C05", "p3-B04"), pixels, strict=True))
    write(path, positions, ("Red", "Far"))
    wells = pd.DataFrame({"Metadata_Well": ["B04", "C05"], "Metadata_Compound": ["x", "DMSO"]})
    with pytest.raises(ImageError, match="has 3 z planes, counted from 0; choose by --z 0"):
        ingest(path, tmp_path / "store", platemap=wells)
    for z, expected in ((1, pixels[:, 1]), ("max", pixels.max(axis=1))):
        store = ingest(path, tmp_path / f"store_{z}", platemap=wells, selection=Selection(z=z))
        assert store.manifest["Metadata_Well"].tolist() == ["B04", "B04", "C05"]
        np.testing.assert_array_equal(store.read(range(3)), expected[[0, 2, 1]])
    assert store.channels == ("Red", "Far")
    assert store.manifest["Metadata_Plate"].tolist() == ["scan"] * 3
    assert store.manifest["Metadata_Site"].tolist() == [1, 2, 1]
    assert store.manifest["Metadata_PixelSize"].tolist() == [0.5] * 3
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{name}: "):
        read_manifest(path, platemap=wells)


def test_czi_files_named_by_wells(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi")
    czi = pytest.importorskip("pylibCZIrw.czi")
    folder = tmp_path / "plate"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(1, 60_000, (3, 3, 2, 32, 40)).astype(np.uint16)
    names = ("B04_1", "B04_2", "C05_1")
    for name, stack in zip(names, pixels, strict=True):
        with czi.create_czi(str(folder / f"{name}.czi")) as writer:
            for z, c in np.ndindex(stack.shape[:2]):
                writer.write(stack[z, c][..., None], plane={"C": int(c), "Z": int(z), "T": 0})
    wells = pd.DataFrame({"Metadata_Well": ["B04", "C05"], "Metadata_Compound": ["x", "DMSO"]})
    with pytest.raises(ImageError, match="has 3 z planes, counted from 0; choose by --z 0"):
        ingest(folder, tmp_path / "store", platemap=wells)
    for z, expected in ((1, pixels[:, 1]), ("max", pixels.max(axis=1))):
        store = ingest(folder, tmp_path / f"store_{z}", platemap=wells, selection=Selection(z=z))
        np.testing.assert_array_equal(store.read(range(3)), expected)
    assert store.manifest["Metadata_Plate"].tolist() == ["plate"] * 3
    assert store.manifest["Metadata_Well"].tolist() == ["B04", "B04", "C05"]
    assert store.manifest["Metadata_Site"].tolist() == [1, 2, 1]
    selection = Selection(pattern=r"(?P<well>\w\d\d)_(?P<site>\d)\.czi", z=0)
    store = ingest(folder, tmp_path / "named", platemap=wells, selection=selection)
    np.testing.assert_array_equal(store.read(range(3)), pixels[:, 0])
    (folder / "B04_1.czi").rename(tmp_path / "scan.czi")
    with pytest.raises(TableError, match=r"scan.czi: neither its name nor that of its position"):
        read_manifest(tmp_path / "scan.czi", platemap=wells)
    (folder / "B04_1.czi").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"bioio has no reader of .czi files, or the file is"):
        read_manifest(folder, platemap=wells)
