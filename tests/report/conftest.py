"""Fixtures of the report's tests."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from generated_run import MemoryStore, make_run, make_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run folder with nine treatments."""
    return make_run(tmp_path / "my run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def store() -> MemoryStore:
    """Eight fields of 48 by 64 pixels in three channels, two of them controls."""
    return make_store()
