"""Images that are missing, or unlike the others: found before anything is converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_screen import write_bbbc021_folder
from wsdino.errors import ImageError, InputError
from wsdino.screen.images import describe, read_header, read_planes
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import REASON, read_manifest, read_rows

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    return write_bbbc021_folder(tmp_path / "screen", num_weeks=1, num_plates=1)


def images_of(screen: Path) -> list[Path]:
    return sorted(screen.rglob("*.tif"))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((20, 30), {}),
        ((3, 20, 30), {"photometric": "minisblack"}),
        ((3, 20, 30), {"metadata": {"axes": "CYX"}, "ome": True}),
        ((20, 30), {"byteorder": ">", "compression": "zlib"}),
        ((20, 30, 3), {"photometric": "rgb"}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_header_says_what_is_read(
    tmp_path: Path, shape: tuple[int, ...], options: dict, dtype: type
) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.ones(shape, dtype), **options)
    assert read_header(path) == describe(read_planes(path)) == f"30 x 20 {np.dtype(dtype).name}"


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (20, 30, 2), (20, 30, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_header_of_a_png(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(imagecodecs.png_encode(np.ones(shape, dtype)))
    assert read_header(path) == describe(read_planes(path)) == f"30 x 20 {np.dtype(dtype).name}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tif", b"II*\0", "damaged or incomplete image"),
        ("a.png", b"\x89PNG\r\n", "damaged or incomplete image: not a PNG"),
        ("a.jpg", b"", r"'\.jpg' files can't be read"),
    ],
)
def test_a_damaged_header_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_header(path)
    with pytest.raises(ImageError, match="no such file"):
        read_header(tmp_path / "absent.tif")


def test_some_headers_say_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((20, 30), np.uint16))
    assert read_header(tmp_path / "a.npy") is None


def test_another_size_is_found_before_anything_is_converted(screen: Path) -> None:
    last = images_of(screen)[-1]
    tifffile.imwrite(last, np.zeros((64, 32), np.uint16))
    out = screen.parent / "store"
    with pytest.raises(ImageError, match=r"the image is 32 x 64 uint16, but .* is 64 x 64 uint16"):
        ingest(screen, out)
    assert not out.exists()


def test_missing_images_are_an_error_or_leave_their_sites_out(
    screen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = read_manifest(screen), screen.parent / "store"
    gone = [images_of(screen)[position] for position in (0, 1, 40)]
    kept = {path: path.read_bytes() for path in gone}
    for path in gone:
        path.unlink()
    with pytest.raises(ImageError, match=f"does not exist; 3 of {3 * len(whole)} are missing"):
        ingest(screen, out)
    assert not out.exists()
    with pytest.raises(InputError, match="missing 'skip': use error or leave-out"):
        read_manifest(screen, missing="skip")  # type: ignore[arg-type]

    rows = read_rows(screen, missing="leave-out")
    named = whole[[f"FileName_{channel}" for channel in ("DAPI", "Tubulin", "Actin")]]
    lost = named.isin([path.name for path in gone]).any(axis=1)
    assert 1 < lost.sum() <= 3
    pd.testing.assert_frame_equal(rows.manifest, whole[~lost].reset_index(drop=True))
    assert rows.left_out.index.tolist() == np.flatnonzero(lost).tolist()
    assert {image.path for image in rows.missing} == set(gone)

    store = ingest(screen, out, missing="leave-out", workers=1)
    assert len(store) == len(whole) - lost.sum()
    said = capsys.readouterr().err
    assert f"{lost.sum()} of {len(whole)} sites left out because images are missing" in said
    table = pd.read_csv(out / "left_out.csv")
    assert table["Metadata_Well"].tolist() == whole.loc[lost, "Metadata_Well"].tolist()
    assert table[REASON].str.startswith("no image file ").all()
    assert all(any(path.name in text for text in table[REASON]) for path in gone)

    # The same command again has nothing to do, even where all images have moved on.
    screen.joinpath("Week1").rename(screen / "elsewhere")
    assert len(ingest(screen, out, missing="leave-out")) == len(store)
    assert "already complete" in capsys.readouterr().err
    screen.joinpath("elsewhere").rename(screen / "Week1")
    # Images that have come are added.
    for path, content in kept.items():
        path.write_bytes(content)
    assert len(ingest(screen, out, missing="leave-out")) == len(whole)
    assert f"{len(whole) - len(store)} new sites" in capsys.readouterr().err


def test_a_screen_without_any_image_is_an_error_in_any_case(screen: Path) -> None:
    for path in images_of(screen):
        path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        read_manifest(screen, missing="leave-out")
