from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers_train import random_manifest
from wsdino.model.upload import as_tensor
from wsdino.train.crops import cut
from wsdino.train.fields import FieldBatch
from wsdino.train.labels import weak_labels
from wsdino.train.options import WeakPositives
from wsdino.train.pairing import Pairing
from wsdino.train.plan import Planner, cut_views
from wsdino.train.sampler import Sampler
from wsdino.train.views import ViewPlan

VIEWS = [ViewPlan(num_views=2, size=16), ViewPlan(num_views=4, size=8)]
FIELD = (24, 32)


def planner_of(*, paired: bool = True, seed: int = 0, **options: Any) -> tuple[Planner, np.ndarray]:
    manifest = random_manifest(np.random.default_rng(0), 60)
    labels = weak_labels(manifest, "compound")
    planner = Planner(
        sampler=Sampler(labels, balance="label", seed=seed),
        pairing=Pairing(manifest, labels) if paired else None,
        weak_positives=WeakPositives(**options),
        views=VIEWS,
        batch_size=6,
        field_shape=FIELD,
        num_channels=2,
        seed=seed,
    )
    return planner, labels.codes


def test_global_views_are_the_anchor_s_and_local_ones_a_partner_s() -> None:
    planner, codes = planner_of()
    for step in range(10):
        plan = planner.plan(step)
        global_sites, local_sites = plan.sites
        assert global_sites.shape == (2, 6)
        assert local_sites.shape == (4, 6)
        assert (global_sites == plan.anchors).all()
        assert (local_sites == local_sites[0]).all(), "one partner for all of an anchor's views"
        assert (local_sites != plan.anchors).all()
        assert (codes[local_sites] == codes[plan.anchors]).all()
        assert set(plan.needed) == set(plan.anchors) | set(local_sites[0])


def test_without_partners_every_view_is_the_anchor_s() -> None:
    plan = planner_of(paired=False)[0].plan(3)
    assert all((sites == plan.anchors).all() for sites in plan.sites)


def test_partners_take_turns() -> None:
    planner, _ = planner_of(num_partners=2)
    differ = 0
    for step in range(10):
        local = planner.plan(step).sites[1]
        assert (local[0] == local[2]).all()
        assert (local[1] == local[3]).all()
        differ += int((local[0] != local[1]).sum())
    assert differ > 30


@pytest.mark.parametrize("num", [1, 2])
def test_the_last_global_views_come_from_the_partner_of_the_local_ones(num: int) -> None:
    plan = planner_of(partner_global_views=num)[0].plan(0)
    assert (plan.sites[0][:-num] == plan.anchors).all()
    assert (plan.sites[0][-num:] == plan.sites[1][0]).all()


def test_plans_need_no_state_and_follow_the_seed() -> None:
    planner, _ = planner_of()
    plans = [planner.plan(step) for step in range(5)]
    again = planner_of()[0].plan(4)
    np.testing.assert_array_equal(again.anchors, plans[4].anchors)
    np.testing.assert_array_equal(again.sites[1], plans[4].sites[1])
    np.testing.assert_array_equal(again.draws[1].top, plans[4].draws[1].top)
    assert (plans[3].draws[0].top != plans[4].draws[0].top).any()
    assert (planner_of(seed=1)[0].plan(4).draws[0].top != plans[4].draws[0].top).any()


def test_parts_are_disjoint_and_whole() -> None:
    plan = planner_of()[0].plan(2)
    parts = [plan.part(slice(0, 3)), plan.part(slice(3, 6))]
    np.testing.assert_array_equal(np.concatenate([p.anchors for p in parts]), plan.anchors)
    for kind in range(2):
        together = np.concatenate([p.sites[kind] for p in parts], axis=1)
        np.testing.assert_array_equal(together, plan.sites[kind])
        together = np.concatenate([p.draws[kind].left for p in parts], axis=1)
        np.testing.assert_array_equal(together, plan.draws[kind].left)


def test_views_are_cut_from_the_sites_of_the_plan_whether_resident_or_streamed() -> None:
    planner, codes = planner_of()
    rng = np.random.default_rng(0)
    fields = rng.integers(0, 60_000, (len(codes), 2, *FIELD), dtype=np.uint16)
    offset = torch.from_numpy(rng.uniform(0, 100, (len(codes), 2)).astype(np.float32))
    gain = torch.from_numpy(rng.uniform(0, 1e-4, (len(codes), 2)).astype(np.float32))
    plan = planner.plan(1)
    unique = np.unique(plan.needed)
    resident = FieldBatch(as_tensor(fields), offset, gain)
    streamed = FieldBatch(as_tensor(fields[unique]), offset[unique], gain[unique], unique)
    clip = (-4.0, 8.0)
    found = [cut_views(plan, batch, VIEWS, clip=clip) for batch in (resident, streamed)]
    for kind, view in enumerate(VIEWS):
        assert found[0][kind].shape == (view.num_views, 6, 2, view.size, view.size)
        assert torch.equal(found[0][kind], found[1][kind])
        one = cut(
            as_tensor(fields),
            plan.sites[kind][1:2, 2:3],
            type(plan.draws[kind])(
                *(
                    getattr(plan.draws[kind], name)[1:2, 2:3]
                    for name in plan.draws[kind].__dataclass_fields__
                )
            ),
            size=view.size,
            offset=offset,
            gain=gain,
            clip=clip,
        )
        torch.testing.assert_close(found[0][kind][1, 2], one[0])
