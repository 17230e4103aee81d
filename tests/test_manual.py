"""The manual: every command and snippet on its pages is right, and all of it can be built."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from typer.main import get_command

import wsdino
from helpers_layouts import (
    tagged,
    write_cellvoyager,
    write_gallery_plate,
    write_harmony,
    write_imagexpress,
    write_map,
    write_omezarr,
    write_tagged,
)
from helpers_manual import (
    DOCS,
    NEEDS,
    PAGES,
    REPO,
    Block,
    blocks_of,
    commands_of,
    name_of,
    run_page,
)
from helpers_run import call, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.cli import main
from wsdino.config import load_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


README = REPO / "README.md"
# What the recipes import that only the extra docs has.
OF_RECIPES = ("copairs", "pycytominer", "scanpy")


@cache
def command_line() -> Any:
    """The whole command line, as click's group."""
    return get_command(main.app)


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
each_page_and_the_readme = pytest.mark.parametrize("page", [*PAGES, README], ids=name_of)


@each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    blocks = blocks_of(page)
    assert len(blocks) == page.read_text(encoding="utf-8").count("```") / 2
    for block in blocks:
        assert block.language in ("bash", "python", "yaml", "text", "csv"), block.where
        assert block.needs in ("", *NEEDS), block.where
        # What isn't output is run, or is a file.
        assert block.language not in ("yaml", "csv") or block.file, block.where


@each_page_and_the_readme
def test_commands_have_these_options(page: Path, tmp_path: Path) -> None:
    whole = command_line()
    for block in blocks_of(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        for words in commands_of(block.text) if block.language == "bash" else ():
            try:
                context = whole.make_context("wsdino", list(words))
                name, command, rest = whole.resolve_command(context, words)
                values = command.make_context(name, rest, parent=context).params
            except Exception as error:  # noqa: BLE001 Typer doesn't export the type
                pytest.fail(f"{block.where}: wsdino {' '.join(words)}: {error!r}")
            if name in ("run", "train"):
                own = tmp_path / str(values["config"])
                config = own if own.is_file() else values["config"]
                # The recorded config of a run is there only where the page is run.
                if own.is_file() or not str(config).endswith(".yaml"):
                    load_config(config, values["settings"])


@each_page_and_the_readme
def test_commands_in_the_text_exist(page: Path) -> None:
    for span in re.findall(
        r"`wsdino ([a-z][^`]*)`",
        re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL),
    ):
        name, *words = shlex.split(span)
        command = command_line().commands[name]
        known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, span


@each_page_and_the_readme
def test_snippets_import_what_there_is(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            check_names(block)


def is_there(module: str) -> bool:
    top = module.partition(".")[0]
    if top in OF_RECIPES and not find_spec(top):
        pytest.skip(f"needs {top}")
    return find_spec(top) is not None


def check_names(block: Block) -> None:
    """Refuse syntax errors, and names that our package or the others don't have."""
    for node in ast.walk(ast.parse(block.text, block.where)):
        if isinstance(node, ast.Import):
            assert all(is_there(each.name) for each in node.names), block.where
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            if node.module.partition(".")[0] == "wsdino":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, each.name) for each in node.names), block.where
            else:
                assert is_there(node.module), block.where
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "wsdino"
        ):
            assert node.attr in wsdino.__all__, f"{block.where}: wsdino.{node.attr}"


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- needs: gpu -->\n```bash\ntorchrun --nnodes 2 -m wsdino run \\\n  cpu --out run\n"
        "wsdino embed 'a b' s  # comment\necho wsdino\n```\n\n```python\nimport wsdino\n```\n",
        encoding="utf-8",
    )
    text = page.read_text(encoding="utf-8")
    assert commands_of(text.split("```")[1]) == [
        ["run", "cpu", "--out", "run"],
        ["embed", "a b", "s"],
    ]
    for wrong in (
        "wsdino.open_stor('store')",
        "from wsdino.config import Konfig",
        "import wsdinoo",
    ):
        with pytest.raises(AssertionError):
            check_names(Block("page.md:1", "python", wrong))


def test_the_readme_and_the_pages_link_to_what_exists() -> None:
    for page in [*PAGES, *REPO.glob("*.md")]:
        for link in re.findall(
            r"\]\(([^)#\s]+?\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")
        ):
            made = link.startswith(("http", "reference/", "../reference/"))
            assert made or (page.parent / link).is_file(), f"{page.name}: {link}"


def test_it_builds_strictly_and_has_everything(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material isn't installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings isn't installed")
    build(tmp_path / "site")
    for page in PAGES:
        assert (tmp_path / "site" / name_of(page).removesuffix("index") / "index.html").is_file()
    reference = tmp_path / "site" / "reference"
    config = (reference / "config" / "index.html").read_text(encoding="utf-8")
    for key in leaves(load_config("paper").model_dump(mode="json")):
        named = key.startswith(("baselines.dino.", "baselines.classifier."))
        assert named or f"<code>{key}</code>" in config, key
    commands = (reference / "commands" / "index.html").read_text(encoding="utf-8")
    for name, command in command_line().commands.items():
        assert f"wsdino {name}" in commands
        for parameter in command.params:
            assert parameter.opts[0] in commands or parameter.name.upper() in commands.upper()
    python = (reference / "python" / "index.html").read_text(encoding="utf-8")
    for name in set(wsdino.__all__) - {"__version__"}:
        assert f"wsdino.{name}</code>" in python, name
    # Roles of docstrings have become code.
    assert ":func:" not in python
    assert ":class:" not in python
    how = (tmp_path / "site" / "how-it-works" / "index.html").read_text(encoding="utf-8")
    figures = set(re.findall(r"figures/(\w+\.svg)", how))
    assert len(figures) >= 3
    assert all((tmp_path / "site" / "figures" / each).is_file() for each in figures)


def build(site: Path) -> None:
    """Build the manual as `make docs` does, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    """Keys of all options."""
    found = []
    for name, value in values.items():
        own = f"{path}{name}"
        if own == "objective":
            found += [f"objective.{option}" for option in value if option != "name"]
        elif isinstance(value, dict):
            found += leaves(value, f"{own}.")
        else:
            found.append(own)
    return found


# What a page finds in its folder beside what the fixture `ready` makes.


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny screen, its store and a tiny run."""
    folder = tmp_path_factory.mktemp("manual")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_bbbc021_folder(folder / "plates")
        write_bbbc021_folder(folder / "new_plates", num_weeks=1, seed=9)
        for name in ("", "new_"):
            assert call(patch, "ingest", f"{name}plates", "--out", f"{name}store") == 0
        config = write_tiny_config(folder / "tiny.yaml")
        for name, seed in (("run", 0), ("other_run", 1)):
            given = ("screen.store=store", f"seed={seed}", "baselines.names=[classical,untrained]")
            options = [word for each in given for word in ("--set", each)]
            assert call(patch, "run", config, "--out", name, *options) == 0
    (folder / "tiny.yaml").unlink()
    for name in ("sites", "profiles"):
        made = {"sites": "embeddings"}.get(name, name)
        shutil.copy(folder / "run" / f"{made}.parquet", folder / f"{name}.parquet")
    return folder


def _harmony(folder: Path) -> None:
    write_harmony(folder / "BR1", 5)
    _wells(folder, "BR1", ["A02", "P24"])


def _imagexpress(folder: Path) -> None:
    write_imagexpress(folder / "Plate1")
    _wells(folder, "Plate1", ["B02", "C03"])


def _cellvoyager(folder: Path) -> None:
    write_cellvoyager(folder / "QC60")
    _wells(folder, "QC60", ["B06", "C11"])


def _gallery(folder: Path) -> None:
    source = folder / "cpg0000-x" / "source_4"
    write_gallery_plate(source, "batch1", "BR1")
    samples = ["BRD-1", "BRD-2", "BRD-3", "BRD-4", "BRD-5", ""]
    write_map(source / "workspace" / "metadata", "batch1", "MAP1", samples, ["1"] * 6)
    maps = source / "workspace" / "metadata" / "platemaps" / "batch1" / "barcode_platemap.csv"
    maps.write_text("Assay_Plate_Barcode,Plate_Map_Name\nBR1,MAP1\n", encoding="utf-8")


def _omezarr(folder: Path) -> None:
    sites = pd.DataFrame(
        {"Metadata_Plate": "P1", "Metadata_Well": ["B02", "B03"], "Metadata_Site": 0}
    )
    pixels = np.random.default_rng(0).integers(0, 999, (2, 3, 32, 32)).astype(np.uint16)
    write_omezarr(folder / "plate.zarr", sites, pixels, "0.5")
    _wells(folder, "P1", ["B02", "B03"])


def _ometiff(folder: Path) -> None:
    ids = range(2)
    wells = "".join(
        f'<Well ID="Well:{i}" Row="1" Column="{i + 1}"><WellSample ID="WellSample:{i}" Index="{i}">'
        f'<ImageRef ID="Image:{i}"/></WellSample></Well>'
        for i in ids
    )
    images = "".join(
        f'<Image ID="Image:{i}"><Pixels ID="Pixels:{i}" DimensionOrder="XYZCT" Type="uint16" '
        f'SizeX="8" SizeY="6" SizeC="1" SizeZ="1" SizeT="1"><Channel ID="Channel:{i}" Name="DNA"/>'
        f'<TiffData IFD="{i}" PlaneCount="1"/></Pixels></Image>'
        for i in ids
    )
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    text = f'<OME xmlns="{schema}"><Plate ID="Plate:0" Name="P7">{wells}</Plate>{images}</OME>'
    (folder / "tiffs").mkdir()
    with tifffile.TiffWriter(folder / "tiffs" / "all.ome.tif") as writer:
        for i in ids:
            writer.write(tagged(100 + i), description=text if i == 0 else None, metadata=None)
    _wells(folder, "P7", ["B02", "B03"])


def _any_folder(folder: Path) -> None:
    for well in ("B02", "B03"):
        for channel in ("DNA", "Actin"):
            write_tagged(folder / "images" / "P1" / f"{well}_f1_{channel}.tif", 7)
    _wells(folder, "P1", ["B02", "B03"])


def _images_of_a_table(folder: Path) -> None:
    for well in ("b02", "b03", "b04"):
        for channel in "da":
            write_tagged(folder / f"{well}_{channel}.tif", 7)


def _wells(folder: Path, plate: str, wells: list[str]) -> None:
    lines = ["Metadata_Plate,Metadata_Well,Metadata_Compound"]
    lines += [f"{plate},{well},{'DMSO' if n % 2 else 'taxol'}" for n, well in enumerate(wells)]
    (folder / "wells.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


ALSO: dict[str, Callable[[Path], None]] = {
    "layouts/harmony": _harmony,
    "layouts/imagexpress": _imagexpress,
    "layouts/cellvoyager": _cellvoyager,
    "layouts/gallery": _gallery,
    "layouts/ome-zarr": _omezarr,
    "layouts/ome-tiff": _ometiff,
    "layouts/any-folder": _any_folder,
    "layouts/tables": _images_of_a_table,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@each_page
def test_every_page_runs(page: Path, ready: Path, tmp_path: Path) -> None:
    blocks = [b for b in blocks_of(page) if b.language in ("bash", "python") and not b.needs]
    if not blocks:
        pytest.skip("nothing to run")
    folder = tmp_path / "work"
    shutil.copytree(ready, folder)
    ALSO.get(name_of(page), lambda _: None)(folder)
    run_page(page, folder)


def test_the_site_has_every_page() -> None:
    text = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", text, re.MULTILINE)
    made = {each for each in listed if each.startswith("reference/")}
    assert sorted(set(listed) - made) == sorted(f"{name_of(page)}.md" for page in PAGES)
    assert yaml.safe_load(text)["strict"] is True
    assert DOCS.is_dir()
