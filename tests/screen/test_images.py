from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from wsdino.errors import ImageError
from wsdino.screen.images import Plane, Planes, read_planes, read_site
from wsdino.screen.statistics import site_statistics
from wsdino.screen.tiff import contents_of_tiff, pixel_size_of_tiff, read_tiff, size_of_tiff

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 60_000, (3, 24, 40)).astype(np.uint16)
SMALL = (STACK >> 8).astype(np.uint8)


def write_tiff(path: Path, image: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, image, **options)
    return path


@pytest.mark.parametrize("image", [STACK[0], SMALL[0]], ids=["uint16", "uint8"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "lzw"}, {"byteorder": ">"}, {"tile": (16, 16), "compression": "zlib"}],
    ids=str,
)
def test_a_single_plane_keeps_its_values(tmp_path, image, options):
    planes = read_planes(write_tiff(tmp_path / "a.TIF", image, **options))
    assert planes.dtype == image.dtype
    np.testing.assert_array_equal(planes, image[None])


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (STACK, {"photometric": "minisblack"}),
        (STACK, {"photometric": "minisblack", "bigtiff": True, "compression": "zlib"}),
        (STACK, {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}),
        (STACK[:, None], {"ome": True, "metadata": {"axes": "CZYX"}, "photometric": "minisblack"}),
        (STACK, {"imagej": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}),
        (STACK.transpose(1, 2, 0), {"photometric": "rgb"}),
        (STACK, {"photometric": "rgb", "planarconfig": "separate"}),
    ],
    ids=["pages", "bigtiff", "ome", "ome with z", "imagej", "rgb", "separate rgb"],
)
def test_channels_of_one_tiff(tmp_path, image, options):
    np.testing.assert_array_equal(
        read_planes(write_tiff(tmp_path / "a.tif", image, **options)), STACK
    )


@pytest.mark.parametrize("stack", [STACK, SMALL], ids=["uint16", "uint8"])
def test_components_of_a_png(tmp_path, stack):
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(stack.transpose(1, 2, 0))))
    np.testing.assert_array_equal(read_planes(path), stack)
    path.write_bytes(imagecodecs.png_encode(stack[0]))
    np.testing.assert_array_equal(read_planes(path), stack[:1])


def test_a_png_by_another_writer(tmp_path):
    Image.fromarray(SMALL.transpose(1, 2, 0)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_planes(tmp_path / "a.png"), SMALL)


def test_a_site_is_put_together_by_frame(tmp_path):
    stack = write_tiff(tmp_path / "stack.tif", STACK, photometric="minisblack")
    single = write_tiff(tmp_path / "single.tif", STACK[1])
    site = read_site([Plane(stack, 2), Plane(single, None), Plane(stack, 0), Plane(single, 0)])
    np.testing.assert_array_equal(site, STACK[[2, 1, 0, 1]])


def test_one_z_plane_and_time_point_or_the_maximum_are_taken(tmp_path):
    pixels = RNG.integers(0, 60_000, (2, 3, 4, 6, 8)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.ome.tif", pixels, ome=True, metadata={"axes": "TCZYX"})
    np.testing.assert_array_equal(read_planes(path, z=2, time=1), pixels[1, :, 2])
    np.testing.assert_array_equal(read_planes(path, z="max", time=0), pixels[0].max(axis=1))
    for options, line in (
        ({"time": 0}, "has 4 z planes, counted from 0; choose by --z 0 or --z max"),
        ({"z": 0}, "has 2 time points, counted from 0; choose by --time 0"),
        ({"z": 4, "time": 0}, "there is no z plane 4; the image has 4, counted from 0"),
        ({"z": 0, "time": 2}, "there is no time point 2; the image has 2, counted from 0"),
    ):
        with pytest.raises(ImageError, match=line):
            read_planes(path, **options)
    single = write_tiff(tmp_path / "b.tif", STACK[0])
    np.testing.assert_array_equal(read_planes(single, z="max", time=0), STACK[:1])
    with pytest.raises(ImageError, match="there is no z plane 1; the image has a single one, 0"):
        read_planes(single, z=1)


def test_a_channel_may_be_the_maximum_of_several_files(tmp_path):
    paths = [write_tiff(tmp_path / f"{z}.tif", plane) for z, plane in enumerate(STACK)]
    stack = write_tiff(tmp_path / "stack.tif", STACK, photometric="minisblack")
    of_files = Plane(paths[0], others=tuple(Plane(path) for path in paths[1:]))
    of_frames = Plane(stack, 0, others=(Plane(stack, 2),))
    expected = np.stack([STACK.max(axis=0), np.maximum(STACK[0], STACK[2])])
    np.testing.assert_array_equal(read_site([of_files, of_frames]), expected)
    other = write_tiff(tmp_path / "other.tif", STACK[0, :8])
    with pytest.raises(ImageError, match=r"other.tif: the image is 40 x 8 uint16, but "):
        read_site([Plane(paths[0], others=(Plane(other),))])


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "lzw"}, {"byteorder": ">"}, {"tile": (16, 16), "compression": "zlib"}],
    ids=str,
)
def test_a_site_is_read_into_the_memory_of_another(tmp_path, options):
    for kind, image in (("wide", STACK), ("deep", SMALL)):
        for channel in range(3):
            write_tiff(tmp_path / f"{kind}{channel}.tif", image[channel], **options)
    planes, others = (
        [Plane(tmp_path / f"{kind}{channel}.tif") for channel in (2, 0, 1)]
        for kind in ("wide", "deep")
    )
    memory = np.zeros_like(STACK)
    site = read_site(planes, memory)
    assert site is memory
    np.testing.assert_array_equal(site, STACK[[2, 0, 1]])
    # One of another type, or with fewer channels, gets memory of its own.
    for different, expected in ((others, SMALL[[2, 0, 1]]), (planes[:2], STACK[[2, 0]])):
        found = read_site(different, memory)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert not np.shares_memory(found, memory)
    # One file for two channels, and for a maximum that comes before it.
    both = Plane(planes[0].path, others=(planes[1],))
    found = read_site([both, planes[0], planes[0]], memory)
    assert found is memory
    largest = np.maximum(STACK[2], STACK[0])
    np.testing.assert_array_equal(found, np.stack([largest, STACK[2], STACK[2]]))


def test_each_image_of_a_file_is_a_series(tmp_path):
    path = tmp_path / "a.ome.tif"
    pixels = RNG.integers(0, 60_000, (3, 2, 6, 8)).astype(np.uint16)
    with tifffile.TiffWriter(path, ome=True) as writer:
        for image in pixels:
            writer.write(image, metadata={"axes": "CYX"}, photometric="minisblack")
    site = [Plane(path, 1, 2), Plane(path, 0, 1)]
    np.testing.assert_array_equal(read_site(site), [pixels[2, 1], pixels[1, 0]])
    with pytest.raises(ImageError, match="holds 3 images; a column Series_<Channel> must give"):
        read_planes(path)
    with pytest.raises(ImageError, match="there is no image 3; the file holds 3"):
        read_planes(path, series=3)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(STACK[0]))
    with pytest.raises(ImageError, match="there is no image 1; the file holds 1, counted from 0"):
        read_planes(tmp_path / "a.png", series=1)


def test_planes_of_a_manifest():
    manifest = pd.DataFrame(
        {
            "FileName_B": ["1.tif", "2.tif"],
            "PathName_B": "/x",
            "FileName_A": "3.tif",
            "PathName_A": "/y",
            "Frame_A": [1, 2],
            "FileName_C": ["z1/4.tif|z2/4.tif", "z1/5.tif|z2/5.tif"],
            "PathName_C": "/z",
            "Series_C": ["0|1", "2|3"],
            "ZPlane_C": "max",
            "TimePoint_C": "1",
        }
    )
    where = {"z": "max", "time": 1}
    assert list(Planes(manifest)) == [
        [
            Plane(Path(f"/x/{1 + i}.tif"), None),
            Plane(Path("/y/3.tif"), 1 + i),
            Plane(
                Path(f"/z/z1/{4 + i}.tif"),
                series=2 * i,
                **where,
                others=(Plane(Path(f"/z/z2/{4 + i}.tif"), series=2 * i + 1, **where),),
            ),
        ]
        for i in range(2)
    ]


@pytest.mark.parametrize(
    ("image", "options", "found"),
    [
        (STACK[0].astype(np.float32), {}, "pixels are float32; they must be uint8 or uint16"),
        (STACK[0].astype(np.int16), {}, "pixels are int16; they must be uint8 or uint16"),
        (STACK[0].astype(np.uint32), {}, "pixels are uint32; they must be uint8 or uint16"),
        (STACK[0] > 0, {}, "pixels are bool; they must be uint8 or uint16"),
        (
            STACK,
            {"ome": True, "metadata": {"axes": "ZYX"}, "photometric": "minisblack"},
            "the image has 3 z planes, counted from 0; choose by --z 0 or --z max",
        ),
        (
            STACK[None].repeat(2, 0),
            {"ome": True, "metadata": {"axes": "TCYX"}, "photometric": "minisblack"},
            "the image has 2 time points, counted from 0; choose by --time 0",
        ),
    ],
)
def test_other_images_are_refused(tmp_path, image, options, found):
    path = write_tiff(tmp_path / "a.tif", image, **options)
    with pytest.raises(ImageError) as raised:
        read_planes(path)
    assert found in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (STACK[:1], {}),
        (STACK[:1], {"compression": "zlib"}),
        (STACK[:1], {"compression": "lzw", "rowsperstrip": 4}),
        (STACK, {"photometric": "minisblack", "compression": "zlib"}),
        (STACK, {"photometric": "minisblack", "compression": "zlib", "bigtiff": True}),
        (STACK, {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}),
        (STACK, {"imagej": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}),
    ],
    ids=["raw", "zlib", "lzw", "pages", "bigtiff", "ome", "imagej"],
)
def test_a_truncated_tiff_is_damaged_and_never_gives_other_pixels(tmp_path, image, options):
    path = write_tiff(tmp_path / "a.tif", image if len(image) > 1 else image[0], **options)
    content = path.read_bytes()
    cuts = np.linspace(0, len(content) - 1, 40).astype(int).tolist()
    whole = []
    for length in cuts:
        path.write_bytes(content[:length])
        try:
            planes = read_planes(path)
        except ImageError as error:
            message = str(error)
        else:
            # What lies behind the pixels may be lost without harm.
            np.testing.assert_array_equal(planes, image)
            whole.append(length)
            continue
        assert message.startswith(f"{path}: damaged or incomplete image: ")
        assert "\n" not in message
    assert min(whole, default=len(content)) > 0.8 * len(content)


def test_differences_without_compression_are_refused(tmp_path):
    """tifffile adds them up or doesn't, depending on where it is asked to write them."""
    path = write_tiff(tmp_path / "a.tif", SMALL[0], compression="lzw", predictor=True)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[0].tags
        tags["Compression"].overwrite(1)
    for out in (None, np.empty_like(SMALL[0])):
        with pytest.raises(ImageError, match=r"a\.tif: its pixels aren't compressed, and are said"):
            read_planes(path, out=out)


def test_truncated_and_missing_pngs(tmp_path):
    path = tmp_path / "a.png"
    content = imagecodecs.png_encode(STACK[0])
    for length in (0, 20, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match="damaged or incomplete image"):
            read_planes(path)
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        read_planes(path)


def test_other_kinds_of_file(tmp_path):
    with pytest.raises(
        ImageError, match=r"'\.jpg' files can't be read; images must be TIFF, PNG, NumPy, CZI, ND2"
    ):
        read_planes(tmp_path / "a.jpg")


def test_a_stack_needs_a_frame_that_exists(tmp_path):
    stack = write_tiff(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(ImageError, match="3 planes; a column Frame_<Channel> must give each"):
        read_site([Plane(stack, None)])
    with pytest.raises(ImageError, match="there is no plane 3; the image has 3, counted from 0"):
        read_site([Plane(stack, 3)])


def test_channels_must_be_alike(tmp_path):
    one = write_tiff(tmp_path / "one.tif", STACK[0])
    two = write_tiff(tmp_path / "two.tif", SMALL[0])
    with pytest.raises(ImageError) as raised:
        read_site([Plane(one, None), Plane(two, None)])
    assert str(raised.value) == (
        f"{two}: the image is 40 x 24 uint8, but {one} is 40 x 24 uint16; all images of a screen "
        "must have the same size and type"
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 48), (2100, 2000)])
def test_statistics_are_exact(dtype, shape):
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    flat, full = np.full(shape, top), rng.integers(0, top, shape, endpoint=True)
    skewed = rng.gamma(0.5, 20, shape).clip(0, top)
    pixels = np.stack([flat, full, skewed, np.zeros(shape)]).astype(dtype)
    expected = np.stack(
        [
            [channel.mean(), channel.std(), *np.percentile(channel, [1, 50, 99])]
            for channel in pixels.astype(np.float64)
        ]
    )
    found = site_statistics(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_each_file_of_a_set_is_read_by_itself(tmp_path):
    """Every file of an OME-TIFF set describes all of them; the table names one."""
    names, ids = ["a.ome.tif", "b.ome.tif"], ["urn:uuid:" + str(uuid4()) for _ in range(2)]
    images = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="Pixels:{i}" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="8" SizeY="6" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:{i}:0"/>'
        f'<Channel ID="Channel:{i}:1"/>'
        + "".join(
            f'<TiffData IFD="{c}" FirstC="{c}" PlaneCount="1"><UUID FileName="{names[i]}">{ids[i]}'
            "</UUID></TiffData>"
            for c in range(2)
        )
        + "</Pixels></Image>"
        for i in range(2)
    )
    for i, name in enumerate(names):
        description = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[i]}">'
            f"{images}</OME>"
        )
        with tifffile.TiffWriter(tmp_path / name) as writer:
            for c in range(2):
                plane = np.full((6, 8), 10 * i + c, np.uint16)
                writer.write(plane, description=description if c == 0 else None, metadata=None)
    for i, name in enumerate(names):
        assert read_planes(tmp_path / name)[:, 0, 0].tolist() == [10 * i, 10 * i + 1]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_thumbnail_is_not_the_image(tmp_path, marked, first):
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        if not first:
            writer.write(image, metadata=None)
        writer.write(image[::2, ::2].copy(), subfiletype=1 if marked else 0, metadata=None)
        if first:
            writer.write(image, metadata=None)
    np.testing.assert_array_equal(read_planes(tmp_path / "a.tif")[0], image)


def test_previews_keep_the_numbers_of_images(tmp_path):
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as writer:
        for each in (image, image[::2, ::2].copy(), image + 100):
            writer.write(each, metadata={"axes": "YX"})
    for series, corner, shape in ((0, 0, (6, 8)), (1, 0, (3, 4)), (2, 100, (6, 8))):
        pixels, _ = read_tiff(tmp_path / "a.tif", series)
        assert (int(pixels[0, 0]), pixels.shape) == (corner, shape)
        assert size_of_tiff(tmp_path / "a.tif", series)[:2] == shape
    with pytest.raises(ImageError, match="2 images stand between smaller ones"):
        contents_of_tiff(tmp_path / "a.tif")


def test_pixels_are_as_wide_as_the_image_s_and_not_as_the_preview_s(tmp_path):
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for each, per_cm in ((image[::2, ::2].copy(), 10_000), (image, 20_000)):
            writer.write(each, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    assert pixel_size_of_tiff(tmp_path / "a.tif") == pytest.approx(0.5)


def test_a_smaller_image_first_is_not_taken_unasked(tmp_path):
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image[:5, :7].copy(), metadata=None)
        writer.write(image, metadata=None)
    with pytest.raises(ImageError, match=r"a.tif: the file holds 2 images; .*Series_<Channel>"):
        read_planes(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["miniswhite", "palette"])
def test_values_that_are_not_intensities_are_refused(tmp_path, kind):
    image = np.zeros((6, 8), np.uint8)
    more = {"colormap": np.zeros((3, 256), np.uint16)} if kind == "palette" else {}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=kind, metadata=None, **more)
    with pytest.raises(ImageError, match=rf"a.tif: the pixels are stored as {kind.upper()}"):
        read_planes(tmp_path / "a.tif")


def test_a_palette_of_a_png_is_refused(tmp_path):
    Image.fromarray(SMALL[0]).convert("P").save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png: the pixels are stored as a palette"):
        read_planes(tmp_path / "a.png")


def test_planes_are_a_sequence_of_sites() -> None:
    names = {f"FileName_{channel}": [f"{site}{channel}.tif" for site in "abc"] for channel in "XY"}
    folders = {f"PathName_{channel}": ["folder"] * 3 for channel in "XY"}
    planes = Planes(pd.DataFrame(names | folders | {"Frame_Y": [2, 0, 1]}))
    sites = [
        [Plane(Path("folder", f"{site}X.tif")), Plane(Path("folder", f"{site}Y.tif"), frame)]
        for site, frame in zip("abc", (2, 0, 1), strict=True)
    ]
    assert list(planes) == sites
    assert (len(planes), planes[-1], planes[1:]) == (3, sites[-1], sites[1:])
    with pytest.raises(IndexError):
        planes[3]
    assert list(Planes(pd.DataFrame(index=range(2)))) == [[], []]
