"""Does attention look at cells? `python benchmarks/attention.py --real STORE [--models MODEL ...]`.

For each network and channel, over fields of a simulated screen and real fields of BBBC021: how much
of the class token's attention (mean over heads, last block, whole field) lies on cells, relative to
their share of the area (the lift: 1 is what even attention has), and the area under the receiver
operating characteristic of attention telling patches that are mostly cell from the others (0.5 is
chance). What is cell is known of simulated fields, whose stains are drawn once more without a
microscope; of real fields it is what lies above Otsu's threshold. Models are `starter`, run folders
or exported models, with input scaling by field. Writes `benchmarks/results/attention.md`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score

from wsdino.model.model import load_model
from wsdino.screen.measures import foreground_mask
from wsdino.screen.store import open_store
from wsdino.simulate import Difficulty
from wsdino.simulate.cells import draw, seed_cells
from wsdino.simulate.keys import generator
from wsdino.simulate.layouts import CHANNELS, layout_table
from wsdino.simulate.plates import describe_sites
from wsdino.simulate.render import render
from wsdino.simulate.traits import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wsdino.simulate.plates import Site

    Fields = Iterator[tuple[NDArray[np.uint16], NDArray[np.bool_]]]

RESULT = Path(__file__).parent / "results" / "attention.md"
SIZE = 192
# Of what a drawn stain reaches in a field: below it is haze.
TRACE = 0.1
HEADING = "| fields | model | channel | area of cells | lift | ROC AUC |\n|---|---|---|---|---|---|"


def main() -> None:
    """Measure every model on every kind of field, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="store of real fields, by wsdino ingest")
    parser.add_argument("--models", nargs="+", default=["starter"])
    parser.add_argument("--names", nargs="+", help="what the table calls them")
    parser.add_argument("--fields", type=int, default=48, help="how many of each kind")
    parser.add_argument("--seed", type=int, default=71)
    given = parser.parse_args()
    lines = [HEADING]
    for kind in ("simulated", *(["real"] if given.real else [])):
        for source, name in zip(given.models, given.names or given.models, strict=True):
            fields = (
                simulated(given.fields, given.seed)
                if kind == "simulated"
                else real(given.real, given.fields, given.seed)
            )
            for channel, numbers in measured(source, fields).items():
                area, lift, auc = np.mean(numbers, axis=0)
                lines.append(
                    f"| {kind} | {name} | {channel} | {area:.2f} | {lift:.2f} | {auc:.2f} |"
                )
                print(lines[-1], flush=True)
    RESULT.write_text(
        "# Attention on cells\n\n`python benchmarks/attention.py --real STORE`, which says what is "
        f"measured; seed {given.seed}, mean over {given.fields} fields of each kind.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def simulated(num: int, seed: int) -> Fields:
    """Draw fields of a simulated screen, each with what is cell in each channel (C, H, W)."""
    table = layout_table("small", sites=1)
    sites = describe_sites(table, Difficulty(), seed=seed, size=SIZE)
    rng = np.random.default_rng(seed)
    for number in rng.choice(len(sites), min(num, len(sites)), replace=False):
        stains = drawn(sites[number], seed)
        most = np.quantile(stains, 0.99, axis=(1, 2), keepdims=True)
        yield render(sites[number], seed=seed, size=SIZE), stains > TRACE * most


def drawn(site: Site, seed: int) -> NDArray[np.float32]:
    """Draw a site's stains (C, H, W) as :func:`render` does before the microscope sees them."""
    rng = generator(seed, "site", *site.key)
    effects = site.compound.effects if site.compound else np.zeros(len(NAMES))
    culture = seed_cells(
        site.traits,
        effects,
        penetrance=site.penetrance,
        strength=site.strength,
        size=SIZE,
        zoom=1.0,
        rng=rng,
    )
    return draw(culture, SIZE, rng)


def real(path: Path, num: int, seed: int) -> Fields:
    """Read fields of a store, each with what is foreground in each channel."""
    store = open_store(path)
    rng = np.random.default_rng(seed)
    for number in rng.choice(len(store), min(num, len(store)), replace=False):
        image = np.asarray(store[int(number)])
        masks = [foreground_mask(plane).repeat(2, axis=0).repeat(2, axis=1) for plane in image]
        yield image, np.stack(masks)


def measured(source: str, fields: Fields) -> dict[str, list[tuple[float, float, float]]]:
    """Area of cells, lift and ROC AUC of each field, by channel."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    model = None
    for image, masks in fields:
        if model is None:
            model = load_model(source, channels=CHANNELS if source == "starter" else None)
        maps = model.attention(image[None])[0].mean(axis=1, dtype=np.float64)
        height, width = maps.shape[1:]
        patch = image.shape[1] // height
        for index, name in enumerate(model.network_names):
            own = (
                masks[list(model.channels).index(name)] if name in model.channels else masks.any(0)
            )
            own = own[: height * patch, : width * patch]
            shares = own.reshape(height, patch, width, patch).mean(axis=(1, 3))
            is_cell = shares > 0.5
            if is_cell.any() and not is_cell.all():
                lift = (maps[index] * shares).sum() / maps[index].sum() / shares.mean()
                auc = roc_auc_score(is_cell.ravel(), maps[index].ravel())
                found.setdefault(name, []).append((shares.mean(), lift, auc))
    return found


if __name__ == "__main__":
    main()
