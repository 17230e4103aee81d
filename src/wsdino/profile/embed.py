"""Embeddings of every site of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from wsdino.errors import ModelError
from wsdino.progress import Meter

if TYPE_CHECKING:
    from wsdino.model.model import Model
    from wsdino.screen.store import Store


def embed_store(model: Model, store: Store, *, batch_size: int = 16) -> pd.DataFrame:
    """Embed all sites.

    Parameters
    ----------
    model
        A model for the channels of the store.
    store
        N sites.
    batch_size
        Fields per forward pass; has no influence on the result beyond float32 rounding.

    Returns
    -------
    DataFrame
        The manifest's ``Metadata_*`` columns, then F float32 features, row i for site i.

    Raises
    ------
    ModelError
        If the model was made for other channels.
    """
    if model.channels != store.channels:
        raise ModelError(
            f"{store.path}: has the channels {', '.join(store.channels)}; the model was made for "
            f"{', '.join(model.channels)}"
        )
    offset, gain = (torch.from_numpy(x) for x in model.spec.scaling.for_store(store))
    blocks = []
    with Meter("embed", len(store)) as meter:
        for start in range(0, len(store), batch_size):
            rows = np.arange(start, min(start + batch_size, len(store)))
            blocks.append(model.embed(store.read(rows), offset=offset[rows], gain=gain[rows]))
            meter.advance(len(rows))
    features = pd.DataFrame(np.concatenate(blocks), columns=model.feature_names)
    metadata = store.manifest.filter(regex="^Metadata_").reset_index(drop=True)
    return pd.concat([metadata, features], axis=1)
