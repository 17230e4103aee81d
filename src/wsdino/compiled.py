"""Inner loops, compiled by numba when they are first called."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from numba import njit  # type: ignore[import-untyped, unused-ignore]
from numba.core.dispatcher import Dispatcher  # type: ignore[import-untyped, unused-ignore]

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

F = TypeVar("F", bound="Callable[..., Any]")


def kernel(function: F) -> F:
    """Compile a function when it is first called, and keep it on disk if possible.

    Other threads run while it does: it holds no lock of the interpreter.
    """
    compiled = njit(fastmath=True, error_model="numpy", nogil=True)(function)
    _keep(compiled)
    return cast("F", compiled)


def keep_compiled(*modules: ModuleType) -> None:
    """Keep on disk, if possible, what numba compiles of other packages' modules.

    Call it before their functions are. Numba compiles anew when a module's file has changed.
    """
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Dispatcher):
                _keep(value)


def _keep(compiled: Dispatcher) -> None:
    with suppress(RuntimeError):  # a read-only installation without a home folder
        compiled.enable_caching()
