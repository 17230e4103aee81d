"""OME-Zarr plates: the same screen as its TIFFs, and one line for whatever is wrong with one."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import zarr

from helpers_run import write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.checks import prepare
from wsdino.config import load_config
from wsdino.errors import ImageError, InputError, TableError
from wsdino.screen.images import planes_of, read_site
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHANNELS = ("DAPI", "Tubulin", "Actin")
METADATA = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]


def labelled(group: zarr.Group, version: str, **metadata: Any) -> None:
    """Write a group's metadata where its version has them."""
    if version == "0.4":
        group.attrs.update({key: {**value, "version": version} for key, value in metadata.items()})
    else:
        group.attrs.update({"ome": {"version": version, **metadata}})


def write_plate(
    folder: Path, sites: pd.DataFrame, pixels: np.ndarray, version: str, *, axes: str = "tczyx"
) -> None:
    """Write sites of one plate, (n, C, H, W), as the specification has it."""
    kind = {"0.4": 2, "0.5": 3}[version]
    plate = zarr.open_group(folder, mode="w", zarr_format=kind)
    wells = list(dict.fromkeys(sites["Metadata_Well"]))
    paths = {well: f"{well[0]}/{int(well[1:])}" for well in wells}
    named = {
        "name": sites["Metadata_Plate"].iloc[0],
        "wells": [{"path": p} for p in paths.values()],
    }
    labelled(plate, version, plate=named)
    for row in sorted({well[0] for well in wells}):
        plate.create_group(row)
    for well in wells:
        own = np.flatnonzero(sites["Metadata_Well"] == well)
        numbers = [str(sites["Metadata_Site"].iloc[i]) for i in own]
        group = plate.create_group(paths[well])
        labelled(group, version, well={"images": [{"path": number} for number in numbers]})
        for number, i in zip(numbers, own, strict=True):
            image = group.create_group(number)
            scales = {"axes": [{"name": n} for n in axes], "datasets": [{"path": "0"}]}
            omero = {"channels": [{"label": channel} for channel in CHANNELS]}
            if version == "0.4":
                image.attrs.update({"multiscales": [scales], "omero": omero})
            else:
                image.attrs.update(
                    {"ome": {"version": version, "multiscales": [scales], "omero": omero}}
                )
            stored = pixels[i].reshape(*(1 for name in axes if name in "tz"), *pixels[i].shape)
            if axes == "tczyx":
                stored = pixels[i][None, :, None]
            separator = {"name": "v2" if kind == 2 else "default", "separator": "/"}
            array = image.create_array(
                "0",
                shape=stored.shape,
                chunks=(*(1 for _ in stored.shape[:-2]), 32, 32),
                dtype=stored.dtype,
                chunk_key_encoding=separator,
            )
            array[...] = stored


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The screen as TIFFs, not to be changed."""
    return write_bbbc021_folder(tmp_path_factory.mktemp("ome") / "screen", size=(48, 64))


@pytest.fixture(scope="module")
def manifest(screen: Path) -> pd.DataFrame:
    return read_manifest(screen)


def write_plates(folder: Path, manifest: pd.DataFrame, version: str, **options: Any) -> Path:
    """Write all plates of a screen, and the design of its wells; return their folder."""
    sites = planes_of(manifest)
    for plate, own in manifest.groupby("Metadata_Plate"):
        pixels = np.stack([read_site(sites[i]) for i in own.index])
        write_plate(folder / f"{plate}.ome.zarr", own, pixels, version, **options)
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
    tmp_path: Path, screen: Path, manifest: pd.DataFrame, version: str, axes: str
) -> None:
    folder = write_plates(tmp_path, manifest, version, axes=axes)
    ours = ingest(folder, tmp_path / "store", platemap=folder / "design.csv")
    theirs = ingest(screen, tmp_path / "theirs")
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
    described = json.loads((path / "zarr.json").read_text())
    edit(described["attributes"]["ome"])
    (path / "zarr.json").write_text(json.dumps(described))


def other_label(ome: dict[str, Any]) -> None:
    ome["omero"]["channels"][1]["label"] = "Golgi"


def no_labels(ome: dict[str, Any]) -> None:
    del ome["omero"]["channels"][1]["label"]


def two_acquisitions(ome: dict[str, Any]) -> None:
    ome["plate"]["acquisitions"] = [{"id": 0}, {"id": 1}]


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
        ("", two_acquisitions, "has 2 acquisitions; split the plate"),
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
    (spoiled / "P.zarr" / "B" / "2" / "zarr.json").write_text("{")
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
