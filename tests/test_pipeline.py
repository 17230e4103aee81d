"""Every stage of a tiny run, and what is made anew after something changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml

from helpers_run import TINY, call, finish, start, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.config import load_config
from wsdino.embed.embed import embed_store
from wsdino.errors import (
    ConfigError,
    ImageError,
    ModelError,
    OutputError,
    StoreError,
    TableError,
)
from wsdino.evaluate.held_out import held_out_of
from wsdino.evaluate.leakage import leakage_of
from wsdino.evaluate.results import evaluate_sites
from wsdino.model.model import Model
from wsdino.pipeline import run
from wsdino.preparation import prepare
from wsdino.profile.aggregate import make_profiles
from wsdino.profile.normalise import normalise
from wsdino.runfolder import RunFolder
from wsdino.runrecord import read_run
from wsdino.screen.store import open_store
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.joining import join_tables
from wsdino.tables.reading import read_table
from wsdino.train.train import initial_networks
from wsdino.trainings import model_spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM_STAGES = {"classical": 3, "untrained": 3, "classifier": 4, "dino": 4}
BASELINES = tuple(NUM_STAGES)
PROFILES = ("profiles.parquet", "normalisation.npz")


def products(folder: Path) -> dict[str, int]:
    """All files of a run folder but its store, and when they were written (ns)."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "store" not in path.relative_to(folder).parts
    }


def alike(value: Any) -> Any:
    """A JSON value that equals others up to the last digits, which linear algebra leaves open."""
    if isinstance(value, dict):
        return {key: alike(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [alike(entry) for entry in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def load(folder: Path, *settings: str) -> Any:
    return load_config(folder / "tiny.yaml", [f"screen.source={folder / 'screen'}", *settings])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, a config, and a finished run in `run`."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_bbbc021_folder(folder / "screen", num_sites=1)
    write_tiny_config(folder / "tiny.yaml")
    run(load(folder), folder / "run")
    return folder


@pytest.fixture
def finished(place: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with its times, that a test may spoil."""
    copy = tmp_path / "run"
    shutil.copytree(place / "run", copy, copy_function=shutil.copy2)
    return copy


@pytest.fixture
def again(
    place: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[set[str], list[str]]]:
    """Run once more; return the files that are new, and the stages that did something."""

    def go(*settings: str) -> tuple[set[str], list[str]]:
        before = products(finished)
        capfd.readouterr()
        config = load(place, *settings)
        run(config, finished)
        lines = capfd.readouterr().err.splitlines()
        changed = {name for name, made in products(finished).items() if before.get(name) != made}
        done = [line.removesuffix(": start") for line in lines if line.endswith(": start")]
        skipped = [line for line in lines if line.endswith(": already done")]
        assert len(done + skipped) == 5 + sum(NUM_STAGES[name] for name in config.baselines.names)
        if done and "environment.json" in before:
            # Whether it says something else than before depends on what happened meanwhile.
            changed -= {"environment.json"}
        return changed - {".stages.json"}, done

    return go


def test_a_run_folder_has_every_product(place: Path) -> None:
    made = products(place / "run")
    tables = {"embeddings.parquet", *PROFILES, "results.json"}
    trained = {"metrics.jsonl", "model/config.json", "model/model.safetensors"}
    own = {"config.yaml", "coverage.json", "environment.json", "report.html"}
    assert tables | trained | own <= set(made)
    for name in BASELINES:
        expected = tables | (trained if name in ("classifier", "dino") else set())
        assert {f"baselines/{name}/{product}" for product in expected} <= set(made)
    assert any(name.startswith("checkpoints/step_") for name in made)
    assert any(name.startswith("tensorboard/") for name in made)
    assert not [name for name in made if "partial" in name or "tmp" in name]
    record = read_run(place / "run")
    assert record.problems == {}
    assert record.wrong == []


def test_the_recorded_config_is_the_resolved_one(place: Path) -> None:
    recorded = load_config(place / "run" / "config.yaml")
    assert recorded == load(place)
    assert yaml.safe_load((place / "run" / "config.yaml").read_text(encoding="utf-8"))["train"][
        "balance"
    ]


def test_the_environment_says_what_it_ran_on(place: Path) -> None:
    record = json.loads((place / "run" / "environment.json").read_text(encoding="utf-8"))
    assert record["seed"] == 0
    assert record["device"] == "cpu" or record["gpu"]
    assert {"wsdino", "torch", "numpy"} <= set(record["versions"])
    assert {"command", "python", "platform", "processor", "num_threads", "git_commit"} <= set(
        record
    )
    store = open_store(place / "run" / "store")
    assert record["screen"] == {
        "pixels_digest": store.pixels_digest,
        "manifest_digest": store.manifest_digest,
    }


def test_results_hold_what_is_promised(place: Path) -> None:
    results = json.loads((place / "run" / "results.json").read_text(encoding="utf-8"))
    assert list(results["baselines"]) == list(BASELINES)
    for numbers in (results, *results["baselines"].values()):
        assert numbers["schema"] == 2
        assert numbers["num_treatments"] == 12
        assert {"method", "fitted_on", "num_fitted", "num_components", "note"} <= set(
            numbers["normalisation"]
        )
        assert {"labels", "nsc", "nscb"} <= set(numbers["confusion"])
        assert set(numbers["left_out"]) == set(numbers["gallery"]) == {"nsc", "nscb", "map"}
        low, high = numbers["map_ci"]
        assert 0 <= low <= numbers["map"] <= high <= 1
        assert 0 < numbers["map_null"]["mean"] < 1
        for name in ("nsc", "nscb"):
            assert numbers[name] == numbers[f"{name}_correct"] / numbers[f"{name}_total"]
            low, high = numbers[f"{name}_ci"]
            assert low <= numbers[name] <= high
            assert len(numbers[f"{name}_neighbours"]) == numbers[f"{name}_total"]
            assert set(numbers[f"{name}_neighbours"][0]) == {
                "compound",
                "concentration",
                "moa",
                "neighbour_compound",
                "neighbour_concentration",
                "neighbour_moa",
                "similarity",
                "correct",
            }
    for name in BASELINES:
        own = json.loads(
            (place / "run" / "baselines" / name / "results.json").read_text(encoding="utf-8")
        )
        assert own == results["baselines"][name]


def test_leakage_is_that_of_the_normalised_sites(place: Path) -> None:
    for folder in (place / "run", place / "run" / "baselines" / "classical"):
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))["leakage"]
        sites = read_table(folder / "embeddings.parquet")
        expected = leakage_of(sites, normalise(sites, num_components=4)[0])
        assert found == json.loads(json.dumps(expected))
        assert found["plate"]["num_wells"] > 0


def test_tables_have_the_promised_rows_and_columns(place: Path) -> None:
    embeddings = pd.read_parquet(place / "run" / "embeddings.parquet")
    profiles = pd.read_parquet(place / "run" / "profiles.parquet")
    manifest = pd.read_parquet(place / "run" / "store" / "manifest.parquet")
    metadata = [name for name in manifest if name.startswith("Metadata_")]
    pd.testing.assert_frame_equal(embeddings[metadata], manifest[metadata])
    assert list(embeddings.columns[len(metadata) :]) == [f"emb_joint_{i}" for i in range(16)]
    # Two weeks with three compounds at two doses and one of unknown mechanism; and DMSO.
    assert len(profiles) == 15
    assert sum(name.startswith("emb_") for name in profiles) == 4


def test_running_again_does_nothing(again: Callable) -> None:
    assert again() == (set(), [])


NUMBERS = ("results.json", "activity.csv")
AFTER_NUMBERS = {*NUMBERS, "report.html"}


@pytest.mark.parametrize(
    ("deleted", "made"),
    [
        (["report.html"], {"report.html"}),
        (["results.json"], AFTER_NUMBERS),
        (["activity.csv"], AFTER_NUMBERS),
        (["profiles.parquet"], {*PROFILES, *AFTER_NUMBERS}),
        (["normalisation.npz"], {*PROFILES, *AFTER_NUMBERS}),
        (["embeddings.parquet"], {"embeddings.parquet", *PROFILES, *AFTER_NUMBERS}),
        (
            ["baselines/untrained/profiles.parquet"],
            {
                *(f"baselines/untrained/{name}" for name in (*PROFILES, *NUMBERS)),
                *AFTER_NUMBERS,
            },
        ),
        (["config.yaml"], {"config.yaml", "report.html"}),
        (
            ["coverage.json", "environment.json"],
            {"coverage.json", "environment.json", "report.html"},
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_what_is_deleted_is_made_anew_with_what_follows(
    deleted: list[str], made: set[str], finished: Path, again: Callable
) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    for name in deleted:
        (finished / name).unlink()
    changed, stages = again()
    assert "report" in stages
    # A report that says the same to the byte is not written again.
    assert made - {"report.html"} <= changed <= made
    assert (finished / "report.html").is_file()
    assert json.loads((finished / "results.json").read_text(encoding="utf-8")) == alike(results)


def test_a_deleted_model_comes_back_from_its_checkpoint(finished: Path, again: Callable) -> None:
    weights = (finished / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(finished / "model")
    changed, stages = again()
    assert stages == ["train", "run: embed", "run: profile", "run: evaluate", "report"]
    assert {"model/model.safetensors", "embeddings.parquet", "profiles.parquet"} < changed
    assert (finished / "model" / "model.safetensors").read_bytes() == weights


def test_another_evaluation_remakes_the_numbers_alone(finished: Path, again: Callable) -> None:
    changed, stages = again("evaluate.multi_batch=first-published")
    numbers = {"results.json", *(f"baselines/{name}/results.json" for name in BASELINES)}
    # Activity has nothing to do with batches, and what says the same may stay.
    changed = {name for name in changed if not name.endswith("activity.csv")}
    assert changed == {*numbers, "config.yaml", "report.html"}
    assert stages == [*(f"{name}: evaluate" for name in BASELINES), "run: evaluate", "report"]
    for name in numbers:
        assert (
            json.loads((finished / name).read_text(encoding="utf-8"))["multi_batch"]
            == "first-published"
        )


def test_a_run_may_take_the_features_of_a_baseline_together_with_its_own(
    place: Path, finished: Path
) -> None:
    settings = ["baselines.names=[untrained]", "profile.normalise=weak_label"]
    given = [*settings, "profile.num_components=null", "profile.with=[untrained]"]
    before = (finished / "embeddings.parquet").stat().st_mtime_ns
    results = run(load(place, *given), finished)
    names = ["the model", "untrained"]
    tables = [finished / "embeddings.parquet", *finished.glob("baselines/untrained/emb*.parquet")]
    table = join_tables([read_table(path) for path in tables], names=names)
    expected = make_profiles(table, normalisation="weak_label")
    profiles = read_table(finished / "profiles.parquet")
    np.testing.assert_allclose(features_of(profiles), features_of(expected), rtol=1e-4, atol=1e-5)
    note = "weak labels (compound) were used; features of the model and untrained together; "
    assert results["normalisation"]["note"].startswith(note)
    assert results["held_out"] == held_out_of(table, normalisation="weak_label")
    alone = results["baselines"]["untrained"]["normalisation"]["note"]
    assert alone.startswith("weak labels (compound) were used; whitened by")
    # The recorded config says so, and nothing is embedded or made anew.
    assert (finished / "embeddings.parquet").stat().st_mtime_ns == before
    made = products(finished)
    run(load_config(finished / "config.yaml"), finished)
    assert products(finished) == made
    with pytest.raises(ConfigError, match=r"profile: .*none leaves features in their own units"):
        load(place, *given, "profile.normalise=none")
    with pytest.raises(
        ConfigError,
        match=r"profile\.with.*'clasical', did you mean classical.; expected one of classical",
    ):
        load(place, "profile.with=[clasical]")


def test_another_normalisation_remakes_the_profiles(finished: Path, again: Callable) -> None:
    changed, stages = again(
        "profile.normalise=plate", "profile.num_components=null", "baselines.names=[classical]"
    )
    assert "embeddings.parquet" not in changed
    assert stages[:1] == ["run: profile"]
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["normalisation"]["method"] == "plate"
    assert list(results["baselines"]) == ["classical"]


def test_further_normalisations_are_judged_on_the_same_embeddings(
    finished: Path, again: Callable
) -> None:
    before = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert before["beside"] == {}
    changed, _ = again("evaluate.beside=[weak_label]", "baselines.names=[untrained]")
    assert "profiles.parquet" not in changed
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["nsc_neighbours"] == before["nsc_neighbours"]
    for folder, found in (
        (finished, results),
        (finished / "baselines" / "untrained", results["baselines"]["untrained"]),
    ):
        expected = evaluate_sites(
            read_table(folder / "embeddings.parquet"),
            normalisation="weak_label",
            num_permutations=10,
        )
        own = found["beside"]["weak_label"]
        assert own["normalisation"]["method"] == "weak_label"
        assert own == alike(json.loads(json.dumps(expected)))
        assert own["held_out"]["nsc"] is not None


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("train.epochs=2", "run: was trained with train.epochs 1.0, but the config now has 2.0"),
        ("seed=1", "run: was trained with seed 0, but the config now has 1"),
        ("crops.local_views.size=24", "crops.local_views.size 16, but the config now has 24"),
        (
            "model.weights=x.pth",
            'was trained with model.weights null, but the config now has "x.pth"',
        ),
        (
            "objective.name=classify",
            'run: was trained with objective.name "distill", but the config now has "classify"',
        ),
        (
            "baselines.classifier.epochs=3",
            "was trained with baselines.classifier.epochs 1.0, but the config now has",
        ),
    ],
)
def test_another_training_in_the_same_folder_is_refused(
    setting: str, named: str, place: Path, finished: Path
) -> None:
    before = products(finished)
    with pytest.raises(ConfigError) as caught:
        run(load(place, setting), finished)
    assert named in str(caught.value)
    assert "give --out another folder, or delete " in str(caught.value)
    assert products(finished) == before


def test_training_anew_where_the_checkpoints_were_deleted(
    place: Path, finished: Path, again: Callable
) -> None:
    for folder in (finished, *(finished / "baselines" / name for name in ("classifier", "dino"))):
        shutil.rmtree(folder / "checkpoints")
    changed, stages = again("objective.student_temp=0.2")
    # The classical statistics depend on no network; the untrained one is of another shape at most.
    assert "baselines/classical/embeddings.parquet" not in changed
    assert {"model/model.safetensors", "metrics.jsonl", "embeddings.parquet"} < changed
    assert "train" in stages
    assert load_config(finished / "config.yaml") == load(place, "objective.student_temp=0.2")


def test_the_screens_corrected_metadata_are_followed(
    place: Path, tmp_path: Path, finished: Path
) -> None:
    screen = shutil.copytree(place / "screen", tmp_path / "screen", copy_function=shutil.copy2)
    table = screen / "BBBC021_v1_moa.csv"
    table.write_text(
        table.read_text(encoding="utf-8").replace("DNA damage", "DNA repair"), encoding="utf-8"
    )
    shutil.rmtree(finished / "store")
    run(load(place, f"screen.source={screen}", "baselines.names=[]"), finished)
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert "DNA repair" in results["confusion"]["labels"]
    assert "DNA damage" not in (finished / "report.html").read_text(encoding="utf-8")


def test_a_model_is_not_passed_off_as_trained_on_other_labels(place: Path, finished: Path) -> None:
    manifest = pd.read_parquet(finished / "store" / "manifest.parquet")
    renamed = manifest["Metadata_Compound"].replace({"compound D1": "compound P1"})
    manifest.assign(Metadata_Compound=renamed).to_parquet(finished / "store" / "manifest.parquet")
    weights = products(finished)["model/model.safetensors"]
    with pytest.raises(ConfigError, match="trained with other options or weak labels"):
        run(load(place, "screen.source=null", f"screen.store={finished / 'store'}"), finished)
    assert products(finished)["model/model.safetensors"] == weights


@pytest.mark.parametrize("ns", [0, 1_930_000_000_000_000_000], ids=["1970", "2031"])
def test_clocks_decide_nothing(finished: Path, again: Callable, ns: int) -> None:
    for path in finished.rglob("*"):
        os.utime(path, ns=(ns, ns))
    assert again() == (set(), [])


def test_a_product_that_was_replaced_is_made_anew(
    place: Path, finished: Path, again: Callable
) -> None:
    """By that of another run of the same age, with the time of the one before."""
    path = finished / "profiles.parquet"
    before = path.stat().st_mtime_ns
    shutil.copy(place / "run" / "baselines" / "classical" / "profiles.parquet", path)
    os.utime(path, ns=(before, before))
    made = {*PROFILES, *AFTER_NUMBERS}
    changed, stages = again()
    assert "report" in stages
    assert made - {"report.html"} <= changed <= made
    ours, theirs = (pd.read_parquet(f / "profiles.parquet") for f in (finished, place / "run"))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-4)


def test_how_many_fields_are_embedded_at_once_remakes_nothing(again: Callable) -> None:
    changed, stages = again("embed.batch_size=3")
    # The report shows the config.
    assert (changed, stages) == ({"config.yaml", "report.html"}, ["report"])


def copied_screen(place: Path, folder: Path) -> Path:
    return shutil.copytree(place / "screen", folder / "screen", copy_function=shutil.copy2)


def test_images_replaced_under_a_trained_model_are_refused_and_the_advice_works(
    place: Path, tmp_path: Path
) -> None:
    screen, out = copied_screen(place, tmp_path), tmp_path / "run"
    config = load(place, f"screen.source={screen}", "baselines.names=[]")
    run(config, out)
    weights = (out / "model" / "model.safetensors").read_bytes()
    for image in screen.rglob("*.tif"):
        tifffile.imwrite(image, tifffile.imread(image)[::-1])
        os.utime(image, ns=(0, 0))
    for _ in range(2):
        with pytest.raises(ConfigError, match="trained on other images than those now") as caught:
            run(config, out)
        assert f"delete {out / 'checkpoints'} to train again" in str(caught.value)
        assert (out / "model" / "model.safetensors").read_bytes() == weights
    shutil.rmtree(out / "checkpoints")
    run(config, out)
    assert (out / "model" / "model.safetensors").read_bytes() != weights


def test_a_chunk_changed_after_training_is_refused(place: Path, finished: Path) -> None:
    chunks = sorted((finished / "store" / "images.zarr").glob("c.*"))
    time = chunks[0].stat().st_mtime_ns
    chunks[0].write_bytes(chunks[1].read_bytes())
    os.utime(chunks[0], ns=(time, time))
    settings = ["screen.source=null", f"screen.store={finished / 'store'}"]
    before = products(finished)
    with pytest.raises(StoreError, match="the store is damaged: the pixels differ from those that"):
        run(load(place, *settings), finished)
    assert set(products(finished)) == set(before)


def test_what_a_killed_process_left_is_swept(finished: Path, again: Callable) -> None:
    left = [".partial-0123456789ab-results.json", "checkpoints/.partial-0123456789ab-step_1.pt"]
    for name in left:
        (finished / name).write_text("half", encoding="utf-8")
    assert again() == (set(), [])
    assert not list(finished.rglob(".partial-*"))


def test_another_command_on_the_run_is_told_to_wait(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    screen = copied_screen(place, tmp_path)
    sections = {"train": {**TINY["train"], "epochs": 300}, "baselines": {"names": []}}
    config = write_tiny_config(tmp_path / "long.yaml", **sections)
    command = ("train", config, "--set", f"screen.source={screen}", "--out", tmp_path / "run")
    first = start(*command)
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "metrics.jsonl").is_file():
        assert first.poll() is None, finish(first)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    capfd.readouterr()
    for verb in ("train", "run"):
        assert call(monkeypatch, verb, *command[1:]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(f"wsdino: {tmp_path / 'run'}: process {first.pid} on ")
        assert "is writing there" in err
        assert err.count("\n") == 1
    first.send_signal(signal.SIGKILL)
    finish(first)
    assert not (tmp_path / "run" / "model").exists()
    assert call(monkeypatch, *command, "--set", "train.epochs=1") == 0
    assert (tmp_path / "run" / "model").exists()


def test_a_run_folder_may_be_moved(tmp_path: Path, finished: Path) -> None:
    moved = finished.rename(tmp_path / "elsewhere")
    before = products(moved)
    run(load_config(moved / "config.yaml"), moved)
    assert products(moved) == before


def test_a_foreign_folder_is_left_alone(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="exists and is not a run folder"):
        run(load(place), out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError, match="exists and is not a run folder"):
        run(load(place), out / "thesis.tex")


def no_controls(folder: Path) -> None:
    table = pd.read_csv(folder / "BBBC021_v1_image.csv")
    table = table[table["Image_Metadata_Compound"] != "DMSO"]
    table.to_csv(folder / "BBBC021_v1_image.csv", index=False)


def one_plate_without_controls(folder: Path) -> None:
    table = pd.read_csv(folder / "BBBC021_v1_image.csv")
    first = table["Image_Metadata_Plate_DAPI"] == table["Image_Metadata_Plate_DAPI"].iloc[0]
    table = table[~first | (table["Image_Metadata_Compound"] != "DMSO")]
    table.to_csv(folder / "BBBC021_v1_image.csv", index=False)


def missing_image(folder: Path) -> None:
    min(folder.rglob("*.tif")).unlink()


def untouched(folder: Path) -> None:
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("spoil", "settings", "error", "message"),
    [
        (no_controls, ["profile.normalise=tvn"],
         TableError, "profile.normalise tvn needs at least 2 control rows"),
        (no_controls, ["profile.normalise=plate_controls", "profile.num_components=null"],
         TableError, "=whiten_all|weak_label|plate|standardise_all|none, or name the controls"),
        (one_plate_without_controls, ["profile.normalise=plate_controls",
         "profile.num_components=null"], TableError, "needs at least 1 control row on every plate"),
        (missing_image, [], ImageError, "tif"),
        (untouched, ["pairing.label=Metadata_Shape"], ConfigError, "pairing.label"),
        (untouched, ["pairing.label=Metadata_Control"], ConfigError, "pairing.label"),
        (untouched, ["crops.global_views.size=100"], ConfigError, "100"),
        (untouched, ["embed.tile=128"], Exception, "embed.tile 128"),
        (untouched, ["crops.local_views.num_views=0", "crops.global_views.num_views=1"],
         ConfigError, "at least two"),
        (untouched, ["crops.global_views.num_views=0"], ConfigError, "at least one"),
        (untouched, ["baselines.classifier_views.size=100"], ConfigError, "100"),
        (untouched, ["pairing.partner_global_views=3"], ConfigError, "partner_global_views"),
        (untouched, ["device=cuda:77"], ConfigError, "device"),
        (untouched, ["model.weights=no such.pth"], ModelError, "no such.pth: no such weight file"),
        (untouched, ["architecture.num_heads=3"], ModelError, "architecture.num_heads 3"),
        (untouched, ["architecture.backbone=vitt"], ModelError, "architecture.backbone 'vitt'"),
        (untouched, ["architecture.patch_size=12"], ModelError, "architecture.patch_size 12"),
        (untouched, ["crops.local_views.size=20"], ModelError, "crops.local_views.size 20 px"),
        (untouched, ["baselines.classifier_views.size=20"], ModelError, "classifier_views.size 20"),
        (untouched, ["train.accumulate=3"], ConfigError, "16: not a multiple of the 3 parts"),
        (untouched, ["baselines.classifier.accumulate=3"], ConfigError, "classifier.batch_size 16"),
        (untouched, ["report.attention_sites=[0, 99]"], ConfigError, "report.attention_sites 99"),
        (untouched, ["objective.name=contrast", "pairing.label=none"], ConfigError, "share a"),
        (untouched, ["objective.teacher_temp_warmup_epochs=2"], ConfigError, "train.epochs 1;"),
        (untouched, ["screen.source=null"], ConfigError, "screen.source: empty"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused_before_anything_is_written(
    spoil: Callable[[Path], None],
    settings: list[str],
    error: type[Exception],
    message: str,
    place: Path,
    tmp_path: Path,
) -> None:
    screen = shutil.copytree(place / "screen", tmp_path / "screen")
    spoil(screen)
    with pytest.raises(error) as caught:
        run(load(place, f"screen.source={screen}", *settings), tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_screen_may_lie_in_any_folder(place: Path, tmp_path: Path) -> None:
    screen = shutil.copytree(place / "screen", tmp_path / "a: b #1")
    _, store, config = prepare(load(place, f"screen.source={screen}"), tmp_path / "out #2")
    assert config.screen.source == screen
    assert len(store) == len(open_store(place / "run" / "store"))
    again = load_config(tmp_path / "out #2" / "config.yaml")
    assert again.screen.source == screen


def test_a_stage_that_was_stopped_is_not_done(tmp_path: Path) -> None:
    folder, product = RunFolder(tmp_path / "run"), tmp_path / "run" / "product"

    def work(text: str, *, fails: bool = False) -> Callable[[], None]:
        def write() -> None:
            product.write_text(text, encoding="utf-8")
            if fails:
                raise RuntimeError

        return write

    def make(option: int, **how: Any) -> None:
        folder.make(
            "s", products=[product], sources=[], options=option, work=work(str(option), **how)
        )

    make(1)
    with pytest.raises(RuntimeError):
        make(2, fails=True)
    assert product.read_text(encoding="utf-8") == "2"
    make(1)
    assert product.read_text(encoding="utf-8") == "1"


def test_a_stage_follows_its_sources(tmp_path: Path) -> None:
    folder, source, product = RunFolder(tmp_path), tmp_path / "source", tmp_path / "store"
    runs: list[int] = []

    def make() -> int:
        def work() -> None:
            runs.append(1)
            product.write_text("x", encoding="utf-8")

        folder.make("s", products=[product], sources=[source], options={}, work=work)
        return len(runs)

    assert make() == 1
    assert make() == 1
    source.write_text("y", encoding="utf-8")
    later = product.stat().st_mtime_ns + 1_000_000
    os.utime(source, ns=(later, later))
    assert make() == 2


def test_terminated_in_training_it_goes_on_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sections = {"train": {**TINY["train"], "epochs": 100}, "baselines": {"names": []}}
    config = write_tiny_config(tmp_path / "long.yaml", **sections)
    # In one week no mechanism has two compounds: NSC is not defined, and that is no error.
    screen = write_bbbc021_folder(tmp_path / "screen", num_sites=1, num_weeks=1)
    command = ("run", config, "--set", f"screen.source={screen}", "--out")
    process = start(*command, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and len(metrics.read_text(encoding="utf-8").splitlines()) >= 3):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == 1
    assert out == ""
    assert err.splitlines()[-1].startswith("wsdino: stopped by a signal after step ")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "model").exists()

    assert call(monkeypatch, *command, tmp_path / "run") == 0
    assert "resuming from step " in capfd.readouterr().err
    steps = [json.loads(line)["step"] for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_frozen_baseline_is_the_network_as_it_starts(place: Path, tmp_path: Path) -> None:
    settings = ["screen.source=null", f"screen.store={place / 'run' / 'store'}"]
    config, store = load(place, *settings), open_store(place / "run" / "store")
    spec = model_spec(config, store.channels)
    start = initial_networks(spec, seed=7)
    torch.save(start.networks[0].state_dict(), tmp_path / "start.pth")
    settings += [f"model.weights={tmp_path / 'start.pth'}", "baselines.names=[untrained, frozen]"]
    run(load(place, *settings), tmp_path / "run")
    folders = {name: tmp_path / "run" / "baselines" / name for name in ("untrained", "frozen")}
    found = {name: read_table(path / "embeddings.parquet") for name, path in folders.items()}
    expected = embed_store(Model(spec, start), store)
    pd.testing.assert_frame_equal(found["frozen"], expected, rtol=1e-3, atol=1e-4)
    names = feature_columns(expected)
    assert not np.allclose(found["untrained"][names], found["frozen"][names], atol=1e-2)


def test_a_frozen_baseline_needs_weights(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"baselines.names: frozen .* give model.weights"):
        run(load(place, "baselines.names=[frozen]"), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
