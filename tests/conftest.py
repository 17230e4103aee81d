"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No timed tests: another program on the machine must not fail a property.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real BBBC021 fields and profiles; skips where there is none."""
    given = os.environ.get("WSDINO_DATA")
    folder = Path(given) if given else REPO.parent / "shared" / "data"
    if not (folder / "bbbc021_fields_256").is_dir():
        pytest.skip("no real BBBC021 data: set WSDINO_DATA to a folder with bbbc021_fields_256/")
    return folder
