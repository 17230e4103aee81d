"""The command line: what it prints, its exit status, one line for whatever a user gets wrong."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import time
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

import wsdino
from helpers_run import call, finish, start, start_anew, write_tiny_config
from helpers_screen import write_bbbc021_folder
from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.evaluate.results import evaluate_sites
from wsdino.profile.aggregate import aggregate_treatments, make_profiles
from wsdino.profile.normalise import fit_normalisation
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.joining import join_tables
from wsdino.tables.reading import read_table
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMANDS = (
    "demo",
    "simulate",
    "download",
    "inspect",
    "ingest",
    "train",
    "run",
    "embed",
    "profile",
    "evaluate",
    "attention",
    "export",
    "import",
    "report",
    "activity",
    "neighbours",
    "compare",
    "presets",
    "config",
    "doctor",
    "explore",
)


class Outcome:
    """What a call of the command line did."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def error(self) -> str:
        """The one line with which the work was refused."""
        assert self.status == 2, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("wsdino: ")] == lines[-1:]
        return lines[-1].removeprefix("wsdino: ")


@pytest.fixture
def wsdino_(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Call the command line in this process."""

    def go(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = call(monkeypatch, *arguments)
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return go


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny screen, not to be changed."""
    return write_bbbc021_folder(tmp_path_factory.mktemp("cli") / "screen", num_sites=1)


@pytest.fixture
def screen(original: Path, tmp_path: Path) -> Path:
    """A tiny screen that a test may spoil."""
    return shutil.copytree(original, tmp_path / "screen")


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path)).to_csv(path, index=False)


def plates(screen: Path) -> Path:
    return screen / "BBBC021_v1_image.csv"


# Help, version, usage.


def test_version(wsdino_: Callable[..., Outcome]) -> None:
    done = wsdino_("--version")
    assert (done.status, done.out, done.err) == (0, f"wsdino {wsdino.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, wsdino_: Callable[..., Outcome]) -> None:
    done = wsdino_(command, "--help")
    assert done.status == 0
    assert f"wsdino {command}" in done.out
    assert done.err == ""
    assert wsdino_(command, "-h").out == done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_ends_with_an_example_that_the_command_takes(command: str) -> None:
    from typer.main import get_command

    from wsdino.cli.main import app

    program = get_command(app)
    found = program.commands[command].epilog
    assert found.startswith(f"Example: wsdino {command}")
    name, *arguments = shlex.split(found.removeprefix("Example: wsdino ").partition(" > ")[0])
    with program.make_context("wsdino", [command]) as context:
        parsed = program.commands[command].make_context(name, arguments, parent=context)
    assert not parsed.args


def test_there_is_no_other_command(wsdino_: Callable[..., Outcome]) -> None:
    from typer.main import get_command

    from wsdino.cli.main import app

    names = set(get_command(app).commands)
    assert names == set(COMMANDS)
    listed = wsdino_("--help")
    assert listed.status == 0
    assert all(command in listed.out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest"],
        ["ingest", "somewhere"],
        ["evaluate"],
        ["simulate", "--out", "x", "--size", "wide"],
        ["evaluate", "x.csv", "--from-wells"],
        ["dance"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], wsdino_: Callable[..., Outcome]) -> None:
    done = wsdino_(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert "Usage" in done.err
    assert "Traceback" not in done.err


# Screens.


def missing_image(screen: Path) -> str:
    path = min(screen.rglob("*_w2*.tif"))
    path.unlink()
    return path.name


def truncated_tiff(screen: Path) -> str:
    path = min(screen.rglob("*_w2*.tif"))
    path.write_bytes(path.read_bytes()[:2000])
    return path.name


def no_tiff(screen: Path) -> str:
    path = min(screen.rglob("*_w2*.tif"))
    path.write_text("not an image", encoding="utf-8")
    return path.name


def smaller_channel(screen: Path) -> str:
    path = min(screen.rglob("*_w2*.tif"))
    tifffile.imwrite(path, np.zeros((64, 60), np.uint16))
    return path.name


def channel_of_another_type(screen: Path) -> str:
    path = min(screen.rglob("*_w2*.tif"))
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    return path.name


def floats(screen: Path) -> str:
    path = min(screen.rglob("*_w2*.tif"))
    tifffile.imwrite(path, np.zeros((64, 64), np.float32))
    return path.name


def without(column: str) -> Callable[[Path], str]:
    def spoil(screen: Path) -> str:
        edit(plates(screen), lambda table: table.drop(columns=column))
        return f"BBBC021_v1_image.csv: no column {column.removesuffix('DAPI')}"

    return spoil


def same_site_twice(screen: Path) -> str:
    edit(plates(screen), lambda table: pd.concat([table, table.tail(1)]))
    return "occurs more than once"


def two_mechanisms(screen: Path) -> str:
    path = screen / "BBBC021_v1_moa.csv"
    edit(path, lambda table: pd.concat([table, table.head(1).assign(moa="Eg5 inhibitors")]))
    return "has more than one MoA"


def no_number(screen: Path) -> str:
    column = "Image_Metadata_Concentration"
    edit(plates(screen), lambda table: table.assign(**{column: "much"}))
    return "Metadata_Concentration is 'much'"


def no_well(screen: Path) -> str:
    edit(plates(screen), lambda table: table.assign(Image_Metadata_Well_DAPI="4B"))
    return "Metadata_Well is '4B'"


def no_rows(screen: Path) -> str:
    edit(plates(screen), lambda table: table.head(0))
    return "no rows"


def no_table(screen: Path) -> str:
    plates(screen).unlink()
    return "this folder is not a screen; a screen is a folder with BBBC021_v1_image.csv"


def no_folder(screen: Path) -> str:
    shutil.rmtree(screen)
    return "no such file or folder"


SPOILT_SCREENS = (
    missing_image,
    truncated_tiff,
    no_tiff,
    smaller_channel,
    channel_of_another_type,
    floats,
    without("Image_Metadata_Compound"),
    without("Image_Metadata_Concentration"),
    without("Image_Metadata_Plate_DAPI"),
    without("Image_Metadata_Well_DAPI"),
    same_site_twice,
    two_mechanisms,
    no_number,
    no_well,
    no_rows,
    no_table,
    no_folder,
)


@pytest.mark.parametrize("command", ["ingest", "run"])
@pytest.mark.parametrize("spoil", SPOILT_SCREENS)
def test_a_spoilt_screen(
    spoil: Callable[[Path], str],
    command: str,
    screen: Path,
    tmp_path: Path,
    wsdino_: Callable[..., Outcome],
) -> None:
    named, out = spoil(screen), tmp_path / "out"
    if command == "ingest":
        done = wsdino_("ingest", screen, "--out", out)
    else:
        config = write_tiny_config(tmp_path / "tiny.yaml")
        done = wsdino_("run", config, "--out", out, "--set", f"screen.source={screen}")
    assert named in done.error
    assert not out.exists()


def test_damage_late_in_a_screen_leaves_an_unfinished_store_that_says_so(
    screen: Path, original: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    path = max(screen.rglob("*_w3*.tif"))
    path.write_bytes(path.read_bytes()[:2000])
    store = tmp_path / "store"
    message = wsdino_("ingest", screen, "--out", store).error
    assert path.name in message
    assert "stays unfinished" in message
    with pytest.raises(wsdino.StoreError, match="finished"):
        wsdino.open_store(store)
    shutil.copy(original / path.relative_to(screen), path)
    done = wsdino_("ingest", screen, "--out", store)
    assert done.status == 0
    assert "36 sites of 64 x 64 px uint16, channels DAPI, Tubulin, Actin; 9 compounds" in done.out
    assert len(wsdino.open_store(store)) == 36


@pytest.mark.parametrize("command", ["ingest", "run", "simulate", "demo"])
def test_a_folder_in_the_way(
    command: str, original: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("x", encoding="utf-8")
    arguments: dict[str, list[object]] = {
        "ingest": [original],
        "run": ["cpu", "--set", f"screen.source={original}"],
        "simulate": [],
        "demo": [],
    }
    assert str(out) in wsdino_(command, *arguments[command], "--out", out).error
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


# Configs.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["papr"], "preset 'papr': no such preset, did you mean paper?"),
        (["no.yaml"], "no.yaml: no such config file"),
        (
            ["cpu", "--set", "train.epoch=1"],
            "config key train.epoch: unknown, did you mean epochs?",
        ),
        (["cpu", "--set", "train.epochs=-1"], "config key train.epochs: found -1"),
        (["cpu", "--set", "train.epochs"], "--set 'train.epochs': use the form a.b=value"),
        (["cpu"], "config key screen.source: empty"),
        (["cpu", "--set", "screen.store=nowhere"], "nowhere"),
        (["cpu", "--set", "device=cuda:99"], "config key device"),
    ],
)
@pytest.mark.parametrize("command", ["run", "train"])
def test_a_wrong_config(
    command: str,
    arguments: list[str],
    named: str,
    tmp_path: Path,
    wsdino_: Callable[..., Outcome],
) -> None:
    assert named in wsdino_(command, *arguments, "--out", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


def no_controls(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["Image_Metadata_Compound"] != "DMSO"]


@pytest.mark.parametrize(
    ("change", "setting", "named"),
    [
        (no_controls, "profile.normalise=tvn", "profile.normalise tvn needs at least 2 control"),
        (pd.DataFrame.copy, "pairing.label=Metadata_Shape", "pairing.label 'Metadata_Shape'"),
        (pd.DataFrame.copy, "pairing.label=Metadata_Control", "pairing.label 'Metadata_Control'"),
        (
            pd.DataFrame.copy,
            "screen.controls=[water]",
            "no compound is named water, given as control",
        ),
        (pd.DataFrame.copy, "crops.global_views.size=128", "128"),
    ],
)
def test_a_screen_that_does_not_fit_the_config(
    change: Callable[[pd.DataFrame], pd.DataFrame],
    setting: str,
    named: str,
    screen: Path,
    tmp_path: Path,
    wsdino_: Callable[..., Outcome],
) -> None:
    edit(plates(screen), change)
    config, out = write_tiny_config(tmp_path / "tiny.yaml"), tmp_path / "out"
    source = ("--set", f"screen.source={screen}", "--set", setting)
    assert named in wsdino_("run", config, "--out", out, *source).error
    assert not out.exists()


# Tables.


@pytest.fixture(scope="module")
def sites() -> pd.DataFrame:
    """Embeddings of a small screen."""
    design = synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    return with_features(design)


def not_a_number(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[3, "emb_DAPI_1"] = np.nan
    return table


def infinite(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[[3, 5], "emb_DAPI_1"] = np.inf
    return table


SPOILT_TABLES = {
    "nan": (not_a_number, "feature emb_DAPI_1 is missing or infinite in 1 of"),
    "inf": (infinite, "feature emb_DAPI_1 is missing or infinite in 2 of"),
    "no features": (lambda t: t.filter(regex="^Metadata_"), "0 feature columns"),
    "no compound": (lambda t: t.drop(columns="Metadata_Compound"), "column Metadata_Compound"),
    "no plate": (lambda t: t.drop(columns="Metadata_Plate"), "column Metadata_Plate"),
    "no rows": (lambda t: t.head(0), "the table has no rows"),
}


@pytest.mark.parametrize("command", ["profile", "evaluate"])
@pytest.mark.parametrize("spoilt", SPOILT_TABLES)
def test_a_spoilt_table(
    spoilt: str,
    command: str,
    sites: pd.DataFrame,
    tmp_path: Path,
    wsdino_: Callable[..., Outcome],
) -> None:
    change, named = SPOILT_TABLES[spoilt]
    table, out = tmp_path / "sites.csv", tmp_path / "out.json"
    change(sites.copy()).to_csv(table, index=False)
    if command == "profile":
        out = tmp_path / "profiles.parquet"
        done = wsdino_("profile", table, "--out", out)
    else:
        done = wsdino_("evaluate", table, "--from-sites", "--json", out)
    assert named in done.error
    assert not out.exists()


def treatments(**columns: list) -> pd.DataFrame:
    features = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    given = {"compounds": list("abcd"), "moas": ["x", "x", "y", "y"]} | columns
    return profile_table(given["compounds"], given["moas"], features, Batch=list("1212"))


@pytest.mark.parametrize(
    ("table", "arguments", "named"),
    [
        (treatments().assign(x0=np.nan), [], "feature x0 is missing or infinite in 4 of 4 rows"),
        (treatments().assign(x0=1.0, x1=1.0), [], "every feature is constant"),
        (treatments(), ["--multi-batch", "lenient"], "multi-batch is 'lenient'"),
        (treatments(), ["--platemap", "nowhere"], "nowhere"),
        (treatments(), ["--from-sites", "--normalise", "zscore"], "normalisation is 'zscore'"),
        (
            treatments(),
            ["--from-sites", "--normalise", "none", "--aggregate", "max"],
            "aggregation is 'max'",
        ),
    ],
)
def test_wrong_profiles(
    table: pd.DataFrame,
    arguments: list[str],
    named: str,
    tmp_path: Path,
    wsdino_: Callable[..., Outcome],
) -> None:
    table.to_csv(tmp_path / "profiles.csv", index=False)
    out = tmp_path / "results.json"
    message = wsdino_("evaluate", tmp_path / "profiles.csv", *arguments, "--json", out).error
    assert named in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (treatments(moas=[None] * 4), "Metadata_MoA is empty in all 4 rows"),
        (treatments(moas=["x", None, None, None]), "a is the only compound with an MoA"),
        (treatments().drop(columns="Metadata_MoA"), "there is no Metadata_MoA"),
    ],
)
def test_profiles_without_mechanisms_say_so(
    table: pd.DataFrame, why: str, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    table.to_csv(tmp_path / "profiles.csv", index=False)
    done = wsdino_("evaluate", tmp_path / "profiles.csv", "--json", tmp_path / "results.json")
    assert done.status == 0
    assert f"NSC, NSCB and mAP were not computed: {why}" in done.out
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["nsc"] is results["nscb"] is results["map"] is None


@pytest.mark.parametrize("changed", ["no controls", "no control column"])
def test_sites_without_controls_are_whitened_on_all_rows(
    changed: str, sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    table = sites[~sites["Metadata_Control"]]
    if changed == "no control column":
        table = sites.drop(columns="Metadata_Control").replace("DMSO", "vehicle 7")
    table.to_csv(tmp_path / "sites.csv", index=False)
    out = tmp_path / "results.json"
    done = wsdino_("evaluate", tmp_path / "sites.csv", "--from-sites", "--json", out)
    assert done.status == 0
    assert "normalisation tvn needs at least 2 control rows" in done.err
    assert "whiten_all is used instead" in done.err
    assert json.loads(out.read_text(encoding="utf-8"))["normalisation"]["method"] == "whiten_all"
    named = wsdino_("evaluate", tmp_path / "sites.csv", "--from-sites", "--normalise", "tvn")
    assert "normalisation tvn needs at least 2 control rows" in named.error


@pytest.mark.parametrize("kind", ["as they are", "wells", "no controls", "no plates"])
def test_sites_are_refused_with_the_command_that_is_right(
    kind: str, sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    table, results = tmp_path / "my sites.csv", tmp_path / "results.json"
    changed = {
        "as they are": sites,
        "wells": sites.drop(columns="Metadata_Site"),
        "no controls": sites[~sites["Metadata_Control"]],
        "no plates": sites.drop(columns="Metadata_Plate"),
    }[kind]
    changed.to_csv(table, index=False)
    message = wsdino_("evaluate", table, "--json", results).error
    assert message.startswith(f"{table}: the rows are {'wells' if kind == 'wells' else 'sites'}, ")
    assert not results.exists()
    command, *words = shlex.split(message.partition("`")[2].partition("`")[0])
    assert command == "wsdino"
    assert words[:3] == ["evaluate", str(table), "--from-sites"]
    done = wsdino_(*words, "--json", results)
    assert done.status == 0, done.err
    assert json.loads(results.read_text(encoding="utf-8"))["nsc_total"] == 12


def test_the_right_command_keeps_the_design(
    sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    table, wells = tmp_path / "t.csv", tmp_path / "design.csv"
    bare = sites.drop(columns=["Metadata_Compound", "Metadata_MoA", "Metadata_Batch"])
    bare.to_csv(table, index=False)
    design = sites.filter(regex="^Metadata_")
    design.assign(FileName_DNA="x.tif", PathName_DNA=".").to_csv(wells, index=False)
    message = wsdino_("evaluate", table, "--platemap", wells).error
    words = shlex.split(message.partition("`")[2].partition("`")[0])
    assert words == ["wsdino", "evaluate", str(table), "--platemap", str(wells), "--from-sites"]
    assert wsdino_(*words[1:]).status == 0


@pytest.mark.parametrize("option", ["--normalise", "--aggregate"])
def test_an_option_without_effect_is_refused(
    option: str, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    treatments().to_csv(tmp_path / "p.csv", index=False)
    # Given is given, be it the default.
    value = {"--normalise": "tvn", "--aggregate": "published"}[option]
    message = wsdino_("evaluate", tmp_path / "p.csv", option, value).error
    assert message.startswith(f"{option} {value}: has no effect on treatment profiles; ")
    assert wsdino_("evaluate", tmp_path / "p.csv").status == 0


def test_multi_batch_without_batches_is_refused(
    tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    treatments().drop(columns="Metadata_Batch").to_csv(tmp_path / "p.csv", index=False)
    message = wsdino_("evaluate", tmp_path / "p.csv", "--multi-batch", "strict").error
    assert "--multi-batch strict: has no effect on " in message
    done = wsdino_("evaluate", tmp_path / "p.csv")
    assert done.status == 0
    assert "NSCB was not computed: the profiles have no Metadata_Batch" in done.out


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_batches_of_like_names_never_share(
    suffix: str, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    """Names that hold what once separated several come to the same numbers as plain ones."""
    design = synthetic_design(num_moas=4, num_compounds=12, num_treatments=24, num_batches=4)
    sites, results = with_features(design), []
    for stem in ("", "2019;"):
        table = tmp_path / f"sites{len(results)}{suffix}"
        write_table(sites.assign(Metadata_Batch=stem + sites["Metadata_Batch"]), table)
        profiles = tmp_path / f"profiles{len(results)}{suffix}"
        assert wsdino_("profile", table, "--out", profiles).status == 0
        out = tmp_path / "results.json"
        assert wsdino_("evaluate", profiles, "--json", out).status == 0
        results.append(json.loads(out.read_text(encoding="utf-8")))
    assert results[0] == results[1]
    assert 0 < results[0]["nscb_total"] < results[0]["nsc_total"]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("no.csv", None, "no such file"),
        ("table.xlsx", b"x", "unknown table format"),
        ("table.parquet", b"PAR1 torn", "can't be read as a table"),
        ("table.csv.gz", b"no gzip", "can't be read as a table"),
        ("table.csv", b"", "can't be read as a table"),
        ("table.csv", b"\xff\xfe\x00", "can't be read as a table"),
    ],
)
def test_a_table_that_can_not_be_read(
    name: str, content: bytes | None, named: str, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = wsdino_("evaluate", tmp_path / name).error
    assert message.startswith(f"{tmp_path / name}: ")
    assert named in message


def test_an_output_of_an_unknown_format(
    sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    sites.to_parquet(tmp_path / "sites.parquet")
    arguments = ("profile", tmp_path / "sites.parquet", "--out")
    assert "unknown table format" in wsdino_(*arguments, tmp_path / "p.txt").error
    assert (
        "--to 'excel': expected anndata or gallery"
        in wsdino_(*arguments, "p.xlsx", "--to", "excel").error
    )
    assert ".h5ad" in wsdino_(*arguments, tmp_path / "p.parquet", "--to", "anndata").error
    assert [path.name for path in tmp_path.iterdir()] == ["sites.parquet"]


# Models and runs.


@pytest.mark.parametrize("command", ["embed", "attention"])
def test_a_model_that_is_none(
    command: str, original: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    extra = ["--site", 0] if command == "attention" else []
    (tmp_path / "empty").mkdir()
    for model, named in ((tmp_path / "empty", "neither a finished run"), (tmp_path / "no", "no")):
        done = wsdino_(command, model, original, "--out", tmp_path / "e.parquet", *extra)
        assert named in done.error
    assert not (tmp_path / "e.parquet").exists()


def test_the_starter_embeds_any_store(
    original: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    store, table = tmp_path / "store", tmp_path / "e.parquet"
    assert wsdino_("ingest", original, "--out", store).status == 0
    assert wsdino_("embed", "starter", store, "--out", table).out == f"{table}\n"
    opened = wsdino.open_store(store)
    expected = wsdino.load_model("starter", channels=opened.channels)
    expected = expected.embed(opened.read(range(len(opened))))
    found = features_of(wsdino.read_table(table))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    drawn = wsdino_("attention", "starter", store, "--site", 0, "--out", tmp_path / "maps")
    assert drawn.status == 0
    assert any((tmp_path / "maps").iterdir())


def test_a_folder_called_starter_is_not_taken_for_the_starter(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wsdino_: Callable[..., Outcome],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    done = wsdino_("embed", "starter", original, "--out", tmp_path / "e.parquet")
    assert "use ./starter for the folder" in done.error
    named = wsdino_("embed", "./starter", original, "--out", tmp_path / "e.parquet")
    assert "neither a finished run" in named.error
    assert not (tmp_path / "e.parquet").exists()


def test_a_report_on_nothing(tmp_path: Path, wsdino_: Callable[..., Outcome]) -> None:
    assert f"{tmp_path / 'no'}" in wsdino_("report", tmp_path / "no").error


# The whole chain by its commands.


def test_the_commands_one_by_one(
    original: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    config, run = write_tiny_config(tmp_path / "tiny.yaml"), tmp_path / "run"
    store, embeddings = tmp_path / "store", tmp_path / "e.parquet"
    profiles, results = tmp_path / "p.parquet", tmp_path / "results.json"
    assert wsdino_("ingest", original, "--out", store).status == 0
    trained = wsdino_("train", config, "--set", f"screen.store={store}", "--out", run)
    assert (trained.status, trained.out) == (0, f"{run / 'model'}\n")
    assert wsdino_("embed", run, store, "--out", embeddings).out == f"{embeddings}\n"
    assert wsdino_("profile", embeddings, "--out", profiles).out == f"{profiles}\n"
    printed = wsdino_("evaluate", profiles, "--json", results)
    assert printed.status == 0
    numbers = json.loads(results.read_text(encoding="utf-8"))
    assert f"{numbers['nsc_correct']}/{numbers['nsc_total']} = " in printed.out
    from_sites = wsdino_("evaluate", embeddings, "--from-sites")
    assert f"{numbers['nscb_correct']}/{numbers['nscb_total']} = " in from_sites.out

    drawn = wsdino_("attention", run, store, "--site", 0, "--out", tmp_path / "maps")
    assert drawn.status == 0
    assert all((tmp_path / "maps").samefile(line.rpartition("/")[0]) for line in drawn.out.split())
    elsewhere = tmp_path / "none"
    absent = wsdino_("attention", run, store, "--site", 99, "--out", elsewhere)
    assert "the store has" in absent.error
    assert not elsewhere.exists()
    # A run that is trained and no more has a report as well.
    reported = wsdino_("report", run)
    assert (reported.status, reported.out) == (0, f"{run / 'report.html'}\n")
    # So has one to explore, until Ctrl-C ends it.
    assert "can't be explored: " in wsdino_("explore", run, "--no-browser").error
    shutil.copy(profiles, run / "profiles.parquet")
    shutil.copy(embeddings, run / "embeddings.parquet")
    server = start("explore", run, "--no-browser", "--port", 0)
    address = server.stdout.readline().strip() if server.stdout else ""
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert "wsdino explore" in answer.read().decode()
    server.send_signal(signal.SIGINT)
    status, _, err = finish(server)
    assert status == 0, err
    written = wsdino_("profile", embeddings, "--out", tmp_path / "p.h5ad", "--to", "anndata")
    assert written.status == 0


@pytest.fixture
def real_wells(real_data: Path, tmp_path: Path) -> Path:
    """CellProfiler's table of BBBC021; its plate map is put into `tmp_path`."""
    folder = real_data / "bbbc021_profiles"
    for suffix in ("image.csv.gz", "moa.csv"):
        shutil.copy(folder / f"BBBC021_v1_{suffix}", tmp_path)
    return folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz"


def test_the_real_wells_give_the_published_floor(
    real_wells: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    done = wsdino_(
        "evaluate",
        real_wells,
        "--from-sites",
        *("--platemap", tmp_path, "--normalise", "plate_controls", "--aggregate", "mean"),
        *("--json", tmp_path / "results.json"),
    )
    assert done.status == 0, done.err
    assert "90/103 = " in done.out
    assert "64/92 = " in done.out
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    left_out = {row["moa"] for row in results["left_out"]["nscb"]}
    assert left_out == {"Cholesterol-lowering", "Kinase inhibitors"}


def test_the_real_wells_gain_from_weak_labels(
    real_wells: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    out = tmp_path / "profiles.csv"
    done = wsdino_(
        "profile",
        real_wells,
        *("--platemap", tmp_path, "--normalise", "weak_label", "--out", out),
    )
    assert done.status == 0, done.err
    done = wsdino_("evaluate", out, "--json", tmp_path / "results.json")
    assert done.status == 0, done.err
    # With `tvn` 90 and 63 are right.
    assert "98/103 = " in done.out
    assert "83/92 = " in done.out
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["map"] == pytest.approx(0.916, abs=2e-3)


@pytest.mark.slow
def test_the_real_wells_gain_from_weak_labels_of_other_compounds(
    real_wells: Path, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    done = wsdino_(
        "evaluate",
        real_wells,
        *("--from-sites", "--platemap", tmp_path, "--normalise", "weak_label"),
        *("--json", tmp_path / "results.json"),
    )
    assert done.status == 0, done.err
    # With `tvn` 90 and 63 are right.
    assert "98/103 = " in done.out
    assert "83/92 = " in done.out
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["normalisation"]["note"].startswith("weak labels (compound) were used; ")
    assert results["map"] == pytest.approx(0.916, abs=2e-3)
    found = results["held_out"]
    assert (found["num_folds"], found["num_seeds"]) == (4, 5)
    # Means of 20 seeds: 93.9 % and 87.7 %.
    assert found["nsc"] == pytest.approx(0.94, abs=0.02)
    assert found["nscb"] == pytest.approx(0.88, abs=0.02)
    said = " ".join(done.out.split())
    assert (
        "weak labels (compound) were used; with the query's compound left out of the fit (4 folds "
        f"over compounds, mean of 5 seeds): NSC {100 * found['nsc']:.1f} %, "
        f"NSCB {100 * found['nscb']:.1f} %, mAP {found['map']:.3f}"
    ) in said


def test_a_fitted_normaliser_serves_other_plates(
    sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    new = sites["Metadata_Plate"].str.endswith("_2")
    sites[new].to_csv(tmp_path / "new.csv", index=False)
    fitted = fit_normalisation(sites[~new], method="weak_label")
    fitted.save(tmp_path / "model" / "normalisation.npz")
    expected = aggregate_treatments(fitted.transform(read_table(tmp_path / "new.csv")))
    for number, given in enumerate((tmp_path / "model", tmp_path / "model" / "normalisation.npz")):
        out = tmp_path / f"{number}.parquet"
        done = wsdino_("profile", tmp_path / "new.csv", "--normaliser", given, "--out", out)
        assert (done.status, done.out) == (0, f"{out}\n")
        profiles = read_table(out)
        names = feature_columns(expected)
        np.testing.assert_allclose(profiles[names], expected[names], rtol=1e-6)
        note = profiles.attrs["wsdino"]["normalisation"]["note"]
        assert note.startswith("weak labels (compound) were used; ")
        assert note.endswith("; fitted before, and applied here")
    # Whoever evaluates these is told as well.
    judged = " ".join(wsdino_("evaluate", out).out.split())
    assert "weak labels (compound) were used, including those of the queries; results" in judged
    # It has its own options, and needs its own features.
    given = ("profile", tmp_path / "new.csv", "--normaliser", tmp_path / "model")
    out = tmp_path / "no.parquet"
    for options, named in (
        (("--label", "treatment"), "--label treatment: has no effect on the normalisation "),
        (("--normalise", "weak_label"), "--normalise weak_label: has no effect on "),
    ):
        assert named in wsdino_(*given, *options, "--out", out).error
    sites[new].drop(columns="emb_DAPI_0").to_csv(tmp_path / "few.csv", index=False)
    few = wsdino_("profile", tmp_path / "few.csv", *given[2:], "--out", out)
    assert "few.csv: normalisation weak_label was fitted on other features: emb_DAPI_0" in few.error
    nothing = wsdino_("profile", tmp_path / "new.csv", "--normaliser", tmp_path, "--out", out)
    assert f"{tmp_path / 'normalisation.npz'}: no such file; expected a fitted" in nothing.error
    assert not out.exists()


def test_several_tables_of_the_same_sites_make_one_profile(
    sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    other = with_features(sites.filter(regex="^Metadata_"), signal=3, seed=7)
    paths = tmp_path / "a.csv", tmp_path / "b.csv"
    for table, path in zip((sites, other.iloc[::-1]), paths, strict=True):
        table.to_csv(path, index=False)
    together = join_tables([read_table(path) for path in paths], names=list(map(str, paths)))
    out, numbers = tmp_path / "p.parquet", tmp_path / "r.json"
    given = ("--normalise", "tvn", "--regularisation", 0.1)
    assert wsdino_("profile", *paths, *given, "--out", out).status == 0
    expected = make_profiles(together, normalisation="tvn", regularisation=0.1)
    np.testing.assert_allclose(
        features_of(read_table(out)), features_of(expected), rtol=1e-4, atol=1e-5
    )
    done = wsdino_("evaluate", *paths, "--from-sites", *given, "--json", numbers)
    assert "a + b" in done.out
    found = json.loads(numbers.read_text(encoding="utf-8"))
    want = evaluate_sites(together, normalisation="tvn", regularisation=0.1)
    assert (found["nsc"], found["map"]) == (want["nsc"], pytest.approx(want["map"]))
    assert f"features of {paths[0]} and {paths[1]} together" in found["normalisation"]["note"]
    # Profiles of treatments aren't joined, and units of their own not mixed.
    refused = wsdino_("evaluate", out, out)
    assert "p.parquet: a second table has no effect on treatment profiles" in refused.error
    mixed = wsdino_("profile", *paths, "--normalise", "none", "--out", tmp_path / "n.csv")
    assert "normalisation none leaves the features of " in mixed.error


@pytest.mark.parametrize("value", ["big", "nan", "-1", "inf"])
def test_a_regularisation_is_a_number_or_auto(
    value: str, sites: pd.DataFrame, tmp_path: Path, wsdino_: Callable[..., Outcome]
) -> None:
    sites.to_csv(tmp_path / "s.csv", index=False)
    given = ("evaluate", tmp_path / "s.csv", "--from-sites", "--normalise", "weak_label")
    done = wsdino_(*given, "--regularisation", value)
    assert f"--regularisation {value}: expected a number of at least 0, or auto" in done.error


# Failures that are nobody's input, and the streams.


def test_debug_shows_where(tmp_path: Path, wsdino_: Callable[..., Outcome]) -> None:
    done = wsdino_("--debug", "evaluate", tmp_path / "no.csv")
    assert done.status == 2
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("wsdino: ")
    assert "Traceback" not in wsdino_("evaluate", tmp_path / "no.csv").err


def test_as_a_process(tmp_path: Path) -> None:
    treatments().to_csv(tmp_path / "p.csv", index=False)
    status, out, err = finish(start_anew("evaluate", tmp_path / "p.csv"))
    assert (status, err) == (0, "")
    assert "4/4 = 100.0 %" in out
    status, out, err = finish(start_anew("evaluate", tmp_path / "no.csv"))
    assert (status, out) == (2, "")
    assert err.startswith(f"wsdino: {tmp_path / 'no.csv'}: no such file")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_outside_training(number: signal.Signals, tmp_path: Path) -> None:
    process = start("simulate", "--out", tmp_path / "s", "--layout", "bbbc021", "--workers", 1)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.tif")):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == 1
    assert err.splitlines()[-1].startswith("wsdino: stopped by a signal")
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*partial*"))
