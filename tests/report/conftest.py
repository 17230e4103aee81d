"""Fixtures of the report's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from generated_run import MemoryStore, make_run, treatments

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A complete run folder with nine treatments."""
    return make_run(tmp_path / "my run")


@pytest.fixture
def store() -> MemoryStore:
    """Eight fields of 48 by 64 pixels in three channels, two of them controls."""
    rng = np.random.default_rng(0)
    frame = treatments(2)
    controls = pd.DataFrame({"Metadata_Compound": ["DMSO"] * 2, "Metadata_Control": [True] * 2})
    frame = pd.concat([frame, controls], ignore_index=True)
    frame["Metadata_Control"] = frame["Metadata_Control"].astype(bool)
    frame["Metadata_Plate"], frame["Metadata_Well"] = "P/1", "B04"
    frame["Metadata_Site"] = range(1, len(frame) + 1)
    images = rng.integers(0, 4000, (len(frame), 3, 48, 64)).astype(np.uint16)
    return MemoryStore(images, frame)
