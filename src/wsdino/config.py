"""The config of a run: presets, files and ``--set``, checked and frozen.

Only the entry modules see it; what does the work gets plain arguments.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from annotated_types import Ge, Gt
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from wsdino.baselines import find_baseline
from wsdino.errors import ConfigError, InputError, did_you_mean
from wsdino.model.networks import ChannelMode  # noqa: TC001 pydantic reads it
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, TileSummary
from wsdino.profile.methods import find_aggregation, find_normalisation
from wsdino.progress import say
from wsdino.train.crops import ViewPlan
from wsdino.train.options import Distillation, Optimisation, WeakPositives

BaselineName = Annotated[str, AfterValidator(lambda name: find_baseline(name).name)]
Normalisation = Annotated[str, AfterValidator(lambda name: find_normalisation(name).name)]
Aggregation = Annotated[str, AfterValidator(lambda name: find_aggregation(name).name)]
MultiBatch = Literal["strict", "first-published"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class ScreenSection(_Section):
    """Where the images are."""

    # What `wsdino ingest` reads; not needed if the store is there already.
    source: Path | None = None
    # Plate map: which well got what, where the source doesn't say.
    platemap: Path | None = None
    # Our names -> those of the source or the plate map, such as Metadata_Compound: pert_iname.
    columns: dict[str, str] | None = None
    # The store to read, or to make from the source; by default RUN/store.
    store: Path | None = None
    # Compounds that are negative controls; by default Metadata_Control, else DMSO.
    controls: tuple[str, ...] | None = None


class ModelSection(_Section):
    """How channels meet networks, and from which weights they start."""

    mode: ChannelMode = "shared"
    # None (random), "starter" (the backbone that the package ships), "timm" (the weights of the
    # backbone's name), a file, or a file per channel.
    weights: str | dict[str, str] | None = None


class CropsSection(_Section):
    """Views: global ones for student and teacher, local ones for the student."""

    global_views: ViewPlan = Field(default_factory=lambda: ViewPlan(num_views=2, size=64))
    local_views: ViewPlan = Field(default_factory=lambda: ViewPlan(num_views=4, size=48))


class EmbedSection(_Section):
    """How a trained network looks at whole fields."""

    # Side of the tiles in px, None for the whole field at once.
    tile: Annotated[int, Gt(0)] | None = None
    # Rows and columns of tiles; None for as few as cover the field.
    tile_grid: tuple[int, int] | None = None
    tile_summary: TileSummary = "mean"
    # Fields per forward pass; has no influence on the result.
    batch_size: Annotated[int, Gt(0)] = 16


class ProfileSection(_Section):
    """From site embeddings to treatment profiles.

    An option of the normalisation that is None has the normalisation's own default.
    """

    normalise: Normalisation = "tvn"
    # Whitened features to keep (of each channel, if per_channel); by default all.
    num_components: Annotated[int, Gt(0)] | None = None
    # Floor added to the variances when whitening; auto (weak_label): chosen by held-out labels.
    regularisation: Annotated[float, Ge(0)] | Literal["auto"] | None = None
    # Whiten the features of each channel by themselves, as the paper does.
    per_channel: bool | None = None
    # Weak label that the normalisation uses: compound, treatment or any metadata column.
    label: str | None = None
    # Baselines whose features are taken together with the model's in the run's profiles.
    with_: tuple[BaselineName, ...] = Field(default=(), alias="with")
    aggregate: Aggregation = "published"

    @property
    def options(self) -> dict[str, Any]:
        """Options of the normalisation by name."""
        return self.model_dump(exclude={"normalise", "with_", "aggregate"})

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        normalisation = find_normalisation(self.normalise)
        if self.with_ and not normalisation.scales:
            raise ConfigError(
                f"normalise {self.normalise} leaves features in units of their own; with "
                f"{', '.join(self.with_)} together takes another"
            )
        try:
            normalisation.resolve(self.options)
        except InputError as error:
            raise ConfigError(f"{error}, or set it to null where a preset sets it") from error
        return self


class EvaluateSection(_Section):
    """How profiles are judged."""

    multi_batch: MultiBatch = "strict"
    # Shuffles behind the chance level; 0 for none.
    num_permutations: Annotated[int, Ge(0)] = 1000


class BaselinesSection(_Section):
    """What every result stands beside."""

    # See wsdino.baselines.BASELINES. "frozen" takes model.weights.
    names: tuple[BaselineName, ...] = ("classical", "untrained", "classifier")
    # The classifier's own training; what is not given here is as under `train`.
    classifier: Optimisation = Field(default_factory=lambda: Optimisation(objective="classify"))
    # The classifier's crops.
    classifier_views: ViewPlan = Field(default_factory=lambda: ViewPlan(num_views=1, size=64))

    @field_validator("classifier")
    @classmethod
    def _classifies(cls, value: Optimisation) -> Optimisation:
        if value.objective != "classify":
            raise ValueError("the objective of this baseline is always classify")
        return value


class ReportSection(_Section):
    """What the report shows."""

    num_example_fields: Annotated[int, Ge(0)] = 2
    # Rows of the manifest; None for a few of different mechanisms.
    attention_sites: tuple[int, ...] | None = None


class Config(_Section):
    """Everything that a run depends on.

    Raises
    ------
    ConfigError
        From :func:`load_config`: an unknown key or preset, or a value out of range.
    """

    preset: str = "default"
    seed: Annotated[int, Ge(0)] = 0
    # "auto" is "cuda" where there is one, else "cpu".
    device: str = "auto"
    screen: ScreenSection = Field(default_factory=ScreenSection)
    model: ModelSection = Field(default_factory=ModelSection)
    architecture: Architecture = Field(default_factory=Architecture)
    input: InputScaling = Field(default_factory=InputScaling)
    pairing: WeakPositives = Field(default_factory=WeakPositives)
    crops: CropsSection = Field(default_factory=CropsSection)
    train: Optimisation = Field(default_factory=Optimisation)
    distill: Distillation = Field(default_factory=Distillation)
    embed: EmbedSection = Field(default_factory=EmbedSection)
    profile: ProfileSection = Field(default_factory=ProfileSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    baselines: BaselinesSection = Field(default_factory=BaselinesSection)
    report: ReportSection = Field(default_factory=ReportSection)

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


def load_config(source: str | Path, settings: list[str] | None = None) -> Config:
    """Read a config: a preset's name, or a YAML file that may name one under ``preset``.

    Later wins: preset, file, settings.

    Parameters
    ----------
    source
        Preset or file.
    settings
        ``a.b=value`` strings, the value in YAML.

    Raises
    ------
    ConfigError
        Names the key, what was found and what would be right.
    """
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        given, origin = _with_new_names(_read_yaml(path), f"{path}: "), f"{path}: "
    else:
        given, origin = {"preset": str(source)}, ""
    _check_keys(given, origin)
    for setting in settings or []:
        changes = _with_new_names(_parse_setting(setting), f"--set {setting}: ")
        _check_keys(changes, f"--set {setting}: ")
        _merge(given, changes)
    preset = given.get("preset", "default")
    values = _parse(preset_text(str(preset)), f"preset {preset}")
    _merge(values, given)
    # The classifier trains as the network does, but for what is said of it.
    own = values.get("baselines", {}).get("classifier", {})
    inherited = values.get("train", {}) | {"objective": "classify"}
    values.setdefault("baselines", {})["classifier"] = inherited | own
    try:
        return Config.model_validate(values | {"preset": preset})
    except ValidationError as error:
        raise ConfigError(_first_problem(error, origin)) from error


def _first_problem(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, InputError):
        return f"{origin}config key {key}: {reason}"
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{origin}config key {key}: found {first['input']!r}: {message}"


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path}: can't be read as text: {error}") from error
    return _parse(text, str(path))


def _with_new_names(given: dict[str, Any], origin: str) -> dict[str, Any]:
    """Read keys that have been renamed by their new names."""
    screen = given.get("screen")
    if not isinstance(screen, dict) or "design" not in screen:
        return given
    if screen["design"] is not None:
        say(f"{origin}config key screen.design is called screen.platemap now")
    values = {name: value for name, value in screen.items() if name != "design"}
    return given | {"screen": {"platemap": screen["design"]} | values}


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: a config is a mapping of sections, not a plain value")
    return values


def _parse_setting(setting: str) -> dict[str, Any]:
    """Turn ``a.b=value`` into ``{"a": {"b": value}}``."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting!r}: use the form a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting!r}: the value is not YAML") from error
    if isinstance(value, str):
        value = _number(value)
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-3 as a string; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _check_keys(given: dict[str, Any], origin: str) -> None:
    """Refuse keys that no section knows; pydantic would pass over those of dataclasses."""

    def check(values: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if key not in known:
                raise ConfigError(
                    f"{origin}config key {prefix}{key}: unknown{did_you_mean(str(key), known)}; "
                    f"known here: {', '.join(known)}"
                )
            if isinstance(known[key], dict):
                if not isinstance(value, dict):
                    raise ConfigError(
                        f"{origin}config key {prefix}{key}: found {value!r}; it is a section with "
                        f"{', '.join(known[key])}"
                    )
                check(value, known[key], f"{prefix}{key}.")

    check(given, Config().model_dump(), "")


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value
