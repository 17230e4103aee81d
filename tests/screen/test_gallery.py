"""The Cell Painting Gallery's tree: images, plate maps, external metadata, JUMP's tables."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_bucket import NEEDS_REMOTE, Bucket, as_at, served_bucket, served_pages, without_account
from helpers_layouts import WELLS, tags_of, write_gallery_plate, write_map, write_table
from wsdino.errors import ImageError, TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator

# As JUMP-Target-1: controls of the solvent, positive controls of two kinds, treatments.
SAMPLES = ["BRD-A", "", "BRD-B", "BRD-C", "", "BRD-D"]
EXTERNAL = [
    ("BRD-A", "gabapentin", "CACNA1A|CACNA1B", "trt", "NA"),
    ("BRD-B", "quinine", "KCNB2", "trt", "NA"),
    ("BRD-C", "KG-5", "BRAF|FLT3", "control", "poscon_cp"),
    ("BRD-D", "CYT-997", "TUBB", "control", "poscon_diverse"),
    ("BRD-Z", "elsewhere", "X", "trt", "NA"),
    ("NA", "DMSO", "NA", "control", "negcon"),
]


def write_jump(source: Path) -> Path:
    """Two plates of one batch and one of another, whose map has the same name and other wells."""
    metadata = source / "workspace" / "metadata"
    for batch, barcodes, samples in (
        ("Batch1", ("BR1", "BR2"), SAMPLES),
        ("Batch2", ("BR3",), ["", "BRD-A", "", "", "", "BRD-B"]),
    ):
        for barcode in barcodes:
            write_gallery_plate(source, batch, barcode, start=100 * int(barcode[2:]))
        write_map(metadata, batch, "JUMP-Target-1", samples)
        rows = [{"Assay_Plate_Barcode": b, "Plate_Map_Name": "JUMP-Target-1"} for b in barcodes]
        write_table(metadata / "platemaps" / batch / "barcode_platemap.csv", rows)
    names = ["broad_sample", "pert_iname", "target_list", "pert_type", "control_type"]
    write_table(
        metadata / "external_metadata" / "JUMP-Target-1_compound_metadata.tsv",
        pd.DataFrame(EXTERNAL, columns=names),
        sep="\t",
    )
    return source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jump(tmp_path / "cpg0000-x" / "source_4")


def test_the_whole_tree_is_read_by_its_own_tables(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ingest(source, tmp_path / "store")
    found = store.manifest
    assert store.channels == ("DNA", "AGP")
    assert found["Metadata_Plate"].tolist() == [p for p in ("BR1", "BR2", "BR3") for _ in WELLS]
    assert found["Metadata_Batch"].tolist() == ["Batch1"] * 12 + ["Batch2"] * 6
    first = ["gabapentin", "DMSO", "quinine", "KG-5", "DMSO", "CYT-997"]
    second = ["DMSO", "gabapentin", "DMSO", "DMSO", "DMSO", "quinine"]
    assert found["Metadata_Compound"].tolist() == [*first, *first, *second]
    # By hand: 2 wells of solvent on each plate of the first map, 4 on the second.
    controls = found.groupby("Metadata_Plate")["Metadata_Control"].sum().to_dict()
    assert controls == {"BR1": 2, "BR2": 2, "BR3": 4}
    types = found["Metadata_control_type"][:6].tolist()
    assert [types[i] for i in (1, 3, 4, 5)] == ["negcon", "poscon_cp", "negcon", "poscon_diverse"]
    assert found["Metadata_target_list"][0] == "CACNA1A|CACNA1B"
    # Pixels are those of the well, and divided by the function of their own channel and plate.
    expected = [
        [100 * p + 10 * w, round((100 * p + 10 * w + 1) / 2)] for p in (1, 2, 3) for w in range(6)
    ]
    np.testing.assert_allclose(store.read(range(18))[:, :, 0, 0], expected, atol=0.5)
    assert "the table's IllumDNA, IllumAGP are applied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "plates"),
    [
        ("..", 3),
        ("workspace", 3),
        ("workspace/load_data_csv", 3),
        ("workspace/load_data_csv/Batch1", 2),
        ("workspace/load_data_csv/Batch2/BR3", 1),
    ],
)
def test_any_part_of_the_tree_may_be_named(source: Path, where: str, plates: int) -> None:
    found = read_manifest(source / where)
    assert found["Metadata_Plate"].nunique() == plates
    assert len(found) == 6 * plates
    whole = read_manifest(source)
    same = whole[whole["Metadata_Plate"].isin(found["Metadata_Plate"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same)


def test_a_plate_that_only_another_batch_lists_gets_nothing_from_it(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first batch has images of BR3 too, which its own list of barcodes doesn't name."""
    write_gallery_plate(source, "Batch1", "BR3", start=700)
    found = read_manifest(source)
    assert found["Metadata_Batch"].tolist() == ["Batch1"] * 12 + ["Batch2"] * 6
    assert "has no compound for 6 of 24 rows" in capsys.readouterr().err
    own = found[found["Metadata_Plate"] == "BR3"]
    assert [one[0] for one in tags_of(own)] == [300, 310, 320, 330, 340, 350]
    # A batch without maps at all gets none either.
    shutil.rmtree(source / "workspace" / "metadata" / "platemaps" / "Batch2")
    assert set(read_manifest(source)["Metadata_Plate"]) == {"BR1", "BR2"}
    assert "no plate maps of batch Batch2" in capsys.readouterr().err


def test_two_sources_with_the_same_plates(source: Path, tmp_path: Path) -> None:
    other = write_jump(source.parent / "source_9")
    path = other / "workspace" / "metadata" / "platemaps" / "Batch2" / "platemap"
    table = pd.read_csv(path / "JUMP-Target-1.txt", sep="\t", keep_default_na=False)
    table.assign(broad_sample="BRD-D").to_csv(path / "JUMP-Target-1.txt", sep="\t", index=False)
    for plate in ("BR1", "BR2"):
        shutil.rmtree(other / "workspace" / "load_data_csv" / "Batch1" / plate)
    shutil.rmtree(source / "workspace" / "load_data_csv" / "Batch1")
    with pytest.raises(TableError, match="plate BR3, well A01, site 1 occurs more than once"):
        read_manifest(source.parent)
    found = read_manifest(other)
    assert set(found["Metadata_Compound"]) == {"CYT-997"}
    shutil.move(other / "workspace" / "load_data_csv" / "Batch2" / "BR3", tmp_path)
    assert len(read_manifest(source.parent)) == 6


def test_images_that_were_not_copied_are_named_as_published(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason=NEEDS_REMOTE)
    # Nobody listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    shutil.rmtree(source / "images" / "Batch2" / "images")
    with pytest.raises(ImageError, match=r"s3://cellpainting-gallery/.*: can't be looked up"):
        read_manifest(source)
    folder = next((source / "images" / "Batch1" / "images").glob("BR1__*")) / "Images"
    next(folder.iterdir()).unlink()
    with pytest.raises(ImageError, match="does not exist; 1 of "):
        read_manifest(source / "workspace" / "load_data_csv" / "Batch1")


def test_tables_may_name_their_batch_and_no_folders(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then images lie beside the table; plate maps still serve the batch of their folder alone."""
    tables = source / "workspace" / "load_data_csv"
    for batch, name in (("Batch1", "first"), ("Batch2", "second")):
        for place in (tables / batch).iterdir():
            (place / "load_data_with_illum.csv").unlink()
            images = next((source / "images" / batch / "images").glob(f"{place.name}__*"))
            shutil.copytree(images / "Images", place, dirs_exist_ok=True)
            table = pd.read_csv(place / "load_data.csv").filter(regex="^(FileName|Metadata)_")
            table.assign(Metadata_Batch=name).to_csv(place / "load_data.csv", index=False)
    shutil.rmtree(source / "images")
    found = read_manifest(source)
    assert found["Metadata_Batch"].tolist() == ["first"] * 12 + ["second"] * 6
    assert found.groupby("Metadata_Plate")["Metadata_Control"].sum().tolist() == [2, 2, 4]
    assert [site[0] for site in tags_of(found)][::6] == [100, 200, 300]
    assert "read 3 LoadData tables of Batch1, Batch2" in capsys.readouterr().err


def test_a_guide_rna_is_called_by_its_identifier(source: Path) -> None:
    """CRISPR's external metadata have no pert_iname, and several negative controls."""
    metadata = source / "workspace" / "metadata"
    write_map(metadata, "Batch2", "JUMP-Target-1", ["N1", "N2", "G1", "BRD-A", "G1", "N1"])
    rows = [
        {"broad_sample": sample, "gene": gene, "pert_type": kind, "control_type": control}
        for sample, gene, kind, control in (
            ("N1", "", "control", "negcon"),
            ("N2", "", "control", "negcon"),
            ("G1", "HIF1A", "trt", ""),
        )
    ]
    path = metadata / "external_metadata" / "JUMP-Target-1_crispr_metadata.tsv"
    write_table(path, rows, sep="\t")
    found = read_manifest(source / "workspace" / "load_data_csv" / "Batch2")
    assert found["Metadata_Compound"].tolist() == ["N1", "N2", "G1", "gabapentin", "G1", "N1"]
    assert found["Metadata_Control"].tolist() == [True, True, False, False, False, True]


def test_the_table_named_as_the_plate_map_counts_first(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CPJUMP1 has a table for each of its sets of compounds, which share most of them."""
    folder = source / "workspace" / "metadata" / "external_metadata"
    own = folder / "JUMP-Target-1_compound_metadata.tsv"
    other = pd.read_csv(own, sep="\t", keep_default_na=False)
    other = other.replace({"poscon_cp": "negcon", "quinine": "other"}).assign(
        more=range(len(other))
    )
    other.to_csv(folder / "JUMP-Target-0_compound_metadata.tsv", sep="\t", index=False)
    found = read_manifest(source)
    assert found["Metadata_Compound"][:3].tolist() == ["gabapentin", "DMSO", "quinine"]
    assert found["Metadata_Control"].sum() == 8
    assert found["Metadata_more"][0] == 0
    said = capsys.readouterr().err
    assert "Metadata_control_type of 1 samples has several values" in said
    assert "the first is taken, such as quinine for BRD-B" in said


def test_lincs_maps_have_doses_in_millimolar_and_controls_without_a_sample(
    tmp_path: Path,
) -> None:
    """As C-7161-01-LM6-001 (blank) and LKCP001_A549_24H (NA) write their controls."""
    source = tmp_path / "cpg0004-lincs" / "broad"
    for batch, barcode, none, dose in (
        ("2016_Batch1", "SQ00014812", "", "9.99999999999999999"),
        ("2017_Batch2", "BR00092655", "NA", "10"),
    ):
        write_gallery_plate(source, batch, barcode)
        samples = [none, none, "BRD-K1", "BRD-K1", "BRD-K2", none]
        doses = [none, none, dose, "3.33333333333076923", "0.04", none]
        metadata = source / "workspace" / "metadata"
        write_map(metadata, batch, "C-7161-01-LM6-001", samples, doses)
        rows = [{"Assay_Plate_Barcode": barcode, "Plate_Map_Name": "C-7161-01-LM6-001"}]
        write_table(metadata / "platemaps" / batch / "barcode_platemap.csv", rows)
    moas = [
        {"broad_sample": "BRD-K1", "pert_iname": "one", "moa": "CDK inhibitor|PLK inhibitor"},
        {"broad_sample": "BRD-K2", "pert_iname": "two", "moa": "HDAC inhibitor"},
    ]
    write_table(metadata / "external_metadata" / "moa.tsv", moas, sep="\t")
    found = read_manifest(source)
    assert found.groupby("Metadata_Plate")["Metadata_Control"].sum().tolist() == [3, 3]
    assert found["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "one", "one", "two", "DMSO"] * 2
    own = found["Metadata_Concentration"].to_numpy()
    expected = [np.nan, np.nan, 10_000, 3333.33333333, 40, np.nan]
    np.testing.assert_allclose(own, expected * 2)
    assert found["Metadata_Concentration"].nunique() == 3
    assert found["Metadata_MoA"][4] == "HDAC inhibitor"
    assert found["Metadata_MoA"][0] is None


JUMP_WELLS = [
    ("source_4", "BR1", well, jcp)
    for well, jcp in zip(WELLS, ("N", "P", "T1", "T2", "E", "N"), strict=True)
]


def write_jump_tables(folder: Path) -> Path:
    rows = [
        *(
            dict(zip(("Source", "Plate", "Well", "JCP2022"), row, strict=True))
            for row in JUMP_WELLS
        ),
        # Another source's plate of the same name.
        *({"Source": "source_9", "Plate": "BR1", "Well": w, "JCP2022": "T9"} for w in WELLS),
    ]
    wells = pd.DataFrame(rows).add_prefix("Metadata_")
    folder.mkdir(parents=True)
    wells.to_csv(folder / "well.csv.gz", index=False)
    plates = pd.DataFrame(
        {
            "Metadata_Source": ["source_4", "source_9"],
            "Metadata_Batch": ["Batch1", "Batch9"],
            "Metadata_Plate": "BR1",
            "Metadata_PlateType": ["TARGET2", "COMPOUND"],
        }
    )
    plates.to_csv(folder / "plate.csv.gz", index=False)
    write_table(
        folder / "perturbation_control.csv",
        [
            {"Metadata_JCP2022": jcp, "Metadata_pert_type": kind, "Metadata_Name": name}
            for jcp, kind, name in (
                ("N", "negcon", "DMSO"),
                ("P", "poscon", "x"),
                ("E", "empty", ""),
            )
        ],
    )
    return folder


@pytest.mark.parametrize("where", ["metadata", "workspace/metadata", "../metadata"])
def test_jump_tables_say_what_wells_received(tmp_path: Path, where: str) -> None:
    source = tmp_path / "cpg0016-jump" / "source_4"
    write_gallery_plate(source, "Batch1", "BR1")
    write_jump_tables(source / where)
    found = read_manifest(source)
    # The empty well is left out.
    assert found["Metadata_Well"].tolist() == ["A01", "A02", "A03", "B01", "B03"]
    assert found["Metadata_Compound"].tolist() == ["N", "P", "T1", "T2", "N"]
    assert found["Metadata_Control"].tolist() == [True, False, False, False, True]
    assert found["Metadata_PlateType"].unique().tolist() == ["TARGET2"]
    assert found["Metadata_Batch"].unique().tolist() == ["Batch1"]


def test_jump_tables_serve_profiles_too(tmp_path: Path) -> None:
    folder = write_jump_tables(tmp_path / "metadata")
    features = pd.DataFrame(
        {"Metadata_Plate": "BR1", "Metadata_Well": WELLS, "Metadata_Source": "source_9", "f": 1.5}
    )
    found = read_table(features, platemap=folder)
    assert found["Metadata_Compound"].tolist() == ["T9"] * 6
    assert not found["Metadata_Control"].any()
    with pytest.raises(TableError, match="well BR1/A01 occurs with different values"):
        read_table(features.drop(columns="Metadata_Source"), platemap=folder)


def test_a_plate_of_the_gallery_without_a_table_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source_4"
    for barcode in ("BR1", "BR2"):
        write_gallery_plate(source, "b1", barcode)
    for file in (source / "workspace/load_data_csv/b1/BR2").iterdir():
        file.rename(file.with_name(f"my_{file.name}"))
    platemap = pd.DataFrame({"Metadata_Well": ["A01"], "Metadata_Compound": ["DMSO"]})
    assert read_manifest(source, platemap=platemap)["Metadata_Plate"].tolist() == ["BR1"]
    assert (
        "1 folder of plates left out (no table named load_data_with_illum or load_data), such as "
        "b1/BR2" in capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with served_bucket("gallery", tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def bucket(server: Bucket, source: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The tree in a bucket, `s3://gallery/cpg0000-x`, without an account."""
    return without_account(server, source.parent.parent, monkeypatch)


@pytest.fixture
def pages(source: Path) -> Iterator[str]:
    with served_pages(source.parent.parent) as address:
        yield address


@pytest.mark.parametrize(
    "where", ["", "/source_4", "/source_4/workspace", "/source_4/workspace/load_data_csv/Batch1"]
)
def test_a_tree_in_a_bucket_is_read_as_one_on_disk(
    bucket: Bucket, source: Path, where: str
) -> None:
    found = read_manifest(f"s3://gallery/cpg0000-x{where}")
    here = read_manifest(source.parent / where.lstrip("/"))
    expected = as_at(here, source.parent, "s3://gallery/cpg0000-x")
    pd.testing.assert_frame_equal(found, expected)
    names = [Path(key).name for key in bucket.fetched if bucket.fetched[key]]
    # One table of each plate, and no image.
    assert names.count("load_data_with_illum.csv") == here["Metadata_Plate"].nunique()
    assert not [name for name in names if name == "load_data.csv" or name.endswith("tiff")]


def test_a_tree_on_a_server_that_lists_its_folders_is_read(pages: str, source: Path) -> None:
    found = read_manifest(f"{pages}/cpg0000-x/source_4")
    expected = as_at(read_manifest(source), source.parent, f"{pages}/cpg0000-x")
    pd.testing.assert_frame_equal(found, expected)


def test_images_of_a_tree_are_fetched_as_they_are_needed_and_not_again(
    bucket: Bucket, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    address, out = "s3://gallery/cpg0000-x/source_4", tmp_path / "store"
    name = "r02c03f01p01-ch2sk1fk1fl1.tiff"
    bad = next((source / "images" / "Batch2").rglob(name))
    content = bad.read_bytes()
    bad.write_bytes(content[:100])
    with pytest.raises(ImageError, match=rf"{address}/images/Batch2/.*{name}.* stays unfinished"):
        ingest(address, out, workers=1)
    bad.write_bytes(content)
    first = {key for key in bucket.fetched if bucket.fetched[key] and key.endswith("tiff")}
    before = bucket.fetched.copy()
    store = ingest(address, out, workers=1)
    again = {key for key in first if bucket.fetched[key] > before[key]}
    # The first image says how large all are.
    assert len(first) > 20
    assert len(again) < 8
    here = ingest(source, tmp_path / "here")
    np.testing.assert_array_equal(store.read(range(18)), here.read(range(18)))
    assert list(scratch.iterdir()) == []


@pytest.mark.usefixtures("bucket")
def test_tables_without_folders_name_images_beside_them(source: Path) -> None:
    plate = source / "workspace" / "load_data_csv" / "Batch2" / "BR3"
    (plate / "load_data_with_illum.csv").unlink()
    table = pd.read_csv(plate / "load_data.csv", dtype=str)
    for image in (source / "images" / "Batch2").rglob("Images/*.tiff"):
        shutil.copy(image, plate)
    table.drop(columns=["PathName_OrigDNA", "PathName_OrigAGP"]).to_csv(
        plate / "load_data.csv", index=False
    )
    address = "s3://gallery/cpg0000-x/source_4/workspace/load_data_csv/Batch2/BR3"
    assert set(read_manifest(address)["PathName_AGP"]) == {address}


def test_what_is_wrong_at_an_address_is_named_by_it(
    bucket: Bucket, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "s3://gallery/cpg0000-x/source_4"
    folder = source / "workspace" / "load_data_csv" / "Batch1"
    (folder / "BR2" / "load_data_with_illum.csv").rename(folder / "BR2" / "other.csv")
    (folder / "BR2" / "load_data.csv").unlink()
    read_manifest(address)
    said = capsys.readouterr().err
    assert f"{address}/workspace/load_data_csv: 1 folder of plates left out (no table" in said
    assert "/tmp" not in said
    table = "workspace/load_data_csv/Batch1/BR1/load_data_with_illum.csv"
    (source / table).write_text("Metadata_Plate,Metadata_Well\n", encoding="utf-8")
    with pytest.raises(TableError, match=rf"^{address}/{table}: the table has no rows"):
        read_manifest(address)
    with pytest.raises(TableError, match=r"this folder is not a screen; a screen is"):
        read_manifest("s3://gallery/cpg0000-x/source_4/images")
    # A server that answers for files alone.
    with pytest.raises(TableError, match=r"nothing is listed there: .* doesn't list folders"):
        read_manifest(f"{bucket.address}/cpg0000-x/source_4")
