"""The examples of the public names run as they stand, in a folder with what they name."""

from __future__ import annotations

import doctest
import inspect
from typing import TYPE_CHECKING

import pytest

import wsdino
from helpers_screen import write_bbbc021_folder
from helpers_tables import synthetic_design, with_features

if TYPE_CHECKING:
    from pathlib import Path

# Errors and containers that functions return; what needs minutes has its test elsewhere.
WITHOUT = {"Config", "DoseCurve", "MatchResult", "TVN", "run", "train_model", "write_report"}
NAMES = [
    name
    for name in wsdino.__all__
    if callable(getattr(wsdino, name)) and not name.endswith("Error") and name not in WITHOUT
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the examples find it: PLATES, STORE, sites.csv."""
    folder = tmp_path_factory.mktemp("examples")
    wsdino.ingest(write_bbbc021_folder(folder / "PLATES", num_sites=1), folder / "STORE")
    design = synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    with_features(design).to_csv(folder / "sites.csv", index=False)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    item = getattr(wsdino, name)
    found = doctest.DocTestParser().get_doctest(
        inspect.getdoc(item) or "", {}, name, inspect.getsourcefile(item), 0
    )
    assert found.examples
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    assert not result.failed, "".join(said)
