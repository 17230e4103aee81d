"""What every test may use."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that all processes of pytest-xdist share; one at a time is in here."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    (root / name).mkdir(exist_ok=True)
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield root / name


@pytest.fixture(scope="session")
def real_store(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the real BBBC021 fields, not to be changed."""
    from wsdino.screen.ingest import ingest
    from wsdino.screen.store import open_store

    fields = real_data / "bbbc021_fields_256"
    with shared_folder(tmp_path_factory, "real_store") as folder:
        path = folder / "store"
        return open_store(path) if path.exists() else ingest(fields, path)


@pytest.fixture(scope="session")
def real_statistics(real_store: Store, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Classical statistics of the real BBBC021 fields."""
    import pandas as pd

    from wsdino.embed.classical import classical_table

    with shared_folder(tmp_path_factory, "real_statistics") as folder:
        path = folder / "table.pickle"
        if not path.exists():
            classical_table(real_store, workers=2).to_pickle(path)
        return pd.read_pickle(path)
