"""The tree of errors.

An :class:`InputError` is something the user can fix; the command line prints its one line and
exits with status 2. Any other :class:`WsdinoError` is work that failed: status 1.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class WsdinoError(Exception):
    """Base of every error that wsdino raises on purpose."""

    exit_status = 1


class InputError(WsdinoError, ValueError):
    """Wrong usage or input: the message names what was found and what would be right."""

    exit_status = 2


class ConfigError(InputError):
    """A config key, value or preset is wrong."""


class ImageError(InputError):
    """An image file is missing, damaged, or unlike the rest of its screen."""


class StoreError(InputError):
    """A store is missing, unfinished or damaged."""


class TableError(InputError):
    """A table (of a screen's sites, of wells, of features) can't be read or used as asked."""


# The former name of the error for a screen's table, before all tables shared one reader.
ManifestError = TableError


class ModelError(InputError):
    """A model, checkpoint or weight file can't be used as asked."""


class OutputError(InputError):
    """An output path is in the way."""


class TrainingError(WsdinoError):
    """Training stopped because it could not go on."""


class JobError(WsdinoError):
    """Another process of the job failed or died, so this one can't continue."""

    def __init__(self) -> None:
        super().__init__(
            "another process of this job is gone; the same command resumes from what is saved"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the closest of the known names for a message; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


# Options that are advised, and the keys of a run's config that say the same.
CONFIG_KEYS = {
    "--acquisition": "screen.acquisition",
    "--channel": "screen.channels",
    "--column": "screen.columns",
    "--control": "screen.controls",
    "--keep": "screen.keep",
    "--num-components": "profile.num_components",
    "--pattern": "screen.pattern",
    "--platemap": "screen.platemap",
    "--time": "screen.time",
    "--z": "screen.z",
}


def option(text: str) -> str:
    """Write an option for a message that users of `wsdino run`, who give a config, see as well.

    `--z 0 or --z max` becomes `--z 0 or --z max (in a config screen.z)`.
    """
    return f"{text} (in a config {CONFIG_KEYS[text.split(maxsplit=1)[0]]})"


class Named(Protocol):
    """An entry of a named table."""

    @property
    def name(self) -> str:
        """What users call it."""


Entry = TypeVar("Entry", bound=Named)


def find_named(entries: Iterable[Entry], name: str, *, what: str, error: type[InputError]) -> Entry:
    """Look up an entry of a named table, or raise `error`, which names all of them."""
    known = {entry.name: entry for entry in entries}
    if name not in known:
        near = did_you_mean(name, known)
        raise error(f"{what} is {name!r}{near}; expected one of {', '.join(known)}")
    return known[name]
