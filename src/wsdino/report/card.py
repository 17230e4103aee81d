"""The model card: an exported model's description, origin and measured results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wsdino.evaluate.measures import MEASURES
from wsdino.evaluate.results import results_table
from wsdino.model.tiles import PAPER
from wsdino.report.paragraph import starting_weights
from wsdino.report.words import (
    annotated_text,
    display_name,
    encodable,
    held_out_text,
    normalisation_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.model.published import PublishedModel
    from wsdino.model.spec import ModelSpec
    from wsdino.runrecord import RunRecord

_COLUMNS = {"name": ""} | {measure.key: f"{measure.name} [95 % CI]" for measure in MEASURES}


def model_card(
    record: RunRecord,
    spec: ModelSpec,
    *,
    num_features: int,
    normaliser: Mapping[str, Any] | None = None,
    graphs: Sequence[str] = (),
) -> str:
    """Describe a run's model in Markdown, with the front matter of the Hugging Face Hub.

    Parameters
    ----------
    record
        Contents of the run folder; anything missing is left out.
    spec
        The model.
    num_features
        Length of its embedding of a field.
    normaliser
        What ``config.json`` says of the normalisation beside it.
    graphs
        Names of the ONNX files beside it.

    Returns
    -------
    str
        Its network and input, how it was trained, and the run's results beside its baselines'.
    """
    from wsdino.model.published import find_published

    config = record.settings
    facts = [*_model_facts(spec, num_features), *_training_facts(record, config)]
    if normaliser:
        facts.append(("normalisation beside it", normalisation_text(normaliser)))
    published = find_published(spec.origin)
    if published:
        licence = published.licence
        facts += [
            ("weights", f"{published.name} ({published.source})"),
            ("licence", f"{licence.name} ({licence.link})"),
        ]
    parts = [_front_matter(published), f"# {record.name}", _table(["", ""], facts), _USE]
    if graphs:
        parts.append(_ONNX.format(graphs=", ".join(f"`{name}`" for name in graphs)))
    if record.results:
        parts += ["## Measured", _origin(record), _results(record)]
    return encodable("\n\n".join(parts) + "\n")


_UNITS = {
    "scaled": "",
    "imagenet": ", in units of ImageNet",
    "standardised": ", then each tile standardised by itself",
    "instance_norm": ", then each tile standardised by itself (InstanceNorm2d)",
}
_USE = """## Use

```
wsdino embed MODEL STORE --out sites.parquet
```

```python
model = wsdino.load_model("MODEL")
vectors = model.embed(images)  # (N, C, H, W) unscaled integers -> (N, F) float32
```"""
_ONNX = """In other programs, {graphs} embeds tiles: its inputs are `images` (N, C, height, width)
float32, intensities as stored, and `offset` and `gain` (N, C) float32 of the input scaling, which
it applies as (images - offset) * gain; its output is `embedding` (N, F) float32."""


def _front_matter(published: PublishedModel | None) -> str:
    """Return what the Hub reads: YAML between two lines of dashes."""
    values: dict[str, Any] = {
        "library_name": "wsdino",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["microscopy", "high-content-screening", "self-supervised-learning"],
    }
    if published:
        licence = published.licence
        values["license"] = licence.identifier
        if licence.identifier == "other":
            values |= {"license_name": licence.name, "license_link": licence.link}
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _model_facts(spec: ModelSpec, num_features: int) -> list[Sequence[str]]:
    network, scaling = spec.architecture, spec.scaling
    shape = network.backbone
    if network.backbone == "vit":
        shape = (
            f"vision transformer, {network.depth} blocks of width {network.dim}, patches of "
            f"{network.patch_size} px"
        )
    bounds = f", {scaling.low:g} to {scaling.high:g}" if scaling.method == "fixed" else ""
    units = _UNITS[network.expects]
    tiles = "whole fields"
    if spec.tile:
        grid = "as many as cover the field"
        if spec.tile_grid is not None:
            paper = spec.tile_grid == PAPER
            grid = "the paper's boxes" if paper else " x ".join(map(str, spec.tile_grid))
        tiles = f"tiles of {spec.tile} px, {grid}, {spec.tile_summary}"
    return [
        ("channels", ", ".join(spec.channels)),
        ("network", f"{shape}; {spec.mode}"),
        ("input scaling", scaling.method + bounds + units),
        ("sees", tiles),
        ("embedding", f"{num_features} features of a field"),
    ]


def _training_facts(record: RunRecord, config: Mapping[str, Any]) -> list[Sequence[str]]:
    facts: list[Sequence[str]] = []
    goal, pairing = config.get("objective", {}), config.get("pairing", {})
    if goal and pairing:
        label = pairing.get("label")
        facts.append(
            (
                "trained by",
                f"{goal.get('name')}, weak label {label}, from {starting_weights(config)}",
            )
        )
    metrics = record.metrics.get("run")
    if metrics is not None and {"step", "samples"} <= set(metrics):
        last = metrics.iloc[-1]
        facts.append(("training", f"{last['step']:.0f} steps, {last['samples']:.0f} samples"))
    if record.coverage:
        number, labels = record.coverage.get("num_sites"), record.coverage.get("num_labels")
        facts.append(("trained on", f"{number} fields of {labels} labels{_screen(config)}"))
    versions = record.environment.get("versions", {})
    if versions:
        named = (
            f"{name} {versions[name]}" for name in ("wsdino", "torch", "timm") if name in versions
        )
        facts.append(("made with", ", ".join(named)))
    if "seed" in record.environment:
        facts.append(("seed", str(record.environment["seed"])))
    return facts


def _screen(config: Mapping[str, Any]) -> str:
    screen = config.get("screen", {})
    source = screen.get("source") or screen.get("store")
    return f" ({Path(source).name})" if source else ""


def _origin(record: RunRecord) -> str:
    made = record.results.get("normalisation", {})
    labels = held_out_text(record.results)
    return (
        f"On the screen that it was trained on: {record.results.get('num_treatments')} treatments"
        f"{annotated_text(record.results)}, "
        f"{normalisation_text(made)}, aggregation "
        f"{record.results.get('aggregation')}, treatments in several batches: "
        f"{record.results.get('multi_batch')}.{f' Of this run: {labels}.' if labels else ''}"
    )


def _results(record: RunRecord) -> str:
    named = {display_name(name): results for name, results in record.all_results.items()}
    rows = [[row[key] for key in _COLUMNS] for row in results_table(named)]
    return _table(list(_COLUMNS.values()), rows)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    # A bar would end the cell.
    return "\n".join(f"| {' | '.join(str(c).replace('|', '/') for c in row)} |" for row in lines)
