"""What the JSON and YAML of a run must look like to be read: one place for all who read them.

A key may be absent, since results come from several versions; what is there has the shape given
here, or it isn't read. Keys that nothing reads may hold anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Len
from typing_extensions import TypedDict

from wsdino.outside import misfits

if TYPE_CHECKING:
    from collections.abc import Mapping

Interval = Annotated[list[float], Len(2, 2)]


class Treatment(TypedDict, total=False):
    """A treatment, and what is said of it."""

    compound: str | None
    concentration: float | None
    moa: str | None
    reason: str


class Neighbour(Treatment, total=False):
    """A query with its nearest neighbour."""

    neighbour_compound: str | None
    neighbour_concentration: float | None
    neighbour_moa: str | None
    similarity: float | None
    correct: bool | None


class Null(TypedDict, total=False):
    """What shuffled mechanisms reach."""

    mean: float
    p95: float
    p_value: float
    num_permutations: int


class Vote(TypedDict):
    """What a vote of several neighbours finds."""

    k: int
    correct: int
    any: int
    total: int


class Normalisation(TypedDict, total=False):
    """How features were normalised."""

    method: str
    options: dict[str, Any]
    fitted_on: str
    num_fitted: int
    num_components: int | None
    note: str
    warning: str | None


class Made(TypedDict, total=False):
    """How profiles were made, which their table says, too."""

    normalisation: Normalisation
    aggregation: str
    leakage: dict[str, Told | None] | None


class Probe(TypedDict, total=False):
    """How much a classifier tells."""

    accuracy: float
    chance: float
    error: float


class Told(Probe, total=False):
    """How much of a batch, plate, position or density profiles tell."""

    lift: float | None
    num_wells: int
    sample: str | None
    probe: Probe | None
    before: Told | None


class Confusion(TypedDict, total=False):
    """Mechanisms that are taken for each other."""

    labels: list[str]
    nsc: list[list[int]]
    nscb: list[list[int]]


class HeldOut(TypedDict, total=False):
    """Results with the query's compound left out of a fit on labels."""

    nsc: float | None
    nscb: float | None
    map: float | None
    num_folds: int
    num_seeds: int
    note: str


class Active(TypedDict, total=False):
    """Activity of a treatment."""

    Metadata_Compound: str | None
    Metadata_Concentration: float | None
    Metadata_MoA: Any
    num_wells: int | None
    mean_average_precision: float | None
    p_value: float | None
    corrected_p_value: float | None
    is_active: bool | None
    replicate_correlation: float | None
    distance: float | None


class Curve(TypedDict, total=False):
    """Distance to controls by dose."""

    compound: str
    doses: Annotated[list[float], Len(1)]
    fitted: list[float]
    fitted_low: list[float]
    fitted_high: list[float]
    bottom: float
    top: float
    ec50: float | None
    slope: float | None
    top_ci: Interval
    ec50_ci: Interval | None
    r_squared: float
    ec50_at_edge: bool


class Above(TypedDict):
    """Treatments whose replicates are more alike than others."""

    share: float
    num_above: int


class Replicating(TypedDict, total=False):
    """The same, by which other wells."""

    num_treatments: int
    other_position: Above | None
    same_position: Above | None


class Retrieval(TypedDict, total=False):
    """Replicates found on other plates."""

    map: float
    map_ci: Interval | None
    map_by_chance: float
    first: float
    num_queries: int
    sample: str | None


class Activity(TypedDict, total=False):
    """Which treatments differ from controls."""

    treatments: list[Active]
    num_tested: int
    num_active: int
    num_control_wells: int
    null_size: int
    fdr: float
    map: float | None
    replicating: Replicating | None
    retrieval: Retrieval | None
    control_distance_p95: float | None
    doses: list[Curve]
    notes: list[str]


class Consistent(TypedDict, total=False):
    """How alike the compounds with a label are."""

    label: str
    num_treatments: int
    mean_average_precision: float | None
    corrected_p_value: float | None
    is_consistent: bool | None


class Consistency(TypedDict, total=False):
    """The same of all labels of a column."""

    column: str
    labels: list[Consistent]
    num_labels: int
    num_consistent: int
    fdr: float
    map: float | None


class Results(Made, total=False):
    """Results of a run or of a baseline."""

    schema: int
    multi_batch: str
    num_treatments: int
    num_unannotated: int
    nsc: float | None
    nsc_correct: int
    nsc_total: int
    nsc_ci: Interval | None
    nsc_null: Null | None
    nsc_neighbours: list[Neighbour]
    nscb: float | None
    nscb_correct: int
    nscb_total: int
    nscb_ci: Interval | None
    nscb_null: Null | None
    nscb_neighbours: list[Neighbour]
    nscp: float | None
    nscp_correct: int
    nscp_total: int
    nscp_ci: Interval | None
    map: float | None
    map_total: int
    map_ci: Interval | None
    map_null: Null | None
    map_per_moa: dict[str, float | None]
    nearest_k: dict[str, list[Vote]]
    gallery: dict[str, int]
    left_out: dict[str, list[Treatment]]
    confusion: Confusion
    consistency: list[Consistency]
    activity: Activity
    held_out: HeldOut
    beside: dict[str, Results]
    notes: list[str]
    warnings: list[str]


class Evaluation(Results, total=False):
    """`results.json`; each of the baselines has the shape of :class:`Results`."""

    baselines: dict[str, dict[str, Any]]


class Coverage(TypedDict, total=False):
    """`coverage.json`."""

    label: str
    num_labels: int
    num_sites: int
    partner_from: str | None
    fallback: str | None
    rows: list[dict[str, Any]]


class Environment(TypedDict, total=False):
    """`environment.json`."""

    versions: dict[str, str | None]
    command: list[str] | str | None


class _Model(TypedDict, total=False):
    weights: str | dict[str, str] | None


class _Objective(TypedDict, total=False):
    name: str


class _Pairing(TypedDict, total=False):
    label: str


class _Screen(TypedDict, total=False):
    source: str | None
    store: str | None


class Settings(TypedDict, total=False):
    """What is said of a run's config; the config itself is checked where it is used."""

    model: _Model
    objective: _Objective
    pairing: _Pairing
    screen: _Screen


def fitting(value: Mapping[str, Any], shape: Any, origin: str) -> tuple[dict[str, Any], list[str]]:
    """Take what has the shape that it must have.

    Parameters
    ----------
    value
        An object of JSON or YAML.
    shape
        One of this module.
    origin
        What it was read from.

    Returns
    -------
    kept : dict
        The keys whose values have it.
    problems : list of str
        A line for each other key: the place, what was found, and what should be there.
    """
    wrong = misfits(value, shape)
    kept = {key: each for key, each in value.items() if key not in wrong}
    return kept, [f"{origin}: {problem}" for problem in wrong.values()]
