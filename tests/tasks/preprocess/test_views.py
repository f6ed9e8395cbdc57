"""The views against torchvision's presets and transforms, and against PIL."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2 import functional as tv

from tasks.preprocess import views
from tasks.preprocess.views import AREA, ASPECT, eval_view, random_boxes, shrink, train_view
from tasks.values import InputSpec

PIL_MODES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

SIZES = [(300, 431), (512, 80), (32, 32), (90, 91)]


def spec_of(resize: int, crop: int, interpolation: str = "bilinear") -> InputSpec:
    return InputSpec(
        resize=resize,
        crop=crop,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation=interpolation,
    )


def preset(spec: InputSpec) -> ImageClassification:
    return ImageClassification(
        crop_size=spec.crop,
        resize_size=spec.resize,
        mean=spec.mean,
        std=spec.std,
        interpolation=InterpolationMode(spec.interpolation),
    )


def smooth(height: int, width: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def chw(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def batch(n: int, height: int, width: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(smooth(height, width, i))) for i in range(n)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_views_equal_torchvisions_uint8_transforms(
    height: int, width: int, interpolation: str
) -> None:
    spec = spec_of(73, 64, interpolation)
    mode = InterpolationMode(interpolation)
    pixels = v2.Compose([v2.Resize(73, interpolation=mode, antialias=True), v2.CenterCrop(64)])
    floats = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)])
    image_chw = chw(smooth(height, width))
    packed_chw = shrink(image_chw, spec, spec.crop)
    assert torch.equal(packed_chw, pixels(image_chw))
    expected = floats(packed_chw)
    from_crop = eval_view(packed_chw.permute(1, 2, 0)[None], spec)[0]
    from_native = eval_view(image_chw.permute(1, 2, 0)[None], spec)[0]
    torch.testing.assert_close(from_crop, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(from_native, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_evaluation_view_is_the_preset_of_torchvisions_weights(
    height: int, width: int, interpolation: str
) -> None:
    """The preset on PIL images is what torchvision's published accuracies were measured with."""
    spec = spec_of(73, 64, interpolation)
    image = smooth(height, width)
    view = eval_view(chw(image).permute(1, 2, 0)[None], spec)[0]
    levels = (view - preset(spec)(image)).abs() * torch.tensor(spec.std)[:, None, None] * 255
    assert levels.max() <= 2.01
    assert (levels < 0.01).float().mean() > 0.97  # rounding aside, the same pixels


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(300, 431), (40, 52)])
def test_shrink_is_within_two_levels_of_pil(height: int, width: int, interpolation: str) -> None:
    spec = spec_of(64, 64, interpolation)
    image = smooth(height, width)
    resized = image.resize((int(64 * width / height), 64), PIL_MODES[interpolation])
    expected = tv.center_crop(chw(resized), [64, 64])
    difference = shrink(chw(image), spec, 64).int() - expected.int()
    assert difference.abs().max() <= 2


def test_evaluation_view_of_a_square_pack_is_its_centre() -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(3, 40, 40)
    expected = eval_view(pack_bhwc[:, 4:36, 4:36], spec)
    assert torch.equal(eval_view(pack_bhwc, spec), expected)


def test_views_are_channels_last_float32_and_leave_the_pack_alone() -> None:
    spec = spec_of(40, 32)
    for side in (32, 40, 20):
        pack_bhwc = batch(2, side, side)
        before = pack_bhwc.clone()
        made = [eval_view(pack_bhwc, spec)]
        made += [
            train_view(pack_bhwc, spec, augment, seeded())
            for augment in ("none", "flip", "crop", "crop_flip")
        ]
        assert torch.equal(pack_bhwc, before)
        for view_bchw in made:
            assert view_bchw.shape == (2, 3, 32, 32)
            assert view_bchw.dtype == torch.float32
            assert view_bchw.is_contiguous(memory_format=torch.channels_last)


def test_no_augmentation_is_the_evaluation_view() -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(3, 40, 40)
    assert torch.equal(train_view(pack_bhwc, spec, "none", seeded()), eval_view(pack_bhwc, spec))


def test_flip_mirrors_half_of_the_images_and_changes_nothing_else() -> None:
    spec = spec_of(32, 32)
    pack_bhwc = batch(1, 32, 32).expand(400, -1, -1, -1)
    seen = train_view(pack_bhwc, spec, "flip", seeded())
    plain = eval_view(pack_bhwc[:1], spec)[0]
    same = (seen == plain).flatten(1).all(1)
    mirrored = (seen == plain.flip(2)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations of a fair coin


def test_random_boxes_follow_torchvisions_distribution() -> None:
    boxes = torch.tensor(random_boxes(4000, 100, 160, seeded()), dtype=torch.float64)
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
    for top, left, height, width in random_boxes(50, 4, 300, seeded()):
        assert 1 <= height <= 4 - top
        assert 1 <= width <= 300 - left
        assert width <= 4 * ASPECT[1]


def test_crop_is_torchvisions_resized_crop_of_the_drawn_boxes() -> None:
    spec = spec_of(80, 72)
    pack_bhwc = batch(4, 80, 80)
    seen = train_view(pack_bhwc, spec, "crop", seeded(5))
    boxes = random_boxes(4, 80, 80, seeded(5))
    crops = [
        tv.resized_crop(image.permute(2, 0, 1), *box, [72, 72], antialias=True)
        for image, box in zip(pack_bhwc, boxes, strict=True)
    ]
    expected = tv.normalize(torch.stack(crops) / 255, list(spec.mean), list(spec.std))
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-6)


def test_crop_at_a_small_networks_own_size_pads_and_shifts() -> None:
    spec = spec_of(32, 32)
    pack_bhwc = batch(60, 32, 32)
    seen = train_view(pack_bhwc, spec, "crop", seeded())
    padded = torch.nn.functional.pad(pack_bhwc, (0, 0, 4, 4, 4, 4))  # He et al. 2016: 4 px of 32
    shifts = set()
    for view, image in zip(seen, padded, strict=True):
        windows = {
            (y, x): eval_view(image[None, y : y + 32, x : x + 32], spec)[0]
            for y in range(9)
            for x in range(9)
        }
        found = [shift for shift, window in windows.items() if torch.equal(view, window)]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 25
    assert {y for y, _ in shifts} == set(range(9)) == {x for _, x in shifts}


@pytest.mark.parametrize("augment", ["flip", "crop", "crop_flip"])
@pytest.mark.parametrize("side", [32, 40, 16])
def test_a_seed_repeats_the_views_exactly(augment: str, side: int) -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(8, side, side)
    torch.manual_seed(1)
    first = train_view(pack_bhwc, spec, augment, seeded(3))
    torch.manual_seed(2)  # the global generator plays no part
    assert torch.equal(first, train_view(pack_bhwc, spec, augment, seeded(3)))
    assert not torch.equal(first, train_view(pack_bhwc, spec, augment, seeded(4)))


def test_views_import_torch_torchvision_and_values_alone() -> None:
    """The file travels inside the served model."""
    tree = ast.parse(inspect.getsource(views))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names
    }
    outside = {name for name in modules if name.split(".")[0] not in ("torch", "torchvision")}
    assert outside == {"__future__", "tasks.values"}
