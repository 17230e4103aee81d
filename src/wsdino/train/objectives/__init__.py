"""The training objectives: each has its own module, and a row in the table here.

To add one, write a module with its options, requirements and builder, and add a row.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Discriminator

from wsdino.errors import ConfigError, did_you_mean
from wsdino.train.objectives.classify import CLASSIFY
from wsdino.train.objectives.contrast import CONTRAST
from wsdino.train.objectives.distill import DISTILL
from wsdino.train.objectives.distill_classify import DISTILL_CLASSIFY
from wsdino.train.objectives.pairs import PAIRS
from wsdino.train.objectives.profiles import PROFILES
from wsdino.train.objectives.spc import SPC_OBJECTIVE

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Objective, Options

OBJECTIVES: tuple[Objective, ...] = (
    DISTILL,
    DISTILL_CLASSIFY,
    PROFILES,
    PAIRS,
    SPC_OBJECTIVE,
    CONTRAST,
    CLASSIFY,
)

if TYPE_CHECKING:
    AnyOptions = Options
else:
    AnyOptions = Annotated[
        Union[tuple(each.options for each in OBJECTIVES)],  # noqa: UP007 made from the table
        Discriminator("name"),
    ]
"""The options of any objective, distinguished by their ``name``."""


def option_names(name: str) -> list[str]:
    """Return the names of an objective's options, its own name among them.

    Raises
    ------
    ConfigError
        If there is no such objective; lists all of them.
    """
    found = next((each for each in OBJECTIVES if each.name == name), None)
    if found is None:
        names = [each.name for each in OBJECTIVES]
        choices = ", ".join(f"{each.name} ({each.help})" for each in OBJECTIVES)
        raise ConfigError(
            f"config key objective.name: found {name!r}{did_you_mean(name, names)}; "
            f"use one of {choices}"
        )
    return [field.name for field in fields(found.options)]


def objective_of(options: Options) -> Objective:
    """Return the objective that options belong to."""
    return next(each for each in OBJECTIVES if each.name == options.name)
