"""What helps to begin: presets, config, doctor, completion, statistics without a training."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_run import ended, finish, start
from helpers_screen import write_bbbc021_folder
from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.config import load_config, preset_names, preset_text
from wsdino.device import num_cpus
from wsdino.embed.classical import classical_table
from wsdino.explain import comments_of
from wsdino.screen.ingest import ingest
from wsdino.settings import options_of, parse_yaml

if TYPE_CHECKING:
    from pathlib import Path


def wsdino(*arguments: object) -> str:
    status, out, err = ended(*arguments)
    assert status == 0, err
    return out


def refused(*arguments: object) -> str:
    status, out, err = ended(*arguments)
    assert (status, out) == (2, "")
    return err.splitlines()[-1]


def test_presets_are_listed_with_what_they_are_for() -> None:
    lines = wsdino("presets").splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 5 and line.endswith(".") for line in lines)


@pytest.mark.parametrize("preset", preset_names())
def test_a_printed_config_is_the_preset(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(wsdino("config", preset, "--set", "seed=7"), encoding="utf-8")
    assert load_config(path) == load_config(preset, ["seed=7"])


@pytest.mark.parametrize("preset", preset_names())
def test_an_explained_config_is_the_preset_and_explains_all_of_it(
    preset: str, tmp_path: Path
) -> None:
    path = tmp_path / "explained.yaml"
    path.write_text(
        wsdino("config", preset, "--explain", "--set", "train.log_every=7"), encoding="utf-8"
    )
    config = load_config(preset, ["train.log_every=7"])
    assert load_config(path) == config
    lines = path.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 100
    whys = [line.strip() for line in lines if line.strip().startswith("# Why: ")]
    everything = config.model_dump(mode="json")
    options = [key for key, _ in options_of(everything, config.model_dump())]
    assert len(whys) == len(options)
    assert whys.count("# Why: --set train.log_every=7.") == 1
    values = dict(options_of(everything, config.model_dump()))
    for key, reason in zip(options, whys, strict=True):
        if reason.startswith("# Why: as "):
            assert values[key] == values[reason.removeprefix("# Why: as ").rstrip(".")]
    # Where a preset has a value of its own, it says why.
    reasons = comments_of(preset_text(preset))
    own = dict(options_of(parse_yaml(preset_text(preset), preset), config.model_dump()))
    assert set(own) <= set(reasons)
    assert not [line for line in whys if line.endswith("has it.")]


def test_an_explanation_has_meaning_choices_limits_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# Mine.\npreset: cpu\ntrain:\n  # For tonight.\n  epochs: 5\n  warmup_epochs: 1\n"
        "embed: {tile: 32}\n",
        encoding="utf-8",
    )
    said = wsdino("config", path, "--explain", "--set", "profile.normalise=plate")
    assert (
        "  # Length of the run; an epoch is as many samples as there are images to train on.\n"
        "  # Number above 0.\n"
        f"  # Why: For tonight ({path}).\n"
        "  epochs: 5.0\n"
    ) in said.replace("\n  #   ", " ")
    assert f"# Why: For tonight ({path}).\n  warmup_epochs: 1.0\n" in said.replace("\n  #   ", " ")
    assert f"# Why: given in {path}.\n  tile: 32\n" in said.replace("\n  #   ", " ")
    assert "# Why: --set profile.normalise=plate.\n  normalise: plate\n" in said
    assert "# `auto` or `tvn` or `whiten_all` or `weak_label` or `plate` or " in said
    assert "# Why: as train.batch_size.\n    batch_size: 32\n" in said
    assert refused("config", "papr", "--explain").endswith("or a YAML file")


def test_a_misspelt_preset_has_a_suggestion() -> None:
    assert "did you mean paper?" in refused("config", "papr")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A screen, its store, and tables of sites and treatments."""
    folder = tmp_path_factory.mktemp("places")
    screen = write_bbbc021_folder(folder / "screen", num_sites=1, size=(64, 64))
    design = synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    with_features(design).to_csv(folder / "sites.csv", index=False)
    table = profile_table(list("abcd"), ["M", "M", "N", "N"], np.eye(2).repeat(2, axis=0))
    table.assign(Metadata_Batch=list("1212")).to_csv(folder / "profiles.csv", index=False)
    store = ingest(screen, folder / "store").path
    tables = {"SITES": folder / "sites.csv", "PROFILES": folder / "profiles.csv"}
    return {"SCREEN": screen, "STORE": store, "OUT": folder / "out", **tables}


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("evalute SITES", "Did you mean 'evaluate'?"),
        ("evaluate SITES --form-sites", "options: --from-sites"),
        ("evaluate SITES --from-sites --normalise tvm", "did you mean tvn?"),
        ("evaluate SITES --from-sites --aggregate publshed", "did you mean published?"),
        ("evaluate PROFILES --multi-batch strct", "did you mean strict?"),
        (
            "evaluate SITES --from-sites --column Metadata_MoA=Metadata_MaA",
            "did you mean Metadata_MoA?",
        ),
        ("evaluate SITES --from-sites --keep Metadata_Plat>3", "did you mean Metadata_Plate?"),
        ("evaluate SITES --from-sites --feature emb_DAPI_00", "did you mean emb_DAPI_0?"),
        ("evaluate SITES --from-sites --control DSMO", "did you mean DMSO?"),
        ("activity SITES --normalise weak_label --label tretment", "did you mean treatment?"),
        (
            "activity SITES --normalise weak_label --label Metadata_MOA",
            "did you mean Metadata_MoA?",
        ),
        ("profile SITES --to galery --out OUT", "did you mean gallery?"),
        ("embed startr STORE --out OUT.csv", "did you mean starter?"),
        ("embed clasical STORE --out OUT.csv", "did you mean classical?"),
        ("embed starter STORE --device gpu --out OUT.csv", "use auto, cpu, cuda or cuda:NUMBER"),
        ("attention starter STORE --site 0 --format pgn --out OUT", "did you mean png?"),
        ("attention starter STORE --well Week1_1/B02 --out OUT", "did you mean Week1_"),
        ("ingest SCREEN --channel DPAI --out OUT", "did you mean DAPI?"),
        ("ingest SCREEN --illumination smoth --out OUT", "did you mean smooth?"),
        ("ingest SCREEN --missing leaveout --out OUT", "did you mean leave-out?"),
        ("simulate --layout smal --out OUT", "did you mean small?"),
        ("simulate --difficulty hrd --out OUT", "did you mean hard?"),
        ("download bbbc012 --out OUT", "did you mean bbbc021?"),
        ("import a.pth --like papr --out OUT", "did you mean paper?"),
        ("config cpu --set trian.epochs=3", "did you mean train?"),
        ("config cpu --set model.mode=share", "did you mean shared?"),
        ("config cpu --set objective.name=distil", "did you mean distill?"),
        ("config cpu --set baselines.names=[clasical]", "did you mean classical?"),
        ("config cpu --set profile.normalise=tvm", "did you mean tvn?"),
        (
            "run cpu --set screen.store=STORE --set pairing.label=compond --out OUT",
            "did you mean compound?",
        ),
    ],
)
def test_a_misspelt_name_has_a_suggestion(line: str, meant: str, places: dict[str, Path]) -> None:
    words = [re.sub("|".join(places), lambda m: str(places[m[0]]), word) for word in line.split()]
    status, _, err = ended(*words)
    assert status == 2
    assert meant in " ".join(re.sub("[│╭╰─╮╯]", " ", err).split())


def test_doctor_says_what_is_there(tmp_path: Path) -> None:
    found = json.loads(wsdino("doctor", tmp_path, "--json"))
    assert found["versions"]["numpy"] == metadata.version("numpy")
    assert found["machine"]["num_cpus"] == num_cpus()
    assert found["disk"]["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
    assert found["disk"]["written_bytes_per_second"] > 10**6
    assert found["disk"]["small_files_per_second"] > 10
    assert found["preset"] in preset_names()
    assert not list(tmp_path.iterdir())
    for name, is_there in found["extras"].items():
        assert any(f"wsdino[{name}]" in line for line in found["advice"]) != is_there
    said = wsdino("doctor", tmp_path)
    assert f"numpy {metadata.version('numpy')}" in said
    assert all(line in said for line in found["advice"])


def test_doctor_knows_what_an_extra_needs(tmp_path: Path) -> None:
    # As where distributed isn't installed.
    code = """
from importlib import metadata
version = metadata.version
def without(name):
    if name == "distributed":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without
from wsdino.cli.main import main
main()
"""
    status, out, err = finish(start("doctor", tmp_path, "--json", code=code))
    assert status == 0, err
    found = json.loads(out)
    assert found["extras"]["dask"] is False
    assert "dask is not installed: pip install 'wsdino[dask]'" in found["advice"]


def test_doctor_needs_a_folder(tmp_path: Path) -> None:
    assert refused("doctor", tmp_path / "none").endswith("none: there is no such folder")


def test_statistics_need_no_training(tmp_path: Path) -> None:
    screen = write_bbbc021_folder(tmp_path / "screen", num_sites=1, size=(64, 64))
    store = ingest(screen, tmp_path / "store")
    wsdino("embed", "classical", store.path, "--out", tmp_path / "table.parquet")
    found = pd.read_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(found, classical_table(store), check_dtype=False)
    line = refused(
        *("embed", "classical", store.path, "--out", tmp_path / "t.csv", "--device", "cpu")
    )
    assert line == "wsdino: --device cpu: has no effect on classical"
    assert not (tmp_path / "t.csv").exists()


def test_the_shell_completes_choices() -> None:
    words = "wsdino evaluate t.csv --from-sites --normalize wh"
    environment = os.environ | {
        "_WSDINO_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "from wsdino.cli.main import main; import sys; sys.argv[0] = 'wsdino'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["whiten_all"]
