"""Docstrings with Sphinx's roles, for mkdocstrings."""

from __future__ import annotations

from typing import Any

import griffe

from wsdino.explain import from_docstring


class Roles(griffe.Extension):
    """Turn :func:`name` into code, which Markdown understands."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = from_docstring(obj.docstring.value)
