"""The package as it is installed: the wheel, its version, and what works without the extras."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.extras import DISTRIBUTIONS, extras, install_line

if TYPE_CHECKING:
    from collections.abc import Sequence

REPO = Path(__file__).resolve().parents[1]
BUILD = """
import sys
from hatchling.build import build_sdist, build_wheel
print((build_wheel if sys.argv[1] == "wheel" else build_sdist)(sys.argv[2]))
"""
# Python in which the modules of an extra can't be imported; runs several commands.
WITHOUT = """
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from wsdino.cli.main import main

for words in json.loads(sys.argv[1]):
    sys.argv = ["wsdino", *words]
    status, out, err = 0, StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""
OF_IMAGES = {
    "PIL",
    "bokeh",
    "google_crc32c",
    "imagecodecs",
    "jinja2",
    "matplotlib",
    "numba",
    "safetensors",
    "skimage",
    "tensorboard",
    "tifffile",
    "timm",
    "torch",
    "torchvision",
    "tornado",
    "umap",
    "zarr",
}
# No extra at all.
OF_EXTRAS = OF_IMAGES | {"anndata", "distributed", "h5py", "onnx", "s3fs"}


def build(kind: str, folder: Path) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling")
    folder.mkdir()
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("built") / "wheel")


def test_builds_are_alike_to_the_byte(wheel: Path, tmp_path: Path) -> None:
    assert digest(build("wheel", tmp_path / "again")) == digest(wheel)
    one, two = (build("sdist", tmp_path / name) for name in "ab")
    assert digest(one) == digest(two)
    with tarfile.open(one) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"src/wsdino/cli/main.py", "tests/test_package.py", "README.md", "LICENSE"} <= names


def test_the_wheel_works_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    table = profile_table(list("abcd"), ["M", "M", "N", "N"], np.eye(2).repeat(2, axis=0))
    table.to_csv(tmp_path / "profiles.csv", index=False)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    code = "import wsdino; print(wsdino.__file__); from wsdino.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "profiles.csv"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "4/4 = 100.0 %" in done.stdout
    # What isn't code came along.
    assert (tmp_path / "site" / "wsdino" / "model" / "starter" / "model.safetensors").is_file()
    assert (tmp_path / "site" / "wsdino" / "presets" / "paper.yaml").is_file()
    assert list((tmp_path / "site" / "wsdino" / "report" / "templates").glob("*.js"))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    path = tmp_path_factory.mktemp("tables") / "sites.csv"
    with_features(design).to_csv(path, index=False)
    return path


def without_extras(*commands: Sequence[object]) -> list[tuple[int, str, str]]:
    """Status, output and error output of commands, one after the other in one process."""
    code = WITHOUT.format(modules=OF_EXTRAS)
    words = json.dumps([list(map(str, command)) for command in commands])
    done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ended = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(ended) == len(commands)
    return ended


def test_the_extra_for_images_has_these_modules() -> None:
    assert {DISTRIBUTIONS.get(name, name) for name in OF_IMAGES} == {
        each.name for each in extras()["images"]
    }


def test_tables_need_no_extra(sites: Path, tmp_path: Path) -> None:
    commands = (
        ("profile", sites, "--out", tmp_path / "profiles.csv"),
        ("evaluate", sites, "--from-sites", "--normalise", "weak_label"),
        ("evaluate", tmp_path / "profiles.csv"),
        ("compare", tmp_path / "profiles.csv", tmp_path / "profiles.csv"),
        ("activity", sites, "--null-size", "100"),
        ("neighbours", sites, pd.read_csv(sites)["Metadata_Compound"].iloc[-1]),
        ("doctor", tmp_path),
        ("presets",),
        ("config", "paper"),
        ("config", "default", "--set", "objective.name=spc", "--explain"),
    )
    for command, (status, out, err) in zip(commands, without_extras(*commands), strict=True):
        assert status == 0, (command, err)
        assert out


def test_what_needs_an_extra_says_how_to_get_it(sites: Path, tmp_path: Path) -> None:
    screen, store, run, table, anndata = (
        tmp_path / name for name in ("screen", "store", "run", "out.csv", "out.h5ad")
    )
    wanted = (
        ("images", ("simulate", "--out", screen)),
        ("images", ("inspect", sites)),
        ("images", ("ingest", sites, "--out", store)),
        ("images", ("embed", "starter", store, "--out", table)),
        ("images", ("run", "cpu", "--set", f"screen.source={sites}", "--out", run)),
        ("anndata", ("profile", sites, "--out", anndata)),
        ("umap", ("profile", sites, "--map", "--out", table)),
    )
    ended = without_extras(*(command for _, command in wanted))
    for (extra, command), (status, out, err) in zip(wanted, ended, strict=True):
        assert (status, out) == (2, ""), command
        line = err.splitlines()[-1]
        assert line.endswith(f"is not installed: pip install 'wsdino[{extra}]'"), command
    assert not list(tmp_path.iterdir())


def test_a_module_of_no_extra_has_no_line() -> None:
    assert install_line("torch.nn") == "pip install 'wsdino[images]'"
    assert install_line("distributed") == "pip install 'wsdino[dask]'"
    assert install_line("pandas") is None
    # The smallest extra that has it.
    assert install_line("umap") == "pip install 'wsdino[umap]'"
    assert install_line("PIL.Image") == "pip install 'wsdino[images]'"
    assert install_line("pytest") is None
