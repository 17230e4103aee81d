"""The config of a run: presets, files and ``--set``, checked and frozen.

Only the entry modules see it; what does the work gets plain arguments.
"""

from __future__ import annotations

import copy
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Lt
from pydantic import (
    Field,
    ValidationError,
    field_validator,
)

from wsdino.effects import sections_of_baselines, without_effect
from wsdino.errors import ConfigError, InputError, did_you_mean
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture
from wsdino.sections import (
    BaselinesSection,
    CropsSection,
    EmbedSection,
    EvaluateSection,
    ModelSection,
    ProfileSection,
    ReportSection,
    ScreenSection,
    Section,
)
from wsdino.settings import (
    check_keys,
    covering,
    merge,
    options_of,
    parse_setting,
    parse_yaml,
    read_yaml,
    restore,
    with_new_names,
)
from wsdino.train.objectives import AnyOptions, distill, option_names
from wsdino.train.objectives.distill import DISTILL
from wsdino.train.options import Optimisation, WeakPositives

# Keys of earlier versions that are still read, and what they are called now, in the same section.
RENAMED = {"screen.design": "screen.platemap"}
# Keys of earlier versions that are refused, and what replaces them.
_OBJECTIVE_NOW = (
    "an objective and its options are now the section objective, such as "
    "objective: {name: distill, koleo_weight: 0.1}"
)
MOVED = {
    "train.objective": _OBJECTIVE_NOW,
    "distill": _OBJECTIVE_NOW,
    "baselines.classifier.objective": "the classifier no longer needs one; leave it out",
}
# Options of self-distillation in the layers, for the baseline beside another objective.
_OF_DISTILL = "objective distill"


class Config(Section):
    """Everything that a run depends on.

    Raises
    ------
    ConfigError
        From :func:`load_config`: an unknown key or preset, or a value out of range.
    """

    # What the other options begin from: a preset's name.
    preset: str = "default"
    # Of everything that is drawn.
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    # "auto" is "cuda" where there is one, else "cpu"; "cuda:1" is the second GPU.
    device: str = "auto"
    screen: ScreenSection = Field(default_factory=ScreenSection)
    model: ModelSection = Field(default_factory=ModelSection)
    architecture: Architecture = Field(default_factory=Architecture)
    input: InputScaling = Field(default_factory=InputScaling)
    pairing: WeakPositives = Field(default_factory=WeakPositives)
    crops: CropsSection = Field(default_factory=CropsSection)
    train: Optimisation = Field(default_factory=Optimisation)
    # What is minimised: its `name`, one of wsdino.train.objectives.OBJECTIVES, and its options.
    objective: AnyOptions = Field(default_factory=distill.Options)
    embed: EmbedSection = Field(default_factory=EmbedSection)
    profile: ProfileSection = Field(default_factory=ProfileSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    baselines: BaselinesSection = Field(default_factory=BaselinesSection)
    report: ReportSection = Field(default_factory=ReportSection)

    @field_validator("device")
    @classmethod
    def _is_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ConfigError(f"found {value!r}; use auto, cpu, cuda or cuda:NUMBER")
        return value

    def to_yaml(self) -> str:
        """Return the resolved config as YAML, which :func:`load_config` reads back as it was."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    folder = resources.files("wsdino") / "presets"
    files = [file.name for file in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """Text of a preset.

    Raises
    ------
    ConfigError
        If there is no such preset; names the nearest.
    """
    if name not in preset_names():
        raise ConfigError(
            f"preset {name!r}: no such preset{did_you_mean(name, preset_names())}; give one of "
            f"{', '.join(preset_names())}, or a YAML file"
        )
    return (resources.files("wsdino") / "presets" / f"{name}.yaml").read_text()


def preset_summary(name: str) -> str:
    """Return what a preset is for: the first sentence of its header."""
    header = []
    for line in preset_text(name).splitlines():
        if not line.startswith("#") or line == "#":
            break
        header.append(line.lstrip("# "))
    return " ".join(header)


def load_config(source: str | Path, settings: list[str] | None = None) -> Config:
    """Read a config: a preset's name, or a YAML file that may name one under ``preset``.

    Later wins: preset, file, settings.

    Parameters
    ----------
    source
        Preset or file.
    settings
        ``a.b=value`` strings: paths, names and other text as they are (``null`` for none where
        that may be), all else in YAML.

    Raises
    ------
    ConfigError
        Names the key, what was found and what would be right. An option that is given but has no
        effect beside the others is refused; if only a preset gives it, it is passed over.

    Examples
    --------
    >>> import wsdino
    >>> config = wsdino.load_config("cpu", ["train.epochs=5"])
    >>> config.train.epochs
    5.0
    """
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        origin = f"{path}: "
        given = with_new_names(read_yaml(path), origin, renamed=RENAMED)
    else:
        given, origin = {"preset": str(source)}, ""
    changes: dict[str, Any] = {}
    parsed = []
    for setting in settings or []:
        where, each = f"--set {setting}: ", parse_setting(setting, Config, renamed=RENAMED)
        parsed.append((where, with_new_names(each, where, renamed=RENAMED)))
    for _, each in parsed:
        merge(changes, each)
    preset = str(changes.get("preset", given.get("preset", "default")))
    layers = [parse_yaml(preset_text(preset), f"preset {preset}"), given, changes]
    everything = Config().model_dump()
    of_preset, of_file, values = _merged(layers, [[], [(origin, given)], parsed], everything)
    config, idle = _settled(values, of_preset, preset, origin)
    for where, part in parsed:
        _refuse(where, {k: v for k, v in options_of(part, everything) if v is not None}, idle)
    in_vain = {key: value for key, value in options_of(given, everything) if covering(idle, key)}
    of_baselines = dict.fromkeys(sections_of_baselines(), "a baseline's")
    if set(Config.model_fields) <= set(given):
        # The recorded config of a run, which may have trained baselines that no longer count.
        in_vain = {key: value for key, value in in_vain.items() if not covering(of_baselines, key)}
    if in_vain:
        # A file may repeat what its preset says, and its options may have an effect until --set
        # chooses otherwise.
        try:
            below, idle = _settled(of_file, of_preset, preset, origin)
        except ConfigError:
            below = config
        had = dict(options_of(below.model_dump(mode="json"), everything))
        changed = {k: v for k, v in in_vain.items() if v != had.get(k) or covering(of_baselines, k)}
        _refuse(origin, changed, idle)
    return config


def _merged(
    layers: list[dict[str, Any]],
    origins: list[list[tuple[str, dict[str, Any]]]],
    everything: dict[str, Any],
) -> list[dict[str, Any]]:
    """Check the keys of each layer; return what holds after each of them."""
    values, merged = dict[str, Any](), []
    for layer, checked in zip(layers, origins, strict=True):
        name = _objective_name(layer, values)
        options = dict.fromkeys(option_names(name))
        for where, part in checked:
            check_keys(
                part,
                everything | {"objective": options},
                where,
                moved=MOVED,
                choices={"objective.": f"objective.name {name}"},
            )
        kept = values.get("objective", {})
        values["objective"] = {key: value for key, value in kept.items() if key in options}
        merge(values, layer | {"objective": layer.get("objective", {}) | {"name": name}})
        if name == DISTILL.name:
            values[_OF_DISTILL] = dict(values["objective"])
        merged.append(copy.deepcopy(values))
    return merged


def _settled(
    values: dict[str, Any], of_preset: dict[str, Any], preset: str, origin: str
) -> tuple[Config, dict[str, str]]:
    """Make a config in which options without effect are as in the preset; return these, too.

    Those of baselines are kept: some may have been trained with them.
    """
    idle = without_effect(_validated(values, preset, origin))
    values = copy.deepcopy(values)
    for key in idle.keys() - sections_of_baselines():
        for each in (key, key.replace("baselines.dino", _OF_DISTILL)):
            restore(values, each, of_preset)
    return _validated(values, preset, origin), idle


def _validated(values: dict[str, Any], preset: str, origin: str) -> Config:
    values = copy.deepcopy(values) | {"preset": preset}
    of_distill, own = values.pop(_OF_DISTILL, {}), values.setdefault("baselines", {})
    # Except for their own options, the classifier and DINO train as the run's network does.
    own["classifier"] = values.get("train", {}) | own.get("classifier", {})
    own["dino"] = of_distill | own.get("dino", {})
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, origin)) from error


def _refuse(origin: str, given: dict[str, Any], idle: dict[str, str]) -> None:
    """Refuse options that are given and have no effect."""
    for key, value in given.items():
        if reason := covering(idle, key):
            raise ConfigError(f"{origin}config key {key}: {value!r} {reason}")


def _first_problem(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    # Pydantic puts the name of the objective between its section and its options.
    key = ".".join(parts[:1] + parts[2:] if parts[0] == "objective" else parts)
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, InputError):
        return f"{origin}config key {key}: {reason}"
    message = first["msg"][:1].lower() + first["msg"][1:]
    choices = re.findall(r"'([^']+)'", str(first.get("ctx", {}).get("expected", "")))
    near = did_you_mean(str(first["input"]), choices)
    return f"{origin}config key {key}: found {first['input']!r}{near}: {message}"


def _objective_name(layer: dict[str, Any], below: dict[str, Any]) -> str:
    """Name the objective that is in force after a layer."""
    section = layer.get("objective")
    named = section.get("name") if isinstance(section, dict) else None
    return str(named or below.get("objective", {}).get("name", DISTILL.name))
