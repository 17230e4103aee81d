"""Training towards the profiles of weak labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY, options_of
from wsdino.embed.embed import embed_store
from wsdino.errors import ConfigError
from wsdino.model.model import Model
from wsdino.model.spec import ModelSpec
from wsdino.profile.label_profiles import label_profiles
from wsdino.train.checkpoint import load_newest
from wsdino.train.labels import weak_labels
from wsdino.train.learners.profiles import Profiles
from wsdino.train.objectives.profiles import Options
from wsdino.train.train import initial_networks, train

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store

LABELS = torch.tensor([2, 1, 2, 0, 1, 3])
OF_PROFILES = {"name": "profiles"}


def module_of(mode: str, goals: Tensor) -> Profiles:
    torch.manual_seed(0)
    spec = ModelSpec(("a", "b", "c"), mode=mode, architecture=TINY)
    student, teacher = (initial_networks(spec, seed=seed) for seed in (0, 1))
    asked: list[int] = []

    def find(num_components: int) -> np.ndarray:
        asked.append(num_components)
        return goals.numpy()

    module = Profiles(
        student,
        teacher,
        options=Options(head_hidden_dim=16, head_batch_norm=mode == "shared"),
        epochs=2,
        num_labels=len(goals),
        label_profiles=find,
    )
    assert not module.label_profiles.any()
    module.begin()
    assert asked == [len(goals) - 1]
    return module


@pytest.mark.parametrize("mode", ["shared", "per_channel", "joint"])
def test_the_loss_is_one_minus_the_cosine_to_the_label_s_profile(mode: str) -> None:
    generator = torch.Generator().manual_seed(3)
    goals = functional.normalize(torch.randn(4, 3, generator=generator), dim=-1)
    module = module_of(mode, goals)
    views = [torch.randn(2, 6, 3, size, size, generator=generator) for size in (16, 8)]
    loss, metrics = module.loss(module.trainable, views, module.target(views, LABELS))
    _, scores = module.trainable(views)
    expected = [
        np.mean(
            [
                1 - float(vectors[view, image].detach() @ goals[LABELS[image]])
                for view in range(4)
                for image in range(6)
            ]
        )
        for (vectors,) in scores
    ]
    assert float(loss.detach()) == pytest.approx(sum(expected), abs=1e-5)
    assert float(metrics["cosine"]) == pytest.approx(1 - np.mean(expected), abs=1e-5)


def test_steps_lead_towards_the_goals() -> None:
    """Images of a label share a pattern under noise; two labels have nearly the same goal."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(4, 3, 16, 16, generator=generator)
    goals = torch.eye(4)[:, :3]
    goals[3] = functional.normalize(torch.tensor([0.0, 0.1, 1.0]), dim=-1)
    module = module_of("shared", goals)
    optimiser = torch.optim.AdamW(module.trainable.parameters(), lr=3e-3)
    cosines = []
    for _ in range(60):
        labels = torch.randint(4, (8,), generator=generator)
        views = [patterns[labels] + 0.5 * torch.randn(2, 8, 3, 16, 16, generator=generator)]
        loss, metrics = module.loss(module.trainable, views, module.target(views, labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        module.after_step()
        cosines.append(float(metrics["cosine"]))
    assert np.mean(cosines[-5:]) > 0.8 > np.mean(cosines[:5]) + 0.3


def test_the_goals_are_those_of_the_network_at_the_start(store: Store, tmp_path: Path) -> None:
    given = options_of(objective=OF_PROFILES)
    train(store, tmp_path, **given)
    state = load_newest(tmp_path / "checkpoints")
    labels = weak_labels(store.manifest, "compound")
    table = embed_store(Model(given["spec"], initial_networks(given["spec"], seed=0)), store)
    components = min(8, len(labels.names) - 1)
    expected = label_profiles(table, labels.codes, num_components=components)
    found = state["objective"]["label_profiles"].numpy()
    # Components may have either sign, as numbers are rounded.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


def test_a_run_that_goes_on_keeps_its_goals(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options_of(objective=OF_PROFILES)
    train(store, tmp_path, **given)
    before = load_newest(tmp_path / "checkpoints")["objective"]["label_profiles"]
    assert "for the profiles of its labels" in capsys.readouterr().err
    train(store, tmp_path, **given)
    assert "for the profiles" not in capsys.readouterr().err
    after = load_newest(tmp_path / "checkpoints")["objective"]["label_profiles"]
    assert torch.equal(before, after)


def test_how_fields_are_tiled_is_a_matter_of_training_here(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, **options_of(objective=OF_PROFILES))
    other = options_of(objective=OF_PROFILES, spec={"tile": 16})
    with pytest.raises(ConfigError, match="trained with other options"):
        train(store, tmp_path, **other)
