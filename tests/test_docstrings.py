"""Everything public says what it is, and what each of its arguments means."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import wsdino

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wsdino"
MODULES = sorted(SOURCE.rglob("*.py"))
API = {*wsdino.__all__, "evaluate", "train"}
PARAMETERS = r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)"
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Type annotations that mean an array, and what gives its shape: (N, C), (B,), a scalar.
ARRAYS = re.compile(r"\b(NDArray|ndarray|Tensor|Images)\b")
SHAPE = re.compile(r"\([^()]*[,\d][^()]*\)|\(\w+,?\)|scalar")


def each_module() -> list:
    return [pytest.param(path, id=str(path.relative_to(SOURCE))) for path in MODULES]


def public(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | Function, ast.ClassDef | None]]:
    """Public classes, functions and methods of a module, with the class that a method is of."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield node.name, node, None
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and not member.name.startswith("_"):
                        yield f"{node.name}.{member.name}", member, node


def parameters(node: Function) -> list[ast.arg]:
    """Parameters beyond `self` and `cls` that don't begin with an underscore."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    every += [arg for arg in (node.args.vararg, node.args.kwarg) if arg]
    return [arg for arg in every if arg.arg not in {"self", "cls"} and arg.arg[0] != "_"]


def documented(text: str) -> set[str] | None:
    """Names under `Parameters`, or None where there is no such section."""
    section = re.search(PARAMETERS, text, re.DOTALL | re.MULTILINE)
    if section is None:
        return None
    heads = re.findall(r"^(\S[^:\n]*)", section[1], re.MULTILINE)
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def unexplained(tree: ast.Module, *, api: set[str] = API) -> list[str]:
    """Parameters that a docstring forgets or invents.

    A `Parameters` section has all of them and no others. Without one the summary says it all,
    which for names of the public API means that it has each parameter's name.
    """
    found = []
    for name, node, _ in public(tree):
        takes = {arg.arg for arg in parameters(constructor(node))}
        text = ast.get_docstring(node) or ""
        listed = documented(text)
        if listed is None:
            named = {each for each in takes if re.search(rf"\b{each}\b", text)}
            listed = named if name in api and isinstance(node, Function) else takes
        found += [f"{name}: {each}" for each in sorted(takes ^ listed)]
    return found


def constructor(node: ast.ClassDef | Function) -> Function:
    """The function whose parameters a docstring tells; a class tells those of `__init__`."""
    if isinstance(node, Function):
        return node
    inits = (each for each in node.body if isinstance(each, Function) and each.name == "__init__")
    return next(inits, None) or fields_as_parameters(node)


def fields_as_parameters(node: ast.ClassDef) -> Function:
    """A function with the fields of a dataclass as parameters, none for other classes."""
    names = [
        each.target.id
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]
    is_dataclass = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    stub = ast.parse(f"def init({', '.join(names if is_dataclass else [])}): ...").body[0]
    assert isinstance(stub, ast.FunctionDef)
    return stub


def shapeless(tree: ast.Module) -> list[str]:
    """Functions that explain their arrays, and give no shape."""
    found = []
    for name, node, _ in public(tree):
        text = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) or documented(text) is None:
            continue
        notes = [arg.annotation for arg in parameters(node)] + [node.returns]
        if any(ARRAYS.search(ast.unparse(note)) for note in notes if note):
            found += [] if SHAPE.search(text) else [name]
    return found


@pytest.mark.parametrize("module", each_module())
def test_everything_public_has_a_docstring(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module"
    assert [name for name, node, _ in public(tree) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", each_module())
def test_every_parameter_is_explained(module: Path) -> None:
    assert unexplained(ast.parse(module.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("module", each_module())
def test_arrays_have_shapes(module: Path) -> None:
    assert shapeless(ast.parse(module.read_text(encoding="utf-8"))) == []


def test_the_rules_find_what_breaks_them() -> None:
    def section(name: str) -> str:
        return f"Look.\n\n    Parameters\n    ----------\n    {name}\n        What"

    tree = ast.parse(
        f'def f(image: Tensor, size: int):\n    """{section("image, sise")}."""\n'
        f'class A:\n    """{section("depth")}."""\n    def __init__(self, depth, width): ...\n'
        f'def g(x: Tensor):\n    """{section("x")} (B, C)."""\n'
        'def h(x: Tensor):\n    """Look."""\n'
    )
    assert unexplained(tree, api={"h"}) == ["f: sise", "f: size", "A: width", "h: x"]
    assert shapeless(tree) == ["f"]
