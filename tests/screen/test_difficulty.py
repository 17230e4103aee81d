"""Difficulties of the simulated screen: their names, their numbers, and how both are asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from wsdino.errors import InputError
from wsdino.simulate import DIFFICULTIES, Difficulty, layout_table
from wsdino.simulate.difficulty import DEFAULT, NUMBERS, difficulty_help
from wsdino.simulate.plates import describe_sites

PUBLISHED, HARD, EASY = (Difficulty.of([name]) for name in ("published", "hard", "easy"))


def test_numbers_are_checked() -> None:
    with pytest.raises(InputError, match=r"effect: -1; .* at least 0"):
        Difficulty(effect=-1)
    with pytest.raises(InputError, match=r"penetrance: 2; give at most 1"):
        Difficulty(penetrance=2)
    with pytest.raises(InputError, match="edge: nan"):
        Difficulty(edge=float("nan"))


def test_names_are_of_a_kind_apart_from_numbers() -> None:
    names = [named.name for named in DIFFICULTIES]
    assert names == ["published", "hard", "easy"]
    assert names[0] == DEFAULT
    assert not set(names) & set(NUMBERS)
    assert not any("=" in name for name in names)


def test_settings_are_a_base_and_numbers_on_top() -> None:
    assert Difficulty.of([]) == Difficulty() == PUBLISHED
    assert Difficulty.of(["effect=2", "edge=0"]) == replace(PUBLISHED, effect=2.0, edge=0.0)
    assert Difficulty.of(["hard", "effect=2"]) == replace(HARD, effect=2.0)
    assert Difficulty.of([" hard ", "effect = 2"]) == replace(HARD, effect=2.0)
    # no number that was asked for is lost where its base comes after it
    assert Difficulty.of(["effect=2", "hard"]) == replace(HARD, effect=2.0)
    assert Difficulty.of(["easy", "hard"]) == HARD, "the last name"
    assert Difficulty.of(["effect=2", "edge=0", "effect=3"]) == replace(
        PUBLISHED, effect=3.0, edge=0.0
    ), "the last value"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("publishd", "difficulty 'publishd': no such difficulty, did you mean published?; give o"),
        ("publishd", "; give one of published, hard, easy, or a parameter as name=value"),
        ("Hard", "did you mean hard?"),
        ("zzz", "difficulty 'zzz': no such difficulty; give one of"),
        ("effect", "difficulty 'effect': has no value; give one, such as effect="),
        ("efect=1", "difficulty 'efect=1': no such parameter, did you mean effect?; give one of"),
        ("hard=1", "difficulty 'hard=1': no such parameter"),
        ("effect=much", "difficulty effect: 'much'; give a number of at least 0"),
        ("effect=", "difficulty effect: ''; give a number of at least 0"),
        ("effect=-1", "difficulty effect: -1.0; give a number of at least 0"),
        ("penetrance=2", "difficulty penetrance: 2.0; give at most 1"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Difficulty.of([setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_advice_works() -> None:
    with pytest.raises(InputError) as caught:
        Difficulty.of(["edge"])
    advice = str(caught.value).partition("such as ")[2].split()[0]
    assert Difficulty.of([advice]) == PUBLISHED


def test_hard_is_what_it_was() -> None:
    """The defaults of the time before there were names: figures labelled `hard` rest on them."""
    assert asdict(HARD) == {
        "effect": 1.7, "penetrance": 0.9, "lean": 0.15, "signature": 0.5,
        "compound_density": 0.25, "compound_staining": 1.1,
        "batch_biology": 1.0, "plate_biology": 0.25, "well_biology": 0.8, "batch_response": 0.6,
        "batch_density": 0.1, "plate_density": 0.06, "well_density": 0.12,
        "batch_gain": 0.15, "plate_gain": 0.08, "well_gain": 0.08,
        "batch_blur": 0.08, "plate_blur": 0.06, "well_blur": 0.15,
        "batch_staining": 0.7, "plate_staining": 0.25, "well_staining": 0.6,
        "batch_background": 0.15, "plate_background": 0.08, "well_background": 0.15,
        "plate_shade": 0.06, "edge": 1.0, "defocus_rate": 0.02, "debris_rate": 0.25,
        "mottle": 1.0, "texture": 1.0, "bleed": 1.0, "precipitate": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(("easier", "harder"), [(EASY, PUBLISHED), (PUBLISHED, HARD)])
def test_effects_stand_out_more_where_it_is_easier(easier: Difficulty, harder: Difficulty) -> None:
    """Mechanisms change more, and compounds and batches blur them less, number by number."""
    assert easier.effect > harder.effect
    for name in ("lean", "signature", "compound_staining", "batch_response", "well_staining"):
        assert getattr(easier, name) <= getattr(harder, name), name
    # A whitening on controls takes the biology of batches away, however large it is.
    batch = [name for name in NUMBERS if "batch_" in name and name != "batch_biology"]
    assert all(getattr(easier, name) <= getattr(harder, name) for name in batch)


def test_the_same_seed_gives_the_same_compounds_by_every_name() -> None:
    """So that screens of two difficulties can be compared seed by seed."""
    layout = layout_table("small", sites=1)
    screens = [describe_sites(layout, d, seed=2, size=64) for d in (EASY, PUBLISHED, HARD)]
    for sites in zip(*screens, strict=True):
        assert len({site.compound.ec50 if site.compound else None for site in sites}) == 1
        assert len({site.activity for site in sites}) == 1


def test_help_names_every_difficulty_without_what_draws() -> None:
    code = (
        "import sys, wsdino.simulate as s, wsdino.cli.screens as c;"
        "print(c.difficulty_help());"
        "sys.exit(int('numba' in sys.modules or 'pandas' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == difficulty_help()
    for named in DIFFICULTIES:
        assert f"{named.name} ({named.meaning})" in done.stdout
