"""What somebody adds to a named table from outside is there wherever ours is.

A normalisation, a baseline and a reader; for an objective see train/test_new_objective.py.
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_run import ended, finish, start_anew, write_tiny_config
from helpers_screen import write_bbbc021_folder
from helpers_tables import synthetic_design, with_features
from wsdino.baselines import BASELINES, Baseline, Training
from wsdino.embed.embed import embed_store
from wsdino.errors import ConfigError, TableError
from wsdino.evaluate.held_out import held_out_of
from wsdino.model.model import load_model
from wsdino.profile.methods import AGGREGATIONS, NORMALISATIONS
from wsdino.screen.readers import READERS
from wsdino.screen.store import open_store
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from wsdino.profile.fitted import Fitted

ROOT = Path(__file__).resolve().parents[1]
OURS = """
import numpy as np
import pandas as pd

from wsdino import baselines
from wsdino.baselines import Baseline
from wsdino.profile import methods
from wsdino.profile.base import Fit, Needs, Normalisation


class Within:
    '''Divide each feature by its deviation within labels.'''

    def fit(self, table, options):
        from wsdino.profile.labels import label_codes
        from wsdino.tables.features import features_of

        codes, features = label_codes(table, options["label"]), pd.DataFrame(features_of(table))
        centred = features - features.groupby(codes).transform("mean")
        deviation = centred.std(ddof=0).to_numpy()
        return Fit({"deviation": deviation}, "rows around their label's mean", len(table))

    def transform(self, table, state):
        from wsdino.tables.features import feature_columns, features_of

        scaled = features_of(table) / np.where(state["deviation"] > 0, state["deviation"], np.inf)
        return pd.DataFrame(scaled, columns=feature_columns(table), index=table.index)

    def check(self, state, features):
        from wsdino.profile.stored import require_numbers

        require_numbers(state, "deviation", (len(features),))


def brightness(store, workers):
    from wsdino.embed.classical import classical_table

    table = classical_table(store, workers=workers)
    names = [name for name in table if not name.startswith("classical_") or name.endswith("_p50")]
    return table[names]


methods.NORMALISATIONS += (
    Normalisation(
        name="within",
        help="over the deviation within weak labels",
        method=Within,
        needs=Needs(label=True),
        options={"label": "compound"},
    ),
)
baselines.BASELINES += (
    Baseline(
        name="brightness",
        help="the median of each channel",
        label="median brightness",
        colour="#123456",
        features=brightness,
    ),
    Baseline(
        name="shipped",
        help="the weights that wsdino ships, as they are",
        label="the starter",
        colour="#654321",
        model="starter",
    ),
)
"""
READER = """
import pandas as pd

from wsdino.screen import readers
from wsdino.screen.readers import RawTable, Reader


def recognises(path):
    return path.is_dir() and (path / "slide.toml").is_file()


def read(path, text):
    import tomllib

    slide = tomllib.loads((path / "slide.toml").read_text(encoding="utf-8"))
    rows = [
        {
            "Metadata_Plate": slide["name"],
            "Metadata_Well": well["at"],
            "Metadata_Site": 1,
            "Metadata_Compound": well.get("drug", "DMSO"),
            "Metadata_Concentration_nM": well.get("nanomolar"),
            **{
                f"FileName_{channel}": f"{well['at']}{number}.tif"
                for number, channel in enumerate(slide["channels"])
            },
        }
        for well in slide["well"]
    ]
    return RawTable(pd.DataFrame(rows), path / "pictures")


readers.READERS = (Reader("a slide with slide.toml", recognises, read), *readers.READERS)
"""


def plain(out: str) -> str:
    """What was printed, without frames (of ASCII where the locale has no other) and line breaks."""
    return re.sub(r"\s+", " ", re.sub(r"[│╭╰─╮╯]|^\||\|$", " ", out, flags=re.MULTILINE))


def outside(*arguments: object, entries: str = OURS) -> tuple[int, str, str]:
    """The command line of somebody with entries of their own, as a process."""
    code = f"{entries}\nfrom wsdino.cli.main import main\nmain()\n"
    status, out, err = finish(start_anew(*arguments, code=code))
    return status, plain(out), err


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same entries in this process, all but the choices that the help pages name."""
    monkeypatch.setattr("wsdino.profile.methods.NORMALISATIONS", NORMALISATIONS)
    monkeypatch.setattr("wsdino.baselines.BASELINES", BASELINES)
    exec(OURS, {"__name__": "outside"})


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of somebody's own in this process."""
    monkeypatch.setattr("wsdino.screen.readers.READERS", READERS)
    exec(READER, {"__name__": "outside"})


def inside(*arguments: object) -> tuple[int, str, str]:
    """The command line in this process, with entries that a fixture puts there."""
    status, out, err = ended(*arguments)
    return status, plain(out), err


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    path = tmp_path_factory.mktemp("tables") / "sites.csv"
    with_features(design).to_csv(path, index=False)
    return path


@pytest.mark.usefixtures("within")
def test_choices_and_help_name_it(sites: Path, tmp_path: Path) -> None:
    for command in ("profile", "evaluate"):
        status, out, _ = outside(command, "--help")
        assert status == 0
        assert re.search(r"none\s?\|\s?within\s?\]", out)
        assert "metadata column (weak_label, within)." in out
    status, _, err = inside("evaluate", sites, "--from-sites", "--normalise", "withn")
    assert status == 2
    assert "'withn', did you mean within?; expected one of tvn, " in err
    assert ", none, within" in err
    # And what another one lacks is what it offers.
    table = pd.read_csv(sites)
    table[~table["Metadata_Control"]].to_csv(tmp_path / "treated.csv", index=False)
    options = ["--from-sites", "--normalise", "tvn"]
    status, _, err = inside("evaluate", tmp_path / "treated.csv", *options)
    assert "use one of whiten_all, weak_label, plate, standardise_all, none, within" in err
    assert status == 2


@pytest.mark.usefixtures("within")
def test_results_say_that_labels_were_used(sites: Path, tmp_path: Path) -> None:
    status, out, err = inside(
        *("evaluate", sites, "--from-sites", "--normalise", "within", "--label", "treatment"),
        *("--aggregate", "mean", "--json", tmp_path / "results.json"),
    )
    assert status == 0, err
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    made = results["normalisation"]
    assert made["method"] == "within"
    assert made["options"] == {"label": "treatment"}
    assert made["note"] == "weak labels (treatment) were used"
    found = results["held_out"]
    assert found["nsc_total"] == results["nsc_total"]
    assert found["nscb_total"] == results["nscb_total"]
    said = " ".join(out.split())
    # Every compound of this screen's mechanisms shares its batch.
    assert found["nscb"] is None
    numbers = f"NSC {100 * found['nsc']:.1f} %, mAP {found['map']:.3f}"
    assert (
        "weak labels (treatment) were used; with the query's compound left out of the fit (4 folds "
        f"over compounds, mean of 5 seeds): {numbers}"
    ) in said
    assert f"left out of the fit {100 * found['nsc']:.1f} % - {found['map']:.3f}" in said
    status, _, err = inside(
        "evaluate", sites, "--from-sites", "--normalise", "within", "--label", "Shape"
    )
    assert status == 2
    assert "needs the column Metadata_Shape for label 'Shape'" in err


def test_an_option_without_effect_is_refused(sites: Path, tmp_path: Path) -> None:
    for ask, options, named in (
        (
            outside,
            ("--normalise", "within", "--num-components", 3),
            "num_components 3 has no effect",
        ),
        (inside, ("--normalise", "plate", "--regularisation", 0.0), "which takes no options"),
        (inside, ("--label", "compound"), "label 'compound' has no effect with normalisation tvn"),
    ):
        status, _, err = ask("profile", sites, *options, "--out", tmp_path / "p.parquet")
        assert (status, err.count("\n")) == (2, 1)
        assert named in err
        assert not (tmp_path / "p.parquet").exists()
    profiles = tmp_path / "p.csv"
    assert inside("profile", sites, "--out", profiles)[0] == 0
    status, _, err = inside("evaluate", profiles, "--num-components", 3)
    assert status == 2
    assert "--num-components 3: has no effect on treatment profiles" in err


@pytest.mark.usefixtures("within")
def test_a_run_has_both(tmp_path: Path) -> None:
    screen = write_bbbc021_folder(tmp_path / "screen", num_sites=1, num_plates=1)
    config = write_tiny_config(
        tmp_path / "tiny.yaml",
        profile={"normalise": "within"},
        baselines={"names": ["brightness", "shipped"]},
    )
    run, source = tmp_path / "run", f"screen.source={screen}"
    status, out, err = inside("run", config, "--out", run, "--set", source)
    assert status == 0, err
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert list(results["baselines"]) == ["brightness", "shipped"]
    for numbers in (results, *results["baselines"].values()):
        assert numbers["normalisation"]["method"] == "within"
        assert set(numbers["held_out"]) >= {"nsc", "nscb", "map", "nsc_each", "nsc_total"}
    assert "median brightness" in out
    embeddings = read_table(run / "baselines" / "brightness" / "embeddings.parquet")
    features = [name for name in embeddings if not name.startswith("Metadata_")]
    assert features
    assert all(name.endswith("_p50") for name in features)
    store = open_store(run / "store")
    expected = embed_store(load_model("starter", channels=store.channels), store)
    shipped = read_table(run / "baselines" / "shipped" / "embeddings.parquet")
    names = [name for name in expected if not name.startswith("Metadata_")]
    np.testing.assert_allclose(shipped[names], expected[names], rtol=1e-4, atol=1e-4)
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "median brightness" in report
    assert "within: over the deviation within weak labels" in report
    assert "left out of the fit" in report


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A screen in a layout of somebody's own; the first pixel of an image says which it is."""
    folder = tmp_path / "slide"
    (folder / "pictures").mkdir(parents=True)
    wells = {"B02": "", "B03": 'drug = "taxol"\nnanomolar = 300\n'}
    text = 'name = "S 1"\nchannels = ["DNA", "Actin"]\n'
    for row, (well, what) in enumerate(wells.items()):
        text += f'[[well]]\nat = "{well}"\n{what}'
        for channel in range(2):
            pixels = np.random.default_rng(row).integers(0, 99, (16, 24)).astype(np.uint16)
            pixels[0, 0] = 1000 * (row + 1) + channel
            tifffile.imwrite(folder / "pictures" / f"{well}{channel}.tif", pixels)
    (folder / "slide.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.usefixtures("reader")
def test_a_reader_from_outside(slide: Path, tmp_path: Path) -> None:
    status, out, _ = outside("ingest", "--help", entries=READER)
    assert status == 0
    assert "The screen: a slide with slide.toml; a folder with" in out
    status, out, err = inside("ingest", slide, "--out", tmp_path / "store")
    assert status == 0, err
    assert "2 sites of 16 x 24 px uint16, channels DNA, Actin; 2 compounds, 1 plate," in out
    store = open_store(tmp_path / "store")
    manifest = store.manifest
    assert manifest["Metadata_Plate"].tolist() == ["S 1", "S 1"]
    assert manifest["Metadata_Compound"].tolist() == ["DMSO", "taxol"]
    assert manifest["Metadata_Control"].tolist() == [True, False]
    assert manifest["Metadata_Concentration"][1] == pytest.approx(0.3)
    assert [store[site][:, 0, 0].tolist() for site in range(2)] == [[1000, 1001], [2000, 2001]]
    # What its table lacks is checked as for ours, and its name stands in the errors.
    (slide / "pictures" / "B031.tif").unlink()
    status, _, err = inside("ingest", slide, "--out", tmp_path / "other")
    assert (status, err.count("\n")) == (2, 2)
    assert "B031.tif (channel Actin, plate S 1, well B03, site 1) does not exist" in err
    assert not (tmp_path / "other").exists()
    (slide / "slide.toml").unlink()
    status, _, err = inside("ingest", slide, "--out", tmp_path / "other")
    assert (status, err.count("\n")) == (2, 1)
    assert "this folder is not a screen; a screen is a slide with slide.toml; a folder with" in err


@pytest.mark.usefixtures("within")
def test_config_and_checks_know_both(tmp_path: Path) -> None:
    from wsdino.config import load_config
    from wsdino.pipeline import run

    config = write_tiny_config(tmp_path / "tiny.yaml", profile={"normalise": "within"})
    with pytest.raises(
        ConfigError,
        match=r"'bright', did you mean brightness.; expected one of classical, .*, shipped$",
    ):
        load_config(config, ["baselines.names=[bright]"])
    with pytest.raises(ConfigError, match=r"per_channel: True has no effect with .* within"):
        load_config(config, ["profile.per_channel=true"])
    screen = write_bbbc021_folder(tmp_path / "screen", num_sites=1)
    given = [f"screen.source={screen}", "baselines.names=[brightness]"]
    assert load_config(config, given).baselines.names == ("brightness",)
    with pytest.raises(TableError, match=r"within needs the column Metadata_Shape .*=tvn\|"):
        run(load_config(config, [*given, "profile.label=Shape"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("within")
def test_a_fit_never_sees_the_query_s_compound(sites: Path) -> None:
    table = read_table(sites)
    names = [name for name in table if name.startswith("emb_")]
    given = {"normalisation": "within", "aggregation": "mean", "num_seeds": 2}
    found = held_out_of(table, **given, num_folds=9)
    # By hand, a fold for each compound: its own rows, however loud, are in no fit for it.
    from wsdino.evaluate.matching import match_moa
    from wsdino.profile.aggregate import aggregate_treatments

    right, control = [], table["Metadata_Control"]
    for compound in table["Metadata_Compound"][~control].unique():
        fitted = table[(table["Metadata_Compound"] != compound) | control]
        label = fitted["Metadata_Compound"].where(~fitted["Metadata_Control"], "control")
        centred = fitted[names] - fitted.groupby(label)[names].transform("mean")
        scaled = table.assign(**(table[names] / centred.std(ddof=0)))
        neighbours = match_moa(aggregate_treatments(scaled, aggregation="mean")).neighbours
        right.append(neighbours.loc[neighbours["compound"] == compound, "correct"].sum())
    share = sum(right) / found["nsc_total"]
    assert found["nsc_each"] == pytest.approx([share] * 2)
    assert found["nsc"] == pytest.approx(share)


@pytest.mark.usefixtures("within")
def test_what_was_fitted_from_outside_is_saved_and_loaded(sites: Path, tmp_path: Path) -> None:
    from wsdino import fit_normalisation, load_normalisation

    table = read_table(sites)
    fitted: Fitted = fit_normalisation(table, method="within")
    fitted.save(tmp_path / "within.npz")
    again = load_normalisation(tmp_path / "within.npz")
    assert again.info == fitted.info
    pd.testing.assert_frame_equal(again.transform(table), fitted.transform(table))


def test_colours_and_names_are_told_apart() -> None:
    for table in (NORMALISATIONS, AGGREGATIONS, BASELINES):
        names = [entry.name for entry in table]
        assert len(set(names)) == len(names)
        assert all(entry.help and "\n" not in entry.help for entry in table)
    assert len({entry.colour for entry in BASELINES}) == len(BASELINES)
    assert len({entry.label for entry in BASELINES}) == len(BASELINES)


def test_a_training_reads_and_sets_what_it_says() -> None:
    training = Training(reads={"train": "own.classifier"}, sets={"pairing.label": "none"})
    run = {"train": {"epochs": 1}, "own": {"classifier": {"epochs": 3}}, "pairing": {"label": "x"}}
    assert training.applied(run) == {
        "train": {"epochs": 3},
        "own": {"classifier": {"epochs": 3}},
        "pairing": {"label": "none"},
    }
    assert run["pairing"] == {"label": "x"}
    assert training.key("train.epochs") == "own.classifier.epochs"
    assert training.key("trainer.epochs") == "trainer.epochs"


def test_a_baseline_has_one_origin() -> None:
    words = {"name": "x", "help": "x", "label": "x", "colour": "#000000"}
    with pytest.raises(AssertionError, match="baseline x"):
        Baseline(**words)
    with pytest.raises(AssertionError, match="baseline x"):
        Baseline(**words, training=Training(), features=lambda *_: pd.DataFrame())


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """Cells by name of the Markdown table below a line."""
    lines = text[text.index(heading) :].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| ---"))
    found = {}
    for line in lines[start + 1 :]:
        if not line.startswith("| "):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name.strip("`")] = cells
    return found


def test_the_manual_names_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "making")
    text = import_module("choices").page()
    found = rows_of(text, "## Normalisations")
    assert found.keys() == {entry.name for entry in NORMALISATIONS}
    for entry in NORMALISATIONS:
        about, options = found[entry.name]
        assert about == entry.help
        assert re.findall(r"`(\w+)` \(", options) == list(entry.options)
    assert rows_of(text, "## Baselines") == {
        entry.name: [entry.label, entry.help] for entry in BASELINES
    }


def test_labels_of_rows() -> None:
    from wsdino.profile.labels import label_codes, label_problem

    table = pd.DataFrame(
        {
            "Metadata_Compound": ["a", "a", None, "DMSO", "b", "a", "c"],
            "Metadata_Concentration": [1.0, 2.0, 1.0, np.nan, np.nan, 1.0, 1.0],
            "Metadata_Control": [False, False, False, True, False, False, True],
        }
    )
    by = {name: label_codes(table, name) for name in ("compound", "treatment", "Compound")}
    for name, pairs in (
        ("compound", [(0, 1), (0, 5), (1, 5), (3, 6)]),
        ("treatment", [(0, 5), (3, 6)]),
    ):
        codes = by[name]
        same = {(i, j) for i in range(7) for j in range(i + 1, 7) if codes[i] == codes[j] >= 0}
        assert same == set(pairs)
        assert np.flatnonzero(codes < 0).tolist() == [2]
    np.testing.assert_array_equal(by["Compound"], by["compound"])
    table["Metadata_Row"] = list("abcdefg")
    assert label_problem(table, "compound") == label_problem(table, "treatment") == ""
    assert "found 5 values of label 'Row' in as many rows" in label_problem(table, "Row")
    assert "found 0 for label" in label_problem(table[table["Metadata_Control"]], "compound")
