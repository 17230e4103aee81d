"""Projection heads: cosines to prototypes, lengths, batch normalisation."""

from __future__ import annotations

import pytest
import torch

from wsdino.train.head import BatchNorm, DINOHead, logits


def test_the_head_gives_scaled_cosines_to_its_prototypes() -> None:
    torch.manual_seed(0)
    head = DINOHead(16, 10, hidden_dim=12, bottleneck_dim=6, norm_last_layer=False)
    head.gain.data.uniform_(0.5, 2)
    x = torch.randn(5, 16)
    found = logits(*head(x))
    z = head.mlp(x)
    for i in range(5):
        for k in range(10):
            cosine = torch.nn.functional.cosine_similarity(z[i], head.prototypes[k], dim=0)
            torch.testing.assert_close(found[i, k], head.gain[k, 0] * cosine)
    assert {id(p) for p in head.last_layer} == {id(head.prototypes), id(head.gain)}


def test_lengths_are_normalised_in_float32_under_autocast() -> None:
    head = DINOHead(16, 10)
    with torch.autocast("cpu", torch.bfloat16):
        unit, *_ = factors = head(torch.randn(5, 16))
        scores = logits(*factors)
    assert unit.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(5))
    assert scores.abs().max() <= 1.01


def test_a_normalised_last_layer_keeps_its_gain() -> None:
    assert not DINOHead(4, 3, norm_last_layer=True).gain.requires_grad
    assert DINOHead(4, 3, norm_last_layer=False).gain.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs_own_without_running_statistics(training: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm(6), torch.nn.BatchNorm1d(6, track_running_stats=False)
    for norm in (ours, theirs):
        torch.manual_seed(1)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        norm.train(training)
    x = 100 + torch.randn(9, 6)
    grads = []
    for norm in (ours, theirs):
        images = x.clone().requires_grad_()
        # Ours takes views of images too, and makes no difference between them.
        found = norm(images.unflatten(0, (3, 3))).flatten(0, 1) if norm is ours else norm(images)
        (found * torch.arange(54.0).reshape(9, 6)).sum().backward()
        grads.append((found.detach(), images.grad, norm.weight.grad, norm.bias.grad))
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert not dict(ours.named_buffers())


def test_the_head_normalises_over_the_batch_where_it_is_told_to() -> None:
    torch.manual_seed(0)
    shared = 50 + torch.randn(1, 16)
    images = shared + 0.1 * torch.randn(64, 16)
    plain, normed = (
        DINOHead(16, 10, hidden_dim=32, bottleneck_dim=6, batch_norm=enabled)(images)[0]
        for enabled in (False, True)
    )
    # What all images share hides what tells them apart, unless it is taken away.
    assert (plain @ plain.T).min() > 0.99
    assert (normed @ normed.T).min() < 0
