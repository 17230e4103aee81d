"""Embeddings of every site of a store: in memory, or into a table part by part."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from wsdino import job
from wsdino.atomic import sweep, write_error, write_text
from wsdino.device import require_memory
from wsdino.embed.parts import TablePart, merge_parts
from wsdino.errors import ModelError, option
from wsdino.lock import one_writer_of_file
from wsdino.model.upload import upload
from wsdino.progress import Meter, say
from wsdino.tables.files import suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wsdino.model.model import Model
    from wsdino.screen.store import Store

# Sites per part. It must not depend on the batch size or the number of processes: both may change
# when an embedding is resumed.
PART_SIZE = 256
NUM_PREFETCHED = 2
# Of a batch: fields of gigabytes are embedded one by one, whatever number is asked for.
BATCH_BYTES = 1 << 29


def embed_store(model: Model, store: Store, *, batch_size: int = 16) -> pd.DataFrame:
    """Embed all sites.

    Parameters
    ----------
    model
        A model for the channels of the store.
    store
        N sites.
    batch_size
        Fields per forward pass, fewer where they are large; does not affect the result beyond
        float32 rounding.

    Returns
    -------
    DataFrame
        The manifest's ``Metadata_*`` columns, then F float32 features, row i for site i.

    Raises
    ------
    ModelError
        If the model was made for other channels.

    Examples
    --------
    >>> import wsdino
    >>> store = wsdino.open_store("STORE")
    >>> model = wsdino.load_model("starter", channels=store.channels)
    >>> wsdino.embed_store(model, store).filter(like="emb_").shape
    (36, 384)
    """
    _require_channels(model, store)
    model.spec.scaling.report(store)
    with Meter("embed", len(store)) as meter:
        blocks = []
        for block in _embedded(model, store, [np.arange(len(store))], batch_size):
            blocks.append(block)
            meter.advance(len(block))
    features = pd.DataFrame(np.concatenate(blocks), columns=model.feature_names)
    return pd.concat([_metadata(store), features], axis=1)


def write_embeddings(model: Model, store: Store, out: Path, *, batch_size: int = 16) -> None:
    """Embed all sites into a table, with all processes of a job; resumes if it was stopped.

    Finished parts are kept in a folder beside the table until all are there; then the first
    process merges them one by one. Parts of another model or another store are discarded.

    Parameters
    ----------
    model, store, batch_size
        As for :func:`embed_store`; the number of processes does not affect the result either.
    out
        ``.parquet``, ``.csv`` or ``.csv.gz``, on a file system that all processes share.

    Raises
    ------
    ModelError
        If the model was made for other channels.
    TableError, OutputError
        If the path has another suffix, or can't be written.
    """
    suffix_of(out)
    _require_channels(model, store)
    _fitting(store, batch_size)
    model.spec.scaling.report(store)
    with one_writer_of_file(out):
        _write_in_parts(model, store, out, batch_size=batch_size)


def _write_in_parts(model: Model, store: Store, out: Path, *, batch_size: int) -> None:
    folder = out.with_name(f".{out.name}.parts")
    starts = range(0, len(store), PART_SIZE)
    parts = [
        TablePart(folder / f"{start:09d}.parquet", slice(start, min(start + PART_SIZE, len(store))))
        for start in starts
    ]
    job.only_first(lambda: sweep(out.parent, name=out.name))
    job.only_first(lambda: _open_folder(folder, _stamp(model, store)))
    # The first process decides: by the time another looks, a part may have been added.
    missing = job.only_first(lambda: [i for i, part in enumerate(parts) if not part.path.is_file()])
    if len(missing) < len(parts):
        say(f"embed: {len(parts) - len(missing)} of {len(parts)} parts are already there")
    own = [parts[i] for i in missing[job.rank() :: job.world_size()]]
    rows = [np.arange(part.rows.start, part.rows.stop) for part in own]
    metadata = _metadata(store)
    size = job.world_size()
    title = "embed" if size == 1 else f"embed (process 1 of {size})"
    with Meter(title, sum(map(len, rows))) as meter:
        blocks = _embedded(model, store, rows, batch_size)
        for part, wanted in zip(own, rows, strict=True):
            features = np.empty((len(wanted), len(model.feature_names)), dtype=np.float32)
            done = 0
            while done < len(wanted):
                block = next(blocks)
                _require_finite(block, store, wanted[done : done + len(block)])
                features[done : done + len(block)] = block
                done += len(block)
                meter.advance(len(block))
            named = pd.DataFrame(features, columns=model.feature_names, index=wanted)
            part.write(pd.concat([metadata.iloc[wanted], named], axis=1))
    job.barrier()
    job.only_first(lambda: merge_parts(parts, metadata, model.feature_names, out))
    job.only_first(lambda: shutil.rmtree(folder))


def _embedded(
    model: Model, store: Store, pieces: Sequence[NDArray[np.int64]], batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Embed sites batch by batch, reading the next batches while the model computes."""
    offset, gain = (torch.from_numpy(x) for x in model.spec.scaling.for_store(store))
    batch_size, num_prefetched = _fitting(store, batch_size)
    batches = [
        piece[start : start + batch_size]
        for piece in pieces
        for start in range(0, len(piece), batch_size)
    ]

    def read(rows: NDArray[np.int64]) -> Tensor:
        return upload(store.read(rows), model.device)

    with ThreadPoolExecutor(max_workers=1) as executor:
        coming = [executor.submit(read, rows) for rows in batches[:num_prefetched]]
        for index, rows in enumerate(batches):
            pixels = coming.pop(0).result()
            if index + num_prefetched < len(batches):
                coming.append(executor.submit(read, batches[index + num_prefetched]))
            yield model.embed(pixels, offset=offset[rows], gain=gain[rows])


def _fitting(store: Store, batch_size: int) -> tuple[int, int]:
    """Return how many fields are embedded at a time, and how many batches are read ahead.

    Raises
    ------
    InputError
        Even that doesn't fit the memory.
    """
    field_bytes = len(store.channels) * math.prod(store.field_shape) * store.dtype.itemsize
    size = max(1, min(batch_size, BATCH_BYTES // field_bytes))
    num_prefetched = NUM_PREFETCHED if size * field_bytes <= BATCH_BYTES else 1
    # One more is being computed, and another's worth is packed bytes and tiles.
    require_memory(
        f"embedding fields of {field_bytes / 1e9:.2f} GB, {size} at a time,",
        (num_prefetched + 2) * size * field_bytes,
        advice="ingest at a smaller scale or with fewer channels, or use a machine with more",
    )
    return size, num_prefetched


def _require_finite(block: NDArray[np.float32], store: Store, rows: NDArray[np.int64]) -> None:
    """Refuse embeddings that are NaN or infinite, and name the first site that has one."""
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad):
        row = int(rows[bad[0]])
        site = store.manifest.iloc[row]
        raise ModelError(
            f"{store.path}: the model's embedding of site {row} (plate {site['Metadata_Plate']}, "
            f"well {site['Metadata_Well']}, site {site['Metadata_Site']}) is NaN or infinite; look "
            f"at its images, leave it out by {option('--keep CONDITION')}, or use another model"
        )


def _require_channels(model: Model, store: Store) -> None:
    if model.channels != store.channels:
        raise ModelError(
            f"{store.path}: has the channels {', '.join(store.channels)}; the model was made for "
            f"{', '.join(model.channels)}"
        )


def _metadata(store: Store) -> pd.DataFrame:
    return store.manifest.filter(regex="^Metadata_").reset_index(drop=True)


def _stamp(model: Model, store: Store) -> str:
    """Identify the sources of the parts: weights, tiles, scaling, pixels and manifest."""
    digest = hashlib.sha256(model.spec.to_json().encode())
    for name, value in model.networks.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    digest.update(f"{store.pixels_digest} {store.manifest_digest}".encode())
    return json.dumps({"made_from": digest.hexdigest(), "part_size": PART_SIZE}) + "\n"


def _open_folder(folder: Path, stamp: str) -> None:
    """Keep a folder of parts if it has this stamp, else start an empty one."""
    path = folder / "stamp.json"
    try:
        if path.is_file() and path.read_text() == stamp:
            sweep(folder)
            return
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    write_text(path, stamp)
