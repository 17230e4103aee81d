"""Fixtures of the model's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from helpers_train import make_store

if TYPE_CHECKING:
    from wsdino.screen.store import Store

# The networks are tiny: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """64 sites on 4 plates, 8 compounds and DMSO."""
    return make_store(tmp_path_factory.mktemp("model"))
