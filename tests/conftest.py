"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.screen.store import Store

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


@pytest.fixture(scope="session")
def real_store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the real BBBC021 fields, not to be changed."""
    from wsdino.screen.ingest import ingest

    return ingest(real_data / "bbbc021_fields_256", tmp_path_factory.mktemp("real") / "store")


@pytest.fixture(scope="session")
def real_statistics(real_store: Store) -> pd.DataFrame:
    """Classical statistics of the real BBBC021 fields."""
    from wsdino.embed.classical import classical_table

    return classical_table(real_store, workers=2)
