"""What every option of a config is, in words: for ``wsdino config --explain`` and the manual.

Words come from where the option is declared: its description, its entry in a docstring, or the
comment above it. Why a preset has a value is said by the comment in the preset: one above an option
stands for those right below it too, up to the next comment, and one above a section for whatever in
it has none.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, TypeAdapter

from wsdino.config import RENAMED, Config, load_config, preset_text
from wsdino.settings import options_of, parse_setting, parse_yaml, with_new_names

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 100
# Sections of baselines that follow another section where they say nothing of their own.
SAME_AS = {"baselines.classifier": "train", "baselines.dino": "objective"}
# Sphinx's roles, such as :func:`~wsdino.screen.store.open_store`.
_ROLE = re.compile(r":(?:\w+):`(?P<short>~?)\.?(?P<name>[^`]+)`")
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
}


def explain(source: str, settings: list[str] | None = None) -> str:
    """Print a config whole, with a comment for each option.

    Parameters
    ----------
    source, settings
        As in :func:`~wsdino.config.load_config`.

    Returns
    -------
    str
        YAML that :func:`~wsdino.config.load_config` reads as the same config. Above each option
        stand what it does, what it may be, and why it has its value.

    Raises
    ------
    ConfigError
        As :func:`~wsdino.config.load_config`.
    """
    config = load_config(source, settings)
    why = _reasons(source, settings or [], config)
    lines: list[str] = []

    def add(values: dict[str, Any], kind: type, path: str, indent: str) -> None:
        for name, value in values.items():
            key, field = f"{path}{name}", _field(kind, name)
            inner = type(config.objective) if key == "objective" else kind_of(kind, field)
            if not isinstance(value, dict) or not is_section(kind, field):
                words = (meaning(kind, field), type_of(kind, field), f"Why: {why(key)}")
                lines.extend(_comment(text, indent) for text in words)
                lines.append(f"{indent}{name}: {_value(value)}")
            else:
                lines.extend([_comment(summary(inner), indent), f"{indent}{name}:"])
                add(value, inner, f"{key}.", f"{indent}  ")

    add(config.model_dump(mode="json"), Config, "", "")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> str:
    return textwrap.fill(
        f"{text[:1].upper()}{text[1:].rstrip('.')}.",
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _field(kind: type, name: str) -> str:
    """Return the field that is called so in a file."""
    return next((each for each in schema_of(kind) if alias(kind, each) == name), name)


def _reasons(source: str, settings: list[str], config: Config) -> Any:
    """Return a function from the key of an option to why it has its value."""
    everything = config.model_dump()
    values = dict(options_of(everything, everything))
    path, preset = Path(source), config.preset
    found = {
        key: f"{text.rstrip('.')} (preset {preset})"
        for key, text in comments_of(preset_text(preset)).items()
    }
    in_preset = dict(options_of(parse_yaml(preset_text(preset), preset), everything))
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        given = with_new_names(parse_yaml(text, str(path)), "", renamed=RENAMED)
        own = comments_of(text)
        for key in dict(options_of(given, everything)):
            found[key] = f"{own[key].rstrip('.')} ({path})" if key in own else f"given in {path}"
    for setting in settings:
        given = with_new_names(parse_setting(setting, Config, renamed=RENAMED), "", renamed=RENAMED)
        found |= dict.fromkeys(dict(options_of(given, everything)), f"--set {setting}")

    def why(key: str) -> str:
        section = next((each for each in SAME_AS if key.startswith(f"{each}.")), None)
        if key in found:
            return found[key]
        if key in in_preset:
            return f"the preset {preset} has it"
        same = f"{SAME_AS[section]}.{key.removeprefix(section)[1:]}" if section else ""
        # Another objective than self-distillation has values of its own, or no such option.
        if same in values and values[same] == values[key]:
            return f"as {same}"
        return "the default"

    return why


def comments_of(text: str) -> dict[str, str]:
    """Read, by the key of an option, the comment in a config file that stands for it.

    Parameters
    ----------
    text
        YAML. What stands above everything, up to the first line that isn't a comment, is the
        header, and stands for no option.
    """
    lines, found = text.splitlines(), dict[str, str]()
    header = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))

    def above(line: int, column: int) -> str:
        first = line
        while first > header and lines[first - 1].startswith(" " * column + "#"):
            first -= 1
        return " ".join(each.strip().lstrip("#").strip() for each in lines[first:line])

    def read(node: yaml.MappingNode, path: str, inherited: str) -> None:
        current = inherited
        for key, value in node.value:
            own = above(key.start_mark.line, key.start_mark.column) if not node.flow_style else ""
            # At the top there are sections, which have nothing to do with one another.
            current = own or (current if path else "")
            if isinstance(value, yaml.MappingNode):
                read(value, f"{path}{key.value}.", current)
            elif current:
                found[f"{path}{key.value}"] = current

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        read(root, "", "")
    return found


def from_docstring(text: str) -> str:
    """Turn roles and double backticks into Markdown's code."""

    def code(found: re.Match[str]) -> str:
        name = found["name"].removeprefix("wsdino.")
        return f"`{name.rpartition('.')[2] if found['short'] else name}`"

    return re.sub(r"``([^`]+)``", r"`\1`", _ROLE.sub(code, text))


def one_line(text: str) -> str:
    """Join lines."""
    return " ".join(text.split())


def summary(kind: type) -> str:
    """Return the first line of a section's docstring."""
    return from_docstring(inspect.cleandoc(kind.__doc__ or "").partition("\n")[0])


def schema_of(kind: type) -> dict[str, Any]:
    """Return the JSON schema of each option of a section, by its field."""
    properties = _schema(kind).get("properties", {})
    assert isinstance(properties, dict)
    return properties


# It takes longer than all else here, and is asked for several times for each option.
@cache
def _schema(kind: type) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema(by_alias=False)


def alias(kind: type, name: str) -> str:
    """Return what a field is called in a file."""
    if issubclass(kind, BaseModel):
        return kind.model_fields[name].alias or name
    return name


def kind_of(kind: type, name: str) -> Any:
    """Return the class of a section's field, or its type; None in sections without sections."""
    if issubclass(kind, BaseModel):
        return kind.model_fields[name].annotation
    return None


def is_section(kind: type, name: str) -> bool:
    """Whether a field holds options of its own."""
    if kind is Config and name == "objective":
        return True
    found = kind_of(kind, name)
    return inspect.isclass(found) and (
        dataclasses.is_dataclass(found) or issubclass(found, BaseModel)
    )


def type_of(kind: type, name: str) -> str:
    """Say what an option may be: its type with its limits, or its choices."""
    return _type(schema_of(kind)[name], kind)


def _type(schema: dict[str, Any], kind: type) -> str:
    if "$ref" in schema:
        whole = _schema(kind)["$defs"]
        return _type(whole[schema["$ref"].rpartition("/")[2]], kind)
    if "anyOf" in schema:
        return " or ".join(_type(each, kind) for each in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{choice}`" for choice in choices)
    found = schema.get("type")
    if found == "null":
        return "`null`"
    if found == "array":
        if "prefixItems" in schema:
            return "pair of " + _type(schema["prefixItems"][0], kind)
        return "list of " + _type(schema["items"], kind)
    if found == "object":
        return "mapping of names to " + _type(schema["additionalProperties"], kind)
    name = "path" if schema.get("format") == "path" else _TYPES[str(found)]
    limits = [words.format(_number(schema[key])) for key, words in _LIMITS.items() if key in schema]
    return " ".join([name, *([", ".join(limits)] if limits else [])])


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


def meaning(kind: type, name: str) -> str:
    """Say what an option means: its description, its entry in the docstring, or its comment.

    Raises
    ------
    LookupError
        If it has none.
    """
    described = schema_of(kind).get(name, {}).get("description")
    text = described or _documented(kind).get(name) or _commented(kind).get(name)
    if not text:
        raise LookupError(f"{kind.__name__}.{name}: has no explanation")
    text = re.sub(r"\bNone\b", "`null`", one_line(from_docstring(text)))
    return text[:1].upper() + text[1:]


def _documented(kind: type) -> dict[str, str]:
    """Read what numpydoc's section of parameters says of each."""
    section = re.search(
        r"Parameters\n-+\n(.*?)(?=\n\S[^\n]*\n---|\Z)",
        inspect.cleandoc(kind.__doc__ or ""),
        re.DOTALL,
    )
    found: dict[str, str] = {}
    if section:
        for names, text in re.findall(
            r"^(\S[^\n]*)\n((?:[ ]+[^\n]*\n?|\n)+)", section[1] + "\n", re.MULTILINE
        ):
            found |= _shared(re.split(r",\s*", names), text)
    return found


@cache
def _commented(kind: type) -> dict[str, str]:
    """Read the comment above each field; fields right below one another share it."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("wsdino"):
            for names, text in _comments(inspect.getsource(each)):
                # A section that follows an option has its own docstring.
                options = [name for name in names if not is_section(kind, name)]
                found |= _shared(options or names, text)
    return found


def _comments(source: str) -> Iterator[tuple[list[str], str]]:
    """Yield the fields right below each comment of a class, and the comment."""
    comment, names = list[str](), list[str]()
    for line in [*source.splitlines(), ""]:
        field = re.match(r" {4}(\w+): ", line)
        if field and comment:
            names.append(field[1])
        elif names and re.match(r" {0,4}\S|$", line):
            yield names, " ".join(comment)
            comment, names = [], []
        if found := re.match(r" {4}# ?(.*)", line):
            comment.append(found[1])
        elif not field and re.match(r" {0,4}\S|$", line):
            comment = []


def _shared(names: list[str], text: str) -> dict[str, str]:
    """Give each of several options the text that they share, with the names of all."""
    together = ", ".join(f"`{name}`" for name in names)
    return dict.fromkeys(names, f"{together}: {text}" if len(names) > 1 else text)
