"""The reference of the command line: every command with its arguments and options."""

from __future__ import annotations

import inspect
from typing import Any

from text import one_line, table
from typer.main import get_command

from wsdino.cli import main
from wsdino.cli.app import app

HEAD = """# Commands

What `wsdino --help` and `wsdino COMMAND --help` say, in one page. Exit status: 0 done, 1 the work failed, 2 wrong usage
or input; an error is one line, and `wsdino --debug COMMAND` adds the traceback.
"""


def page() -> str:
    """Write the page."""
    assert main.app is app  # importing main adds the groups
    whole: Any = get_command(app)
    lines = [HEAD]
    for name, command in whole.commands.items():
        if not command.hidden:
            lines += [f"## wsdino {name}", "", *_described(command), *_parameters(name, command)]
    return "\n".join(lines)


def _described(command: Any) -> list[str]:
    text = inspect.cleandoc(command.help or "")
    more = inspect.cleandoc(command.epilog or "")
    return [part for each in (text, more) if each for part in (each.replace("\b\n", ""), "")]


def _parameters(name: str, command: Any) -> list[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([name, *(_metavar(each) for each in arguments), "[OPTIONS]"])
    lines = ["```text", f"wsdino {usage}", "```", ""]
    rows = [(f"`{_metavar(each)}`", _help(each)) for each in arguments]
    rows += [(_flags(each), _help(each)) for each in options if not each.hidden]
    return lines + table(("", "meaning"), rows)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper() + ("..." if argument.nargs == -1 else ""))


def _flags(option: Any) -> str:
    flags = ", ".join(f"`{each}`" for each in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return flags
    kind = option.metavar or option.type.name.replace("integer range", "integer").upper()
    return f"{flags} {kind}"


def _help(parameter: Any) -> str:
    text = one_line(getattr(parameter, "help", None) or "")
    default = parameter.default
    if default is not None and not callable(default) and not parameter.required:
        shown = {(): None, False: None}.get(default, default) if _hashable(default) else default
        text += f" Default: `{shown}`." if shown is not None else ""
    return text + (
        " Required." if parameter.required and parameter.param_type_name == "option" else ""
    )


def _hashable(value: object) -> bool:
    return not isinstance(value, list | dict)
