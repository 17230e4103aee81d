"""Views of an image: how many crops, of what size, and how they are altered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from wsdino.errors import ConfigError
from wsdino.model.spec import Count  # noqa: TC001 pydantic reads it
from wsdino.train.options import NonNegative  # noqa: TC001 pydantic reads it

if TYPE_CHECKING:
    from numpy.typing import NDArray

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class ViewPlan:
    """Description of one kind of view.

    Parameters
    ----------
    num_views
        Views of this kind for each image.
    size
        Side in px of the crop that the network sees.
    area
        Smallest and largest share of the field's area that a crop covers before it is resized to
        `size`; None: crops of `size` px at native scale, no resizing.
    flip, rotate
        Whether crops are flipped along both axes, and turned by 90 degrees, each with
        probability one half.
    brightness, contrast
        Photometric jitter of each channel separately, after input scaling: x * (1 + c) + b, with
        c uniform in +-contrast and b uniform in +-brightness.
    staining
        Strength at which staining and optics are varied (:mod:`wsdino.train.staining`); 0: not.
    """

    num_views: Annotated[int, Ge(0)]
    size: Count
    area: tuple[Share, Share] | None = None
    flip: bool = True
    rotate: bool = True
    brightness: NonNegative = 0.0
    contrast: NonNegative = 0.0
    staining: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.area and self.area[0] > self.area[1]:
            raise ConfigError(
                f"area {list(self.area)}: the smallest share comes first, then the largest"
            )

    def largest_side(self, field_shape: tuple[int, int]) -> int:
        """Side in px of the largest crop that can be drawn from a field (height, width)."""
        if self.area is None:
            return self.size
        return crop_side(np.float64(self.area[1] * field_shape[0] * field_shape[1])).item()


def crop_side(area: NDArray[np.float64] | np.float64) -> NDArray[np.int64]:
    """Return the side in px of crops of an area in px squared, int64 of its shape."""
    return np.maximum(np.rint(np.sqrt(area)).astype(np.int64), 1)


def require_fit(
    plan: ViewPlan, field_shape: tuple[int, int], *, section: str = "crops.global_views"
) -> None:
    """Refuse crops that don't fit the field: the largest that can be drawn at any step of a run.

    Parameters
    ----------
    plan
        Description of the views.
    field_shape
        Height and width of a field in px.
    section
        Config section of the views.

    Raises
    ------
    ConfigError
        If the largest crop that can be drawn does not fit the field.
    """
    largest = plan.largest_side(field_shape)
    if largest > min(field_shape):
        raise ConfigError(
            f"{section}: a crop of {largest} px does not fit fields of {field_shape[0]} x "
            f"{field_shape[1]} px; lower {section}.{'size' if plan.area is None else 'area'}"
        )
