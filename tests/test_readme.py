"""The front page: short, and everything on it holds."""

from __future__ import annotations

import io
import re
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from helpers_manual import REPO, blocks_of, run_page

if TYPE_CHECKING:
    from pathlib import Path

README = REPO / "README.md"
PROJECT: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]


def test_it_is_short_and_its_links_and_pictures_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert link.startswith("https://") or (REPO / link).is_file(), link
    pictures = [REPO / each for each in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)]
    assert pictures
    assert all(picture.stat().st_size < 150_000 for picture in pictures)


def test_extras_that_pages_name_exist() -> None:
    known = set(PROJECT["optional-dependencies"])
    for page in [README, *(REPO / "docs").rglob("*.md")]:
        for names in re.findall(r"(?:wsdino|'\.)\[([a-z,]+)\]", page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= known, f"{page.name}: {names}"


def test_version_and_date_are_the_same_everywhere() -> None:
    version = PROJECT["version"]
    newest = re.search(
        r"^## (\S+), (\S+)$", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert newest
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest[1] == version == citation["version"]
    assert newest[2] == str(citation["date-released"])


def test_the_citation_has_what_the_format_wants() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["type"] == "software"
    assert citation["license"] == PROJECT["license"]
    (method,) = (each for each in citation["references"] if each["type"] == "article")
    assert {"type": "other", "value": "arXiv:2209.07819"} in method["identifiers"]
    for each in (citation, *citation["references"]):
        for author in each["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})


def write_screen(folder: Path, head: str) -> None:
    """Write a screen whose table begins with the rows of the page, and has more of their kind."""
    rows = pd.read_csv(io.StringIO(head))
    rng = np.random.default_rng(0)
    tables = [rows]
    for plate in ("P1", "P2", "P3"):
        for number, row in enumerate(rows.to_dict("records")):
            wells = [f"{letter}{number + 2:02d}" for letter in "BCDEFG"]
            if plate == "P1":
                wells.remove("B" + row["Metadata_Well"][1:])
            more = pd.DataFrame([row] * len(wells)).assign(
                Metadata_Plate=plate, Metadata_Well=wells
            )
            for name in ("DNA", "Actin"):
                more[f"FileName_{name}"] = [f"{plate}_{well}_{name}.tif" for well in wells]
            tables.append(more)
    table = pd.concat(tables, ignore_index=True)
    # Another compound of each mechanism, for them to be found.
    second = table[table["Metadata_MoA"].notna()].iloc[::2].index
    table.loc[second, "Metadata_Compound"] += " too"
    table.loc[table.index[: len(rows)], :] = rows
    table.to_csv(folder / "images.csv", index=False)
    for row in table.to_dict("records"):
        for name in ("DNA", "Actin"):
            bright = 300 + 200 * len(row["Metadata_Compound"])
            pixels = rng.integers(100, bright, (96, 96)).astype(np.uint16)
            tifffile.imwrite(folder / row[f"FileName_{name}"], pixels)


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    (head,) = (block.text for block in blocks_of(README) if block.language == "csv")
    assert len(head.splitlines()) == 4
    write_screen(tmp_path, head)
    return tmp_path


@pytest.mark.slow
def test_its_commands_and_its_python_run(screen: Path) -> None:
    run_page(README, screen)
    assert (screen / "sites.parquet").is_file()
