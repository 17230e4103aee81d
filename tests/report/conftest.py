"""Fixtures of the report's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from generated_run import MemoryStore, make_run, make_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run folder with nine treatments."""
    return make_run(tmp_path / "my run")


@pytest.fixture
def store() -> MemoryStore:
    """Eight fields of 48 by 64 pixels in three channels, two of them controls."""
    return make_store()
