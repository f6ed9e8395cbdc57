"""Mixup and cutmix against torchvision's transforms and their definitions."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, kstest
from torchvision.transforms import v2

from tasks.preprocess.mix import Mix
from tasks.recipe import TrainingConfig


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mix_of(**settings: float) -> Mix:
    return Mix(TrainingConfig(**settings), classes=3)


IMAGES = torch.rand(5, 3, 16, 20, generator=seeded(7)).contiguous(memory_format=torch.channels_last)
LABELS = torch.tensor([0, 1, 2, 2, 0])
SEVERAL = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1.0]])


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.eye(3)[labels] if labels.ndim == 1 else labels.float()


def share_of(mixed_bk: torch.Tensor, labels: torch.Tensor) -> float:
    """Solve mixed = share · own + (1 - share) · neighbour's for the share."""
    own = one_hot(labels)
    other = own.roll(1, 0)
    return float(((mixed_bk - other) * (own - other)).sum() / (own - other).square().sum())


@pytest.mark.parametrize("labels", [LABELS, SEVERAL, SEVERAL.to(torch.uint8)])
def test_mixup_is_a_mean_with_the_neighbour(labels: torch.Tensor) -> None:
    mixed, targets = mix_of(mixup=0.4)(IMAGES, labels, seeded())
    share = share_of(targets, labels)
    assert 0 <= share <= 1
    torch.testing.assert_close(mixed, share * IMAGES + (1 - share) * IMAGES.roll(1, 0))
    own = one_hot(labels)
    torch.testing.assert_close(targets, share * own + (1 - share) * own.roll(1, 0))
    transform = v2.MixUp(alpha=0.4, num_classes=3)
    params = {"lam": share, "labels": labels, "batch_size": 5}
    torch.testing.assert_close(mixed, transform.transform(IMAGES, params))
    torch.testing.assert_close(targets, transform.transform(labels, params))


@pytest.mark.parametrize("labels", [LABELS, SEVERAL])
def test_cutmix_pastes_a_box_of_the_neighbour(labels: torch.Tensor) -> None:
    boxes = 0
    for seed in range(20):
        mixed, targets = mix_of(cutmix=1.0)(IMAGES, labels, seeded(seed))
        pasted = (mixed == IMAGES.roll(1, 0)).all(dim=1)
        assert torch.equal(pasted, pasted[:1].expand_as(pasted))
        kept = (mixed == IMAGES).all(dim=1)
        assert torch.equal(pasted, ~kept)
        rows, columns = pasted[0].any(1), pasted[0].any(0)
        assert torch.equal(pasted[0], rows[:, None] & columns[None])
        share = 1 - float(pasted[0].float().mean())
        own = one_hot(labels)
        torch.testing.assert_close(targets, share * own + (1 - share) * own.roll(1, 0))
        boxes += bool(pasted.any())
    assert boxes > 10


def test_a_seed_repeats_the_mix_and_leaves_the_global_generator_alone() -> None:
    mix = mix_of(mixup=0.2, cutmix=1.0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mix(IMAGES, LABELS, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = mix(IMAGES, LABELS, seeded(3))
    other = mix(IMAGES, LABELS, seeded(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_images_come_back_channels_last_whatever_they_were() -> None:
    for images in (IMAGES, IMAGES.contiguous()):  # as a GPU's roll leaves them
        mixed, _ = mix_of(mixup=0.2)(images, LABELS, seeded())
        assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_the_share_follows_its_beta_distribution() -> None:
    mix, generator = mix_of(mixup=0.3), seeded()
    shares = [share_of(mix(IMAGES, LABELS, generator)[1], LABELS) for _ in range(1000)]
    assert kstest(shares, "beta", args=(0.3, 0.3)).pvalue > 1e-4


def test_with_both_one_is_drawn_for_each_batch() -> None:
    mix, generator = mix_of(mixup=5.0, cutmix=1.0), seeded()
    cut = 0
    for _ in range(400):
        mixed, _ = mix(IMAGES, LABELS, generator)
        cut += bool(((mixed == IMAGES) | (mixed == IMAGES.roll(1, 0))).all())
    assert binomtest(cut, 400, 0.5).pvalue > 1e-4


def test_without_either_nothing_is_touched() -> None:
    mix = mix_of()
    assert not mix.on
    assert mix_of(mixup=0.1).on
    assert mix_of(cutmix=0.1).on
    images, labels = mix(IMAGES, LABELS, seeded())
    assert images is IMAGES
    assert labels is LABELS


def test_mixing_waits_for_no_device() -> None:
    """A meta tensor has no values, so whatever asked for one would fail."""
    images = torch.empty(4, 3, 16, 16, device="meta")
    labels = torch.empty(4, 3, device="meta")
    for settings in ({"mixup": 0.2}, {"cutmix": 1.0}):
        mixed, targets = mix_of(**settings)(images, labels, seeded())
        assert mixed.shape == images.shape
        assert targets.shape == labels.shape
