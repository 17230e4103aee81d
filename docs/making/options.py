"""The reference of the config: every option with its type, default, presets and meaning."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import TypeAdapter

from wsdino.baselines import BASELINES
from wsdino.config import Config, load_config, preset_names
from wsdino.explain import SAME_AS, alias, is_section, kind_of, meaning, schema_of, summary, type_of
from wsdino.train.objectives import OBJECTIVES

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
    own = [name for name in Config.model_fields if not is_section(Config, name)]
    lines += ["## Of the whole run", ""]
    for name in own:
        lines += _option(Config, name, name, presets)
    for name in Config.model_fields:
        if name == "objective":
            lines += _objectives(presets)
        elif name not in own:
            lines += [f"## `{name}`", ""]
            lines += _section(kind_of(Config, name), name, presets)
    return "\n".join(lines)


def keys() -> list[str]:
    """List every option that the page has."""
    return re.findall(r"^### `([^`]+)`", page(), re.MULTILINE)


def _section(kind: type, path: str, presets: dict[str, Any]) -> list[str]:
    lines = [summary(kind), ""]
    for name in schema_of(kind):
        key = f"{path}.{alias(kind, name)}"
        if key in SAME_AS:
            users = [b.name for b in BASELINES if b.training and key in b.training.reads.values()]
            lines += [f"### `{key}`", "", f"The options of `{SAME_AS[key]}` for the baseline "]
            lines[-1] += f"`{users[0]}`. " + meaning(kind, name)
            lines.append("")
        elif is_section(kind, name):
            lines += [f"### `{key}`", "", meaning(kind, name), ""]
            lines += _section(kind_of(kind, name), key, presets)[2:]
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
        for name in schema_of(each.options):
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
    default = _shown(_default(kind, name, key))
    values = {preset: _shown(_value(found, key)) for preset, found in presets.items()}
    if key == "preset":
        values = {}
    unlike = ", ".join(f"{p} {v}" for p, v in values.items() if v not in (None, default))
    facts = [f"{type_of(kind, name)}; default {default}"] + (
        [f"presets: {unlike}"] if unlike else []
    )
    return [f"### `{key}`", "", meaning(kind, name), "", f"<small>{'; '.join(facts)}</small>", ""]


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


def _default(kind: type, name: str, key: str) -> Any:
    if key.startswith("objective."):
        return TypeAdapter(kind).dump_python(kind(), mode="json")[name]
    return _value(Config().model_dump(mode="json"), key)
