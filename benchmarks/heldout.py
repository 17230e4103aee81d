"""Is the signal there? A small convolutional network that is asked about unseen compounds.

It is trained on mechanisms and predicts each compound by a network that never saw that compound,
whatever its concentration.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.progress import Meter, say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.screen.store import Store

FOLDS, STEPS, BATCH, CROP_PX = 3, 900, 64, 96
RATE, WEIGHT_DECAY, SMOOTHING, DROPOUT = 3e-3, 0.02, 0.1, 0.3
WIDTHS = (16, 32, 64, 128)
DARK, BRIGHT = 1.0, 99.7  # percentiles of a field that become 0 and 1
HEADROOM = 1.3  # beyond the brighter one
TREATMENT = ["Metadata_Compound", "Metadata_Concentration", "Metadata_MoA"]


class Block(nn.Module):
    """Two convolutions beside a shortcut; halves the image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.short = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H/2, W/2)."""
        return functional.relu(self.main(images) + self.short(images))


def network(num_classes: int) -> nn.Module:
    """Return the network: (B, 3, H, W) to (B, `num_classes`)."""
    pairs = pairwise(WIDTHS)
    return nn.Sequential(
        nn.Conv2d(3, WIDTHS[0], 5, 2, 2, bias=False),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(),
        *(Block(narrow, wide) for narrow, wide in pairs),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(DROPOUT),
        nn.Linear(WIDTHS[-1], num_classes),
    ).to(memory_format=torch.channels_last)


def heldout_predictions(store: Store, *, seed: int, steps: int = STEPS) -> pd.DataFrame:
    """Predict every treatment's mechanism by a network that never saw the compound.

    Returns
    -------
    DataFrame
        Compound, concentration, mechanism, `predicted` mechanism, `fold`; one row per treatment.
        The prediction is by the mean of the log probabilities over plates of their mean over sites.
    """
    manifest = store.manifest
    treated = np.flatnonzero(~manifest["Metadata_Control"] & manifest["Metadata_MoA"].notna())
    rows = manifest.loc[treated, [*TREATMENT, "Metadata_Plate"]].reset_index(drop=True)
    images = _eight_bit(store, treated)
    moas = sorted(rows["Metadata_MoA"].unique())
    labels = rows["Metadata_MoA"].map(moas.index).to_numpy()
    folds = rows["Metadata_Compound"].map(_folds(rows, seed)).to_numpy()
    scores = np.zeros((len(rows), len(moas)), np.float32)
    for fold in range(FOLDS):
        learned = _train(images, rows, labels, np.flatnonzero(folds != fold), seed, fold, steps)
        asked = np.flatnonzero(folds == fold)
        scores[asked] = _predict(learned, images, asked)
        right = (scores[asked].argmax(axis=1) == labels[asked]).mean()
        say(f"fold {fold + 1} of {FOLDS}: {100 * right:.0f} % of the unseen fields")
    table = pd.concat([rows.assign(fold=folds), pd.DataFrame(scores, columns=moas)], axis=1)
    plates = table.groupby([*TREATMENT, "Metadata_Plate"]).mean(numeric_only=True)
    treatments = plates.groupby(TREATMENT).mean()
    predicted = treatments[moas].idxmax(axis=1).rename("predicted")
    return pd.concat([predicted, treatments["fold"].astype(int)], axis=1).reset_index()


def _eight_bit(store: Store, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Read fields, each channel between its own percentiles: uint8 (n, 3, H, W)."""
    out = np.empty((len(rows), len(store.channels), *store.field_shape), np.uint8)
    for position, row in enumerate(rows):
        field = store[int(row)].astype(np.float32)
        low, high = np.percentile(field[:, ::4, ::4], (DARK, BRIGHT), axis=(1, 2))
        scaled = (field - low[:, None, None]) / (high - low)[:, None, None]
        out[position] = np.clip(scaled / HEADROOM, 0, 1) * 255
    return out


def _folds(rows: pd.DataFrame, seed: int) -> dict[str, int]:
    """Deal each mechanism's compounds out to the folds, in random order."""
    rng, dealt = np.random.default_rng(seed), 0
    folds = {}
    for _, group in rows.groupby("Metadata_MoA"):
        for compound in rng.permutation(sorted(group["Metadata_Compound"].unique())):
            folds[str(compound)] = dealt % FOLDS
            dealt += 1
    return folds


def _train(
    images: NDArray[np.uint8],
    rows: pd.DataFrame,
    labels: NDArray[np.intp],
    known: NDArray[np.intp],
    seed: int,
    fold: int,
    steps: int,
) -> nn.Module:
    """Train on crops: mechanisms alike often, and compounds alike often within a mechanism."""
    torch.manual_seed(FOLDS * seed + fold)
    rng = np.random.default_rng((seed, fold))
    weight = pd.Series(1.0, index=known)
    compounds = rows["Metadata_Compound"].to_numpy()[known]
    weight /= pd.Series(compounds, index=known).map(pd.Series(compounds).value_counts())
    weight /= weight.groupby(labels[known]).transform("sum")
    chance = (weight / weight.sum()).to_numpy()
    model = network(labels.max() + 1).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    with Meter(f"train fold {fold + 1}", steps) as meter:
        for _ in range(steps):
            chosen = rng.choice(known, BATCH, p=chance)
            y, x = rng.integers(0, np.array(images.shape[2:]) - CROP_PX + 1, (BATCH, 2)).T
            crops = np.stack([
                images[row, :, top : top + CROP_PX, left : left + CROP_PX]
                for row, top, left in zip(chosen, y, x, strict=True)
            ])  # fmt: skip
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(_augment(_as_input(crops)))
            target = torch.from_numpy(labels[chosen])
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            meter.advance(1)
    return model.eval()


def _as_input(crops: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(crops).float().div_(255 / HEADROOM)


def _augment(crops: Tensor) -> Tensor:
    """Turn and mirror the batch; bend, stretch and shift each channel of each crop."""
    if torch.rand(()) < 0.5:
        crops = crops.flip(3)
    if torch.rand(()) < 0.5:
        crops = crops.transpose(2, 3)
    if torch.rand(()) < 0.5:
        crops = crops.flip(2)
    bend, stretch, shift = torch.randn(3, *crops.shape[:2], 1, 1)
    crops = crops.clamp_min(1e-3) ** torch.exp(0.3 * bend)
    crops = crops * torch.exp(0.25 * stretch) + 0.05 * shift
    return crops.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _predict(
    model: nn.Module, images: NDArray[np.uint8], rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return the log probabilities of whole fields, float32 (n, classes)."""
    blocks = []
    for start in range(0, len(rows), 16):
        fields = _as_input(images[rows[start : start + 16]])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(fields.contiguous(memory_format=torch.channels_last))
        blocks.append(functional.log_softmax(logits.float(), dim=1).numpy())
    return np.concatenate(blocks)
