"""The reference of the command line: every command with its arguments and options."""

from __future__ import annotations

import inspect
import re
from typing import Any

from text import table
from typer.main import get_command

from wsdino.cli import main
from wsdino.cli.app import app
from wsdino.explain import one_line

HEAD = """# Commands

What `wsdino --help` and `wsdino COMMAND --help` say, in one page. Exit status: 0 done, 1 the work
failed, 2 wrong usage or input; an error is one line, and `wsdino --debug COMMAND` adds the
traceback.
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
    lines = [inspect.cleandoc(command.help or ""), ""]
    word, _, example = (command.epilog or "").partition(": ")
    return [*lines, f"{word}: `{example}`", ""] if example else lines


def _parameters(name: str, command: Any) -> list[str]:
    context = command.context_class(command, info_name=f"wsdino {name}")
    usage = " ".join([f"wsdino {name}", *command.collect_usage_pieces(context)])
    records = [each.get_help_record(context) for each in command.params]
    rows = [(f"`{what}`", _escaped(meaning)) for what, meaning in filter(None, records)]
    return ["```text", usage, "```", "", *table(("", "meaning"), rows)]


def _escaped(text: str) -> str:
    """Keep what looks like a link or a tag as text."""
    return re.sub(r"([\[\]<>*_])", r"\\\1", one_line(text))
