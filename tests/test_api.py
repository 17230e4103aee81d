"""What `import wsdino` offers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import wsdino
from helpers_tables import synthetic_design, with_features

NAMES = [
    "TVN",
    "Config",
    "ConfigError",
    "DoseCurve",
    "Fitted",
    "ImageError",
    "InputError",
    "ManifestError",
    "MatchResult",
    "Model",
    "ModelError",
    "Normaliser",
    "OutputError",
    "Selection",
    "Store",
    "StoreError",
    "TableError",
    "TrainingError",
    "WsdinoError",
    "__version__",
    "activity",
    "activity_of",
    "aggregate",
    "compare_activity",
    "compare_profiles",
    "consistency",
    "dino_loss",
    "embed_store",
    "evaluate_profiles",
    "evaluate_sites",
    "fit_dose_curve",
    "fit_normalisation",
    "fit_tvn",
    "ingest",
    "load_config",
    "load_model",
    "load_normalisation",
    "make_profiles",
    "match_moa",
    "neighbours",
    "normalise",
    "open_store",
    "read_manifest",
    "read_table",
    "run",
    "simulate_screen",
    "train_model",
    "write_report",
    "write_table",
]
ALIASES = {
    "compare_profiles": "compare",
    "evaluate_profiles": "evaluate",
    "simulate_screen": "simulate",
    "train_model": "train",
    "ManifestError": "TableError",  # its former name
}


def test_the_api_is_pinned() -> None:
    assert wsdino.__all__ == NAMES
    assert dir(wsdino) == sorted(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_name_is_what_it_says(name: str) -> None:
    found = getattr(wsdino, name)
    assert found.__name__ == ALIASES.get(name, name)
    assert found.__module__.startswith("wsdino.")
    assert inspect.getdoc(found)


def test_type_checkers_see_the_same() -> None:
    tree = ast.parse(Path(wsdino.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: getattr(import_module(str(node.module)), alias.name)
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = [name for name in NAMES if name != "__version__" and not name.endswith("Error")]
    assert seen == {name: getattr(wsdino, name) for name in lazy}


def test_version() -> None:
    assert wsdino.__version__ == metadata.version("wsdino")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        wsdino.embedd  # noqa: B018


@pytest.mark.parametrize(
    "error",
    [getattr(wsdino, name) for name in NAMES if name.endswith("Error")],
    ids=lambda error: error.__name__,
)
def test_errors_say_who_can_mend_them(error: type[wsdino.WsdinoError]) -> None:
    assert issubclass(error, wsdino.WsdinoError)
    mendable = issubclass(error, wsdino.InputError)
    assert error.exit_status == (2 if mendable else 1)
    assert issubclass(error, ValueError) == mendable


def test_import_is_light() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'zarr', 'matplotlib'}"
    code = f"import sys, wsdino; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "\n"


def test_names_survive_the_import_of_the_stages_folders() -> None:
    code = (
        "import wsdino, wsdino.evaluate.results, wsdino.simulate\n"
        "assert callable(wsdino.evaluate_profiles) and callable(wsdino.simulate_screen)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("match_moa", ("file.csv",)),
        ("evaluate_profiles", ("file.csv",)),
        ("evaluate_sites", ("file.csv",)),
        ("normalise", ("file.csv",)),
        ("fit_normalisation", ("file.csv",)),
        ("make_profiles", ("file.csv",)),
        ("aggregate", ("file.csv",)),
        ("neighbours", ("file.csv", "taxol")),
        ("activity", ("file.csv",)),
        ("activity_of", ("file.csv",)),
        ("consistency", ("file.csv",)),
        ("compare_profiles", ("file.csv", "file.csv")),
        ("compare_activity", ("file.csv", "file.csv")),
    ],
)
def test_a_path_for_a_table_is_refused_with_what_reads_it(
    function: str, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(wsdino.InputError, match=r"DataFrame, found str; .* with wsdino.read_table"):
        getattr(wsdino, function)(*arguments)
    with pytest.raises(wsdino.InputError, match=r"DataFrame, found ndarray$"):
        getattr(wsdino, function)(*(np.zeros((2, 2)) for _ in arguments))


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (np.zeros((3, 64, 64), np.uint16), r"\(N, 3, H, W\).* a, b, c; found \(3, 64, 64\)"),
        (np.zeros((1, 2, 64, 64), np.uint16), r"found \(1, 2, 64, 64\)"),
        (np.zeros((1, 3, 64, 64), np.float32), "uint8 or uint16 .*found float32; don't scale"),
        (np.zeros((1, 3, 64, 64), np.int16), "found int16"),
    ],
)
def test_images_of_another_kind_are_refused(images: np.ndarray, what: str) -> None:
    model = wsdino.load_model("starter", channels=["a", "b", "c"])
    for call in (model.embed, model.attention):
        with pytest.raises(wsdino.InputError, match=what):
            call(images)


def test_a_normalisation_is_an_estimator_of_scikit_learn() -> None:
    design = synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    table = with_features(design)
    ours = wsdino.fit_normalisation(table, method="weak_label", regularisation=0.1)
    theirs = make_pipeline(clone(wsdino.Normaliser("tvn")))
    theirs.set_params(normaliser__method="weak_label", normaliser__regularisation=0.1)
    pd.testing.assert_frame_equal(theirs.fit_transform(table), ours.transform(table))
    with pytest.raises(NotFittedError):
        wsdino.Normaliser().transform(table)
