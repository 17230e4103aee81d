"""Models in and out: what is exported is the run's model, what is imported the file's network."""

from __future__ import annotations

import json
import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from helpers_published import vit_embedding, vit_state
from helpers_run import call, write_tiny_config
from helpers_screen import write_bbbc021_folder
from helpers_weights import NAME, SIZE, embedding_of_grey, rgb_vit, save_dino, save_ws_dino
from wsdino.exchange import weights_by_channel
from wsdino.model.model import load_model
from wsdino.profile.fitted import load_normalisation
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIKE = {
    "preset": "paper",
    "architecture": {"backbone": NAME, "image_size": SIZE},
    "embed": {"tile": SIZE, "tile_grid": [1, 1], "tile_summary": "median"},
}
CHANNELS = ("DAPI", "Tubulin", "Actin")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, a tiny run in `run`, a config for imports, and weight files."""
    from wsdino.config import load_config
    from wsdino.pipeline import run

    folder = tmp_path_factory.mktemp("exchange")
    screen = write_bbbc021_folder(folder / "screen", num_sites=1)
    names = {"names": ["classical"]}
    config = write_tiny_config(folder / "tiny.yaml", baselines=names)
    run(load_config(config, [f"screen.source={screen}"]), folder / "run")
    (folder / "like.yaml").write_text(yaml.safe_dump(LIKE), encoding="utf-8")
    for seed, channel in enumerate(CHANNELS):
        save_ws_dino(rgb_vit(seed=seed, depth=12), folder / f"{channel}.pth")
    save_dino(rgb_vit(seed=5, depth=12), folder / "dino.pth")
    return folder


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, place: Path) -> Callable[..., int]:
    """Call the command line where the files are."""
    monkeypatch.chdir(place)
    return lambda *arguments: call(monkeypatch, *arguments)


def fields() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9000, (2, 3, 48, 64), dtype=np.uint16)


def cells(card: str, first: str) -> list[str]:
    """The row of a card's table that begins with a cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines()]
    (row,) = [row for row in rows if row[0] == first]
    return row[1:]


def test_an_exported_model_is_the_run_s(
    go: Callable[..., int], place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert go("export", "run", "--out", out) == 0
    assert capfd.readouterr().out == f"{out}\n"
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "normalisation.npz",
    }
    ours, theirs = load_model(out), load_model(place / "run")
    assert ours.spec == theirs.spec
    np.testing.assert_array_equal(ours.embed(fields()), theirs.embed(fields()))
    # It stands alone, and may be exported again.
    again = tmp_path / "again"
    assert go("export", out, "--out", again) == 0
    assert (again / "normalisation.npz").read_bytes() == (out / "normalisation.npz").read_bytes()
    shutil.copytree(place / "run" / "model", tmp_path / "gone" / "model")
    assert go("export", tmp_path / "gone", "--out", out) == 0
    np.testing.assert_array_equal(load_model(out).embed(fields()), theirs.embed(fields()))
    assert "Measured" not in (out / "README.md").read_text(encoding="utf-8"), (
        "nothing is known of that run"
    )
    assert not (out / "normalisation.npz").exists(), "that of the model which was here before"


def test_the_run_s_normalisation_travels_with_its_model(
    go: Callable[..., int], place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    shutil.copytree(place / "run", run)
    assert go("export", run, "--out", out) == 0
    fitted, table = load_normalisation(out), read_table(run / "embeddings.parquet")
    said = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert said["normaliser"] == {"file": "normalisation.npz", **fitted.info}
    assert said["channels"] == list(CHANNELS)
    assert said["scaling"]["method"] == "field"
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert (fitted.info["method"], config["profile"]["normalise"]) == ("tvn", "auto")
    made = tmp_path / "p.parquet"
    assert go("profile", run / "embeddings.parquet", "--normaliser", out, "--out", made) == 0
    ours, theirs = read_table(made), read_table(run / "profiles.parquet")
    np.testing.assert_allclose(features_of(ours), features_of(theirs), rtol=1e-6)
    assert fitted.features == tuple(feature_columns(table))
    # What was fitted on another model's embeddings stays behind.
    model = load_model(run)
    with torch.no_grad():
        next(iter(model.networks.parameters())).add_(1)
    model.save(run / "model")
    capfd.readouterr()
    assert go("export", run, "--out", out) == 0
    assert "was not fitted on embeddings of the current model" in capfd.readouterr().err
    assert not (out / "normalisation.npz").exists()
    assert "normaliser" not in json.loads((out / "config.json").read_text(encoding="utf-8"))


def test_the_card_says_what_the_model_is_and_what_was_measured(
    go: Callable[..., int], place: Path, tmp_path: Path
) -> None:
    assert go("export", "run", "--out", tmp_path / "model") == 0
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", maxsplit=2)
    assert yaml.safe_load(front)["library_name"] == "wsdino"
    assert "license" not in yaml.safe_load(front), "whoever trained it decides"
    assert text.startswith("\n# run\n")
    assert cells(card, "normalisation beside it") == ["normalisation tvn fitted on controls"]
    results = json.loads((place / "run" / "results.json").read_text(encoding="utf-8"))
    for name, found in (
        ("this run", results),
        ("classical statistics", results["baselines"]["classical"]),
    ):
        assert cells(card, name)[0].startswith(f"{found['nsc_correct']}/{found['nsc_total']} = ")
        assert cells(card, name)[1].startswith(f"{found['nscb_correct']}/{found['nscb_total']} = ")
    assert cells(card, "channels") == [", ".join(CHANNELS)]
    assert cells(card, "trained by") == ["distill, weak label compound, from random weights"]
    (trained,) = cells(card, "trained on")
    assert trained.endswith(" labels (screen)")
    assert cells(card, "seed") == ["0"]
    assert str(place) not in card, "no path of this machine"
    assert "None" not in card


def test_a_file_for_each_channel_becomes_a_network_for_each(
    go: Callable[..., int], tmp_path: Path
) -> None:
    """The paper's way: three checkpoints, the images clipped at 10,000 and divided by it."""
    files = [f"{channel}={channel}.pth" for channel in ("Actin", "DAPI", "Tubulin")]
    order = [word for channel in CHANNELS for word in ("--channel", channel)]
    out = tmp_path / "model"
    assert go("import", *files, *order, "--like", "like.yaml", "--out", out) == 0
    model = load_model(out)
    assert model.channels == CHANNELS
    assert model.spec.mode == "per_channel"
    top, left = (48 - SIZE) // 2, (64 - SIZE) // 2
    images = torch.from_numpy(fields().astype(np.float32)).clamp(0, 10_000) / 10_000
    tile = images[..., top : top + SIZE, left : left + SIZE]
    for seed, network in enumerate(model.networks.networks):
        vit = rgb_vit(seed=seed, depth=12)
        with torch.inference_mode():
            theirs = embedding_of_grey(vit, tile[:, seed : seed + 1]).numpy()
            ours = network(tile[:, seed : seed + 1]).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
        block = model.embed(fields())[:, 192 * seed : 192 * (seed + 1)]
        np.testing.assert_allclose(block, theirs, rtol=1e-4, atol=1e-4)


def test_one_file_serves_every_channel_and_embeds_a_store(
    go: Callable[..., int], tmp_path: Path
) -> None:
    out, table = tmp_path / "model", tmp_path / "sites.parquet"
    order = [word for channel in CHANNELS for word in ("--channel", channel)]
    settings = ["--like", "like.yaml", "--set", "model.mode=shared"]
    assert go("import", "dino.pth", *order, *settings, "--out", out) == 0
    assert go("embed", out, "run/store", "--out", table) == 0
    found = read_table(table)
    assert sum(name.startswith("emb_Tubulin_") for name in found) == 192
    assert load_model(out).spec.mode == "shared"
    # In the place of another model it does not keep that one's card.
    assert go("export", "run", "--out", out) == 0
    assert go("import", "dino.pth", *order, *settings, "--out", out) == 0
    assert not (out / "README.md").exists()


def test_a_published_model_comes_with_its_licence(go: Callable[..., int], tmp_path: Path) -> None:
    """uniDINO: one channel at a time, divided by what 16 bits hold."""
    state = vit_state(dim=384, depth=12, patch=16, positions=196, channels=1, scales=False)
    teacher = {f"module.backbone.{name}": value for name, value in state.items()}
    torch.save({"teacher": teacher}, tmp_path / "uniDINO.pth")
    out, again = tmp_path / "model", tmp_path / "again"
    order = ("--channel", "DAPI", "--channel", "Actin")
    assert go("import", tmp_path / "uniDINO.pth", *order, "--like", "uniDINO", "--out", out) == 0
    (tmp_path / "uniDINO.pth").unlink()
    images = np.random.default_rng(0).integers(0, 2**16, (1, 2, 224, 224), dtype=np.uint16)
    pixels = torch.from_numpy(images / 65_535).float()
    with torch.inference_mode():
        wanted = [vit_embedding(state, x, heads=6) for x in pixels.split(1, dim=1)]
    found = load_model(out).embed(images)
    np.testing.assert_allclose(found, torch.cat(wanted, dim=1), rtol=1e-4, atol=1e-4)
    assert go("export", out, "--out", again) == 0
    assert json.loads((again / "config.json").read_text(encoding="utf-8"))["origin"] == "uniDINO"
    for folder in (out, again):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "license: cc-by-nc-4.0" in card
        assert cells(card, "weights") == ["uniDINO (https://github.com/Bayer-Group/uniDINO)"]


def test_names_with_equals_signs_are_files_where_they_are_there(
    go: Callable[..., int], place: Path, tmp_path: Path
) -> None:
    """As PyTorch Lightning names its checkpoints."""
    name = "epoch=99-step=1000.ckpt"
    shutil.copy(place / "dino.pth", tmp_path / name)
    order = [word for channel in CHANNELS for word in ("--channel", channel)]
    settings = ["--like", place / "like.yaml", "--set", "model.mode=shared"]
    for number, given in enumerate((tmp_path / name, place / "dino.pth")):
        out = tmp_path / str(number)
        assert go("import", given, *order, *settings, "--out", out) == 0
    ours, theirs = (load_model(tmp_path / n).embed(fields()) for n in "01")
    np.testing.assert_array_equal(ours, theirs)
    assert weights_by_channel([f"DAPI={tmp_path / name}"]) == {"DAPI": str(tmp_path / name)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert weights_by_channel([name]) == name


def test_others_may_read_a_model_as_the_umask_says(go: Callable[..., int], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert go("export", "run", "--out", tmp_path / "model") == 0
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes == {0o640}


OUT = ("--out", "new")
TO = ("--like", "like.yaml", *OUT)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("import", "dino.pth", *TO), "dino.pth: the channels are unknown; name each"),
        (
            ("import", "dino.pth", "Actin=Actin.pth", *TO),
            "dino.pth: with several files, give each as",
        ),
        (
            ("import", "A=DAPI.pth", "A=Actin.pth", *TO),
            "A=Actin.pth: channel A already has DAPI.pth",
        ),
        (
            ("import", "A=DAPI.pth", "--channel", "B", *TO),
            "--channel B: the files are for A",
        ),
        (("import", "A=absent.pth", *TO), "absent.pth: no such weight file"),
        (("import", "A=like.yaml", *TO), "like.yaml: not a readable weight file"),
        (("import", "A=DAPI.pth", *OUT), "does not fit this backbone"),
        (
            ("import", "A=DAPI.pth", "--like", "papr", *OUT),
            "--like papr: no such preset or published model, did you mean paper?",
        ),
        (
            ("import", "dino.pth", "--like", "dinov2_vits14_rge", *OUT),
            "did you mean dinov2_vits14_reg?",
        ),
        (
            ("import", "dino.pth", "--channel", "A", "--like", "cell_dino_cp_vits8", *OUT),
            "cell_dino_cp_vits8: sees exactly 5 channels at once",
        ),
        (
            ("import", "dino.pth", "--channel", "A", "--like", "OpenPhenom", *OUT),
            "OpenPhenom: sees images of 8 bits, and which intensity",
        ),
        (
            ("import", "A=DAPI.pth", "--like", "MorphEm", *OUT),
            "--like MorphEm: one file serves its channels",
        ),
        (
            ("import", "dino.pth", "--like", "MorphEm", "--set", "model.mode=joint", *OUT),
            "--set model.mode=joint: the network of MorphEm is fixed; only input.* and embed.*",
        ),
        (("import", "A=DAPI.pth", "--like", "like.yaml", "--out", "run"), "run: exists and is"),
        (
            ("import", "A=DAPI.pth", "--like", "like.yaml", "--out", "like.yaml"),
            "exists and is not a model",
        ),
        (("import", "A=DAPI.pth", "--set", "embed.tile=30", *TO), "embed.tile 30"),
        (
            ("import", "A=DAPI.pth", "--set", "seed=3", *TO),
            "--set seed=3: has no effect on an import, which takes only model.mode, arch",
        ),
        (("export", "run", "--out", "run"), "run: is the run itself"),
        (("export", "run", "--out", "run/model"), "run/model: is the run itself"),
        (("export", "run", "--out", "screen"), "screen: exists and is not a model"),
        (("export", "screen", *OUT), "screen: neither a finished run nor an exported model"),
        (("export", "absent", *OUT), "absent: no such run folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    go: Callable[..., int],
    place: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[Any, ...],
    line: str,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert go(*arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    (message,) = printed.err.splitlines()
    assert message.startswith("wsdino: ")
    assert line in message
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
