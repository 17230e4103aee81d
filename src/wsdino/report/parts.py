"""The parts of a report, which `wsdino explore` shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

from wsdino.errors import InputError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.report import background, compounds, gallery, sections
from wsdino.report.activity import activity_section
from wsdino.report.lights import lights
from wsdino.report.maps import treatment_map
from wsdino.report.mechanisms import mechanisms
from wsdino.report.paragraph import methods_paragraph
from wsdino.report.pictures import Pictures, take_pictures
from wsdino.report.plates import plates
from wsdino.report.style import LAMPS, LEVELS, moa_styles
from wsdino.report.treated import Treated, moas_of, treated_of
from wsdino.report.words import well_distance
from wsdino.runrecord import Omitted, RunRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import pandas as pd

    from wsdino.report.attentive import Attentive
    from wsdino.report.images import Fields
    from wsdino.report.style import MoaStyle


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The inputs of a report's sections, and what several of them share.

    Attributes
    ----------
    record
        Contents of the run folder.
    store, sites, seed, model, warnings, num_example_fields, attention_sites
        See :func:`wsdino.report.html.write_report`.
    beside
        Name of the folder beside the page for pictures that don't fit into it.
    served
        Pictures of the treatments that a server draws, instead of those that are taken.
    styles
        Colour and shape by mechanism.
    """

    record: RunRecord
    store: Fields | None
    sites: pd.DataFrame | None
    styles: dict[str, MoaStyle]
    seed: int
    model: Attentive | None = None
    warnings: Sequence[str] | None = None
    num_example_fields: int = 0
    attention_sites: Sequence[int] | None = None
    beside: str = ""
    served: Pictures | None = None

    @cached_property
    def treated(self) -> Treated:
        """The treatments; raises :class:`~wsdino.runrecord.Omitted` if there are none."""
        return treated_of(self.record, self.sites)

    @cached_property
    def treated_or_none(self) -> Treated | None:
        """The treatments, or None."""
        try:
            return self.treated
        except Omitted:
            return None

    @property
    def row_of(self) -> dict[tuple[str, str], int]:
        """Row of each treatment in :attr:`treated`; empty without."""
        known = self.treated_or_none
        return {key: row for row, key in enumerate(known.keys)} if known else {}

    @cached_property
    def pictures(self) -> Pictures | None:
        """Pictures of the treatments, or None."""
        if self.served is not None:
            return self.served
        try:
            return take_pictures(self.treated, self.store, folder=self.beside)
        except Omitted as reason:
            self.no_pictures.append(str(reason))
            return None

    @cached_property
    def no_pictures(self) -> list[str]:
        """Why there are no pictures."""
        return []


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes
    ----------
    name
        Name in the template.
    title
        Heading.
    make
        Makes the values for the template; raises :class:`~wsdino.runrecord.Omitted` with the reason
        if there is nothing to show.
    """

    name: str
    title: str
    make: Callable[[Shown], dict[str, Any]]


SECTIONS: tuple[Section, ...] = (
    Section("lights", "At a glance", lambda s: lights(s.record)),
    Section(
        "treatment_map",
        "Explorer",
        lambda s: treatment_map(s.treated, s.pictures, s.sites, s.styles, seed=s.seed),
    ),
    Section("treatments", "Treatments", lambda s: compounds.treatments(s.treated)),
    Section(
        "compounds",
        "Compounds",
        lambda s: compounds.compounds(
            s.treated, s.pictures, s.record, reason="; ".join(s.no_pictures)
        ),
    ),
    Section(
        "plates",
        "Plates",
        lambda s: plates(s.sites, s.store, distance=well_distance(s.record.results)),
    ),
    Section("activity", "Activity", lambda s: activity_section(s.record)),
    Section("headline", "Result", lambda s: sections.headline(s.record)),
    Section("comparison", "Beside the baselines", lambda s: sections.comparison(s.record)),
    Section("confusion", "Mechanisms", lambda s: mechanisms(s.record, s.treated_or_none)),
    Section(
        "wrong_neighbours",
        "Wrong neighbours",
        lambda s: sections.wrong_neighbours(s.record, s.row_of),
    ),
    Section("left_out", "Left-out queries", lambda s: sections.left_out(s.record)),
    Section(
        "leakage",
        "Batch, plate, position and density in the profiles",
        lambda s: sections.leakage(s.record),
    ),
    Section("further_numbers", "Further numbers", lambda s: background.further_numbers(s.record)),
    Section("screen_checks", "Checks of the screen", lambda s: background.checks(s.warnings)),
    Section("training", "Training", lambda s: background.training(s.record)),
    Section("coverage", "Weak-label coverage", lambda s: background.coverage(s.record)),
    Section(
        "example_fields",
        "Example fields",
        lambda s: gallery.example_fields(s.store, s.styles, num=s.num_example_fields),
    ),
    Section(
        "attention",
        "Attention maps",
        lambda s: gallery.attention(s.store, s.model, s.attention_sites),
    ),
    Section("methods", "Methods", lambda s: methods_paragraph(s.record)),
    Section("config", "Config", lambda s: _config(s.record)),
    Section("environment", "Environment", lambda s: background.environment(s.record)),
)


def sections_of(
    what: Shown, names: Collection[str] | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Make sections of a report.

    Parameters
    ----------
    what
        The inputs.
    names
        Of which; None: all.

    Returns
    -------
    shown : dict
        Values for the template by section, in the order of :data:`SECTIONS`.
    omitted : dict
        Reasons by title.
    """
    shown: dict[str, dict[str, Any]] = {}
    omitted: dict[str, str] = {}
    if what.record.wrong:
        omitted["Damaged records"] = "; ".join(what.record.wrong)
        for line in what.record.wrong:
            say(f"warning: {line}; it is left out")
    for section in SECTIONS:
        if names is not None and section.name not in names:
            continue
        try:
            # What a section needs may be absent from results of whatever version, or damaged.
            with reading("the run's records", Omitted, "don't hold what this section needs"):
                shown[section.name] = section.make(what)
        except Omitted as reason:
            omitted[section.title] = str(reason)
            if not isinstance(reason.__cause__, InputError | None):
                say(f"warning: {section.title} is left out: {reason}")
    return shown, omitted


def shared_values(
    what: Shown, shown: Mapping[str, Mapping[str, Any]], omitted: Mapping[str, str]
) -> dict[str, Any]:
    """Return what the templates of sections take, and the title of each."""
    return {
        "name": what.record.name,
        "titles": {section.name: section.title for section in SECTIONS},
        "shown": shown,
        "omitted": omitted,
        "has_map": what.served is not None or "treatment_map" in shown,
        "styles": what.styles,
        "lamps": LAMPS,
        "words_of_level": LEVELS,
        "writer": metadata.version("wsdino"),
    }


def _config(record: RunRecord) -> dict[str, Any]:
    if not record.config:
        raise Omitted(record.problems.get("config.yaml", "config.yaml is empty"))
    return {"text": record.config}


def styles_of(record: RunRecord, store: Fields | None) -> dict[str, MoaStyle]:
    """Give a style to every mechanism shown in any section, so that all have the same colours."""
    found: set[str | None] = set()
    found |= set(record.results.get("confusion", {}).get("labels", []))
    for frame in (record.profiles, None if store is None else store.manifest):
        if frame is not None:
            found |= set(moas_of(frame))
    for measure in sections.MATCHED:
        for row in record.results.get(f"{measure}_neighbours", []):
            found |= {row.get("moa"), row.get("neighbour_moa")}
    return moa_styles({moa for moa in found if moa})
