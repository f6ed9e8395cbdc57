"""RandomResizedCrop against torchvision's boxes and its kernel for one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from tasks.preprocess.crops import AREA, ASPECT, batched_crops, random_boxes, resized_crops
from tasks.values import InputSpec


def spec_of(crop: int, interpolation: str = "bilinear") -> InputSpec:
    return InputSpec(
        resize=crop, crop=crop, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(n: int, height: int, width: int) -> torch.Tensor:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 9, 9, 3), dtype=np.uint8)
    bicubic = Image.Resampling.BICUBIC
    images = [np.array(Image.fromarray(c).resize((width, height), bicubic)) for c in coarse]
    return torch.from_numpy(np.stack(images))


def noise(n: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=seeded(9))


def test_random_boxes_follow_torchvisions_distribution() -> None:
    boxes = random_boxes(4000, 100, 160, seeded()).double()
    torch.manual_seed(1)
    crop = v2.RandomResizedCrop(32, scale=AREA, ratio=ASPECT)
    image = torch.zeros(3, 100, 160, dtype=torch.uint8)
    drawn = (crop.make_params([image]) for _ in range(4000))
    theirs = torch.tensor(
        [[p["top"], p["left"], p["height"], p["width"]] for p in drawn], dtype=torch.float64
    )
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 100).all()
    assert (left + width <= 160).all()
    for mine, other in zip(boxes.T, theirs.T, strict=True):
        error = (mine.var() / 4000 + other.var() / 4000).sqrt()
        assert abs(mine.mean() - other.mean()) < 5 * error
        assert mine.std() == pytest.approx(float(other.std()), rel=0.1)


def test_random_boxes_fit_where_no_drawn_ratio_can() -> None:
    for top, left, height, width in random_boxes(50, 4, 300, seeded()).tolist():
        assert 1 <= height <= 4 - top
        assert 1 <= width <= 300 - left
        assert width <= 4 * ASPECT[1]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("images", [smooth, noise])
@pytest.mark.parametrize("crop", [40, 72, 131])  # all shrunk, some of each, all enlarged
def test_batched_crops_are_torchvisions_one_by_one(images, crop: int, interpolation: str) -> None:
    spec, pack_bhwc = spec_of(crop, interpolation), images(6, 80, 110)
    boxes = random_boxes(6, 80, 110, seeded(3))
    mode = InterpolationMode(interpolation)
    expected = torch.stack(
        [
            tv.resized_crop(image.permute(2, 0, 1), *box, [crop, crop], mode, antialias=True)
            for image, box in zip(pack_bhwc, boxes.tolist(), strict=True)
        ]
    ).permute(0, 2, 3, 1)
    assert torch.equal(resized_crops(pack_bhwc, boxes, spec), expected)
    batched = batched_crops(pack_bhwc, boxes, spec)
    assert batched.dtype == torch.uint8
    assert batched.is_contiguous()
    levels = (batched.int() - expected.int()).abs()
    if interpolation == "nearest":
        assert levels.max() == 0
    assert (levels <= 1).float().mean() > 0.9999
    assert (levels == 0).float().mean() > 0.9
    assert levels.max() <= 2


def test_an_image_of_one_colour_stays_of_one_colour() -> None:
    pack_bhwc = torch.full((5, 33, 50, 3), 200, dtype=torch.uint8)
    for interpolation in ("nearest", "bilinear", "bicubic"):
        boxes = random_boxes(5, 33, 50, seeded())
        assert (batched_crops(pack_bhwc, boxes, spec_of(48, interpolation)) == 200).all()


def test_no_pixel_outside_the_box_is_seen() -> None:
    pack_bhwc = torch.full((1, 40, 40, 3), 255, dtype=torch.uint8)
    pack_bhwc[0, 10:22, 7:30] = 90
    for interpolation in ("nearest", "bilinear", "bicubic"):
        box = torch.tensor([[10, 7, 12, 23]])
        assert (batched_crops(pack_bhwc, box, spec_of(32, interpolation)) == 90).all()


def test_nothing_waits_for_the_device() -> None:
    """A meta tensor has no values, so whatever asked for one would fail."""
    pack_bhwc = torch.empty(3, 40, 50, 3, dtype=torch.uint8, device="meta")
    for interpolation in ("nearest", "bilinear", "bicubic"):
        boxes = random_boxes(3, 40, 50, seeded())
        crops = resized_crops(pack_bhwc, boxes, spec_of(32, interpolation))
        assert crops.shape == (3, 32, 32, 3)
