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
from tasks.preprocess.views import eval_view, fitted, normalize, shrink
from tasks.values import InputSpec
from tests.tasks.preprocess.fake_gpu import FakeGpu

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
        assert fitted(pack_bhwc, spec).shape == (2, 32, 32, 3)
        view_bchw = eval_view(pack_bhwc, spec)
        assert torch.equal(pack_bhwc, before)
        assert view_bchw.shape == (2, 3, 32, 32)
        assert view_bchw.dtype == torch.float32
        assert view_bchw.is_contiguous(memory_format=torch.channels_last)


def test_views_import_torch_torchvision_and_values_alone() -> None:
    """The file travels inside the served model."""
    tree = ast.parse(inspect.getsource(views))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names
    }
    outside = {name for name in modules if name.split(".")[0] not in ("torch", "torchvision")}
    assert outside == {"__future__", "functools", "tasks.values"}


def test_means_are_sent_once_and_are_of_use_in_training() -> None:
    """Whoever asked for them first."""
    views._a_row.cache_clear()
    spec = spec_of(32, 32)
    with torch.inference_mode():
        normalize(batch(2, 32, 32), spec)
    weights = torch.ones(32 * 3, requires_grad=True)
    row = views._a_row(spec.std, 32, torch.device("cpu"))
    assert views._a_row.cache_info().misses == 2
    (weights * row).sum().backward()
    assert torch.equal(weights.grad, row)
    assert torch.equal(row, torch.tensor(spec.std).mul(255).repeat(32))
    with FakeGpu() as gpu:
        for _ in range(3):
            normalize(torch.empty(2, 32, 32, 3, dtype=torch.uint8, device="cuda"), spec)
    assert len(gpu.copies) == 2
    views._a_row.cache_clear()
