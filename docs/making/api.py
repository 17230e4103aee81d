"""The reference of Python: every public name, from its docstring."""

from __future__ import annotations

import importlib

import wsdino

HEAD = """# Python

`import wsdino` offers these names; each is imported when it is first used. Errors that a user can
mend are subclasses of `wsdino.InputError`, and all are subclasses of `wsdino.WsdinoError`.
"""
ROOMS = {
    "screen": "Screens and stores",
    "simulate": "Simulated screens",
    "model": "Models and embeddings",
    "embed": "Models and embeddings",
    "config": "Runs",
    "pipeline": "Runs",
    "train": "Training",
    "tables": "Tables",
    "profile": "Profiles",
    "evaluate": "Evaluation",
    "report": "Reports",
    "errors": "Errors",
}


def page() -> str:
    """Write the page; mkdocstrings fills it."""
    by_title: dict[str, list[str]] = {title: [] for title in ROOMS.values()}
    for name in wsdino.__all__:
        if name == "__version__":
            continue
        home = getattr(wsdino, name).__module__.split(".")[1]
        by_title[ROOMS[home]].append(name)
    lines = [HEAD]
    for title, names in by_title.items():
        lines += [f"## {title}", ""]
        for name in sorted(names, key=str.casefold):
            found = getattr(wsdino, name)
            module = importlib.import_module(found.__module__)
            # What is shown is what users type; where it comes from is where it is documented.
            lines += [f"### `wsdino.{name}`", "", f"::: {module.__name__}.{found.__name__}", ""]
    return "\n".join(lines)
