"""What `benchmarks/fuzz.py` feeds damaged bytes to: every parser of bytes from outside."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from dataclasses import dataclass
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pandas as pd
import tifffile

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from wsdino.tables.platemap import PlateMap

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "report")]

WELLS = ("A01", "A02", "B01", "B02")


@dataclass(frozen=True)
class Parser:
    """A parser.

    Parameters
    ----------
    name
        Name, for `--only`.
    make
        Writes valid input into a folder, and returns what `read` is given.
    read
        Reads all of it.
    files
        Glob patterns of the files that are damaged, one of them at a time.
    checks_sums
        Whether what is read must be what was written, so that checksums aren't made right.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    files: tuple[str, ...] = ("**/*",)
    checks_sums: bool = False


def _sites(num: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "Metadata_Plate": ["P1", "P2"] * (num // 2),
            "Metadata_Well": [WELLS[i % 4] for i in range(num)],
            "Metadata_Site": [i // 4 + 1 for i in range(num)],
            "Metadata_Batch": ["W1", "W2"] * (num // 2),
            "Metadata_Compound": ["DMSO", "taxol", "DMSO", "colchicine"] * (num // 4),
            "Metadata_Concentration": [0.0, 0.5, 0.0, 3.0] * (num // 4),
            "Metadata_MoA": [None, "Microtubule", None, "Microtubule"] * (num // 4),
        }
    )
    features = rng.normal(size=(num, 3)).astype(np.float32)
    table["Metadata_Control"] = table["Metadata_Compound"] == "DMSO"
    return pd.concat([table, pd.DataFrame(features, columns=["emb_a_0", "emb_a_1", "b"])], axis=1)


def _profiles_table(suffix: str, folder: Path) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        table = _sites().assign(Metadata_Plate=[["P1", "P2"]] * 8)
        table.to_parquet(path, index=False)
    else:
        _sites().to_csv(path, index=False, sep=";" if suffix == ".txt" else ",")
    return path


def _read_table(path: Path) -> None:
    from wsdino.tables.files import column_names
    from wsdino.tables.reading import read_table

    column_names(path)
    _require_doses(read_table(path))


def _require_doses(table: pd.DataFrame) -> None:
    """Whatever the bytes, no dose that is read is negative or infinite."""
    doses = table.get("Metadata_Concentration", pd.Series(dtype=float)).dropna()
    assert ((doses >= 0) & np.isfinite(doses)).all(), "a dose that can't be"


def _images(folder: Path) -> pd.DataFrame:
    table = _sites().iloc[:, :7].drop_duplicates(["Metadata_Plate", "Metadata_Well"])
    for channel in ("DAPI", "Actin"):
        names = [f"{row}_{channel}.tif" for row in range(len(table))]
        for name in names:
            tifffile.imwrite(folder / name, np.full((6, 8), 3, np.uint16))
        table[f"FileName_{channel}"], table[f"PathName_{channel}"] = names, "."
    return table


def _loaddata(suffix: str, folder: Path) -> Path:
    path = folder / f"load_data{suffix}"
    table = _images(folder)
    table.to_parquet(path) if suffix == ".parquet" else table.to_csv(path, index=False)
    return path


def _read_manifest(path: Path) -> None:
    from wsdino.screen.manifest import read_manifest
    from wsdino.screen.readers import read_raw

    read_raw(path)
    _require_doses(read_manifest(path))


def _read_layout(path: Path) -> None:
    from wsdino.screen import manifest
    from wsdino.screen.images import Planes, read_site

    # Most damage leaves the table of sites as it is.
    _only_once((manifest, "tidy_and_join"), (manifest, "selected"), (manifest, "validate_manifest"))
    for planes in Planes(manifest.read_manifest(path, platemap=_wells()))[:2]:
        read_site(planes)


@cache
def _wells() -> PlateMap:
    from wsdino.tables.platemap import read_platemap

    wells = pd.DataFrame({"Metadata_Well": [f"{r}0{c}" for r in "ABCDEFGH" for c in range(1, 10)]})
    return read_platemap(wells.assign(Metadata_Compound="DMSO", Metadata_Concentration=0.0))


def _platemap(folder: Path) -> Path:
    maps = folder / "platemap"
    maps.mkdir()
    table = _sites()[["Metadata_Well", "Metadata_Compound", "Metadata_Concentration"]].iloc[:4]
    table = table.set_axis(["well_position", "pert_iname", "mmoles_per_liter"], axis=1)
    table.to_csv(maps / "map1.txt", sep="\t", index=False)
    barcodes = {"Assay_Plate_Barcode": ["P1", "P2"], "Plate_Map_Name": ["map1", "map1"]}
    pd.DataFrame(barcodes).to_csv(folder / "barcode_platemap.csv", index=False)
    return folder / "barcode_platemap.csv"


def _read_platemap(path: Path) -> None:
    from wsdino.tables.reading import read_table

    read_table(_sites().iloc[:, [0, 1, 2, 8, 9]], platemap=path)


def _harmony(folder: Path) -> Path:
    from helpers_layouts import profile_of, write_harmony

    write_harmony(folder / "measurement", 5, profiles={1: profile_of([[1.0], [0.1, 0.2]])})
    return folder / "measurement"


def _imagexpress(folder: Path) -> Path:
    from helpers_layouts import write_imagexpress

    write_imagexpress(folder / "plate")
    return folder / "plate"


def _jdce(folder: Path) -> Path:
    from helpers_layouts import write_jdce

    write_jdce(folder / "plate", steps=1)
    return folder / "plate"


def _cellvoyager(folder: Path) -> Path:
    from helpers_layouts import write_cellvoyager

    write_cellvoyager(folder / "plate")
    return folder / "plate"


_OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Plate ID="Plate:0" Name="P1"
ColumnNamingConvention="number" RowNamingConvention="letter"><Well ID="Well:0" Row="0" Column="1">
<WellSample ID="WellSample:0" Index="0"><ImageRef ID="Image:0"/></WellSample></Well></Plate>
<Image ID="Image:0" Name="a"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="8"
SizeY="6" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" Name="DAPI"/><Channel
ID="Channel:0:1" Name="Actin"/><TiffData IFD="0" FirstC="0" PlaneCount="1"><UUID
FileName="one.ome.tif">urn:uuid:1</UUID></TiffData><TiffData IFD="1" FirstC="1" PlaneCount="1"><UUID
FileName="one.ome.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>"""


def _ometiff(folder: Path) -> Path:
    pixels = np.arange(2 * 6 * 8, dtype=np.uint16).reshape(2, 6, 8)
    tifffile.imwrite(folder / "one.ome.tif", pixels, description=_OME, metadata=None)
    return folder


def _companion(folder: Path) -> Path:
    _ometiff(folder)
    (folder / "plate.companion.ome").write_text(_OME)
    return folder


def _omezarr(folder: Path) -> Path:
    import zarr

    root = zarr.open_group(folder / "P1.zarr", mode="w", zarr_format=2)
    root.attrs["plate"] = {
        "name": "P1",
        "rows": [{"name": "A"}],
        "columns": [{"name": "1"}, {"name": "2"}],
        "wells": [{"path": f"A/{c}", "rowIndex": 0, "columnIndex": c - 1} for c in (1, 2)],
        "acquisitions": [{"id": 0, "name": "first"}],
    }
    scales = [
        {
            "axes": [{"name": name, "type": "space"} for name in "cyx"],
            "datasets": [{"path": "0"}],
            "version": "0.4",
        }
    ]
    for column in "12":
        well = root.create_group(f"A/{column}")
        well.attrs["well"] = {"images": [{"path": "0", "acquisition": 0}], "version": "0.4"}
        image = well.create_group("0")
        image.attrs["multiscales"] = scales
        image.attrs["omero"] = {"channels": [{"label": "DAPI"}, {"label": "Actin"}]}
        pixels = np.arange(2 * 6 * 8, dtype=np.uint16).reshape(2, 6, 8) + 1
        array = image.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 6, 8))
        array[...] = pixels
    return folder / "P1.zarr"


def _image(name: str, folder: Path) -> Path:
    path = folder / name
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 24, 32)).astype(np.uint16)
    if name.endswith(".png"):
        path.write_bytes(imagecodecs.png_encode(pixels[0]))
    elif name.endswith(".npy"):
        np.save(path, pixels)
    elif name.endswith(".npz"):
        np.savez_compressed(path, images=pixels[None], channels=np.array(["DAPI", "Actin"]))
    elif "lzw" in name:
        tifffile.imwrite(path, pixels, compression="lzw", photometric="minisblack", tile=(16, 16))
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack", ome="ome" in name)
    return path


def _read_image(path: Path) -> None:
    from wsdino.screen.images import contents_of, read_header, read_planes

    if path.suffix != ".npz":
        contents_of(path)
    read_header(path)
    read_planes(path, series=0 if path.suffix == ".npz" else None)


def _store(folder: Path) -> Path:
    from wsdino.screen.ingest import ingest

    ingest(_loaddata(".csv", folder), folder / "store")
    for image in folder.glob("*.tif"):
        image.unlink()
    return folder / "store"


def _read_store(path: Path) -> None:
    from wsdino.screen.check.stored import warnings_of
    from wsdino.screen.store import open_store

    store = open_store(path, keep='Metadata_Plate == "P1"')
    _ = store.statistics, store.pixels_digest, store.manifest_digest
    store.read(range(len(store)))
    warnings_of(store)


def _checkpoint(folder: Path) -> Path:
    import torch

    from wsdino.train.checkpoint import PARTS, save_checkpoint

    weights = {"w": torch.arange(400.0).reshape(20, 20)}
    save_checkpoint(folder, 3, dict.fromkeys(PARTS, weights) | {"step": 3, "records": [{"a": 1.0}]})
    return folder


def _read_checkpoint(path: Path) -> None:
    import torch

    from wsdino.train.checkpoint import load_newest

    state = load_newest(path)
    # What is loaded is what was saved, or nothing is.
    if state is not None and not torch.equal(
        state["optimiser"]["w"], torch.arange(400.0).reshape(20, 20)
    ):
        raise AssertionError("a damaged checkpoint was loaded as another model")


def _model(folder: Path) -> Path:
    from wsdino.model.building import build_networks
    from wsdino.model.model import Model
    from wsdino.model.spec import Architecture, ModelSpec

    shape = Architecture(image_size=16, dim=16, depth=1, num_heads=2)
    spec = ModelSpec(channels=("DAPI", "Actin"), architecture=shape, tile=16)
    Model(spec, build_networks(spec)).save(folder)
    return folder


def _read_model(path: Path) -> None:
    from wsdino.model.model import load_model

    model = load_model(path)
    pixels = np.random.default_rng(0).integers(0, 4000, (1, len(model.channels), 32, 32))
    model.embed(pixels.astype(np.uint16))


def _weights(name: str, folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    state = {"pos_embed": torch.zeros(1, 5, 8), "blocks.0.w": torch.arange(64.0)}
    path = folder / name
    save_file(state, path) if "safe" in name else torch.save({"teacher": state}, path)
    return path


def _read_weights(path: Path) -> None:
    from wsdino.model.weights import read_state_dict

    read_state_dict(path)


def _config(folder: Path) -> Path:
    import yaml

    from helpers_run import TINY

    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def _read_config(path: Path) -> None:
    from wsdino.config import load_config

    load_config(path).to_yaml()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _archive(folder: Path) -> Path:
    return write_archive_source(folder / "source")


def write_archive_source(source: Path) -> Path:
    """Write what a server of BBBC021 has: the tables, and the archive of a plate."""
    import zipfile

    source.mkdir()
    names = [f"Image_FileName_{c}" for c in ("DAPI", "Tubulin", "Actin")]
    rows: dict[str, Any] = {"TableNumber": [1], "ImageNumber": [1]}
    for name in names:
        rows |= {name: [f"{name}.tif"], name.replace("FileName", "PathName"): ["Week1/Week1_1"]}
    wells = {"Image_Metadata_Plate_DAPI": ["Week1_1"], "Image_Metadata_Well_DAPI": ["B02"]}
    doses = {"Image_Metadata_Compound": ["DMSO"], "Image_Metadata_Concentration": [0.0]}
    pd.DataFrame(rows | wells | doses).to_csv(source / "BBBC021_v1_image.csv", index=False)
    moas = {"compound": ["DMSO"], "concentration": [0.0], "moa": ["DMSO"]}
    pd.DataFrame(moas).to_csv(source / "BBBC021_v1_moa.csv", index=False)
    with zipfile.ZipFile(source / "BBBC021_v1_images_Week1_1.zip", "w", 8) as archive:
        for name in names:
            archive.writestr(f"Week1_1/{name}.tif", bytes(range(200)))
    return source


def _read_archive(path: Path) -> None:
    from wsdino.screen.download import download_bbbc021

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        download_bbbc021(path.parent / "out", source=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _run(folder: Path) -> Path:
    from generated_run import make_run

    from wsdino.runfolder import STAMPS, RunFolder

    make_run(folder / "run", num_per_moa=2, num_steps=40)
    run = RunFolder(folder / "run")
    run.make(
        "evaluate",
        products=[run.paths.results],
        sources=[run.paths.profiles],
        options={},
        work=lambda: None,
    )
    assert (folder / "run" / STAMPS).is_file()
    return folder / "run"


def _read_run(path: Path) -> None:
    from wsdino.errors import TableError
    from wsdino.evaluate.results import read_results
    from wsdino.runfolder import RunFolder, RunPaths, is_made_from
    from wsdino.runrecord import read_run

    paths = RunPaths(path)
    read_run(path)
    is_made_from(path, paths.results, paths.profiles)
    RunFolder(path).make(
        "evaluate",
        products=[paths.results],
        sources=[paths.profiles],
        options={},
        work=lambda: None,
    )
    if paths.results.is_file():
        try:
            read_results(paths.results)
        except TableError:
            return


def _small_run(folder: Path) -> Path:
    from generated_run import make_run, write_lines

    run = make_run(folder / "run", num_per_moa=2, num_steps=12)
    # Curves of all columns are drawn by the same function: with a bound, and without.
    drawn = ("step", "loss", "accuracy", "teacher_entropy", "teacher_entropy_max")
    for path in run.rglob("metrics.jsonl"):
        lines = map(json.loads, path.read_text().splitlines())
        write_lines(path, [{key: one[key] for key in drawn if key in one} for one in lines])
    return run


def _read_report(path: Path) -> None:
    from wsdino import runrecord
    from wsdino.report import background, explorer, maps, sections
    from wsdino.report.html import write_report

    _only_once(
        (background, "curve_svg"),
        (sections, "forest_svg"),
        (maps, "lay_out"),
        (maps, "scatter_svg"),
        (runrecord, "read_table"),
        (explorer, "map_plot"),
    )
    write_report(path, out=path.parent / "report.html")


def _only_once(*functions: tuple[ModuleType, str]) -> None:
    """Let pure functions keep their results: most don't depend on what was damaged."""
    for module, name in functions:
        if not isinstance(function := getattr(module, name), _Once):
            setattr(module, name, _Once(function))


class _Once:
    """A function whose last results are kept, by the content of its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.values: dict[bytes, bytes] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = pickle.dumps((args, kwargs))
        if key not in self.values:
            if len(self.values) > 100:
                self.values.clear()
            self.values[key] = pickle.dumps(self.function(*args, **kwargs))
        return pickle.loads(self.values[key])  # noqa: S301 our own


def _fitted(folder: Path) -> Path:
    from wsdino.profile.normalise import fit_normalisation

    path = folder / "normalisation.npz"
    fit_normalisation(_sites(64), method="tvn").save(path)
    return path


def _read_fitted(path: Path) -> None:
    from wsdino.profile.fitted import load_normalisation

    load_normalisation(path).transform(_sites(64))


def _function(folder: Path) -> Path:
    path = folder / "function.npy"
    np.save(path, np.ones((6, 8), np.float32))
    return path


def _read_function(path: Path) -> None:
    from wsdino.screen.correction import load_function

    load_function(path, (6, 8))


def _simulation(folder: Path) -> Path:
    from wsdino.simulate import simulate

    _images(folder).to_csv(folder / "layout.csv", index=False)
    return simulate(folder / "screen", layout=folder / "layout.csv", size=32, workers=1)


def _read_simulation(path: Path) -> None:
    from wsdino.errors import OutputError
    from wsdino.simulate import simulate, write

    _only_once((write, "layout_table"))
    # Another size is refused, whatever else the spec says, and so are images without a spec.
    try:
        simulate(path, layout=path.parent / "layout.csv", size=40, workers=1)
    except OutputError as error:
        if "with size 32" not in str(error):
            raise


PARSERS = (
    Parser("table.csv", partial(_profiles_table, ".csv"), _read_table),
    Parser("table.txt", partial(_profiles_table, ".txt"), _read_table),
    Parser("table.csv.gz", partial(_profiles_table, ".csv.gz"), _read_table),
    Parser("table.parquet", partial(_profiles_table, ".parquet"), _read_table),
    Parser("loaddata.csv", partial(_loaddata, ".csv"), _read_manifest, ("*.csv",)),
    Parser("manifest.parquet", partial(_loaddata, ".parquet"), _read_manifest, ("*.parquet",)),
    Parser("platemap", _platemap, _read_platemap),
    Parser("harmony", _harmony, _read_layout, ("**/*.xml",)),
    Parser("imagexpress", _imagexpress, _read_layout, ("**/*.HTD", "**/*.htd")),
    Parser("jdce", _jdce, _read_layout, ("**/*.jdce", "**/*.csv")),
    Parser("cellvoyager", _cellvoyager, _read_layout, ("**/*.mlf", "**/*.mrf", "**/*.mes")),
    Parser("ome-tiff", _ometiff, _read_layout),
    Parser("companion", _companion, _read_layout, ("*.ome",)),
    Parser("ome-zarr", _omezarr, _read_layout),
    Parser("image.tif", partial(_image, "image.tif"), _read_image),
    Parser("image.lzw.tif", partial(_image, "image.lzw.tif"), _read_image),
    Parser("image.ome.tif", partial(_image, "image.ome.tif"), _read_image),
    Parser("image.png", partial(_image, "image.png"), _read_image),
    Parser("image.npy", partial(_image, "image.npy"), _read_image),
    Parser("image.npz", partial(_image, "image.npz"), _read_image),
    Parser("store", _store, _read_store),
    Parser("checkpoint", _checkpoint, _read_checkpoint, checks_sums=True),
    Parser("model", _model, _read_model),
    Parser("weights.pth", partial(_weights, "weights.pth"), _read_weights),
    Parser("weights.safetensors", partial(_weights, "weights.safetensors"), _read_weights),
    Parser("config", _config, _read_config),
    Parser("archive", _archive, _read_archive),
    Parser("run", _run, _read_run),
    Parser("report", _small_run, _read_report, ("run/*.json", "run/*.jsonl", "run/*.yaml")),
    Parser("normalisation", _fitted, _read_fitted),
    Parser("illumination", _function, _read_function),
    Parser("simulation", _simulation, _read_simulation, ("**/*.json",)),
)
