"""The reference of the config: every option with its type, default, presets and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter
from text import from_docstring, one_line

from wsdino.baselines import BASELINES
from wsdino.config import Config, load_config, preset_names
from wsdino.train.objectives import OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Iterator

# These sections of baselines have the options of another section.
SAME_AS = {"baselines.classifier": "train", "baselines.dino": "objective"}
HEAD = """# Configuration

Every option of `wsdino run` and `wsdino train`, as this version has them. Set one with
`--set train.epochs=50`, or in a YAML file that may begin from a preset:

```yaml
preset: cpu
train:
  epochs: 50
```

Later wins: preset, file, `--set`. What a run used is in `RUN/config.yaml`. An option that has no
effect beside the others is refused. Where presets differ from the default, their values are listed.
"""


def page() -> str:
    """Write the page."""
    presets = {name: load_config(name).model_dump(mode="json") for name in preset_names()}
    lines = [HEAD]
    own = [name for name in Config.model_fields if not _is_section(Config, name)]
    lines += ["## Of the whole run", ""]
    for name in own:
        lines += _option(Config, name, name, presets)
    for name in Config.model_fields:
        if name == "objective":
            lines += _objectives(presets)
        elif name not in own:
            lines += [f"## `{name}`", ""]
            lines += _section(_kind(Config, name), name, presets)
    return "\n".join(lines)


def keys() -> list[str]:
    """List every option that the page has."""
    return re.findall(r"^### `([^`]+)`", page(), re.MULTILINE)


def _section(kind: type, path: str, presets: dict[str, Any]) -> list[str]:
    lines = [from_docstring(inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]), ""]
    for name in _schema(kind):
        key = f"{path}.{_alias(kind, name)}"
        if key in SAME_AS:
            users = [b.name for b in BASELINES if b.training and key in b.training.reads.values()]
            lines += [f"### `{key}`", "", f"The options of `{SAME_AS[key]}` for the baseline "]
            lines[-1] += f"`{users[0]}`. " + _meaning(kind, name)
            lines.append("")
        elif _is_section(kind, name):
            lines += [f"### `{key}`", "", _meaning(kind, name), ""]
            lines += _section(_kind(kind, name), key, presets)[2:]
        else:
            lines += _option(kind, name, key, presets)
    return lines


def _objectives(presets: dict[str, Any]) -> list[str]:
    lines = [
        "## `objective`",
        "",
        "What is minimised: `objective.name`, which decides the others.",
        "",
    ]
    shared: dict[str, list[str]] = {}
    for each in OBJECTIVES:
        for name in _schema(each.options):
            shared.setdefault(name, []).append(each.name)
    lines += [f"- `{each.name}`: {each.help}" for each in OBJECTIVES]
    lines.append("")
    for name, users in shared.items():
        if name == "name":
            continue
        kind = next(each.options for each in OBJECTIVES if each.name == users[0])
        found = _option(kind, name, f"objective.{name}", presets)
        of = (
            "every objective"
            if len(users) == len(OBJECTIVES)
            else ", ".join(f"`{n}`" for n in users)
        )
        lines += [*found[:-1], f"Of {of}.", ""]
    return lines


def _option(kind: type, name: str, key: str, presets: dict[str, Any]) -> list[str]:
    schema = _schema(kind)[name]
    default = _shown(_default(kind, name, key))
    values = {preset: _shown(_value(found, key)) for preset, found in presets.items()}
    if key == "preset":
        values = {}
    unlike = ", ".join(f"{p} {v}" for p, v in values.items() if v not in (None, default))
    facts = [f"{_type(schema, kind)}; default {default}"] + (
        [f"presets: {unlike}"] if unlike else []
    )
    return [f"### `{key}`", "", _meaning(kind, name), "", f"<small>{'; '.join(facts)}</small>", ""]


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return _MISSING
        values = values[part]
    return values


_MISSING = object()


def _shown(value: Any) -> str | None:
    if value is _MISSING:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _schema(kind: type) -> dict[str, Any]:
    properties = TypeAdapter(kind).json_schema(by_alias=False).get("properties", {})
    assert isinstance(properties, dict)
    return properties


def _alias(kind: type, name: str) -> str:
    if issubclass(kind, BaseModel):
        return kind.model_fields[name].alias or name
    return name


def _kind(kind: type, name: str) -> Any:
    """Return the class of a section's field, or its type."""
    if issubclass(kind, BaseModel):
        return kind.model_fields[name].annotation
    return None


def _is_section(kind: type, name: str) -> bool:
    if kind is Config and name == "objective":
        return True
    found = _kind(kind, name)
    return inspect.isclass(found) and (
        dataclasses.is_dataclass(found) or issubclass(found, BaseModel)
    )


def _default(kind: type, name: str, key: str) -> Any:
    if key.startswith("objective."):
        return TypeAdapter(kind).dump_python(kind(), mode="json")[name]
    return _value(Config().model_dump(mode="json"), key)


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


def _type(schema: dict[str, Any], kind: type) -> str:
    if "$ref" in schema:
        whole = TypeAdapter(kind).json_schema(by_alias=False)["$defs"]
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


def _meaning(kind: type, name: str) -> str:
    """Say what an option means: its description, its entry in the docstring, or its comment."""
    described = _schema(kind).get(name, {}).get("description")
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


def _commented(kind: type) -> dict[str, str]:
    """Read the comment above each field; fields right below one another share it."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("wsdino"):
            for names, text in _comments(inspect.getsource(each)):
                # A section that follows an option has its own docstring.
                options = [name for name in names if not _is_section(kind, name)]
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
