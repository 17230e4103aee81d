"""Plan of a step: drawn from seed and step alone, for the whole batch, equally on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsdino.train.crops import CropDraw, cut, draw_crops

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wsdino.train.fields import FieldBatch
    from wsdino.train.options import WeakPositives
    from wsdino.train.pairing import Pairing
    from wsdino.train.sampler import BatchwiseSampler, Sampler
    from wsdino.train.views import ViewPlan


@dataclass(frozen=True)
class StepPlan:
    """Images and crops of one step for B images.

    Parameters
    ----------
    anchors
        (B,) int64 sites.
    sites
        For each kind of view, (V, B) int64: the site that each crop is cut from.
    draws
        For each kind of view, its crops.
    """

    anchors: NDArray[np.int64]
    sites: list[NDArray[np.int64]]
    draws: list[CropDraw]

    def part(self, images: slice) -> StepPlan:
        """Return the plan for some of the images."""
        return StepPlan(
            self.anchors[images],
            [sites[:, images] for sites in self.sites],
            [draw.part(images) for draw in self.draws],
        )

    @property
    def needed(self) -> NDArray[np.int64]:
        """All sites that the step looks at."""
        return np.concatenate([sites.ravel() for sites in self.sites])


class Planner:
    """Draws the plan of any step.

    Parameters
    ----------
    sampler, pairing, weak_positives
        Choice of anchors and partners; `pairing` None: every crop comes from the anchor (plain
        DINO, classification).
    views
        Global views, then local views where there are any.
    batch_size
        Images per step over all processes.
    field_shape, num_channels
        Size of a field in px and its number of channels.
    seed
        Seed of crops and partners.
    """

    def __init__(
        self,
        *,
        sampler: Sampler | BatchwiseSampler,
        pairing: Pairing | None,
        weak_positives: WeakPositives,
        views: list[ViewPlan],
        batch_size: int,
        field_shape: tuple[int, int],
        num_channels: int,
        seed: int,
    ) -> None:
        self.views, self.batch_size, self.seed = views, batch_size, seed
        self._sampler, self._pairing, self._options = sampler, pairing, weak_positives
        self._field_shape, self._num_channels = field_shape, num_channels

    def plan(self, step: int) -> StepPlan:
        """Draw the plan of a step for the whole batch."""
        rng = np.random.default_rng([self.seed, 2, step])
        anchors = self._sampler.batch(step, self.batch_size)
        sites = self._view_sites(anchors, rng)
        draws = [
            draw_crops(
                view,
                self.batch_size,
                field_shape=self._field_shape,
                num_channels=self._num_channels,
                rng=rng,
            )
            for view in self.views
        ]
        return StepPlan(anchors, sites, draws)

    def _view_sites(
        self, anchors: NDArray[np.int64], rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        sites = [np.tile(anchors, (view.num_views, 1)) for view in self.views]
        if self._pairing is None:
            return sites
        shape = (self._options.num_partners, len(anchors))
        partners = self._pairing.draw(anchors, rng.random(shape))
        from_partner = self._options.partner_global_views
        if from_partner:
            sites[0][-from_partner:] = partners[0]
        for local in sites[1:]:
            local[:] = partners[np.arange(len(local)) % len(partners)]
        return sites


def cut_views(
    plan: StepPlan, fields: FieldBatch, views: list[ViewPlan], *, clip: tuple[float, float]
) -> list[Tensor]:
    """Cut the views of a plan: for each kind of view (V, B, C, size, size) float32."""
    return [
        cut(
            fields.pixels,
            fields.rows(sites),
            draw,
            size=view.size,
            offset=fields.offset,
            gain=fields.gain,
            clip=clip,
        ).unflatten(0, sites.shape)
        for view, sites, draw in zip(views, plan.sites, plan.draws, strict=True)
    ]
