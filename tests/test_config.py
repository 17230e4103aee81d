"""The config: what is read, what is refused, and that nothing in it is idle."""

from __future__ import annotations

import ast
import re
import typing
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from wsdino.baselines import BASELINES
from wsdino.config import MOVED, RENAMED, Config, load_config, preset_names, preset_text
from wsdino.effects import EFFECTS
from wsdino.errors import ConfigError
from wsdino.profile.methods import NORMALISATIONS
from wsdino.settings import merge, parse_setting
from wsdino.train.objectives import OBJECTIVES, contrast

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wsdino"


def refusal(source: str | Path, *settings: str) -> str:
    """The one line with which a config is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, list(settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def written(tmp_path: Path) -> typing.Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_say_what_they_are_for(name: str) -> None:
    config = load_config(name)
    assert config.preset == name
    assert preset_text(name).startswith("# ")


def test_the_config_of_the_starter_is_valid() -> None:
    config = load_config(SOURCE.parents[1] / "pretraining" / "starter.yaml")
    assert config.objective.name == "contrast"
    assert config.crops.local_views.num_views == 0


def test_there_are_the_documented_presets() -> None:
    assert set(preset_names()) == {"cpu", "default", "demo", "imagenet", "paper"}


@pytest.mark.parametrize("name", preset_names())
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    settings = [
        "screen.source=/some/where",
        "screen.controls=[DMSO, water]",
        "crops.global_views.area=[0.1, 0.2]",
        "embed.tile=96",
        "embed.tile_grid=[2, 3]",
        "baselines.names=[classifier]",
        "baselines.classifier.epochs=30",
        "report.attention_sites=[1, 5]",
    ]
    config = load_config(name, settings)
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config


def test_later_wins(written: typing.Callable[[str], Path]) -> None:
    path = written("preset: paper\ntrain:\n  epochs: 17\n  batch_size: 9\n")
    config = load_config(path, ["train.epochs=18"])
    paper = load_config("paper")
    assert (config.train.epochs, config.train.batch_size) == (18, 9)
    assert config.train.learning_rate == paper.train.learning_rate
    assert config.objective == paper.objective


def test_the_classifier_trains_as_the_network_but_for_what_is_said_of_it() -> None:
    settings = ["train.batch_size=24", "train.weight_decay=0.3", "baselines.classifier.epochs=6"]
    config = load_config("cpu", [*settings, "train.epochs=5"])
    assert config.baselines.classifier.batch_size == 24
    assert config.baselines.classifier.weight_decay == 0.3
    assert (config.train.epochs, config.baselines.classifier.epochs) == (5, 6)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("train.learning_rate=1e-3", 1e-3),
        ("train.learning_rate=2.5E-4", 2.5e-4),
        ("train.clip_gradient=null", None),
        ("train.clip_gradient=2", 2.0),
        ("crops.global_views.area=[1e-1, .2]", (0.1, 0.2)),
        ("crops.global_views.flip=false", False),
        ("baselines.names=[]", ()),
        ("baselines.names=[dino, classical]", ("dino", "classical")),
        ("screen.source=/a b/c", Path("/a b/c")),
        ("pairing.label=Metadata_Cell=Line", "Metadata_Cell=Line"),
        ("model.weights={DAPI: a.pth, Actin: b.pth}", {"DAPI": "a.pth", "Actin": "b.pth"}),
        ("model.weights.DAPI=a.pth", {"DAPI": "a.pth"}),
    ],
)
def test_settings_are_yaml(setting: str, found: object) -> None:
    value: object = load_config("default", ["model.weights=null", setting])
    for part in setting.partition("=")[0].split("."):
        if not isinstance(value, dict):
            value = getattr(value, part)
    assert value == found


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "", "train.epochs=[1", "a=b: c: d"])
def test_settings_of_another_form_are_refused(setting: str) -> None:
    assert refusal("cpu", setting).startswith(f"--set {setting!r}: ")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trian: {epochs: 1}", "config key trian: unknown, did you mean train?"),
        ("train: {epoch: 1}", "config key train.epoch: unknown, did you mean epochs?"),
        ("screen: {sauce: x}", "config key screen.sauce: unknown, did you mean source?"),
        (
            "crops: {global_views: {sise: 3}}",
            "config key crops.global_views.sise: unknown, did you mean size?",
        ),
        (
            "baselines: {classifier: {bach_size: 3}}",
            "config key baselines.classifier.bach_size: unknown, did you mean batch_size?",
        ),
        ("3: 4", "config key 3: unknown"),
        ("train: 5", "config key train: found 5; it is a section with "),
        ("train:", "config key train: found None; it is a section with "),
        ("train: [1, 2]", "config key train: found [1, 2]; it is a section with "),
    ],
)
def test_unknown_keys_are_refused_by_name(
    text: str, named: str, written: typing.Callable[[str], Path]
) -> None:
    path = written(text)
    assert refusal(path).startswith(f"{path}: {named}")


def test_a_setting_is_named_when_it_is_its_key_that_is_unknown() -> None:
    message = refusal("cpu", "train.epochs=3", "train.epoch=3")
    assert message.startswith("--set train.epoch=3: config key train.epoch: unknown, did you mean")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("train.epochs=0", "config key train.epochs: found 0: "),
        ("train.epochs=many", "config key train.epochs: found 'many': "),
        ("train.batch_size=2.5", "config key train.batch_size: found 2.5: "),
        ("train.learning_rate=-1e-3", "config key train.learning_rate: found -0.001: "),
        ("train.learning_rate=.nan", "config key train.learning_rate: found nan: "),
        ("train.drop_path=1.5", "config key train.drop_path: found 1.5: "),
        ("objective.center_momentum=2", "config key objective.center_momentum: found 2: "),
        (
            "objective.targets=centre",
            "config key objective.targets: found 'centre', did you mean center?: ",
        ),
        ("pairing.partner_global_views=-1", "config key pairing.partner_global_views: found -1: "),
        ("crops.local_views.size=0", "config key crops.local_views.size: found 0: "),
        ("crops.global_views.area=[0.2, 0.1]", "config key crops.global_views: area"),
        ("crops.global_views.area=[0, 0.1]", "config key crops.global_views.area.0: found 0: "),
        ("input.high=-1", "config key input: input.high -1.0 must exceed input.low 0.0"),
        ("train.learning_rate=.inf", "config key train.learning_rate: found inf: "),
        ("input.low=.nan", "config key input: input.high 10000.0 must exceed input.low nan"),
        (
            "architecture.stem=convv",
            "config key architecture.stem: found 'convv', did you mean conv?: ",
        ),
        ("architecture.pool=cls", "config key architecture.pool: found 'cls': "),
        ("architecture.depth=-3", "config key architecture.depth: found -3: "),
        ("architecture.dim=0", "config key architecture.dim: found 0: "),
        ("device=gpu", "config key device: found 'gpu'; use auto, cpu, cuda or cuda:NUMBER"),
        ("objective.name=distil", "config key objective.name: found 'distil', did you mean dist"),
        (
            "objective.name=null",
            "config key objective.name: found 'null'; use one of distill (",
        ),
        ("baselines.dino.name=contrast", "config key baselines.dino.name: found 'contrast': "),
        ("seed=-1", "config key seed: found -1: "),
        (f"seed={2**63}", f"config key seed: found {2**63}: "),
        ("embed.tile=0", "config key embed.tile: found 0: "),
        (
            "profile.normalise=TVN",
            "config key profile.normalise: normalisation is 'TVN'; expected one ",
        ),
        ("profile.aggregate=max", "config key profile.aggregate: aggregation is 'max'; expected "),
        ("evaluate.num_permutations=-1", "config key evaluate.num_permutations: found -1: "),
        (
            "baselines.names=[knn]",
            "config key baselines.names.0: baseline is 'knn'; expected one of ",
        ),
        ("baselines.names=dino", "config key baselines.names: found 'dino': "),
        ("train.epochs.fast=1", "config key train.epochs: found {'fast': 1}: "),
        ("model.mode=null", "config key model.mode: found 'null': "),
    ],
)
def test_values_out_of_range_are_refused_by_name(setting: str, named: str) -> None:
    assert refusal("cpu", setting).startswith(named)


@pytest.mark.parametrize(
    ("given", "meant"), [("papr", "paper"), ("cpuu", "cpu"), ("demoo", "demo")]
)
def test_a_misspelt_preset_gets_the_nearest(
    given: str, meant: str, written: typing.Callable[[str], Path]
) -> None:
    expected = f"preset {given!r}: no such preset, did you mean {meant}?; give one of cpu, "
    assert refusal(given).startswith(expected)
    assert refusal(written(f"preset: {given}")).startswith(expected)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- x: 1\n a", "{"])
def test_what_is_not_yaml_is_refused(text: str, written: typing.Callable[[str], Path]) -> None:
    path = written(text)
    assert refusal(path).startswith(f"{path}: not YAML: ")


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "3"])
def test_what_is_no_mapping_is_refused(text: str, written: typing.Callable[[str], Path]) -> None:
    path = written(text)
    assert refusal(path) == f"{path}: a config is a mapping of sections, not a plain value"


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: no such config file"
    (tmp_path / "folder.yaml").mkdir()
    assert refusal(tmp_path / "folder.yaml").endswith("no such config file")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    assert "binary.yaml: can't be read as text: " in refusal(tmp_path / "binary.yaml")


def test_an_empty_file_is_the_default(written: typing.Callable[[str], Path]) -> None:
    assert load_config(written("# nothing yet\n")) == load_config("default")


def test_the_config_is_frozen() -> None:
    config = load_config("default")
    for section, name in ((config, "seed"), (config.embed, "tile"), (config.crops, "global_views")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)
    for section, name in ((config.train, "epochs"), (config.crops.global_views, "size")):
        with pytest.raises(FrozenInstanceError):
            setattr(section, name, 1)


def test_the_paper_preset_is_the_papers_recipe() -> None:
    paper = load_config("paper")
    assert (paper.model.mode, paper.architecture.backbone) == (
        "per_channel",
        "vit_small_patch8_224.dino",
    )
    assert (paper.input.method, paper.input.low, paper.input.high) == ("fixed", 0, 10_000)
    pairing = paper.pairing
    assert (pairing.label, pairing.num_partners, pairing.partner_global_views) == ("compound", 1, 0)
    assert not pairing.include_controls
    views = paper.crops.global_views
    assert (views.num_views, views.size, views.area, views.flip) == (2, 224, (0.1, 0.2), True)
    views = paper.crops.local_views
    assert (views.num_views, views.size, views.area, views.flip) == (8, 96, (0.04, 0.08), True)
    for views in (paper.crops.global_views, paper.crops.local_views):
        assert (views.rotate, views.brightness, views.contrast) == (False, 0, 0)
    train = asdict(paper.train)
    assert train["batch_size"] == 32
    assert (train["learning_rate"], train["final_learning_rate"]) == (4e-6, 3e-6)
    assert (train["warmup_epochs"], train["drop_path"], train["balance"]) == (10, 0.1, "label")
    assert (train["weight_decay"], train["final_weight_decay"]) == (0, 0)
    assert train["clip_gradient"] is None
    distill = paper.objective
    assert distill.name == "distill"
    assert (distill.num_prototypes, distill.norm_last_layer) == (65_536, False)
    assert (distill.targets, distill.center_momentum) == ("center", 0.8)
    assert (distill.student_temp, distill.warmup_teacher_temp, distill.teacher_temp) == (
        0.07,
        0.04,
        0.04,
    )
    assert (distill.teacher_momentum, distill.final_teacher_momentum) == (0.99, 1)
    assert distill.freeze_last_layer_epochs == 1
    embed = paper.embed
    assert (embed.tile, embed.tile_grid, embed.tile_summary) == (224, "paper", "median")
    assert paper.architecture.positions == "dino"
    assert (paper.screen.illumination, paper.screen.scale) == ("paper", 0.5)
    profile = paper.profile
    assert (profile.normalise, profile.num_components, profile.per_channel) == ("tvn", 384, True)
    assert profile.aggregate == "published"


def test_the_paper_preset_says_where_it_deviates() -> None:
    header = [line for line in preset_text("paper").splitlines() if line.startswith("#")]
    assert any("deviates" in line for line in header)
    deviations = [line for line in header if line.startswith("# - ")]
    subjects = (
        "crop areas", "bicubic", "sampling", "partner", "rank", "An epoch", "mechanism", "head",
        "bfloat16", "evaluation crops", "picks the epoch", "compound's index", "literal",
    )  # fmt: skip
    text = "\n".join(header)
    bullets = [" ".join(part.split("\n# ")) for part in text.split("\n# - ")[1:]]
    assert len(bullets) == len(deviations)
    for subject in subjects:
        assert any(subject in " ".join(bullet.split()) for bullet in bullets), subject


def test_an_objective_has_its_own_options_and_no_others() -> None:
    every = {field.name for each in OBJECTIVES for field in fields(each.options)}
    for objective in OBJECTIVES:
        own = {field.name for field in fields(objective.options)}
        chosen = f"objective.name={objective.name}"
        assert type(load_config("cpu", [chosen]).objective) is objective.options
        for option in every - own:
            message = refusal("cpu", chosen, f"objective.{option}=1")
            assert message.startswith(
                f"--set objective.{option}=1: config key objective.{option}: unknown to "
                f"objective.name {objective.name}"
            )


def test_another_objective_keeps_what_it_shares_with_that_of_the_preset(
    written: typing.Callable[[str], Path],
) -> None:
    path = written(
        "preset: cpu\nobjective: {koleo_weight: 0.3, teacher_temp: 0.02}\n"
        "baselines: {names: [dino]}\n"
    )
    # In either order.
    settings = ["objective.student_temp=0.2", "objective.name=contrast"]
    for order in (settings, settings[::-1]):
        config = load_config(path, order)
        assert config.objective == contrast.Options(
            head_hidden_dim=256,
            head_bottleneck_dim=64,
            student_temp=0.2,
            teacher_momentum=0.98,
            final_teacher_momentum=0.98,
            koleo_weight=0.3,
            attention_weight=0.1,
        )
        # Beside it DINO is trained as the file and the preset have it.
        assert config.baselines.dino == load_config(path).objective


def test_the_baseline_dino_follows_the_objective_but_for_what_is_said_of_it() -> None:
    given = ["baselines.names=[dino]", "baselines.dino.koleo_weight=0.3"]
    config = load_config("cpu", ["objective.student_temp=0.2", *given])
    assert config.baselines.dino == replace(config.objective, koleo_weight=0.3)
    assert config.objective.student_temp == 0.2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {objective: distill}\ndistill: {koleo_weight: 0.1}", "train.objective"),
        ("distill: {koleo_weight: 0.1}", "distill"),
        ("baselines: {classifier: {objective: classify}}", "baselines.classifier.objective"),
    ],
)
def test_keys_of_earlier_versions_are_refused_with_their_new_place(
    text: str, key: str, written: typing.Callable[[str], Path]
) -> None:
    path = written(text)
    message = refusal(path)
    assert message.startswith(f"{path}: config key {key}: ")
    assert ("leave it out" if "classifier" in key else "now the section objective") in message


@pytest.mark.parametrize("text", ["demo #1", "a: b #1", "[x", "- a", "{b", "1e3", "no", "~", "'q'"])
def test_paths_and_names_never_go_through_yaml(text: str) -> None:
    keys = ("screen.source", "screen.design", "screen.store", "pairing.label")
    config = load_config("cpu", [f"{key}={text}" for key in keys])
    assert {config.screen.source, config.screen.platemap, config.screen.store} == {Path(text)}
    assert config.pairing.label == text
    given = ["screen.source=plates", f"screen.design={text}"]
    assert load_config("cpu", given).screen.platemap == Path(text)
    channels = load_config("cpu", [f"model.weights.DAPI={text}"]).model.weights
    assert channels == {"DAPI": text}


@pytest.mark.parametrize("name", preset_names())
def test_a_warm_up_longer_than_the_run_is_refused(name: str) -> None:
    epochs = load_config(name).train.warmup_epochs
    longer = [f"train.epochs={epochs}", f"train.warmup_epochs={epochs + 1}"]
    assert refusal(name, *longer).startswith(
        f"config key train: warmup_epochs {epochs + 1:g}: the warm-up is longer than the run, "
        f"which has epochs {epochs:g}"
    )
    assert load_config(name, [longer[0]]).train.epochs == epochs


# An option, settings with which it has no effect, what the error says, and what gives it one.
IN_VAIN = (
    ("train.batch_statistics=true", [], "architecture.backbone vit",
     ["architecture.backbone=resnet18"]),
    ("objective.center_momentum=0.5", [], "objective.targets sinkhorn",
     ["objective.targets=center"]),
    ("objective.warmup_teacher_temp=0.5", [], "objective.teacher_temp_warmup_epochs 0.0",
     ["objective.teacher_temp_warmup_epochs=5"]),
    ("baselines.dino.center_momentum=0.5", ["baselines.names=[dino]"],
     "baselines.dino.targets sinkhorn", ["baselines.dino.targets=center"]),
    ("baselines.dino.warmup_teacher_temp=0.5", ["baselines.names=[dino]"],
     "baselines.dino.teacher_temp_warmup_epochs 0.0",
     ["baselines.dino.teacher_temp_warmup_epochs=5"]),
    ("baselines.dino.koleo_weight=0.5", [],
     "baselines.names [classical, untrained, frozen, classifier]", ["profile.with=[dino]"]),
    ("baselines.classifier.epochs=5", ["baselines.names=[classical]"],
     "baselines.names [classical]", ["baselines.names=[classifier]"]),
    ("baselines.classifier_views.num_views=5", ["baselines.names=[]"], "baselines.names []",
     ["baselines.names=[classifier]"]),
    ("pairing.partner_from=well", ["pairing.label=none"], "pairing.label none",
     ["pairing.label=treatment"]),
    ("pairing.num_partners=2", ["objective.name=classify"], "objective.name classify",
     ["objective.name=distill_classify"]),
    ("pairing.partner_global_views=2", ["objective.name=contrast"], "objective.name contrast",
     ["objective.name=distill"]),
    ("pairing.fallback=drop", ["objective.name=spc"], "objective.name spc",
     ["objective.name=distill"]),
    # Neither the run's training nor that of the baseline without weak labels has partners.
    ("pairing.partner_from=well", ["objective.name=contrast", "baselines.names=[dino]"],
     "objective.name contrast", ["objective.name=distill"]),
    ("crops.local_views.num_views=3", ["objective.name=classify"], "objective.name classify",
     ["baselines.names=[dino]"]),
    ("crops.local_views.size=40", ["crops.local_views.num_views=0"],
     "crops.local_views.num_views 0", ["crops.local_views.num_views=1"]),
    ("embed.tile_grid=[2, 2]", ["embed.tile=null"], "embed.tile null", ["embed.tile=64"]),
    ("embed.tile_summary=median", ["embed.tile=null"], "embed.tile null", ["embed.tile=64"]),
    ("input.low=5", [], "input.method field", ["input.method=fixed"]),
    ("input.high=5", ["input.method=plate"], "input.method plate", ["input.method=fixed"]),
    ("architecture.depth=2", ["architecture.backbone=vit_tiny_patch16_224"],
     "architecture.backbone vit_tiny_patch16_224", ["architecture.backbone=vit"]),
    ("architecture.pool=avg", ["architecture.backbone=resnet18"], "architecture.backbone resnet18",
     ["architecture.backbone=vit_tiny_patch16_224"]),
    ("screen.platemap=wells.csv", [], "screen.source null", ["screen.source=plates"]),
    ("screen.controls=[water]", ["screen.store=STORE"], "screen.source null",
     ["screen.source=plates"]),
    ("screen.scale=0.5", ["screen.store=STORE"], "screen.source null", ["screen.source=plates"]),
    ("screen.sites_per_file=4", ["screen.store=STORE"], "screen.source null",
     ["screen.source=plates"]),
    ("screen.missing=leave-out", ["screen.store=STORE"], "screen.source null",
     ["screen.source=plates"]),
    ("profile.num_components=5", ["profile.normalise=plate"], "profile.normalise plate",
     ["profile.normalise=tvn"]),
    ("profile.label=treatment", [], "profile.normalise auto", ["profile.normalise=weak_label"]),
)  # fmt: skip


def value_at(config: Config, setting: str) -> object:
    value: object = config
    for part in setting.partition("=")[0].split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("setting", "others", "why", "remedy"), IN_VAIN)
def test_an_option_without_effect_is_refused(
    setting: str,
    others: list[str],
    why: str,
    remedy: list[str],
    written: typing.Callable[[str], Path],
) -> None:
    key = setting.partition("=")[0]
    message = refusal("cpu", *others, setting)
    assert message.startswith(f"--set {setting}: config key {key}: ")
    assert f" has no effect with {why}; leave it out, or " in message
    # With what the message advises it counts.
    changed = value_at(load_config("cpu", [*others, setting, *remedy]), key)
    assert changed != value_at(load_config("cpu", [*others, *remedy]), key)
    # In a file, too.
    given: dict[str, typing.Any] = {"preset": "cpu"}
    for each in (*others, setting):
        merge(given, parse_setting(each, Config))
    path = written(yaml.safe_dump(given))
    assert refusal(path).startswith(f"{path}: config key {key}: ")
    assert f" has no effect with {why}; " in refusal(path)
    assert value_at(load_config(path, remedy), key) == changed


def test_every_reason_for_having_no_effect_has_a_case() -> None:
    keys = {key for effect in EFFECTS for key in effect.keys}
    tried = [setting.partition("=")[0] for setting, *_ in IN_VAIN]
    for effect in EFFECTS:
        assert any(name.startswith(key) for name in tried for key in effect.keys), effect.keys
        assert any(why.startswith(f"{effect.given} ") for _, _, why, _ in IN_VAIN), effect.given
    known = {*known_keys(load_config("cpu").model_dump(by_alias=False))}
    assert {*keys, *(effect.given for effect in EFFECTS)} <= known


CHOICES = (
    *(f"objective.name={each.name}" for each in OBJECTIVES),
    *(f"profile.normalise={each.name}" for each in NORMALISATIONS),
    *(f"objective.targets={name}" for name in ("center", "sinkhorn")),
    *(f"input.method={name}" for name in ("fixed", "plate", "field")),
    *("pairing.label=none", "crops.local_views.num_views=0", "baselines.names=[]"),
    *("architecture.backbone=vit", "architecture.backbone=resnet18", "screen.store=STORE"),
)
# Not every preset self-distils, and features in their own units can't be joined with others.
NEEDS = {
    "objective.targets=": "objective.name=distill",
    "profile.normalise=none": "profile.with=[]",
}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_works_with_another_choice(name: str, tmp_path: Path) -> None:
    for choice in CHOICES:
        needs = [need for start, need in NEEDS.items() if choice.startswith(start)]
        config = load_config(name, [*needs, choice])
        assert value_at(config, choice.partition("=")[0]) != ""
        # What is recorded of a run is read back.
        path = tmp_path / "config.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert load_config(path) == config


@pytest.mark.parametrize("name", ["cpu", "default", "paper"])
def test_what_a_recorded_config_has_in_vain_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    values = yaml.safe_load(load_config(name).to_yaml())
    values["objective"]["warmup_teacher_temp"] = 12.5
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    key = "objective.warmup_teacher_temp"
    assert refusal(path).startswith(f"{path}: config key {key}: 12.5 has no effect with ")


def test_what_a_file_gives_for_another_choice_is_passed_over(
    written: typing.Callable[[str], Path], tmp_path: Path
) -> None:
    path = written(
        "preset: cpu\nobjective: {targets: center, center_momentum: 0.7}\n"
        "baselines: {names: [dino, classifier], classifier: {epochs: 7}}\n"
    )
    centred = load_config(path)
    assert centred.objective.center_momentum == 0.7
    assert centred.baselines.dino.center_momentum == 0.7
    config = load_config(path, ["objective.targets=sinkhorn", "baselines.names=[dino]"])
    assert config.objective == load_config("cpu").objective
    assert config.baselines.dino == config.objective
    # A run may have trained it before.
    assert config.baselines.classifier.epochs == 7
    recorded = tmp_path / "config.yaml"
    recorded.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(recorded) == config
    assert "epochs: 7" in recorded.read_text(encoding="utf-8")


def known_keys(values: dict[str, typing.Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from known_keys(value, f"{prefix}{key}.")


def test_messages_name_keys_that_exist() -> None:
    known = {*known_keys(Config().model_dump()), *MOVED, *RENAMED}
    known |= {f"objective.{field.name}" for each in OBJECTIVES for field in fields(each.options)}
    key = re.compile(rf"(?<![\w./])(?:{'|'.join(Config.model_fields)})(?:\.[a-z_]+)+\b(?!\()")
    files = re.compile(r"\.(onnx|json|safetensors|html|yaml|parquet|pt|partial)\b")
    named: dict[str, Path] = {}
    for module in SOURCE.rglob("*.py"):
        # There the names are those of modules.
        if module != SOURCE / "__init__.py":
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = files.sub("", node.value)
                    named |= dict.fromkeys((found[0] for found in key.finditer(text)), module)
    assert {name: module for name, module in named.items() if name not in known} == {}
    assert len(named) > 20


def own_options(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the options that the config itself declares; option classes are single leaves."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from own_options(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name)


def attribute_paths(text: str) -> set[str]:
    """All dotted reads such as `config.embed.tile` in a module."""
    return {
        ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)
    }


def test_every_option_is_consumed() -> None:
    read = set()
    for name in ("pipeline", "judging", "preparation", "checks", "trainings"):
        # Each training has a config of its own.
        paths = attribute_paths((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
        read |= {re.sub(r"^own\.", "config.", path) for path in paths}
    options = {".".join(path) for path in own_options(Config)}
    # What a baseline trains on is read by its entry; a normalisation takes its options by name.
    of_baselines = [entry.training.reads.values() for entry in BASELINES if entry.training]
    read |= {f"config.{key}" for keys in of_baselines for key in keys}
    if "config.profile.options" in read:
        read |= {f"config.profile.{name}" for each in NORMALISATIONS for name in each.options}
    # The preset's name stands for its values; sections of options are handed on whole.
    idle = {option for option in options - {"preset"} if f"config.{option}" not in read}
    assert not idle
    assert len(options) > 30
