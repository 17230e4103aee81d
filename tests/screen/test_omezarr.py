"""OME-Zarr plates: the same screen as its TIFFs, and one line for whatever is wrong with one."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import zarr

from helpers_layouts import label_omezarr, write_omezarr
from helpers_run import write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.config import load_config
from wsdino.errors import ImageError, InputError, TableError
from wsdino.preparation import prepare
from wsdino.screen.images import Planes, read_site
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsdino.screen.store import Store

CHANNELS = ("DAPI", "Tubulin", "Actin")
METADATA = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The screen as TIFFs, not to be changed."""
    return write_bbbc021_folder(tmp_path_factory.mktemp("ome") / "screen", size=(48, 64))


@pytest.fixture(scope="module")
def theirs(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store that the TIFFs become."""
    return ingest(screen, tmp_path_factory.mktemp("theirs") / "store")


@pytest.fixture(scope="module")
def manifest(screen: Path) -> pd.DataFrame:
    return read_manifest(screen)


def write_plates(folder: Path, manifest: pd.DataFrame, version: str, **options: Any) -> Path:
    """Write all plates of a screen, and the design of its wells; return their folder."""
    sites = Planes(manifest)
    for plate, own in manifest.groupby("Metadata_Plate"):
        pixels = np.stack([read_site(sites[i]) for i in own.index])
        write_omezarr(folder / f"{plate}.ome.zarr", own, pixels, version, **options)
    design = manifest.filter(regex="^Metadata_").drop(columns="Metadata_Site")
    design.drop_duplicates().to_csv(folder / "design.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory, manifest: pd.DataFrame) -> Path:
    """The screen as plates of version 0.5, not to be changed."""
    return write_plates(tmp_path_factory.mktemp("ome5"), manifest, "0.5")


@pytest.fixture
def spoiled(plates: Path, tmp_path: Path) -> Path:
    """One plate and the design, which a test may spoil."""
    first = min(plates.glob("*.zarr"))
    shutil.copytree(first, tmp_path / "P.zarr")
    shutil.copy(plates / "design.csv", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("version", "axes"), [("0.4", "tczyx"), ("0.5", "tczyx"), ("0.5", "cyx")])
def test_plates_become_the_store_that_the_tiffs_become(
    tmp_path: Path, theirs: Store, manifest: pd.DataFrame, version: str, axes: str
) -> None:
    folder = write_plates(tmp_path, manifest, version, axes=axes)
    ours = ingest(folder, tmp_path / "store", platemap=folder / "design.csv")
    assert ours.channels == theirs.channels == CHANNELS
    order = [store.manifest.sort_values(METADATA).index.to_numpy() for store in (ours, theirs)]
    np.testing.assert_array_equal(ours.read(order[0]), theirs.read(order[1]))
    described = [
        store.manifest.filter(regex="^Metadata_").iloc[rows].reset_index(drop=True)
        for store, rows in zip((ours, theirs), order, strict=True)
    ]
    pd.testing.assert_frame_equal(*described, check_like=True, check_dtype=False)
    # Run again it is known as complete.
    written = {path: path.stat().st_mtime_ns for path in (ours.path / "images.zarr").iterdir()}
    ingest(folder, ours.path, platemap=folder / "design.csv")
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_one_plate_alone_and_a_plate_map_for_every_plate(
    spoiled: Path, manifest: pd.DataFrame
) -> None:
    design = spoiled / "design.csv"
    first = manifest[manifest["Metadata_Plate"] == manifest["Metadata_Plate"].iloc[0]]
    wells = pd.read_csv(design)
    wells = wells[wells["Metadata_Plate"] == first["Metadata_Plate"].iloc[0]]
    wells.drop(columns="Metadata_Plate").to_csv(design, index=False)
    found = read_manifest(spoiled / "P.zarr", platemap=design)
    assert len(found) == len(first)
    assert sorted(found["Metadata_Compound"]) == sorted(first["Metadata_Compound"])


def test_wells_without_a_compound_are_left_out_and_said(
    spoiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    design = spoiled / "design.csv"
    wells = pd.read_csv(design)
    whole = read_manifest(spoiled / "P.zarr", platemap=design)
    wells.loc[wells["Metadata_Well"] == "B02", "Metadata_Compound"] = None
    wells[wells["Metadata_Well"] != "B04"].to_csv(design, index=False)
    capsys.readouterr()
    found = read_manifest(spoiled / "P.zarr", platemap=design)
    assert set(whole["Metadata_Well"]) - set(found["Metadata_Well"]) == {"B02", "B04"}
    assert "has no compound for 4 of 18 rows of " in capsys.readouterr().err


def test_a_loaddata_table_without_compounds_takes_a_plate_map(
    tmp_path: Path, manifest: pd.DataFrame
) -> None:
    """Cell Painting's way: load_data.csv names images, a platemap the compounds."""
    bare = manifest.filter(regex="^(FileName|PathName)_|Plate|Well|Site")
    bare.to_csv(tmp_path / "load_data.csv", index=False)
    design = manifest.filter(regex="^Metadata_").drop(columns="Metadata_Site").drop_duplicates()
    design.assign(Metadata_Well=design["Metadata_Well"].str.lower()).to_parquet(
        tmp_path / "wells.parquet"
    )
    found = read_manifest(tmp_path / "load_data.csv", platemap=tmp_path / "wells.parquet")
    pd.testing.assert_frame_equal(found[manifest.columns], manifest)
    with pytest.raises(TableError, match=r"load_data.csv: doesn't say which well received which"):
        read_manifest(tmp_path / "load_data.csv")


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the metadata of a group of version 0.5."""
    described = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    edit(described["attributes"]["ome"])
    (path / "zarr.json").write_text(json.dumps(described), encoding="utf-8")


def other_label(ome: dict[str, Any]) -> None:
    ome["omero"]["channels"][1]["label"] = "Golgi"


def no_labels(ome: dict[str, Any]) -> None:
    del ome["omero"]["channels"][1]["label"]


def no_wells(ome: dict[str, Any]) -> None:
    del ome["plate"]["wells"]


def another_well(ome: dict[str, Any]) -> None:
    ome["plate"]["wells"].append({"path": "H/12"})


def wrong_well(ome: dict[str, Any]) -> None:
    ome["plate"]["wells"][0]["path"] = "B/2/.."


def no_scales(ome: dict[str, Any]) -> None:
    del ome["multiscales"]


def three_axes(ome: dict[str, Any]) -> None:
    ome["multiscales"][0]["axes"] = [{"name": name} for name in "cyx"]


@pytest.mark.parametrize(
    ("where", "edit", "line"),
    [
        ("B/3/1", other_label, "its channels are DAPI, Golgi, Actin, but those of "),
        ("B/2/1", no_labels, "but those of .* are DAPI, channel_1, Actin; all images"),
        ("", no_wells, "has no list of wells that each have a path"),
        ("", another_well, "H/12: not an OME-Zarr group, although the plate lists it"),
        ("B/2/1", no_scales, "not an OME-Zarr image"),
        ("B/2/1", three_axes, "5 axes, but the metadata names 3"),
    ],
)
def test_metadata_that_are_wrong_are_one_line(
    spoiled: Path, where: str, edit: Callable[[dict[str, Any]], None], line: str
) -> None:
    change(spoiled / "P.zarr" / where, edit)
    with pytest.raises(InputError, match=line) as caught:
        ingest(spoiled / "P.zarr", spoiled / "store", platemap=spoiled / "design.csv")
    assert str(spoiled) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (spoiled / "store").exists()


def test_damaged_json_is_one_line(spoiled: Path) -> None:
    (spoiled / "P.zarr" / "B" / "2" / "zarr.json").write_text("{", encoding="utf-8")
    with pytest.raises(TableError, match="damaged OME-Zarr metadata"):
        read_manifest(spoiled / "P.zarr", platemap=spoiled / "design.csv")


def test_planes_that_were_not_copied_are_missed(spoiled: Path) -> None:
    """Zarr itself would read them as zeros."""
    shutil.rmtree(spoiled / "P.zarr" / "B" / "2" / "1" / "0" / "c" / "0" / "1")
    with pytest.raises(ImageError, match="1 of 3 planes have no pixels"):
        ingest(spoiled / "P.zarr", spoiled / "store", platemap=spoiled / "design.csv")
    shutil.rmtree(spoiled / "P.zarr" / "B" / "2" / "1" / "0")
    with pytest.raises(ImageError, match="damaged or incomplete image"):
        ingest(spoiled / "P.zarr", spoiled / "store", platemap=spoiled / "design.csv")


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda t: t.drop(columns="Metadata_Compound"), "no column Metadata_Compound; it has"),
        (lambda t: t.drop(columns="Metadata_Well"), "no column Metadata_Well; it has"),
        (
            lambda t: t.iloc[:6].assign(Metadata_Plate="Q"),
            "has no compound for any of the 18 rows of",
        ),
        (
            lambda t: pd.concat([t, t.iloc[:1].assign(Metadata_Compound="other")]),
            "occurs with different values",
        ),
    ],
)
def test_plate_maps_that_are_wrong_are_one_line(
    spoiled: Path, edit: Callable[[pd.DataFrame], pd.DataFrame], line: str
) -> None:
    design = spoiled / "design.csv"
    edit(pd.read_csv(design)).to_csv(design, index=False)
    with pytest.raises(TableError, match=line) as caught:
        read_manifest(spoiled / "P.zarr", platemap=design)
    assert str(caught.value).startswith(str(design))


def test_what_needs_a_plate_map_and_what_is_no_plate(plates: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="doesn't say which well received which compound"):
        read_manifest(plates)
    with pytest.raises(TableError, match=r"this folder is not a screen; .*an OME-Zarr plate"):
        read_manifest(tmp_path)


def test_a_run_takes_plates_and_their_plate_map_from_its_config(
    plates: Path, tmp_path: Path
) -> None:
    config = load_config(
        write_tiny_config(tmp_path / "tiny.yaml"),
        [f"screen.source={plates}", f"screen.platemap={plates / 'design.csv'}"],
    )
    _, store, resolved = prepare(config, tmp_path / "run")
    assert store.manifest["Metadata_Compound"].nunique() == 9
    assert resolved.screen.platemap == plates / "design.csv"
    with pytest.raises(TableError, match="which well received which compound"):
        prepare(
            load_config(tmp_path / "tiny.yaml", [f"screen.source={plates}"]), tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()


def tag(*numbers: int) -> np.ndarray:
    """(C, 4, 6) with a tag per channel."""
    return np.stack([np.full((4, 6), number, np.uint16) for number in numbers])


def write_image(
    path: Path, pixels: np.ndarray, axes: str, *, version: str = "0.4", labels: Any = None
) -> None:
    image = zarr.open_group(path, mode="w", zarr_format={"0.4": 2, "0.5": 3}[version])
    described: dict[str, Any] = {
        "multiscales": [{"axes": [{"name": a} for a in axes], "datasets": [{"path": "s0"}]}]
    }
    if labels is not None:
        described["omero"] = {"channels": [{"label": label} for label in labels]}
    image.attrs.update(described if version == "0.4" else {"ome": {"version": "0.5", **described}})
    image.create_array("s0", data=pixels)


def write_wells(
    plate: Path, wells: dict[str, list[dict[str, Any]]], *, version: str = "0.4", **more: Any
) -> None:
    group = zarr.open_group(plate, mode="w", zarr_format={"0.4": 2, "0.5": 3}[version])
    described = {"wells": [{"path": well} for well in wells], **more}
    label_omezarr(group, version, plate=described)
    for well, images in wells.items():
        label_omezarr(group.create_group(well), version, well={"images": images})


B3_C3 = pd.DataFrame({"Metadata_Well": ["B03", "C03"], "Metadata_Compound": ["DMSO", "x"]})


def test_acquisitions_are_said_and_one_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Fractal writes cycles of multiplexing: each with channels and fields of its own."""
    images = [{"path": str(i), "acquisition": i // 2} for i in range(4)]
    plate = tmp_path / "p.zarr"
    named = [{"id": 0, "name": "cycle one"}, {"id": 1}]
    write_wells(plate, {"B/03": images, "C/03": images}, acquisitions=named)
    for w, well in enumerate(("B/03", "C/03")):
        for i in range(4):
            labels = ("DAPI", "GFP") if i < 2 else ("DAPI", "RFP", "Cy5")
            pixels = tag(*(1000 * w + 100 * i + c for c in range(len(labels))))[:, None]
            write_image(plate / well / str(i), pixels, "czyx", labels=labels)
            # Labels of segmentation are no sites.
            write_image(plate / well / str(i) / "labels" / "nuclei", pixels[:1], "czyx")
    with pytest.raises(
        TableError,
        match=r"2 acquisitions \(0, 1\); choose one, as --acquisition 0 \(in a config .*\)$",
    ):
        read_manifest(plate, platemap=B3_C3)
    assert "are of acquisitions 0 (cycle one), 1 (unnamed)" in capsys.readouterr().err
    for wanted, channels in (("0", ("DAPI", "GFP")), ("1", ("DAPI", "RFP", "Cy5"))):
        selection = Selection(acquisition=wanted)
        store = ingest(plate, tmp_path / wanted, platemap=B3_C3, selection=selection)
        assert store.channels == channels
        start = 200 * int(wanted)
        assert store.read(range(4))[:, :, 0, 0].tolist() == [
            [w + f + start + c for c in range(len(channels))] for w in (0, 1000) for f in (0, 100)
        ]
        assert store.manifest["Metadata_Site"].tolist() == [0, 1, 0, 1]
    with pytest.raises(
        TableError, match=r"--acquisition 2 \(in a config screen.acquisition\): there are only 0, 1"
    ):
        read_manifest(plate, platemap=B3_C3, selection=Selection(acquisition="2"))


def test_one_acquisition_needs_no_choice(tmp_path: Path) -> None:
    plate = tmp_path / "p.zarr"
    images = [{"path": "0", "acquisition": 3}]
    write_wells(plate, {"B/03": images}, acquisitions=[{"id": 3}, {"id": 4}])
    write_image(plate / "B/03/0", tag(7), "cyx", labels=("DAPI",))
    found = read_manifest(plate, platemap=B3_C3)
    assert "Metadata_Acquisition" not in found
    assert read_site(Planes(found)[0])[0, 0, 0] == 7


def test_projections_beside_their_plates_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, number in (("p.zarr", 1), ("p_mip.zarr", 2), ("q_mip.zarr", 3)):
        write_wells(tmp_path / name, {"B/03": [{"path": "0"}]})
        write_image(tmp_path / name / "B/03/0", tag(number), "cyx", labels=("DAPI",))
    found = read_manifest(tmp_path, platemap=B3_C3)
    assert found["Metadata_Plate"].tolist() == ["p", "q_mip"]
    assert "1 plate left out (projections of others), such as p_mip.zarr" in (
        capsys.readouterr().err
    )
    alone = read_manifest(tmp_path / "p_mip.zarr", platemap=B3_C3)
    assert read_site(Planes(alone)[0])[0, 0, 0] == 2


def test_stacks_of_planes_and_times(tmp_path: Path) -> None:
    plate = tmp_path / "p.zarr"
    write_wells(plate, {"B/03": [{"path": "0"}]}, version="0.5")
    pixels = np.arange(2 * 3 * 4 * 4 * 6, dtype=np.uint16).reshape(2, 3, 4, 4, 6) + 1
    write_image(plate / "B/03/0", pixels, "tczyx", version="0.5", labels=("a", "b", "c"))
    with pytest.raises(ImageError, match="has 2 time points, counted from 0; choose by --time 0"):
        ingest(plate, tmp_path / "store", platemap=B3_C3)
    assert not (tmp_path / "store").exists()
    for z, expected in ((2, pixels[1, :, 2]), ("max", pixels[1].max(axis=1))):
        store = ingest(
            plate, tmp_path / f"store_{z}", platemap=B3_C3, selection=Selection(z=z, time=1)
        )
        np.testing.assert_array_equal(store[0], expected)


def test_channels_without_a_name_can_be_given_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ome-zarr-py writes no omero, ngio names channels channel_0 and so on."""
    plate = tmp_path / "p.zarr"
    write_wells(plate, {"B/03": [{"path": "0"}]})
    write_image(plate / "B/03/0", tag(5, 6), "cyx")
    store = ingest(
        plate,
        tmp_path / "store",
        platemap=B3_C3,
        selection=Selection(channels=("ER=channel_1", "DNA=channel_0")),
    )
    assert store.channels == ("ER", "DNA")
    assert store[0][:, 0, 0].tolist() == [6, 5]
    assert "the channels are named channel_0, channel_1" in capsys.readouterr().err


def test_rows_and_columns_that_are_numbers(tmp_path: Path) -> None:
    """iohub numbers the rows and columns of positions from 0, and pads the names of fields."""
    plate = tmp_path / "p.zarr"
    more = {
        "rows": [{"name": str(i)} for i in range(2)],
        "columns": [{"name": str(i)} for i in range(12)],
    }
    wells = {"1/11": [{"path": "000000"}, {"path": "000001"}]}
    write_wells(plate, wells, **more)
    group = zarr.open_group(plate, mode="r+")
    described: Any = group.attrs["plate"]
    described["wells"] = [{"path": "1/11", "rowIndex": 1, "columnIndex": 11}]
    group.attrs["plate"] = described
    for i in range(2):
        write_image(
            plate / "1/11" / f"00000{i}", tag(i + 1)[None, :, None], "tczyx", labels=["DAPI"]
        )
    design = pd.DataFrame({"Metadata_Well": ["B12"], "Metadata_Compound": ["x"]})
    found = read_manifest(plate, platemap=design)
    assert found[["Metadata_Well", "Metadata_Site"]].values.tolist() == [["B12", 0], ["B12", 1]]
    assert [read_site(site)[0, 0, 0] for site in Planes(found)] == [1, 2]
