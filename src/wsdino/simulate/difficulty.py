"""The difficulty of a simulated screen: its parameters, and named settings of them.

Nothing heavy is imported here, so that the command line's help can list the names quickly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from wsdino.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT = "published"


@dataclass(frozen=True)
class Difficulty:
    """The difficulty of a screen; every parameter can be zero.

    The defaults are those of the difficulty named :data:`DEFAULT`.

    Parameters
    ----------
    effect
        Factor on the effects of mechanisms.
    penetrance
        Share of the cells that respond at full activity, at most 1.
    lean, signature, compound_density, compound_staining
        How much compounds of one mechanism differ; see :func:`.phenotypes.make_compound`.
    batch_biology, plate_biology, well_biology
        Natural variation of all traits at each level, in units of their spread.
    batch_response
        How differently the cells of each batch respond, because of another passage or day: standard
        deviation of the log factor on each trait's change by any compound. Invisible to a whitening
        on controls.
    batch_density, plate_density, well_density
        Standard deviation of the log number of cells.
    batch_gain, plate_gain, well_gain
        Standard deviation of each channel's log brightness.
    batch_blur, plate_blur, well_blur
        Standard deviation of the log width of the point spread.
    batch_staining, plate_staining, well_staining
        Variation of staining and stray light: haze, saturation, mottling, textured background,
        precipitate, bleed-through; in units of the spreads in :mod:`.handling`.
    batch_background, plate_background, well_background
        Standard deviation of each channel's log background.
    plate_shade
        Standard deviation of the illumination's slopes and fall, by plate and channel.
    edge
        Strength of the edge effect: fewer and smaller cells, dimmer actin in outer wells.
    defocus_rate, debris_rate
        Probability that a field is out of focus; mean number of bits of debris in 256 x 256.
    mottle, texture, bleed, precipitate
        Multiply how unevenly stains take, the textured background, the channels' bleed-through
        and the number of crystals of unbound stain.
    """

    effect: float = 4.5
    penetrance: float = 0.9
    lean: float = 0.02
    signature: float = 0.2
    compound_density: float = 0.05
    compound_staining: float = 0.2
    batch_biology: float = 1.5
    plate_biology: float = 0.25
    well_biology: float = 0.8
    batch_response: float = 0.35
    batch_density: float = 0.05
    plate_density: float = 0.06
    well_density: float = 0.08
    batch_gain: float = 0.15
    plate_gain: float = 0.08
    well_gain: float = 0.08
    batch_blur: float = 0.08
    plate_blur: float = 0.06
    well_blur: float = 0.15
    batch_staining: float = 0.7
    plate_staining: float = 0.25
    well_staining: float = 0.3
    batch_background: float = 0.15
    plate_background: float = 0.08
    well_background: float = 0.15
    plate_shade: float = 0.06
    edge: float = 0.5
    defocus_rate: float = 0.02
    debris_rate: float = 0.25
    mottle: float = 1.0
    texture: float = 1.0
    bleed: float = 1.0
    precipitate: float = 1.0

    @classmethod
    def of(cls, settings: Iterable[str]) -> Difficulty:
        """Parse settings: names of difficulties, and ``name=value`` for single parameters.

        The last name is the base (:data:`DEFAULT` if there is none), wherever it is among the
        settings; of several values of a parameter the last one counts.

        Raises
        ------
        InputError
            A setting is neither a name nor a parameter with a value in range.
        """
        base, changes = DEFAULT, {}
        for setting in settings:
            name, equals, value = (part.strip() for part in setting.partition("="))
            if not equals:
                base = _checked_name(name)
            elif name not in NUMBERS:
                raise InputError(
                    f"difficulty {setting!r}: no such parameter{did_you_mean(name, NUMBERS)}; give "
                    f"one of {', '.join(NUMBERS)}"
                )
            else:
                changes[name] = _number(name, value)
        return replace(_NAMED[base].numbers, **changes)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise InputError(f"difficulty {field.name}: {value!r}; give a number of at least 0")
        for name in ("penetrance", "defocus_rate"):
            if getattr(self, name) > 1:
                raise InputError(f"difficulty {name}: {getattr(self, name)}; give at most 1")


NUMBERS = tuple(field.name for field in fields(Difficulty))


@dataclass(frozen=True)
class NamedDifficulty:
    """A named setting of all parameters.

    Parameters
    ----------
    name
        Name on the command line and in Python.
    meaning
        One-line description, for the help.
    numbers
        The parameters.
    """

    name: str
    meaning: str
    numbers: Difficulty


DIFFICULTIES = (
    NamedDifficulty(
        "published",
        "meant to be about as hard as the real BBBC021",
        Difficulty(),
    ),
    NamedDifficulty(
        "hard",
        "faint effects, large batch differences",
        Difficulty(
            effect=1.7,
            lean=0.15,
            signature=0.5,
            compound_density=0.25,
            compound_staining=1.1,
            batch_biology=1.0,
            batch_response=0.6,
            batch_density=0.10,
            well_density=0.12,
            well_staining=0.6,
            edge=1.0,
        ),
    ),
    NamedDifficulty(
        "easy",
        "strong effects, small differences between batches",
        Difficulty(
            effect=5.0,
            lean=0.0,
            signature=0.1,
            compound_density=0.1,
            compound_staining=0.1,
            batch_biology=0.3,
            batch_response=0.1,
            well_biology=0.5,
            well_staining=0.2,
        ),
    ),
)
_NAMED = {named.name: named for named in DIFFICULTIES}


def _checked_name(name: str) -> str:
    if name in NUMBERS:
        usual = getattr(_NAMED[DEFAULT].numbers, name)
        raise InputError(f"difficulty {name!r}: has no value; give one, such as {name}={usual}")
    if name not in _NAMED:
        raise InputError(
            f"difficulty {name!r}: no such difficulty{did_you_mean(name, (*_NAMED, *NUMBERS))}; "
            f"give one of {', '.join(_NAMED)}, or a parameter as name=value"
        )
    return name


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"difficulty {name}: {value!r}; give a number of at least 0") from None


def difficulty_help() -> str:
    """List every difficulty with its description, the default first."""
    return ", ".join(f"{named.name} ({named.meaning})" for named in DIFFICULTIES)
