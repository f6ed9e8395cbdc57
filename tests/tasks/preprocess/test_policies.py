"""RandAugment and TrivialAugment: each operation against torchvision's, and the odds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torchvision.transforms import InterpolationMode, v2

from tasks.preprocess.policies import apply_policy, change, draw_changes

EXACT = {"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"}
TRANSFORMS = {
    "rand_augment": v2.RandAugment(interpolation=InterpolationMode.BILINEAR),
    "trivial_augment": v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR),
}
POLICIES = list(TRANSFORMS)
OPERATIONS = list(v2.RandAugment._AUGMENTATION_SPACE)
BINS = 31


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int, height: int, width: int) -> torch.Tensor:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 9, 9, 3), dtype=np.uint8)
    bicubic = Image.Resampling.BICUBIC
    images = [np.array(Image.fromarray(c).resize((width, height), bicubic)) for c in coarse]
    return torch.from_numpy(np.stack(images))


def theirs(image_hwc: torch.Tensor, policy: str, name: str, magnitude: float) -> torch.Tensor:
    transform = TRANSFORMS[policy]
    changed = transform._apply_image_or_video_transform(
        image_hwc.permute(2, 0, 1),
        name,
        magnitude,
        interpolation=transform.interpolation,
        fill=transform._fill,
    )
    return changed.permute(1, 2, 0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(40, 40), (33, 50)])
def test_an_operation_is_torchvisions(name: str, policy: str, size: tuple[int, int]) -> None:
    """All magnitudes of both signs at once, each image with its own."""
    magnitudes, signed = TRANSFORMS[policy]._AUGMENTATION_SPACE[name]
    table = magnitudes(BINS, *size)
    strengths = [0.0] if table is None else [float(m) for m in table]
    if signed:
        strengths += [-m for m in strengths]
    images = batch(len(strengths), *size) // 2 + 30  # with contrast to gain
    changed = change(images, [(name, m) for m in strengths])
    expected = torch.stack(
        [theirs(image, policy, name, m) for image, m in zip(images, strengths, strict=True)]
    )
    levels = (changed.int() - expected.int()).abs()
    assert levels.max() <= (0 if name in EXACT else 1)
    assert (levels == 0).float().mean() > 0.99  # where a sum is whole, float32 may fall short
    if name != "Identity":
        assert not torch.equal(changed, images)


def test_every_image_gets_the_change_of_its_own() -> None:
    images = batch(len(OPERATIONS) * 2, 32, 32)
    changes = [(name, 0.3 if name != "Posterize" else 4.0) for name in OPERATIONS * 2]
    before = images.clone()
    together = change(images, changes)
    assert torch.equal(images, before)
    for image, one, new in zip(images, changes, together, strict=True):
        alone = change(image[None], [one])[0]
        assert (alone.int() - new.int()).abs().max() <= 1  # a mean over pixels may round otherwise


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_follow_torchvisions_odds(policy: str) -> None:
    n, size = 20000, 64
    drawn = draw_changes(policy, n, size, size, seeded(1))
    names = Counter(name for name, _ in drawn)
    assert set(names) == set(OPERATIONS)
    assert chisquare(list(names.values())).pvalue > 1e-4
    space = TRANSFORMS[policy]._AUGMENTATION_SPACE
    for name, (magnitudes, signed) in space.items():
        table = magnitudes(BINS, size, size)
        seen = Counter(m for drawn_name, m in drawn if drawn_name == name)
        if table is None:
            assert set(seen) == {0.0}
            continue
        levels = table if policy == "trivial_augment" else table[9:10]
        odds: Counter[float] = Counter()
        for level in levels:
            for sign in (1.0, -1.0) if signed else (1.0, 1.0):
                odds[sign * float(level)] += 1  # -0.0 is 0.0
        assert set(seen) <= set(odds)
        total = sum(seen.values())
        expected = [total * odds[m] / sum(odds.values()) for m in odds]
        if len(odds) > 1:
            assert chisquare([seen[m] for m in odds], expected).pvalue > 1e-4


def test_rand_augment_is_two_rounds_and_trivial_augment_one() -> None:
    images = batch(12, 32, 32)
    for policy, rounds in (("rand_augment", 2), ("trivial_augment", 1)):
        generator, expected = seeded(), images
        for _ in range(rounds):
            expected = change(expected, draw_changes(policy, 12, 32, 32, generator))
        assert torch.equal(apply_policy(images, policy, seeded()), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_operation_waits_for_the_device(policy: str) -> None:
    """A meta tensor has no values, so whatever asked for one would fail."""
    images = torch.empty(200, 32, 32, 3, dtype=torch.uint8, device="meta")
    assert apply_policy(images, policy, seeded()).shape == images.shape


def test_an_image_of_two_pixels_can_be_changed() -> None:
    images = batch(40, 2, 2)
    for policy in POLICIES:
        assert apply_policy(images, policy, seeded()).shape == images.shape
