"""OME-TIFF files that describe a plate: one per well, one per field, sets, and companions."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_layouts import tagged, tags_of
from wsdino.errors import InputError, TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WELLS = pd.DataFrame({"Metadata_Well": ["B03", "C04"], "Metadata_Compound": ["DMSO", "x"]})
PLACES = ((1, 2), (2, 3))
NAMES = ("DNA", "ER")
OME = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'


def tag(well: int, field: int, channel: int, z: int = 0, time: int = 0) -> int:
    return 1000 * well + 100 * field + 50 * time + 10 * z + channel + 1


def described(planes: Callable[[int], str], *, sizes: dict[str, int] | None = None) -> str:
    """Plate and images (two fields in each of two wells) as OME-XML, with TiffData as given."""
    size = {"Z": 1, "T": 1} | (sizes or {})
    wells = "".join(
        f'<Well ID="Well:{w}" Row="{row}" Column="{column}">'
        + "".join(
            # Samples need not be in order.
            f'<WellSample ID="WellSample:{w}:{f}" Index="{2 * w + f}"><ImageRef '
            f'ID="Image:{2 * w + f}"/></WellSample>'
            for f in (1, 0)
        )
        + "</Well>"
        for w, (row, column) in enumerate(PLACES)
    )
    channels = "".join(f'<Channel ID="C:{c}" Name="{name}"/>' for c, name in enumerate(NAMES))
    images = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="P:{i}" DimensionOrder="XYZCT" Type="uint16" SizeX="8" '
        f'SizeY="6" SizeC="2" SizeZ="{size["Z"]}" SizeT="{size["T"]}">{channels}{planes(i)}'
        "</Pixels></Image>"
        for i in range(4)
    )
    return f'<OME {OME}><Plate ID="Plate:0" Name="P7">{wells}</Plate>{images}</OME>'


def write_pages(path: Path, tags: list[int], description: str | None) -> None:
    with tifffile.TiffWriter(path) as writer:
        for i, number in enumerate(tags):
            text = description if i == 0 else None
            writer.write(tagged(number), description=text, metadata=None)


def placed(name: str, page: int, z: int = 0, c: int = 0, t: int = 0) -> str:
    return (
        f'<TiffData IFD="{page}" FirstZ="{z}" FirstC="{c}" FirstT="{t}" PlaneCount="1"><UUID '
        f'FileName="{name}">urn:uuid:{uuid5(NAMESPACE_OID, name)}</UUID></TiffData>'
    )


EXPECTED = [[tag(w, f, 0), tag(w, f, 1)] for w in range(2) for f in range(2)]


def check(found: pd.DataFrame, expected: list[list[int]] = EXPECTED) -> None:
    channels = [n.removeprefix("FileName_") for n in found if n.startswith("FileName_")]
    assert channels == list(NAMES)
    assert tags_of(found) == expected
    assert found["Metadata_Well"].tolist() == ["B03", "B03", "C04", "C04"]
    assert found["Metadata_Site"].tolist() == [1, 2, 1, 2]
    assert found["Metadata_Plate"].unique().tolist() == ["P7"]


@pytest.mark.parametrize("companion", [False, True])
def test_a_set_with_a_file_for_each_field(tmp_path: Path, companion: bool) -> None:
    def planes(i: int) -> str:
        return "".join(placed(f"f{i}.ome.tif", c, c=c) for c in range(2))

    whole = described(planes)
    only = f'<OME {OME}><BinaryOnly MetadataFile="p.companion.ome" UUID="urn:uuid:1"/></OME>'
    for i in range(4):
        text = only if companion else whole
        write_pages(tmp_path / f"f{i}.ome.tif", EXPECTED[i], text)
    if companion:
        (tmp_path / "p.companion.ome").write_text(whole, encoding="utf-8")
        check(read_manifest(tmp_path / "p.companion.ome", platemap=WELLS))
    check(read_manifest(tmp_path, platemap=WELLS))
    check(read_manifest(tmp_path / "f2.ome.tif", platemap=WELLS))


def test_a_set_with_a_file_for_each_plane(tmp_path: Path) -> None:
    """z planes and time points are in files of their own, so they are told apart by name."""
    size = {"Z": 3, "T": 2}
    order = list(product(range(2), range(2), range(3)))

    def planes(i: int) -> str:
        return "".join(placed(f"f{i}_t{t}c{c}z{z}.ome.tif", 0, z, c, t) for t, c, z in order)

    text = described(planes, sizes=size)
    for i, (t, c, z) in product(range(4), order):
        number = tag(i // 2, i % 2, c, z, t)
        write_pages(tmp_path / f"f{i}_t{t}c{c}z{z}.ome.tif", [number], text)
    with pytest.raises(TableError, match=r"sites have 3 z planes \(0, 1, 2\)"):
        read_manifest(tmp_path, platemap=WELLS)
    found = read_manifest(tmp_path, platemap=WELLS, selection=Selection(z=1, time=1))
    check(found, [[n + 60 for n in site] for site in EXPECTED])
    found = read_manifest(tmp_path, platemap=WELLS, selection=Selection(z="max", time=0))
    check(found, [[n + 20 for n in site] for site in EXPECTED])


def test_a_set_with_a_file_for_each_well(tmp_path: Path) -> None:
    """Pages of both fields, channels and planes, counted through; without PlaneCount."""

    def planes(i: int) -> str:
        name = f"w{i // 2}.ome.tif"
        return (
            f'<TiffData IFD="{4 * (i % 2)}" PlaneCount="4"><UUID FileName="{name}">urn:uuid:'
            f"{uuid5(NAMESPACE_OID, name)}</UUID></TiffData>"
        )

    text = described(planes, sizes={"Z": 2})
    for w in range(2):
        # DimensionOrder XYZCT: planes come first, then channels.
        tags = [tag(w, f, c, z) for f in range(2) for c in range(2) for z in range(2)]
        write_pages(tmp_path / f"w{w}.ome.tif", tags, text)
    found = read_manifest(tmp_path, platemap=WELLS, selection=Selection(z=1))
    check(found, [[n + 10 for n in site] for site in EXPECTED])
    store = ingest(
        tmp_path, tmp_path / "store", platemap=WELLS, selection=Selection(z="max", channels=("ER",))
    )
    assert store.read(range(4))[:, 0, 0, 0].tolist() == [site[1] + 10 for site in EXPECTED]


def test_one_file_for_the_plate(tmp_path: Path) -> None:
    pixels = [
        np.stack([[tagged(tag(i // 2, i % 2, c, z)) for z in range(3)] for c in range(2)])
        for i in range(4)
    ]

    def planes(i: int) -> str:
        return f'<TiffData IFD="{6 * i}" PlaneCount="6"/>'

    text = described(planes, sizes={"Z": 3})
    write_pages(
        tmp_path / "all.ome.tif", [int(p[0, 0]) for one in pixels for c in one for p in c], text
    )
    with pytest.raises(InputError, match="has 3 z planes, counted from 0; choose by --z 0 or"):
        ingest(tmp_path, tmp_path / "store", platemap=WELLS)
    found = read_manifest(tmp_path, platemap=WELLS, selection=Selection(z=2))
    check(found, [[n + 20 for n in site] for site in EXPECTED])
    found = read_manifest(tmp_path / "all.ome.tif", platemap=WELLS, selection=Selection(z="max"))
    check(found, [[n + 20 for n in site] for site in EXPECTED])


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", tagged(1), ome=True)
    with pytest.raises(TableError, match="this folder is not a screen"):
        read_manifest(tmp_path)
    text = described(lambda i: placed("a.ome.tif", i)).replace(
        '<Image ID="Image:3"', '<Image ID="x"'
    )
    write_pages(tmp_path / "a.ome.tif", [1, 2, 3, 4], text)
    with pytest.raises(TableError, match="its OME-XML has no image Image:3, which a well names"):
        read_manifest(tmp_path)


def test_plates_whose_files_have_equal_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planes(i: int) -> str:
        return "".join(placed(f"f{i}.ome.tif", c, c=c) for c in range(2))

    for p in range(2):
        (tmp_path / f"p{p}").mkdir()
        text = described(planes).replace('Name="P7"', f'Name="P{p}"')
        for i in range(4):
            tags = [number + 5000 * p for number in EXPECTED[i]]
            write_pages(tmp_path / f"p{p}" / f"f{i}.ome.tif", tags, text)
    bare = f"<OME {OME}></OME>"
    write_pages(tmp_path / "p1" / "z.ome.tif", [1], bare)
    found = read_manifest(tmp_path, platemap=WELLS)
    assert found["Metadata_Plate"].tolist() == ["P0"] * 4 + ["P1"] * 4
    assert tags_of(found) == [*EXPECTED, *([n + 5000 for n in site] for site in EXPECTED)]
    assert (
        f"{tmp_path}: 1 OME-TIFF files are of no plate and left out, such as p1/z.ome.tif"
        in capsys.readouterr().err
    )


def test_plates_with_and_without_a_companion(tmp_path: Path) -> None:
    """The first has a companion, the second describes itself."""

    def planes(i: int) -> str:
        return "".join(placed(f"f{i}.ome.tif", c, c=c) for c in range(2))

    only = f'<OME {OME}><BinaryOnly MetadataFile="p.companion.ome" UUID="urn:uuid:1"/></OME>'
    for p in range(2):
        (tmp_path / f"p{p}").mkdir()
        text = described(planes).replace('Name="P7"', f'Name="P{p}"')
        for i in range(4):
            tags = [number + 5000 * p for number in EXPECTED[i]]
            write_pages(tmp_path / f"p{p}" / f"f{i}.ome.tif", tags, text if p else only)
        if p == 0:
            (tmp_path / "p0" / "p.companion.ome").write_text(text, encoding="utf-8")
            # It points to the companion too, which doesn't name it.
            write_pages(tmp_path / "p0" / "z.ome.tif", [1], only)
    found = read_manifest(tmp_path, platemap=WELLS)
    assert found["Metadata_Plate"].tolist() == ["P0"] * 4 + ["P1"] * 4
    assert tags_of(found) == [*EXPECTED, *([n + 5000 for n in site] for site in EXPECTED)]
