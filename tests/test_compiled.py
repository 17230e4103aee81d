"""What numba compiles of other packages is read back from disk."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from wsdino.compiled import keep_compiled

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

SOURCE = """
import numba

@numba.njit
def doubled(number):
    return 2 * number
"""


def loaded(path: Path) -> ModuleType:
    """Import a file, as another process would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "others.py"
    path.write_text(SOURCE, encoding="utf-8")
    for num_hits in (0, 1):
        module = loaded(path)
        keep_compiled(module)
        assert module.doubled(4) == 8
        assert sum(module.doubled.stats.cache_hits.values()) == num_hits
