"""Keys and values of a config as the user gives them: ``a.b=value`` settings, and layers."""

from __future__ import annotations

import copy
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml

from wsdino.errors import ConfigError, did_you_mean
from wsdino.outside import reading
from wsdino.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = {str, Path}


def parse_setting(
    setting: str, config: type, *, renamed: dict[str, str] | None = None
) -> dict[str, Any]:
    """Turn ``a.b=value`` into ``{"a": {"b": value}}``.

    Parameters
    ----------
    setting
        Key and value. If the option holds text (a path, a name), the value is taken literally,
        with ``null`` for none if the option allows it: a path may contain YAML syntax, such as
        ``demo #1``. All other values are YAML.
    config
        The config's class, whose annotations give the types of the options.
    renamed
        Keys of earlier versions, and their names in `config`; the result keeps the key.

    Raises
    ------
    ConfigError
        If it has another form, or a value that must be YAML is not.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting!r}: use the form a.b=value")
    kinds = _kinds(config, (renamed or {}).get(key, key).split("."))
    value: Any
    if kinds and kinds <= TEXT | {dict, types.NoneType} and not (dict in kinds and text[:1] == "{"):
        # A path may contain YAML syntax: "demo #1", "a: b".
        value = None if text == "null" and types.NoneType in kinds else text
    else:
        value = _yaml_value(setting, text)
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _yaml_value(setting: str, text: str) -> Any:
    with reading(f"--set {setting!r}", ConfigError, "the value is not YAML"):
        value = yaml.safe_load(text)
    return _number(value) if isinstance(value, str) else value


def _kinds(annotation: Any, key: list[str]) -> set[Any]:
    """Types that the option at a key may have, without their constraints; empty if unknown."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kinds(arguments[0], key)
    if origin in {typing.Union, types.UnionType}:
        return set().union(*(_kinds(each, key) for each in arguments))
    if origin is Literal and not key:
        return {type(each) for each in arguments}
    if origin is dict:
        return _kinds(arguments[1], key[1:]) if key else {dict}
    if not key:
        return {origin or annotation}
    if not isinstance(annotation, type):
        return set()
    hints = typing.get_type_hints(annotation, include_extras=True)
    return _kinds(hints[key[0]], key[1:]) if key[0] in hints else set()


def _number(text: str) -> str | float:
    """Convert text that YAML 1.1 reads as a string but people mean as a number, such as 1e-3."""
    try:
        return float(text)
    except ValueError:
        return text


def check_keys(
    given: dict[str, Any],
    known: dict[str, Any],
    origin: str,
    *,
    moved: dict[str, str],
    choices: dict[str, str],
) -> None:
    """Refuse keys that no section has; pydantic would ignore those of dataclasses.

    Parameters
    ----------
    given
        The given values, with sections as mappings.
    known
        Every existing key, with sections as mappings.
    origin
        Prefix of an error: where the values were given.
    moved
        Keys of earlier versions, and what replaces them.
    choices
        What decides which keys a section has, by the section's name with its dot.

    Raises
    ------
    ConfigError
        Names the key and the closest existing one.
    """

    def check(values: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if f"{prefix}{key}" in moved:
                raise ConfigError(f"{origin}config key {prefix}{key}: {moved[f'{prefix}{key}']}")
            if key not in known:
                by = f" to {choices[prefix]}" if prefix in choices else ""
                raise ConfigError(
                    f"{origin}config key {prefix}{key}: unknown{by}"
                    f"{did_you_mean(str(key), known)}; known here: {', '.join(known)}"
                )
            if isinstance(known[key], dict):
                if not isinstance(value, dict):
                    raise ConfigError(
                        f"{origin}config key {prefix}{key}: found {value!r}; it is a section with "
                        f"{', '.join(known[key])}"
                    )
                check(value, known[key], f"{prefix}{key}.")

    check(given, known, "")


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change values in place, sections key by key."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = copy.deepcopy(value)


def options_of(values: dict[str, Any], known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options among nested values: ``a.b`` and its value.

    Parameters
    ----------
    values
        The given values, with sections as mappings.
    known
        Every existing key, with sections as mappings; other mappings are values of one option.
    """
    for key, value in values.items():
        inner = known.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            yield from ((f"{key}.{name}", each) for name, each in options_of(value, inner))
        else:
            yield key, value


def covering(reasons: dict[str, str], key: str) -> str | None:
    """Return the reason for an option, or for a section that it is in; None if there is none."""
    return next(
        (why for each, why in reasons.items() if key == each or key.startswith(f"{each}.")), None
    )


def restore(values: dict[str, Any], key: str, source: dict[str, Any]) -> None:
    """Set ``a.b`` in place to what `source` has there; remove it if that has nothing."""
    name, _, rest = key.partition(".")
    if rest:
        inner = values.get(name)
        if isinstance(inner, dict):
            restore(inner, rest, source.get(name) or {})
    elif name in source:
        values[name] = copy.deepcopy(source[name])
    else:
        values.pop(name, None)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the sections of a config file.

    Raises
    ------
    ConfigError
        If there is no such file, or it is something else.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    with reading(path, ConfigError, "can't be read as text"):
        text = path.read_text(encoding="utf-8")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """Parse the sections of a config; `origin` names it in an error.

    Raises
    ------
    ConfigError
        If the text is not YAML, or not a mapping.
    """
    with reading(origin, ConfigError, "not YAML"):
        values = yaml.safe_load(text) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: a config is a mapping of sections, not a plain value")
    return values


def with_new_names(
    given: dict[str, Any], origin: str, *, renamed: dict[str, str]
) -> dict[str, Any]:
    """Read keys that have been renamed by their new names.

    Parameters
    ----------
    given
        The given values, with sections as mappings.
    origin
        Prefix of a message: where the values were given.
    renamed
        Keys of earlier versions, and their names now, in the same section.
    """
    for before, now in renamed.items():
        (section, old), new = before.split("."), now.split(".")[1]
        values = given.get(section)
        if not isinstance(values, dict) or old not in values:
            continue
        if values[old] is not None:
            say(f"{origin}config key {before} is now called {now}")
        others = {name: value for name, value in values.items() if name != old}
        given = given | {section: {new: values[old]} | others}
    return given
