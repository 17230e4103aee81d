from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_train import random_manifest
from wsdino.errors import ConfigError
from wsdino.train.labels import WeakLabels, weak_labels
from wsdino.train.pairing import Pairing

STRICTEST_FIRST = ("batch", "plate", "well", "image")


def is_in_another(level: str, a: pd.Series, b: pd.Series) -> bool:
    same_plate = a.Metadata_Plate == b.Metadata_Plate
    same_well = same_plate and a.Metadata_Well == b.Metadata_Well
    return {
        "batch": a.Metadata_Batch != b.Metadata_Batch,
        "plate": not same_plate,
        "well": not same_well,
        "image": not (same_well and a.Metadata_Site == b.Metadata_Site),
    }[level]


def candidates_of(
    manifest: pd.DataFrame, labels: WeakLabels, anchor: int, level: str
) -> np.ndarray:
    """All sites with the anchor's label that lie in another batch, plate, well or image."""
    rows = list(manifest.itertuples())
    return np.array(
        [
            site
            for site in range(len(manifest))
            if labels.codes[site] == labels.codes[anchor] >= 0
            and is_in_another(level, rows[anchor], rows[site])
        ],
        dtype=np.int64,
    )


def relaxed(
    manifest: pd.DataFrame, labels: WeakLabels, anchor: int, level: str
) -> tuple[str, np.ndarray]:
    """The strictest demand that can be met, and the candidates under it."""
    for weaker in STRICTEST_FIRST[STRICTEST_FIRST.index(level) :]:
        found = candidates_of(manifest, labels, anchor, weaker)
        if len(found):
            return weaker, found
    return "itself", np.array([anchor])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_sites=st.integers(8, 40),
    level=st.sampled_from(STRICTEST_FIRST),
    num_labels=st.integers(2, 5),
)
def test_partners_are_all_candidates_of_the_strictest_demand_that_can_be_met(
    seed: int, num_sites: int, level: str, num_labels: int
) -> None:
    manifest = random_manifest(np.random.default_rng(seed), num_sites, num_labels=num_labels)
    if manifest["Metadata_Compound"].nunique() < 2:
        return
    labels = weak_labels(manifest, "compound")
    pairing = Pairing(manifest, labels, partner_from=level, fallback="relax")
    assert (pairing.usable == (labels.codes >= 0)).all()
    for anchor in labels.sites:
        _, candidates = relaxed(manifest, labels, anchor, level)
        # The midpoints of n equal parts of [0, 1) must hit each of n candidates once.
        num = len(candidates)
        grid = ((np.arange(num) + 0.5) / num)[:, None]
        partners = pairing.draw(np.array([anchor]), grid)
        np.testing.assert_array_equal(np.sort(partners[:, 0]), np.sort(candidates))
        assert num == 1 or anchor not in partners


@pytest.mark.parametrize("level", STRICTEST_FIRST)
def test_both_ends_of_the_uniform_numbers_stay_inside(level: str) -> None:
    manifest = random_manifest(np.random.default_rng(1), 50)
    labels = weak_labels(manifest, "compound")
    pairing = Pairing(manifest, labels, partner_from=level)
    ends = np.broadcast_to([[0.0], [np.nextafter(1.0, 0.0)]], (2, len(labels.sites)))
    partners = pairing.draw(labels.sites, ends)
    for column, anchor in enumerate(labels.sites):
        _, candidates = relaxed(manifest, labels, anchor, level)
        assert set(partners[:, column]) <= set(candidates)


def test_partners_are_uniform_over_candidates() -> None:
    manifest = random_manifest(np.random.default_rng(2), 60)
    labels = weak_labels(manifest, "compound")
    pairing = Pairing(manifest, labels, partner_from="well")
    anchor, rng = labels.sites[0], np.random.default_rng(0)
    candidates = candidates_of(manifest, labels, anchor, "well")
    partners = pairing.draw(np.array([anchor]), rng.random((100 * len(candidates), 1)))
    counts = np.bincount(partners[:, 0], minlength=len(manifest))[candidates]
    assert counts.sum() == 100 * len(candidates)
    chi_square = ((counts - 100) ** 2 / 100).sum()
    assert chi_square < 2 * len(candidates), "about its degrees of freedom if uniform"


def test_rows_in_any_order_have_the_same_partners() -> None:
    manifest = random_manifest(np.random.default_rng(3), 40)
    shuffled = manifest.sample(frac=1, random_state=0)
    for frame in (shuffled, shuffled.reset_index(drop=True)):
        labels = weak_labels(frame, "compound")
        pairing = Pairing(frame, labels, partner_from="plate")
        uniform = np.random.default_rng(0).random((20, len(labels.sites)))
        partners = pairing.draw(labels.sites, uniform)
        column = {key: frame[f"Metadata_{key}"].to_numpy() for key in ("Plate", "Compound")}
        assert (column["Compound"][partners] == column["Compound"][labels.sites]).all()
        assert (column["Plate"][partners] != column["Plate"][labels.sites]).mean() > 0.9


def lonely_manifest() -> pd.DataFrame:
    """Compound c0 on two plates, c1 in two wells of one plate, c2 in one image."""
    rows = [("P0", "B02", "c0"), ("P1", "B02", "c0"), ("P0", "B03", "c1"), ("P0", "B04", "c1")]
    rows += [("P1", "B05", "c2")]
    return pd.DataFrame(
        [
            {
                "Metadata_Plate": plate,
                "Metadata_Well": well,
                "Metadata_Site": 1,
                "Metadata_Batch": "W1",
                "Metadata_Compound": compound,
                "Metadata_Concentration": 1.0,
                "Metadata_Control": False,
            }
            for plate, well, compound in rows
        ]
    )


def test_relax_takes_a_weaker_demand_and_at_last_the_anchor_itself() -> None:
    manifest = lonely_manifest()
    labels = weak_labels(manifest, "compound")
    pairing = Pairing(manifest, labels, partner_from="plate", fallback="relax")
    partners = pairing.draw(np.arange(5), np.full((1, 5), 0.7))
    assert partners.tolist() == [[1, 0, 3, 2, 4]]
    drawn = {row["partner_in"]: row["sites_drawn"] for row in pairing.coverage()}
    assert drawn == {
        "another batch": 0,
        "another plate": 2,
        "another well": 2,
        "another image": 0,
        "the same image": 1,
    }


def test_drop_trains_on_those_with_a_partner_only() -> None:
    manifest = lonely_manifest()
    labels = weak_labels(manifest, "compound")
    pairing = Pairing(manifest, labels, partner_from="plate", fallback="drop")
    assert pairing.usable.tolist() == [True, True, False, False, False]
    assert {row["partner_in"]: row["sites_drawn"] for row in pairing.coverage()} == {
        "another batch": 0,
        "another plate": 2,
        "another well": 0,
        "another image": 0,
    }


def test_error_says_how_many_lack_a_partner() -> None:
    manifest = lonely_manifest()
    labels = weak_labels(manifest, "compound")
    with pytest.raises(ConfigError, match="'plate': 3 of 5 sites have no partner") as caught:
        Pairing(manifest, labels, partner_from="plate", fallback="error")
    assert "\n" not in str(caught.value)
    Pairing(manifest.iloc[:4], weak_labels(manifest.iloc[:4], "compound"), partner_from="well")


@pytest.mark.parametrize("fallback", ["drop", "error"])
def test_a_demand_that_nobody_can_meet_is_refused(fallback: str) -> None:
    manifest = lonely_manifest()
    with pytest.raises(ConfigError, match="no site has a partner in another batch"):
        Pairing(
            manifest,
            weak_labels(manifest, "compound"),
            partner_from="batch",
            fallback=fallback,
        )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    level=st.sampled_from(STRICTEST_FIRST),
    fallback=st.sampled_from(["relax", "drop"]),
)
def test_coverage_equals_a_loop(seed: int, level: str, fallback: str) -> None:
    manifest = random_manifest(np.random.default_rng(seed), 30, num_labels=4)
    manifest["Metadata_Control"] = manifest["Metadata_Compound"] == "c3"
    labels = weak_labels(manifest, "compound")
    met = [relaxed(manifest, labels, anchor, level)[0] for anchor in labels.sites]
    if fallback == "drop" and level not in met:
        return
    rows = Pairing(manifest, labels, partner_from=level, fallback=fallback).coverage()
    for row, asked in zip(rows, STRICTEST_FIRST, strict=False):
        nums = np.array(
            [len(candidates_of(manifest, labels, anchor, asked)) for anchor in labels.sites]
        )
        drawn = met.count(asked) if fallback == "relax" or asked == level else 0
        assert row == {
            "partner_in": f"another {asked}",
            "sites_with_partner": int((nums > 0).sum()),
            "fraction": round(float((nums > 0).mean()), 4),
            "labels_with_partner": len(set(labels.codes[labels.sites][nums > 0])),
            "median_partners": float(np.median(nums)),
            "sites_drawn": drawn,
        }
    if fallback == "relax":
        assert rows[-1]["partner_in"] == "the same image"
        assert rows[-1]["sites_drawn"] == met.count("itself")
