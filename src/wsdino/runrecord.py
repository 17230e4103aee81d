"""The contents of a run folder, read leniently: a report is written from whatever is there.

A file that is absent or damaged becomes a line in :attr:`RunRecord.problems` instead of an error,
and so does what has another shape than :mod:`wsdino.recorded` gives in :attr:`RunRecord.wrong`,
because a report on an unfinished run is worth more than none.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import ConfigError, InputError, TableError
from wsdino.outside import parse_json, reading
from wsdino.recorded import Coverage, Environment, Evaluation, Results, Settings, fitting
from wsdino.runfolder import RunPaths
from wsdino.settings import parse_yaml
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

# The name of the run itself among the baselines, which have the names of their folders.
RUN = "run"


class Omitted(Exception):  # noqa: N818 - an outcome, not an error
    """A section has nothing to show; the message says why."""


@dataclass(frozen=True)
class RunRecord:
    """The readable contents of one run folder.

    Attributes
    ----------
    path
        The run folder.
    results
        The contents of `results.json`; empty if there are none.
    baselines
        The same for each baseline, in the order they were found.
    metrics
        Training curves by name, :data:`RUN` first; only of what was trained.
    profiles
        Treatment profiles, or None.
    coverage
        Weak-label coverage (`label`, `num_labels`, `rows`); empty if there is none.
    environment
        Versions, hardware and seeds; empty if there are none.
    config
        Text of the resolved config, or an empty string.
    settings
        The sections of the config that reports tell of; empty if there are none.
    problems
        Reason by file name for everything that could not be read.
    wrong
        A line for everything in the files read that has a wrong shape, and is left out.
    """

    path: Path
    results: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, pd.DataFrame] = field(default_factory=dict)
    profiles: pd.DataFrame | None = None
    coverage: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the run: the name of its folder."""
        return self.path.resolve().name

    @property
    def all_results(self) -> dict[str, dict[str, Any]]:
        """Results of the run and of its baselines, the run first."""
        return ({RUN: self.results} if self.results else {}) | self.baselines


def read_metrics(path: Path) -> pd.DataFrame:
    """Read training curves, one JSON object per line.

    A line that is not a JSON object is skipped: a killed run may leave its last line incomplete.
    Of lines with the same `step` the last counts: a resumed run repeats the steps since its
    checkpoint.

    Parameters
    ----------
    path
        A `metrics.jsonl`.

    Returns
    -------
    pandas.DataFrame
        A float64 column per numeric key (NaN if a line lacks it), ordered by `step` if there is
        one.

    Raises
    ------
    Omitted
        The file is missing or has no readable line.
    """
    if not path.is_file():
        raise Omitted(f"there is no {path.name}")
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(TableError), reading(path.name, TableError):
            records.append(parse_json(line))
    frame: pd.DataFrame = pd.DataFrame.from_records(records)
    frame = (
        frame.apply(pd.to_numeric, errors="coerce")
        .astype(np.float64)
        .dropna(axis="columns", how="all")
    )
    if frame.empty:
        raise Omitted(f"{path.name} has no readable line")
    if "step" in frame:
        frame = frame.drop_duplicates("step", keep="last").sort_values("step")
    return frame.reset_index(drop=True)


def read_run(run: Path) -> RunRecord:
    """Read what a run folder holds.

    Parameters
    ----------
    run
        A run folder, possibly with `baselines/<name>/` folders of the same kind.

    Returns
    -------
    RunRecord
        Everything readable, and why the rest is not.

    Raises
    ------
    InputError
        `run` is not a folder.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder; give the folder that `wsdino run` wrote")
    problems: dict[str, str] = {}
    wrong: list[str] = []

    def known(value: dict[str, Any], shape: Any, origin: str) -> dict[str, Any]:
        kept, said = fitting(value, shape, origin)
        wrong.extend(said)
        return kept

    paths = RunPaths(run)
    own = _object(paths.results, problems)
    results, baselines = known(own, Evaluation, paths.results.name), {}
    for name, value in (_baselines(paths, results.pop("baselines", {}), problems)).items():
        if kept := known(value, Results, f"baseline {name}"):
            baselines[name] = kept
    metrics = _named_metrics(paths, RUN, problems)
    for baseline in paths.baselines:
        metrics |= _named_metrics(baseline, baseline.folder.name, problems)
    config = _text(paths.config, problems)
    settings: dict[str, Any] = {}
    try:
        settings = known(parse_yaml(config, paths.config.name), Settings, paths.config.name)
    except ConfigError as error:
        wrong.append(str(error))
    return RunRecord(
        path=run,
        results=results,
        baselines=baselines,
        metrics=metrics,
        profiles=_profiles(paths.profiles, problems),
        coverage=known(_object(paths.coverage, problems), Coverage, paths.coverage.name),
        environment=known(
            _object(paths.environment, problems), Environment, paths.environment.name
        ),
        config=config,
        settings=settings,
        problems=problems,
        wrong=wrong,
    )


def _baselines(
    paths: RunPaths, listed: dict[str, dict[str, Any]], problems: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Results of the baselines: those in the run's own results precede those in the folders."""
    found = dict(listed)
    for baseline in paths.baselines:
        # A baseline that has not been evaluated yet is not a problem; damaged results are.
        name = baseline.folder.name
        if name not in found and baseline.results.is_file():
            damage: dict[str, str] = {}
            found[name] = _object(baseline.results, damage)
            problems |= {f"baselines/{name}": reason for reason in damage.values()}
    return found


def _named_metrics(paths: RunPaths, name: str, problems: dict[str, str]) -> dict[str, pd.DataFrame]:
    try:
        return {name: read_metrics(paths.metrics)}
    except Omitted as error:
        # A baseline without training has no curves; that is not a problem.
        if name == RUN:
            problems[paths.metrics.name] = str(error)
        return {}


def _object(path: Path, problems: dict[str, str]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    if text := _text(path, problems):
        try:
            with reading(path.name, TableError, "can't be read as JSON"):
                value = parse_json(text)
        except TableError as error:
            problems[path.name] = str(error)
    return value


def _text(path: Path, problems: dict[str, str]) -> str:
    try:
        if path.exists():
            with reading(path, TableError):
                return path.read_text(encoding="utf-8", errors="replace")
        problems[path.name] = f"there is no {path.name}"
    except TableError as error:
        problems[path.name] = str(error)
    return ""


def _profiles(path: Path, problems: dict[str, str]) -> pd.DataFrame | None:
    if not path.is_file():
        problems[path.name] = f"there is no {path.name}"
        return None
    try:
        return read_table(path)
    except InputError as error:
        problems[path.name] = str(error)
        return None
