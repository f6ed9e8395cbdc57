"""Each corruption against its definition, computed another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage, stats
from torch import Generator, Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from tasks.evaluate.corruption_kinds import KINDS, blur_along

SEVERITIES = range(1, 6)


def scene(side: int) -> Tensor:
    """Return a picture (3, side, side) with a gradient, edges, texture, grey and black in it."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(30, 226, (6, 6, 3), dtype=np.uint8))
    picture = np.array(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(float)
    picture += rng.normal(0, 6, picture.shape)
    third = side // 3
    picture[third : 2 * third, third : 2 * third] = (200, 40, 40)
    picture[:third, :third] = rng.integers(0, 256, (third, third, 1))  # grey
    picture[-third:, :third] = 0
    return torch.from_numpy(picture.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def corrupt(name: str, image: Tensor, severity: int, seed: int = 0) -> Tensor:
    return KINDS[name].corrupt(image, severity, Generator().manual_seed(seed))


def units(image: Tensor) -> np.ndarray:
    """Return float64 (h, w, 3) in 0 to 1."""
    return image.permute(1, 2, 0).numpy().astype(np.float64) / 255


def psnr(image: Tensor, corrupted: Tensor) -> float:
    return float(-10 * np.log10(np.mean((units(image) - units(corrupted)) ** 2)))


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "saturate"])
def test_each_severity_is_worse_than_the_one_before(name: str, side: int):
    images = [scene(side).roll((k, k), dims=(1, 2)) for k in range(5)]
    ratios = [
        np.mean([psnr(image, corrupt(name, image, severity)) for image in images])
        for severity in SEVERITIES
    ]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[4] < ratios[0] - 2
    assert 3 < ratios[4] < 30


@pytest.mark.parametrize("name", KINDS)
def test_an_image_stays_an_image_and_the_same_seed_gives_the_same(name: str):
    image = scene(40)
    before = image.clone()
    found = corrupt(name, image, 3)
    assert found.shape == image.shape
    assert found.dtype == torch.uint8
    assert torch.equal(found, corrupt(name, image, 3))
    assert torch.equal(image, before)
    noisy = name.endswith("_noise") or name == "motion_blur"
    assert torch.equal(found, corrupt(name, image, 3, seed=1)) is not noisy


@pytest.mark.parametrize(("side", "deviation"), [(224, 0.18), (32, 0.08), (84, 0.08), (85, 0.18)])
def test_gaussian_noise_has_the_published_deviation_of_the_nearer_size(side, deviation):
    grey = torch.full((3, side, side), 128, dtype=torch.uint8)
    noise = units(corrupt("gaussian_noise", grey, 3)) - 128 / 255
    normal = stats.norm(scale=deviation)
    expected = normal.expect(lambda x: np.clip(x, -128 / 255, 127 / 255) ** 2)
    four_deviations = 4 * (2 / noise.size) ** 0.5
    assert np.mean(noise**2) == pytest.approx(expected, rel=four_deviations)


def test_shot_noise_is_poisson():
    grey = torch.full((3, 224, 224), 102, dtype=torch.uint8)  # 0.4
    values = units(corrupt("shot_noise", grey, 1)) * 60
    counts = np.round(values)
    assert np.abs(values - counts).max() < 60 / 255  # whole photons, to a grey level
    assert counts.mean() == pytest.approx(24, abs=0.1)
    assert counts.var() == pytest.approx(24, rel=0.02)


def test_impulse_noise_sets_a_share_of_the_values():
    grey = torch.full((3, 224, 224), 128, dtype=torch.uint8)
    found = corrupt("impulse_noise", grey, 5)
    assert set(found.unique().tolist()) == {0, 128, 255}
    assert (found == 0).float().mean() == pytest.approx(0.135, abs=0.005)
    assert (found == 255).float().mean() == pytest.approx(0.135, abs=0.005)


@pytest.mark.parametrize(
    ("side", "severity", "deviation"), [(224, 5, 6.0), (112, 5, 3.0), (32, 3, 0.7), (48, 3, 1.05)]
)
def test_gaussian_blur_is_scipys_and_grows_with_the_side(side, severity, deviation):
    image = scene(side)
    expected = ndimage.gaussian_filter(
        units(image), (deviation, deviation, 0), mode="mirror", truncate=4.0
    )
    found = units(corrupt("gaussian_blur", image, severity))
    assert np.abs(found - expected).max() <= 0.51 / 255


@pytest.mark.parametrize(("angle", "step"), [(0, (0, 1)), (90, (1, 0)), (45, None)])
def test_motion_blur_is_half_a_gaussian_along_a_line(angle, step):
    image = scene(40)
    found = units(blur_along(image, 4, 2.5, angle))
    weights = np.exp(-(np.arange(9) ** 2) / (2 * 2.5**2))
    weights /= weights.sum()
    kernel = np.zeros((17, 17))
    for i, weight in enumerate(weights):
        dy, dx = (i * step[0], i * step[1]) if step else (round(i / 2**0.5), round(i / 2**0.5))
        kernel[8 + dy, 8 + dx] += weight
    expected = np.stack(
        [ndimage.correlate(units(image)[..., c], kernel, mode="nearest") for c in range(3)], axis=-1
    )
    assert np.abs(found - expected).max() <= 0.51 / 255


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [32, 224])
def test_brightness_and_saturation_are_those_of_hsv(side: int, severity: int):
    image = scene(side)
    more = (KINDS["brightness"].imagenet if side == 224 else KINDS["brightness"].cifar)[
        severity - 1
    ]
    hsv = rgb_to_hsv(units(image))
    brighter = np.dstack((hsv[..., 0], hsv[..., 1], np.clip(hsv[..., 2] + more[0], 0, 1)))
    found = units(corrupt("brightness", image, severity))
    assert np.abs(found - hsv_to_rgb(brighter)).max() <= 0.51 / 255
    kind = KINDS["saturate"]
    factor, added = (kind.imagenet if side == 224 else kind.cifar)[severity - 1]
    richer = np.dstack((hsv[..., 0], np.clip(hsv[..., 1] * factor + added, 0, 1), hsv[..., 2]))
    found = units(corrupt("saturate", image, severity))
    assert np.abs(found - hsv_to_rgb(richer)).max() <= 0.51 / 255


def test_contrast_keeps_the_mean_and_shrinks_the_deviation():
    image = scene(224)
    before, after = units(image), units(corrupt("contrast", image, 2))
    np.testing.assert_allclose(after.mean(axis=(0, 1)), before.mean(axis=(0, 1)), atol=1e-3)
    np.testing.assert_allclose(after.std(axis=(0, 1)), 0.3 * before.std(axis=(0, 1)), rtol=0.01)


def test_pixels_are_means_of_blocks():
    image = scene(240)
    block = units(image).reshape(60, 4, 60, 4, 3).mean(axis=(1, 3))
    found = units(corrupt("pixelate", image, 5))  # a quarter of the side
    assert (
        np.abs(found - block.repeat(4, axis=0).repeat(4, axis=1)).max() <= 1.01 / 255
    )  # rows, then columns


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
@pytest.mark.parametrize(("side", "quality"), [(224, 15), (32, 58)])
def test_jpeg_is_torchvisions(side: int, quality: int):
    image = scene(side)
    expected = units(decode_jpeg(encode_jpeg(image.contiguous(), quality)))
    difference = np.abs(units(corrupt("jpeg", image, 3)) - expected)
    assert difference.mean() < 0.5 / 255
    assert np.quantile(difference, 0.99) <= 2 / 255
