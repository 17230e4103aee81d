"""Which options of a config have an effect, given the others.

Some options count only where another one has a certain value: a centre's momentum where there is a
centre, bounds of intensities where the scaling has bounds. :data:`EFFECTS` names them, so that one
that is given in vain is refused instead of ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from wsdino import baselines
from wsdino.model.names import SMALL_VIT, is_vision_transformer
from wsdino.profile import methods
from wsdino.train.objectives import OBJECTIVES
from wsdino.train.views import ViewPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsdino.config import Config
    from wsdino.train.objectives.base import Objective


@dataclass(frozen=True, kw_only=True)
class Effect:
    """When some options have an effect: one entry of :data:`EFFECTS`.

    Attributes
    ----------
    keys
        Options, or whole sections, that depend on another option.
    given
        The option that they depend on.
    when
        Whether they have an effect in a config.
    advice
        What to set so that they have one.
    """

    keys: tuple[str, ...]
    given: str
    when: Callable[[Config], bool]
    advice: str


# How a view is cut and altered: all of its options but how many views there are.
_OF_A_CROP = tuple(each.name for each in fields(ViewPlan) if each.name != "num_views")


def _under(section: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


def _names_of(has: Callable[[Objective], bool]) -> str:
    return " or ".join(each.name for each in OBJECTIVES if has(each))


def _trainings(config: Config) -> Iterator[tuple[Objective, str]]:
    """Yield the objective and the weak label of each training of a run."""
    values, known = config.model_dump(), {each.name: each for each in OBJECTIVES}
    others = baselines.trainings_of((*config.baselines.names, *config.profile.with_))
    for each in (values, *(training.applied(values) for training in others)):
        yield known[each["objective"]["name"]], each["pairing"]["label"]


def _self_distillation(section: str) -> tuple[Effect, ...]:
    """Return the rows for options of self-distillation in a section; others have none of them."""
    return (
        Effect(
            keys=_under(section, "center_momentum"),
            given=f"{section}.targets",
            when=lambda config: _option(config, section, "targets", "center") == "center",
            advice=f"set {section}.targets=center",
        ),
        Effect(
            keys=_under(section, "warmup_teacher_temp"),
            given=f"{section}.teacher_temp_warmup_epochs",
            when=lambda config: (
                getattr(_value(config, section), "teacher_temp_warmup_epochs", 1) > 0
            ),
            advice=f"raise {section}.teacher_temp_warmup_epochs",
        ),
    )


_PARTNERS = _under("pairing", "partner_from", "fallback", "num_partners", "partner_global_views")
EFFECTS: tuple[Effect, ...] = (
    Effect(
        keys=_under(
            "screen",
            "platemap",
            "columns",
            "controls",
            "illumination",
            "scale",
            "missing",
            "sites_per_file",
            "pixel_size",
        ),
        given="screen.source",
        when=lambda config: config.screen.source is not None,
        advice="give screen.source (a finished store is read as it is)",
    ),
    Effect(
        keys=_under("architecture", "patch_size", "dim", "depth", "num_heads", "stem"),
        given="architecture.backbone",
        when=lambda config: config.architecture.backbone == SMALL_VIT,
        advice=f"set architecture.backbone={SMALL_VIT}",
    ),
    Effect(
        keys=_under("architecture", "image_size", "pool"),
        given="architecture.backbone",
        when=lambda config: is_vision_transformer(config.architecture.backbone),
        advice="choose a vision transformer",
    ),
    Effect(
        keys=("train.batch_statistics",),
        given="architecture.backbone",
        when=lambda config: not is_vision_transformer(config.architecture.backbone),
        advice="choose a convolutional network",
    ),
    Effect(
        keys=_under("input", "low", "high"),
        given="input.method",
        when=lambda config: config.input.method == "fixed",
        advice="set input.method=fixed",
    ),
    Effect(
        keys=_PARTNERS,
        given="pairing.label",
        when=lambda config: any(label != "none" for _, label in _trainings(config)),
        advice="choose a weak label",
    ),
    Effect(
        keys=_PARTNERS,
        given="objective.name",
        when=lambda config: any(
            objective.takes_partners and label != "none" for objective, label in _trainings(config)
        ),
        advice=f"choose an objective with partners ({_names_of(lambda o: o.takes_partners)})",
    ),
    Effect(
        keys=("crops.local_views",),
        given="objective.name",
        when=lambda config: any(each.takes_local_views for each, _ in _trainings(config)),
        advice=f"choose an objective with local views ({_names_of(lambda o: o.takes_local_views)})",
    ),
    Effect(
        keys=_under("crops.local_views", *_OF_A_CROP),
        given="crops.local_views.num_views",
        when=lambda config: config.crops.local_views.num_views > 0,
        advice="raise crops.local_views.num_views",
    ),
    *_self_distillation("objective"),
    *_self_distillation("baselines.dino"),
    Effect(
        keys=_under("embed", "tile_grid", "tile_summary"),
        given="embed.tile",
        when=lambda config: config.embed.tile is not None,
        advice="set embed.tile",
    ),
)


def _of_normalisations() -> Iterator[Effect]:
    """Yield the rows for options of normalisations."""
    for option in dict.fromkeys(name for e in methods.NORMALISATIONS for name in e.options):
        users = [entry.name for entry in methods.NORMALISATIONS if option in entry.options]
        yield Effect(
            keys=_under("profile", option),
            given="profile.normalise",
            when=partial(_normalises_by, users),
            advice=f"choose {' or '.join(users)}",
        )


def _normalises_by(names: list[str], config: Config) -> bool:
    return methods.nominal_normalisation(config.profile.normalise).name in names


def sections_of_baselines() -> dict[str, list[str]]:
    """Return the sections that only the trainings of baselines read, each with these baselines."""
    found: dict[str, list[str]] = {}
    for entry in baselines.BASELINES:
        for key in entry.training.reads.values() if entry.training else ():
            found.setdefault(key, []).append(entry.name)
    return found


def _of_baselines() -> Iterator[Effect]:
    """Yield the rows for sections of baselines."""
    for key, users in sections_of_baselines().items():
        yield Effect(
            keys=(key,),
            given="baselines.names",
            when=partial(_stands_beside, users),
            advice=f"add {' or '.join(users)} to them",
        )


def _stands_beside(names: list[str], config: Config) -> bool:
    return not {*config.baselines.names, *config.profile.with_}.isdisjoint(names)


def _option(config: Config, section: str, name: str, otherwise: Any) -> Any:
    """Return an option, or something else where the section has no such option."""
    return getattr(_value(config, section), name, otherwise)


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def without_effect(config: Config) -> dict[str, str]:
    """Find the options that have no effect in a config.

    Parameters
    ----------
    config
        Resolved.

    Returns
    -------
    dict
        By the key of an option, or of a section without any effect: the end of an error message,
        with the reason and what would be right.
    """
    found: dict[str, str] = {}
    for effect in (*EFFECTS, *_of_normalisations(), *_of_baselines()):
        if not effect.when(config):
            value = _value(config, effect.given)
            shown = "null" if value is None else value
            if isinstance(value, tuple):
                shown = f"[{', '.join(map(str, value))}]"
            reason = f"has no effect with {effect.given} {shown}; leave it out, or {effect.advice}"
            for key in effect.keys:
                found.setdefault(key, reason)
    return found
