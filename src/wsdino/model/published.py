"""Models that others published: how each is built and fed, and under which licence.

Everything here is stated by the code that a row names as its source.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from wsdino.errors import ModelError
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wsdino.model.names import ChannelMode
    from wsdino.model.spec import Expects, PositionRule


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The licence of a model's weights.

    Parameters
    ----------
    identifier
        As the Hugging Face Hub abbreviates it; ``other`` where it doesn't.
    name
        In words.
    link
        Where its text is.
    """

    identifier: str
    name: str
    link: str


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published model: one entry of :data:`PUBLISHED`.

    Parameters
    ----------
    name
        What its own code calls it.
    architecture
        Of the network.
    tile
        Side in px of the images that it was made for.
    source
        Where its code is.
    licence
        That of its weights.
    scaling
        Input scaling; None: its code's is for images of 8 bits, and which intensity becomes their
        255 must be given.
    mode
        Channel mode.
    num_channels
        How many channels it sees at once, in the order of its training; None: any number.
    """

    name: str
    architecture: Architecture
    tile: int
    source: str
    licence: Licence
    scaling: InputScaling | None
    mode: ChannelMode = "shared"
    num_channels: int | None = None

    def spec(
        self,
        channels: Sequence[str],
        *,
        scaling: InputScaling | None = None,
        tile: int | None = None,
    ) -> ModelSpec:
        """Specify it for a screen's channels.

        Parameters
        ----------
        channels
            Names, in the order of the image's channel axis, which is that of the model's training
            where it sees several at once.
        scaling, tile
            As in :class:`ModelSpec`, in the place of its own.

        Raises
        ------
        ModelError
            If it sees another number of channels, or a scaling must be given.
        """
        self.require_channels(channels)
        if scaling is None:
            self.require_scaling(())
        return ModelSpec(
            tuple(channels),
            mode=self.mode,
            architecture=self.architecture,
            scaling=scaling or self.scaling or InputScaling(),
            tile=tile or self.tile,
            origin=self.name,
        )

    def require_channels(self, channels: Sequence[str]) -> None:
        """Refuse another number of channels than it sees.

        Raises
        ------
        ModelError
            If the number differs.
        """
        if self.num_channels not in {None, len(channels)}:
            raise ModelError(
                f"{self.name}: sees exactly {self.num_channels} channels at once, in the order of "
                f"its training, and {len(channels)} are named"
            )

    def require_scaling(self, keys: Collection[str]) -> None:
        """Refuse settings that lack a scaling which no value is right for on every screen.

        Raises
        ------
        ModelError
            If `keys` don't hold it.
        """
        if self.scaling is None and "input.high" not in keys:
            raise ModelError(
                f"{self.name}: sees images of 8 bits, and which intensity of this screen is to "
                "become their 255 is not known (255 where its images are of 8 bits); give --set "
                "input.high=VALUE, in Python scaling=InputScaling('fixed', high=VALUE)"
            )

    def settings(self) -> list[str]:
        """Return what describes it in a config, as ``key=value``."""
        scaling = {"method": "fixed", "low": 0} if self.scaling is None else asdict(self.scaling)
        if scaling["method"] != "fixed":
            # Bounds have an effect on fixed scaling only.
            scaling = {"method": scaling["method"]}
        sections = {
            "model": {"mode": self.mode},
            "architecture": {key: getattr(self.architecture, key) for key in _ARCHITECTURE_KEYS},
            "input": scaling,
            "embed": {"tile": self.tile, "tile_grid": "null", "tile_summary": "mean"},
        }
        return [f"{name}.{key}={each}" for name, of in sections.items() for key, each in of.items()]


_ARCHITECTURE_KEYS = ("backbone", "image_size", "pool", "positions", "expects")
# Up to what a camera of 16 bits gives, so that nothing is cut off.
_SIXTEEN_BITS = InputScaling("fixed", 0, 65_535)
_FIELDS = InputScaling("field")


_APACHE = Licence(
    identifier="apache-2.0",
    name="Apache License 2.0",
    link="https://github.com/facebookresearch/dinov2/blob/main/LICENSE",
)
_DINOV3 = Licence(
    identifier="other",
    name="dinov3-license",
    link="https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
)
_FAIR = Licence(
    identifier="other",
    name="fair-noncommercial-research-license",
    link="https://github.com/facebookresearch/dinov2/blob/main/LICENSE_CELL_DINO_MODELS",
)
_BY_NC = Licence(
    identifier="cc-by-nc-4.0",
    name="CC BY-NC 4.0",
    link="https://creativecommons.org/licenses/by-nc/4.0/legalcode",
)
_MIT = Licence(
    identifier="mit",
    name="MIT",
    link="https://github.com/CaicedoLab/CHAMMI-75/blob/main/LICENSE",
)
_RECURSION = Licence(
    identifier="other",
    name="recursion-noncommercial-end-user-license-agreement",
    link="https://huggingface.co/recursionpharma/OpenPhenom/blob/main/LICENSE",
)
_DINOV2_CODE = "https://github.com/facebookresearch/dinov2"
# Ending of the name, timm's for it, and how positions are resized.
_REGISTERS: tuple[tuple[str, str, PositionRule], ...] = (
    ("", "", "dino"),
    ("_reg", "_reg4", "timm"),
)


def _dino(backbone: str, size: int, *, expects: Expects) -> Architecture:
    return Architecture(backbone=backbone, image_size=size, positions="dino", expects=expects)


PUBLISHED = (
    # hub/backbones.py: 518 px, patches of 14 px; with registers, positions are resized with
    # antialiasing to the exact size, and without by DINO's rule.
    *(
        PublishedModel(
            name=f"dinov2_vit{letter}14{suffix}",
            architecture=Architecture(
                backbone=f"vit_{size}_patch14{timms}_dinov2",
                image_size=518,
                positions=positions,
                expects="imagenet",
            ),
            scaling=_FIELDS,
            tile=224,
            source=_DINOV2_CODE,
            licence=_APACHE,
        )
        for letter, size in {"s": "small", "b": "base", "l": "large", "g": "giant"}.items()
        for suffix, timms, positions in _REGISTERS
    ),
    # hub/backbones.py: rotary positions, four registers (storage tokens).
    *(
        PublishedModel(
            name=f"dinov3_vit{short}",
            architecture=Architecture(
                backbone=f"vit_{size}_patch16_dinov3_qkvb", image_size=224, expects="imagenet"
            ),
            scaling=_FIELDS,
            tile=224,
            source="https://github.com/facebookresearch/dinov3",
            licence=_DINOV3,
        )
        for short, size in {
            "s16": "small",
            "s16plus": "small_plus",
            "b16": "base",
            "l16": "large",
            "h16plus": "huge_plus",
        }.items()
    ),
    # hub/cell_dino/backbones.py; each image is standardised (data/cell_dino/transforms.py).
    PublishedModel(
        name="cell_dino_cp_vits8",
        architecture=_dino("vit_small_patch8_224", 128, expects="standardised"),
        scaling=_SIXTEEN_BITS,
        tile=128,
        mode="joint",
        num_channels=5,
        source=_DINOV2_CODE,
        licence=_FAIR,
    ),
    PublishedModel(
        name="cell_dino_hpa_vitl16",
        architecture=_dino("vit_large_patch16_224", 224, expects="standardised"),
        scaling=_SIXTEEN_BITS,
        tile=224,
        mode="joint",
        num_channels=4,
        source=_DINOV2_CODE,
        licence=_FAIR,
    ),
    PublishedModel(
        name="cell_dino_hpa_vitl14",
        architecture=_dino("vit_large_patch14_dinov2", 518, expects="standardised"),
        scaling=_SIXTEEN_BITS,
        tile=518,
        mode="joint",
        num_channels=4,
        source=_DINOV2_CODE,
        licence=_FAIR,
    ),
    PublishedModel(
        name="channel_adaptive_dino_vitl16",
        architecture=_dino("vit_large_patch16_224", 224, expects="standardised"),
        scaling=_SIXTEEN_BITS,
        tile=224,
        source=_DINOV2_CODE,
        licence=_FAIR,
    ),
    # source/dino/vision_transformer.py; values of 16 bits are divided by 65,535 (image_ops.py).
    PublishedModel(
        name="uniDINO",
        architecture=_dino("vit_small_patch16_224", 224, expects="scaled"),
        scaling=_SIXTEEN_BITS,
        tile=224,
        source="https://github.com/Bayer-Group/uniDINO",
        licence=_BY_NC,
    ),
    # benchmarks/models.py: ViT-S/16 on one channel at a time, each image standardised, 224 px.
    PublishedModel(
        name="MorphEm",
        architecture=_dino("vit_small_patch16_224", 224, expects="standardised"),
        scaling=_SIXTEEN_BITS,
        tile=224,
        source="https://github.com/CaicedoLab/CHAMMI-75",
        licence=_MIT,
    ),
    # huggingface_mae.py: images of 8 bits and 256 px divided by 255, then InstanceNorm2d.
    PublishedModel(
        name="OpenPhenom",
        architecture=Architecture(
            backbone="vit_small_patch16_channel_agnostic",
            image_size=256,
            pool="avg",
            expects="instance_norm",
        ),
        scaling=None,
        tile=256,
        mode="joint",
        source="https://github.com/recursionpharma/maes_microscopy",
        licence=_RECURSION,
    ),
)


def find_published(name: object) -> PublishedModel | None:
    """Look up a published model by its name; None if it is not one of theirs."""
    return next((entry for entry in PUBLISHED if entry.name == name), None)
