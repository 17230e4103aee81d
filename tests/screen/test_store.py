from __future__ import annotations

import json
import pickle
import shutil
import struct
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import zarr
from zarr.codecs import BloscCodec

from helpers_screen import chunk_path, write_bbbc021_folder
from wsdino.errors import StoreError
from wsdino.screen.check.stored import quality_columns
from wsdino.screen.images import Planes, read_site
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.store import Store, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return ingest(write_bbbc021_folder(folder / "screen", size=(48, 64)), folder / "store")


@pytest.fixture
def own_store(tmp_path) -> Store:
    source = write_bbbc021_folder(tmp_path / "screen", num_weeks=1, num_plates=1, num_sites=1)
    return ingest(source, tmp_path / "store")


def test_a_store_holds_the_images(store):
    manifest = read_manifest(store.path.parent / "screen")
    pd.testing.assert_frame_equal(store.manifest[manifest.columns], manifest)
    measured = set(store.manifest) - set(manifest)
    assert measured == set(quality_columns(("DAPI", "Tubulin", "Actin")))
    assert len(store) == 72
    assert store.channels == ("DAPI", "Tubulin", "Actin")
    assert store.field_shape == (48, 64)
    assert store.dtype == np.uint16
    assert "72 sites, DAPI, Tubulin, Actin, 64 x 48 uint16" in repr(store)
    for i, planes in enumerate(Planes(manifest)):
        np.testing.assert_array_equal(store[i], read_site(planes))


def test_it_reads_several_sites_in_any_order(store):
    indices = np.array([5, 0, 71, 5, -1])
    sites = store.read(indices)
    assert sites.shape == (5, 3, 48, 64)
    assert sites.dtype == np.uint16
    for site, index in zip(sites, indices, strict=True):
        np.testing.assert_array_equal(site, store[int(index)])
    assert store.read([]).shape == (0, 3, 48, 64)
    assert store.read([3]).shape == (1, 3, 48, 64)
    np.testing.assert_array_equal(store[-1], store[71])
    for index in (72, -73):
        with pytest.raises(IndexError, match=f"no site {index} in a store of 72"):
            store.read([0, index])
    # The old protocol of iteration ends by IndexError.
    assert sum(1 for _ in store) == 72


def test_reading_into_memory_that_is_there(store: Store) -> None:
    room = np.full((4, *store.shape[1:]), 7, store.dtype)
    found = store.read([2, 0, 2], room[:3])
    assert found.base is room
    np.testing.assert_array_equal(room[:3], store.read([2, 0, 2]))
    assert (room[3] == 7).all()
    for wrong in (room, room[:3].astype(np.int32), room[:3, :1]):
        with pytest.raises(ValueError, match="these sites are uint16"):
            store.read([2, 0, 2], wrong)


def test_its_statistics(store):
    assert set(store.statistics) == {"mean", "std", "p01", "p50", "p99"}
    pixels = store.read(range(len(store))).astype(np.float64)
    axes = (2, 3)
    for name, expected in {
        "mean": pixels.mean(axes),
        "std": pixels.std(axes),
        "p01": np.percentile(pixels, 1, axes),
        "p50": np.percentile(pixels, 50, axes),
        "p99": np.percentile(pixels, 99, axes),
    }.items():
        assert store.statistics[name].dtype == np.float32
        np.testing.assert_allclose(store.statistics[name], expected, rtol=1e-6)


def test_it_is_a_plain_zarr_array(store):
    array = zarr.open_array(store.path / "images.zarr", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.metadata.dimension_names == ("site", "channel", "y", "x")
    assert array.chunks == (1, 3, 48, 64)
    assert array.attrs["pixel_scaling"] == {"applied": "none", "dtype_max": 65535}
    assert array.attrs["complete"] is True
    assert array.attrs["provenance"]["source"] == str(store.path.parent / "screen")
    assert {"wsdino", "created"} < set(store.attributes["provenance"])


def _mean(store: Store, index: int) -> float:
    return float(store.read([index, index]).mean())


# Python 3.12 and later warn of a fork while there are threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_it_works_in_other_processes(store, method):
    """Also in a fork of a process that has read from it, with threads that the fork lacks."""
    assert _mean(store, 3) == store[3].mean()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))[3], store[3])
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        assert pool.submit(_mean, store, 3).result() == store[3].mean()


def test_there_is_no_store(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"no store here \(images.zarr is missing\)"):
        open_store(tmp_path)


def _edit(path, change):
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description["attributes"])
    path.write_text(json.dumps(description), encoding="utf-8")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compressors", ["auto", BloscCodec(cname="zstd"), None])
def test_pixels_are_those_that_zarr_reads(own_store, tmp_path, dtype, compressors):
    """Whatever wrote the array: one of another codec is read through Zarr."""
    folder = tmp_path / "copy"
    shutil.copytree(own_store.path, folder)
    shutil.rmtree(folder / "images.zarr")
    (folder / "sites.npy").unlink()
    shape = (9, len(own_store.channels), 5, 7)
    array = zarr.create_array(
        folder / "images.zarr",
        shape=shape,
        chunks=(1, *shape[1:]),
        dtype=dtype,
        compressors=compressors,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes=own_store.attributes,
        config={"write_empty_chunks": True},
    )
    array[:] = np.random.default_rng(0).integers(0, 255, shape)
    store = open_store(folder)
    np.testing.assert_array_equal(store.read(range(9)), array[:])
    np.testing.assert_array_equal(store[-1], array[8])


def test_damaged_stores_say_so(own_store):
    path = own_store.path
    description = path / "images.zarr" / "zarr.json"
    content = description.read_text(encoding="utf-8")

    _edit(description, lambda attributes: attributes.update(complete=False))
    with pytest.raises(StoreError, match="this store isn't finished; run the same wsdino ingest"):
        open_store(path)
    _edit(description, lambda attributes: attributes.pop("wsdino_store"))
    with pytest.raises(StoreError, match="wsdino_store is None instead of 1"):
        open_store(path)
    description.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="the store is damaged"):
        open_store(path)
    description.write_text(content, encoding="utf-8")

    chunk = chunk_path(path, 2)
    pixels = chunk.read_bytes()
    chunk.write_bytes(pixels[: len(pixels) // 2])
    store = open_store(path)
    with pytest.raises(StoreError, match=r"c\.2\.0\.0\.0: the store is damaged"):
        store[2]
    for other in (b"", imagecodecs.blosc_encode(bytes(10)), imagecodecs.blosc_encode(bytes(10**6))):
        chunk.write_bytes(other)
        with pytest.raises(StoreError, match=r"c\.2\.0\.0\.0: the store is damaged"):
            store.read([2])
    # What a frame says of its lengths isn't believed: the decoder would read beyond its end.
    for start in (4, 12):
        for value in (0, 16, len(pixels) - 1, 2**31 - 1):
            chunk.write_bytes(pixels[:start] + struct.pack("<I", value) + pixels[start + 4 :])
            with pytest.raises(StoreError, match=r"c\.2\.0\.0\.0: .* it should hold \d+; ingest"):
                store.read([2])
    for other in (pixels[:-1], pixels + b"x"):
        chunk.write_bytes(other)
        with pytest.raises(StoreError, match=rf"its frame of {len(other)} bytes is said to have"):
            store.read([2])
    chunk.unlink()
    with pytest.raises(StoreError, match="the pixels of 1 of 9 sites are missing"):
        open_store(path)
    chunk.write_bytes(pixels)

    own_store.manifest[:5].to_parquet(path / "manifest.parquet")
    with pytest.raises(StoreError, match=r"manifest\.parquet has 5 rows for 9 sites"):
        open_store(path)
    (path / "manifest.parquet").unlink()
    with pytest.raises(StoreError, match=r"manifest\.parquet is missing"):
        open_store(path)
