"""Weakly supervised self-distillation for image-based profiling.

The names below are the public API. Each is imported when it is first used, so that evaluating
profiles does not need PyTorch and ``import wsdino`` is fast.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from wsdino.errors import (
    ConfigError,
    ImageError,
    InputError,
    ManifestError,
    ModelError,
    OutputError,
    StoreError,
    TableError,
    TrainingError,
    WsdinoError,
)

if TYPE_CHECKING:
    from wsdino.config import Config, load_config
    from wsdino.embed.embed import embed_store
    from wsdino.evaluate.compare import compare as compare_profiles
    from wsdino.evaluate.compare import compare_activity
    from wsdino.evaluate.consistency import consistency
    from wsdino.evaluate.doses import DoseCurve, fit_dose_curve
    from wsdino.evaluate.evidence import activity, activity_of
    from wsdino.evaluate.matching import MatchResult, match_moa
    from wsdino.evaluate.neighbours import neighbours
    from wsdino.evaluate.results import evaluate as evaluate_profiles
    from wsdino.evaluate.results import evaluate_sites
    from wsdino.model.model import Model, load_model
    from wsdino.pipeline import run
    from wsdino.profile.aggregate import aggregate, make_profiles
    from wsdino.profile.estimator import Normaliser
    from wsdino.profile.fitted import Fitted, load_normalisation
    from wsdino.profile.normalise import fit_normalisation, normalise
    from wsdino.profile.whitening import TVN, fit_tvn
    from wsdino.report.html import write_report
    from wsdino.screen.ingest import ingest
    from wsdino.screen.manifest import read_manifest
    from wsdino.screen.selection import Selection
    from wsdino.screen.store import Store, open_store
    from wsdino.simulate import simulate as simulate_screen
    from wsdino.tables.reading import read_table
    from wsdino.tables.writing import write_table
    from wsdino.train.loss import dino_loss
    from wsdino.train.train import train as train_model

__version__ = metadata.version("wsdino")

__all__ = [
    "TVN",
    "Config",
    "ConfigError",
    "DoseCurve",
    "Fitted",
    "ImageError",
    "InputError",
    "ManifestError",
    "MatchResult",
    "Model",
    "ModelError",
    "Normaliser",
    "OutputError",
    "Selection",
    "Store",
    "StoreError",
    "TableError",
    "TrainingError",
    "WsdinoError",
    "__version__",
    "activity",
    "activity_of",
    "aggregate",
    "compare_activity",
    "compare_profiles",
    "consistency",
    "dino_loss",
    "embed_store",
    "evaluate_profiles",
    "evaluate_sites",
    "fit_dose_curve",
    "fit_normalisation",
    "fit_tvn",
    "ingest",
    "load_config",
    "load_model",
    "load_normalisation",
    "make_profiles",
    "match_moa",
    "neighbours",
    "normalise",
    "open_store",
    "read_manifest",
    "read_table",
    "run",
    "simulate_screen",
    "train_model",
    "write_report",
    "write_table",
]

# Four names differ from the functions' own, because wsdino.evaluate, wsdino.simulate and
# wsdino.train are subpackages, and two things can be compared.
_HOMES = {
    "Config": "config:Config",
    "MatchResult": "evaluate.matching:MatchResult",
    "Model": "model.model:Model",
    "Selection": "screen.selection:Selection",
    "Store": "screen.store:Store",
    "Fitted": "profile.fitted:Fitted",
    "Normaliser": "profile.estimator:Normaliser",
    "TVN": "profile.whitening:TVN",
    "DoseCurve": "evaluate.doses:DoseCurve",
    "activity": "evaluate.evidence:activity",
    "activity_of": "evaluate.evidence:activity_of",
    "aggregate": "profile.aggregate:aggregate",
    "compare_activity": "evaluate.compare:compare_activity",
    "compare_profiles": "evaluate.compare:compare",
    "consistency": "evaluate.consistency:consistency",
    "dino_loss": "train.loss:dino_loss",
    "embed_store": "embed.embed:embed_store",
    "evaluate_profiles": "evaluate.results:evaluate",
    "evaluate_sites": "evaluate.results:evaluate_sites",
    "fit_dose_curve": "evaluate.doses:fit_dose_curve",
    "fit_normalisation": "profile.normalise:fit_normalisation",
    "fit_tvn": "profile.whitening:fit_tvn",
    "ingest": "screen.ingest:ingest",
    "load_config": "config:load_config",
    "load_model": "model.model:load_model",
    "load_normalisation": "profile.fitted:load_normalisation",
    "make_profiles": "profile.aggregate:make_profiles",
    "match_moa": "evaluate.matching:match_moa",
    "neighbours": "evaluate.neighbours:neighbours",
    "normalise": "profile.normalise:normalise",
    "open_store": "screen.store:open_store",
    "read_manifest": "screen.manifest:read_manifest",
    "read_table": "tables.reading:read_table",
    "run": "pipeline:run",
    "simulate_screen": "simulate:simulate",
    "train_model": "train.train:train",
    "write_report": "report.html:write_report",
    "write_table": "tables.writing:write_table",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wsdino' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"wsdino.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
