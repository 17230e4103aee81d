"""What the coming steps look at: in order, whole, and without waiting in vain."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from helpers_screen import chunk_path
from helpers_train import DEFAULTS, options_of
from wsdino.errors import StoreError
from wsdino.model.scaling import InputScaling
from wsdino.screen.store import open_store
from wsdino.train.fields import Fields
from wsdino.train.plan import Planner, cut_views
from wsdino.train.prefetch import Prefetch
from wsdino.train.sampler import Sampler
from wsdino.train.train import positives

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store
    from wsdino.train.fields import FieldBatch

CPU = torch.device("cpu")


def planner_of(store: Store) -> Planner:
    options = options_of()
    wanted = positives(store.manifest, options["weak_positives"])
    return Planner(
        sampler=Sampler(wanted.labels, balance="label", seed=0),
        pairing=wanted.pairing,
        weak_positives=options["weak_positives"],
        views=[options["global_views"], options["local_views"]],
        batch_size=8,
        field_shape=store.field_shape,
        num_channels=len(store.channels),
        seed=0,
    )


def fields_of(store: Store, residency: str) -> Fields:
    scaling = DEFAULTS["spec"].scaling
    return Fields(store, scaling=scaling, device=CPU, residency=residency)


def test_training_says_which_plates_it_scales_without_controls(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    plate = store.manifest["Metadata_Plate"].iloc[0]
    keep = f'Metadata_Plate != "{plate}" or Metadata_Control == False'
    filtered = open_store(store.path, keep=keep)
    Fields(filtered, scaling=InputScaling("plate"), device=CPU, residency="host")
    assert f"1 of 4 plates ({plate}) without controls" in capsys.readouterr().err


class Gate(Fields):
    """Fields that are there when the gate is opened."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.opened = threading.Event()

    def fetch(self, sites: np.ndarray) -> FieldBatch:
        assert self.opened.wait(60)
        return super().fetch(sites)


@pytest.mark.parametrize("residency", ["device", "stream"])
def test_every_step_s_views_come_once_in_order(store: Store, residency: str) -> None:
    """Cut ahead or not: the views are those of the plan."""
    planner, fields = planner_of(store), fields_of(store, residency)
    share, clip = slice(4, 8), DEFAULTS["spec"].scaling.clip
    with Prefetch(planner, fields, share=share, clip=clip, steps=range(3, 9)) as prefetch:
        for step in range(3, 9):
            plan, views = prefetch.take()
            if step % 2:
                prefetch.cut_ahead()
            expected = planner.plan(step).part(share)
            assert np.array_equal(plan.anchors, expected.anchors)
            batch = fields_of(store, "device").fetch(expected.needed)
            for ours, theirs in zip(
                views, cut_views(expected, batch, planner.views, clip=clip), strict=True
            ):
                assert torch.equal(ours, theirs)
        # There is no step after the last one, and nothing to cut.
        prefetch.cut_ahead()


def test_cutting_ahead_does_not_wait_for_fields(store: Store) -> None:
    planner = planner_of(store)
    gate = Gate(store, scaling=DEFAULTS["spec"].scaling, device=CPU, residency="stream")
    with Prefetch(planner, gate, share=slice(0, 8), clip=(-4, 8), steps=range(2)) as prefetch:
        prefetch.cut_ahead()
        assert prefetch.waited_s == 0
        threading.Timer(0.3, gate.opened.set).start()
        plan, _ = prefetch.take()
        assert prefetch.waited_s > 0.2
        assert np.array_equal(plan.anchors, planner.plan(0).anchors)


def test_a_field_that_cannot_be_read_is_said_to_who_takes(store: Store, tmp_path: Path) -> None:
    planner = planner_of(store)
    shutil.copytree(store.path, tmp_path / "store")
    copied = open_store(tmp_path / "store")
    for site in planner.plan(1).needed:
        chunk_path(copied.path, int(site)).write_bytes(b"torn")
    for site in planner.plan(0).needed:
        shutil.copy(chunk_path(store.path, int(site)), chunk_path(copied.path, int(site)))
    fields = fields_of(copied, "stream")
    share = slice(0, 8)
    with Prefetch(planner, fields, share=share, clip=(-4, 8), steps=range(2)) as prefetch:
        prefetch.take()
        with pytest.raises(StoreError, match="damaged"):
            prefetch.take()


@pytest.mark.parametrize("read_at_once", [1, 7, 1000])
def test_resident_fields_are_the_store_s(
    store: Store, monkeypatch: pytest.MonkeyPatch, read_at_once: int
) -> None:
    monkeypatch.setattr("wsdino.train.fields.READ_AT_ONCE", read_at_once)
    whole = fields_of(store, "device").fetch(np.array([3]))
    pixels = whole.pixels.numpy().view(store.dtype)
    np.testing.assert_array_equal(pixels, store.read(range(len(store))))
    offset, gain = DEFAULTS["spec"].scaling.for_store(store)
    np.testing.assert_array_equal(whole.offset, offset)
    np.testing.assert_array_equal(whole.gain, gain)
    sites = np.array([5, 3, 5])
    streamed = fields_of(store, "stream").fetch(sites)
    rows = [batch.rows(sites) for batch in (whole, streamed)]
    for name in ("pixels", "offset", "gain"):
        ours, theirs = (
            getattr(batch, name)[torch.from_numpy(row)]
            for batch, row in zip((whole, streamed), rows, strict=True)
        )
        assert torch.equal(ours, theirs), name
