"""Preparing the next steps while the device computes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from wsdino.train.plan import cut_views

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from torch import Tensor

    from wsdino.train.fields import FieldBatch, Fields
    from wsdino.train.plan import Planner, StepPlan


class Prefetch:
    """Plans and views of one step after another.

    A thread draws the plan of the next step and fetches its fields during the present one.

    Parameters
    ----------
    planner
        Draws what each step does.
    fields
        Source of the pixels.
    share
        Which images of a step's batch are this process's.
    clip
        Range of scaled inputs.
    steps
        The steps to come.

    Attributes
    ----------
    waited_s : float
        Time spent waiting for plans and fields with nothing else to do; whoever reads it may set
        it back.
    """

    def __init__(
        self,
        planner: Planner,
        fields: Fields,
        *,
        share: slice,
        clip: tuple[float, float],
        steps: range,
    ) -> None:
        self._planner, self._fields = planner, fields
        self._share, self._clip = share, clip
        self._steps = iter(steps)
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._coming: Future[tuple[StepPlan, FieldBatch]] | None = None
        self._ahead: tuple[StepPlan, list[Tensor]] | None = None
        self.waited_s = 0.0
        self._start_next()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._executor.shutdown()

    def take(self) -> tuple[StepPlan, list[Tensor]]:
        """Return the next step's plan and its views, and begin with the one after.

        Returns
        -------
        plan, views
            The plan, and for each kind of view (V, B, C, size, size) float32.
        """
        if self._ahead is None:
            before = time.monotonic()
            assert self._coming is not None, "there is a next step"
            wait([self._coming])
            self.waited_s += time.monotonic() - before
            self.cut_ahead()
        taken, self._ahead = self._ahead, None
        assert taken is not None
        self._start_next()
        return taken

    def cut_ahead(self) -> None:
        """Queue the cutting of the next views, if their fields are ready.

        This keeps a GPU busy while this process waits for the results of the step.
        """
        if self._coming is None or not self._coming.done():
            return
        plan, batch = self._coming.result()
        self._coming = None
        self._ahead = plan, cut_views(plan, batch, self._planner.views, clip=self._clip)

    def _start_next(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._coming = self._executor.submit(self._prepare, step)

    def _prepare(self, step: int) -> tuple[StepPlan, FieldBatch]:
        plan = self._planner.plan(step).part(self._share)
        return plan, self._fields.fetch(plan.needed)
