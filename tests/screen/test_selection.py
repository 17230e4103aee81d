"""Which images are read: nothing is chosen unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_run import ended
from wsdino.config import load_config
from wsdino.errors import ConfigError, InputError, TableError
from wsdino.screen.images import Planes, read_site
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import channels_of, read_manifest
from wsdino.screen.selection import Selection, parse_z
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("OrigDNA", "OrigER", "Mito")


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """A LoadData table of two sites, with a row for each of 3 z planes at each of 2 time points.

    The first pixel says which image it is: channel, site, time point, z plane.
    """
    rows = []
    for site in (1, 2):
        for time in (0, 1):
            for z in (1, 2, 3):
                folder = tmp_path / f"z{z}"
                folder.mkdir(exist_ok=True)
                row = {
                    "Metadata_Plate": "P",
                    "Metadata_Well": "A01",
                    "Metadata_Site": site,
                    "Metadata_PlaneID": z,
                    "Metadata_TimepointID": time,
                    "Metadata_Compound": "DMSO",
                }
                for c, channel in enumerate(CHANNELS):
                    image = np.zeros((4, 6), np.uint16)
                    image[0, 0], image[1, z] = 1000 * c + 100 * site + 10 * time + z, 5
                    name = f"c{c}s{site}t{time}.tif"
                    tifffile.imwrite(folder / name, image)
                    row |= {f"FileName_{channel}": name, f"PathName_{channel}": f"z{z}"}
                rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "load_data.csv", index=False)
    return tmp_path / "load_data.csv"


def tags(manifest: pd.DataFrame) -> list[list[int]]:
    """First pixel of each channel of each site."""
    return [read_site(planes)[:, 0, 0].tolist() for planes in Planes(manifest)]


def test_planes_and_time_points_must_be_chosen(stacks: Path) -> None:
    for selection, line in (
        (
            None,
            r"sites have 3 z planes \(1, 2, 3\); choose one, as --z 1 or, for the maximum of all",
        ),
        (
            Selection(z=2),
            r"sites have 2 time points \(0, 1\); choose one, as --time 0 \(.*\)$",
        ),
        (Selection(z=4, time=0), r"--z 4 \(.*\): there are only 1, 2, 3"),
        (Selection(z=1, time=2), r"--time 2 \(.*\): there are only 0, 1"),
        (
            Selection(z=1, time=0, acquisition="1"),
            r"--acquisition 1 \(.*\): .* tell acquisitions apart",
        ),
    ):
        with pytest.raises(TableError, match=line) as caught:
            read_manifest(stacks, selection=selection)
        assert str(caught.value).startswith(str(stacks))
    found = read_manifest(stacks, selection=Selection(z=2, time=1))
    assert tags(found) == [[112, 1112, 2112], [212, 1212, 2212]]
    assert found["Metadata_Site"].tolist() == [1, 2]


def test_an_image_of_several_plates_is_refused(stacks: Path) -> None:
    table = pd.read_csv(stacks)
    table["Metadata_Plate"] = table["Metadata_Plate"].where(table.index != 3, '["P", "Q"]')
    table.to_csv(stacks, index=False)
    expected = r"Metadata_Plate is \['P', 'Q'\] in data row 4; an image has one, written as plain"
    with pytest.raises(TableError, match=expected):
        read_manifest(stacks, selection=Selection(z="2", time="0"))


def test_the_maximum_of_all_planes(stacks: Path, tmp_path: Path) -> None:
    selection = Selection(z="max", time=0)
    store = ingest(stacks, tmp_path / "store", selection=selection)
    assert store.read([0, 1])[:, :, 0, 0].tolist() == [[103, 1103, 2103], [203, 1203, 2203]]
    # Every plane has a bright pixel of its own.
    assert store.read([0])[0, 0, 1].tolist() == [0, 5, 5, 5, 0, 0]
    assert store.manifest["FileName_Mito"][0] == "z1/c2s1t0.tif|z2/c2s1t0.tif|z3/c2s1t0.tif"
    # A changed plane, even if it isn't the first, is noticed.
    image = np.full((4, 6), 7, np.uint16)
    tifffile.imwrite(tmp_path / "z3" / "c0s2t0.tif", image)
    again = ingest(stacks, tmp_path / "store", selection=selection)
    assert again.read([1])[0, 0, 2].tolist() == [7] * 6
    with pytest.raises(InputError, match="holds a store of other images"):
        ingest(stacks, tmp_path / "store", selection=Selection(z=1, time=0))


def test_sites_without_the_chosen_plane_are_left_out_and_said(
    stacks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(stacks)
    table = table[~((table["Metadata_Site"] == 2) & (table["Metadata_PlaneID"] == 3))]
    table.to_csv(stacks, index=False)
    found = read_manifest(stacks, selection=Selection(z=3, time=0))
    assert found["Metadata_Site"].tolist() == [1]
    assert "1 site left out (no image at z 3)" in capsys.readouterr().err
    assert len(read_manifest(stacks, selection=Selection(z="max", time=0))) == 2


def test_a_channel_without_the_chosen_plane_is_left_out_and_said(
    stacks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(stacks)
    table.loc[table["Metadata_PlaneID"] != 1, "FileName_Mito"] = None
    table.to_csv(stacks, index=False)
    assert channels_of(read_manifest(stacks, selection=Selection(z=1, time=0))) == [*CHANNELS]
    assert "left out" not in capsys.readouterr().err
    found = read_manifest(stacks, selection=Selection(z=3, time=0))
    assert tags(found) == [[103, 1103], [203, 1203]]
    assert "1 channel left out (no image at z 3): Mito" in capsys.readouterr().err


def test_the_maximum_of_a_single_plane_is_that_plane(
    stacks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(stacks)
    # One plane among those of the others, and one of its own, as brightfield has it.
    table.loc[table["Metadata_PlaneID"] != 2, "FileName_Mito"] = None
    below = table[table["Metadata_PlaneID"] == 1].assign(Metadata_PlaneID=0)
    below[["FileName_OrigDNA", "FileName_Mito"]] = None
    table.loc[:, "FileName_OrigER"] = None
    pd.concat([table, below]).to_csv(stacks, index=False)
    found = read_manifest(stacks, selection=Selection(z="max", time=0))
    assert "OrigER, Mito: a single z plane in each site, which is taken" in capsys.readouterr().err
    assert found["FileName_Mito"].tolist() == ["c2s1t0.tif", "c2s2t0.tif"]
    assert found["FileName_OrigDNA"][1] == "z1/c0s2t0.tif|z2/c0s2t0.tif|z3/c0s2t0.tif"
    store = ingest(stacks, tmp_path / "store", selection=Selection(z="max", time=0))
    assert store.read([0, 1])[:, :, 0, 0].tolist() == [[103, 1101, 2102], [203, 1201, 2202]]
    assert store.read([1])[0, :, 1].tolist() == [
        [0, 5, 5, 5, 0, 0],
        [0, 5, 0, 0, 0, 0],
        [0, 0, 5, 0, 0, 0],
    ]
    # Addresses, too.
    urls = pd.concat([table, below])
    for channel in CHANNELS:
        names = urls.pop(f"FileName_{channel}")
        folders = urls.pop(f"PathName_{channel}")
        urls[f"URL_{channel}"] = (str(tmp_path) + "/" + folders + "/" + names).where(names.notna())
    other = read_manifest(urls, selection=Selection(z="max", time=0))
    assert tags(other) == tags(found)


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        ("Metadata_Site == 2 and Metadata_PlaneID == 3", "Mito has 2 of 3 z planes at .*, site 2;"),
        ("Metadata_Site == 2 and Metadata_PlaneID > 1", "Mito has 1 of 3 z planes at .*, site 2;"),
        ("Metadata_Site == 1", "Mito has 0 of 3 z planes at plate P, well A01, site 1;"),
        ("Metadata_PlaneID == 1", "Mito has 2 of 3 z planes at plate P, well A01, site 1;"),
    ],
)
def test_a_channel_with_some_planes_has_no_maximum(stacks: Path, lacking: str, line: str) -> None:
    table = pd.read_csv(stacks)
    table.loc[table.query(lacking).index, "FileName_Mito"] = None
    table.to_csv(stacks, index=False)
    with pytest.raises(TableError, match=line) as caught:
        read_manifest(stacks, selection=Selection(z="max", time=0))
    assert "channels without Mito by --channel (in a config screen.channels)" in str(caught.value)
    without = Selection(channels=("OrigER", "DNA=OrigDNA"), z="max", time=0)
    found = read_manifest(stacks, selection=without)
    assert tags(found) == [[1103, 103], [1203, 203]]


def test_planes_are_chosen_as_the_message_says(stacks: Path) -> None:
    table = pd.read_csv(stacks).query("Metadata_TimepointID == 0")
    padded = table.assign(Metadata_PlaneID=[f"{z:02d}" for z in table["Metadata_PlaneID"]])
    padded.to_csv(stacks, index=False)
    with pytest.raises(TableError, match=r"\(01, 02, 03\); choose one, as --z 01 or, for the max"):
        read_manifest(stacks)
    assert tags(read_manifest(stacks, selection=Selection(z=parse_z("01")))) == [
        [1000 * c + 100 * site + 1 for c in range(3)] for site in (1, 2)
    ]
    table.assign(Metadata_PlaneID=table["Metadata_PlaneID"] + 0.5).to_csv(stacks, index=False)
    words = "leave only the rows of one Metadata_PlaneID in the table, or take the maximum of all"
    with pytest.raises(TableError, match=words):
        read_manifest(stacks)


def test_a_column_of_times_that_tells_no_images_apart_is_metadata(stacks: Path) -> None:
    table = pd.read_csv(stacks).rename(columns={"Metadata_TimepointID": "Metadata_Time"})
    table = table[(table["Metadata_Time"] == 1) & (table["Metadata_PlaneID"] == 1)]
    table = table.drop(columns="Metadata_PlaneID").assign(Metadata_Time=["24h", "48h"])
    table.to_csv(stacks, index=False)
    assert read_manifest(stacks)["Metadata_Time"].tolist() == ["24h", "48h"]


def test_planes_within_files(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, ome=True, metadata={"axes": "TCZYX"})
    row = {"Metadata_Plate": "P", "Metadata_Well": "A1", "Metadata_Site": 1}
    table = pd.DataFrame([row | {"Metadata_Compound": "x"}])
    for c, channel in enumerate(CHANNELS):
        table[f"FileName_{channel}"], table[f"Frame_{channel}"] = str(tmp_path / "a.ome.tif"), c
    with pytest.raises(InputError, match="has 4 z planes, counted from 0; choose by --z 0 or"):
        ingest(table, tmp_path / "store", selection=Selection(time=1))
    assert not (tmp_path / "store").exists()
    for z, expected in ((3, pixels[1, :, 3]), ("max", pixels[1].max(axis=1))):
        store = ingest(table, tmp_path / f"store_{z}", selection=Selection(z=z, time=1))
        np.testing.assert_array_equal(store[0], expected)
    names = ("B=Mito", "OrigDNA")
    store = ingest(table, tmp_path / "named", selection=Selection(channels=names, z=0, time=0))
    assert store.channels == ("B", "OrigDNA")
    np.testing.assert_array_equal(store[0], pixels[0, [2, 0], 0])


def test_channels_are_chosen_renamed_and_ordered(stacks: Path, tmp_path: Path) -> None:
    table = pd.read_csv(stacks)
    for name, factor in (("OrigDNA", 2), ("Mito", 4)):
        function = f"Illum{name.removeprefix('Orig')}"
        np.save(tmp_path / f"{function}.npy", np.full((4, 6), factor))
        table[f"FileName_{function}"], table[f"PathName_{function}"] = f"{function}.npy", "."
    table.to_csv(stacks, index=False)

    def read(*channels: str) -> pd.DataFrame:
        return read_manifest(stacks, selection=Selection(channels=channels, z=1, time=0))

    assert tags(read("mito", "Nuclei=OrigDNA")) == [[2101, 101], [2201, 201]]
    assert tags(read("DNA")) == [[101], [201]]
    columns = [name for name in read("mito", "Nuclei=OrigDNA") if name.startswith("FileName")]
    assert columns == [
        "FileName_mito",
        "FileName_Nuclei",
        "FileName_Illummito",
        "FileName_IllumNuclei",
    ]
    # Each function stays with its channel.
    selection = Selection(channels=("Mito", "Nuclei=OrigDNA"), z=1, time=0)
    store = ingest(stacks, tmp_path / "store", selection=selection)
    assert store.channels == ("Mito", "Nuclei")
    assert store[0][:, 0, 0].tolist() == [round(2101 / 4), round(101 / 2)]
    for channels, line in (
        (
            ("DNA=Golgi",),
            "no channel Golgi; there are OrigDNA, OrigER, Mito",
        ),
        (
            ("A=Mito", "B=Mito"),
            r"--channel 'B=Mito' \(in a config screen.channels\): Mito was named before",
        ),
        (("A=Mito", "A=ER"), r"--channel 'A=ER' \(.*\): A was named before"),
        (("=Mito",), "use the form NAME, or NEW=NAME"),
        (("A=",), "use the form NAME, or NEW=NAME"),
    ):
        with pytest.raises(InputError, match=line):
            read(*channels)


def test_the_command_line_and_a_config_choose_alike(stacks: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    chosen = ("--channel", "DNA=OrigDNA", "--channel", "Mito", "--z", "max", "--time", "1")
    status, said, err = ended("ingest", stacks, "--out", out, *chosen)
    assert status == 0, err
    assert "2 sites of 4 x 6 px uint16, channels DNA, Mito;" in said
    assert open_store(out).read([0, 1])[:, :, 0, 0].tolist() == [[113, 2113], [213, 2213]]
    status, _, err = ended("ingest", stacks, "--out", tmp_path / "other", "--z", "top")
    assert status == 2
    assert "--z 'top': give the number of a plane, or max" in err
    pattern = r"z(?P<z>\d)/c(?P<channel>\d)s(?P<site>\d)t(?P<time>\d)(?P<well>)\.tif"
    wells = tmp_path / "wells.csv"
    pd.DataFrame({"Metadata_Well": ["A1"], "Metadata_Compound": ["x"]}).to_csv(wells, index=False)
    status, _, _ = ended(
        "ingest", tmp_path, "--out", tmp_path / "o", "--platemap", wells, "--pattern", pattern
    )
    assert status == 2
    config = load_config(
        "cpu",
        [
            f"screen.source={stacks}",
            "screen.channels=[DNA=OrigDNA, Mito]",
            "screen.z=max",
            "screen.time=1",
            "screen.acquisition=2",
            r"screen.pattern=(?P<well>\w+)\.tif",
        ],
    )
    screen = config.screen
    assert (screen.channels, screen.z, screen.time) == (("DNA=OrigDNA", "Mito"), "max", 1)
    assert (screen.acquisition, screen.pattern) == ("2", r"(?P<well>\w+)\.tif")
    with pytest.raises(ConfigError, match=r"screen\.z"):
        load_config("cpu", ["screen.z=top"])
