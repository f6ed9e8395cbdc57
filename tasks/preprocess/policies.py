"""RandAugment and TrivialAugment for whole batches, each image with a change of its own.

The operations, their ranges and their odds are torchvision's. Its own transforms change one image
a call; here the images of a batch that get the same operation are changed at once, however strong
the operation is for each, so that a GPU runs a dozen calls a batch rather than one an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

Change = tuple[str, float]  # an operation by torchvision's name, and its magnitude
Kernel = Callable[[Tensor, list[Change]], Tensor]  # of uint8 (n, 3, h, w)

_RAND, _TRIVIAL = v2.RandAugment(), v2.TrivialAugmentWide()
# Cubuk et al. 2020 apply two operations to an image, Müller & Hutter 2021 one
_ROUNDS = {"rand_augment": _RAND.num_ops, "trivial_augment": 1}


def apply_policy(images_bhwc: Tensor, policy: str, generator: torch.Generator) -> Tensor:
    """Change uint8 (b, h, w, 3) by ``rand_augment`` or ``trivial_augment``.

    RandAugment (Cubuk et al. 2020): two operations at magnitude 9 of 30. TrivialAugment, wide
    (Müller & Hutter 2021): one at a magnitude drawn evenly. What moves is interpolated linearly,
    and what moves in is black. Draws from ``generator``, on the CPU; no call waits for the device.
    """
    b, height, width, _ = images_bhwc.shape
    for _ in range(_ROUNDS[policy]):
        images_bhwc = change(images_bhwc, draw_changes(policy, b, height, width, generator))
    return images_bhwc


def draw_changes(
    policy: str, n: int, height: int, width: int, generator: torch.Generator
) -> list[Change]:
    """Draw an operation, its magnitude and its sign for each of ``n`` images."""
    transform = _RAND if policy == "rand_augment" else _TRIVIAL
    bins = transform.num_magnitude_bins
    space = [
        (name, magnitudes(bins, height, width), signed)
        for name, (magnitudes, signed) in transform._AUGMENTATION_SPACE.items()
    ]
    drawn = torch.randint(len(space), (n,), generator=generator).tolist()
    strengths = torch.randint(bins, (n,), generator=generator).tolist()
    negative = (torch.rand(n, generator=generator) < 1 / 2).tolist()
    changes = []
    for operation, strength, minus in zip(drawn, strengths, negative, strict=True):
        name, magnitudes, signed = space[operation]
        level = _RAND.magnitude if policy == "rand_augment" else strength
        magnitude = 0.0 if magnitudes is None else float(magnitudes[level])
        changes.append((name, -magnitude if signed and minus else magnitude))
    return changes


def change(images_bhwc: Tensor, changes: list[Change]) -> Tensor:
    """Apply to each image of uint8 (b, h, w, 3) the change of its own."""
    changed_bhwc = images_bhwc.clone()
    for kernel in dict.fromkeys(_KERNELS.values()):
        rows = [i for i, (name, _) in enumerate(changes) if _KERNELS.get(name) is kernel]
        if rows:
            index = torch.tensor(rows).to(images_bhwc.device, non_blocking=True)
            some_nchw = images_bhwc.index_select(0, index).permute(0, 3, 1, 2)
            new_nchw = kernel(some_nchw, [changes[i] for i in rows])
            changed_bhwc.index_copy_(0, index, new_nchw.permute(0, 2, 3, 1))
    return changed_bhwc


def _moved(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    """Shear, translate or rotate, all in one ``grid_sample``."""
    height, width = images_nchw.shape[2:]
    matrices = torch.tensor([_inverse(*each, height, width) for each in changes])
    # affine_grid counts in halves of each side
    units = torch.tensor([[1, height / width, 2 / width], [width / height, 1, 2 / height]])
    theta = (matrices.view(-1, 2, 3) * units).to(images_nchw.device, non_blocking=True)
    grid = F.affine_grid(theta, list(images_nchw.shape), align_corners=False)
    moved = F.grid_sample(images_nchw.to(torch.float32), grid, align_corners=False)
    return moved.round_().to(torch.uint8)


def _inverse(name: str, magnitude: float, height: int, width: int) -> tuple[float, ...]:
    """Return where a pixel comes from, px about the centre: a, b, c, d, e, f of ax + by + c, …."""
    if name == "Rotate":
        cos, sin = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        return cos, -sin, 0.0, sin, cos, 0.0
    return {  # shears leave the first row or column where it is
        "ShearX": (1.0, magnitude, magnitude * height / 2, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, magnitude, 1.0, magnitude * width / 2),
        "TranslateX": (1.0, 0.0, -float(int(magnitude)), 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(magnitude))),
    }[name]


def _blended(plain: Tensor, images_nchw: Tensor, changes: list[Change]) -> Tensor:
    """Return factor · image + (1 - factor) · plain: PIL's ImageEnhance, as torchvision rounds."""
    factor = _factors(images_nchw, changes)
    return _levels(images_nchw * factor + plain * (1 - factor))


def _factors(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    return _column([1 + magnitude for _, magnitude in changes], images_nchw)


def _levels(pixels: Tensor) -> Tensor:
    return pixels.clamp_(0, 255).to(torch.uint8)


def _brightness(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    return _blended(torch.zeros_like(images_nchw), images_nchw, changes)


def _color(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    return _blended(tv.rgb_to_grayscale(images_nchw), images_nchw, changes)


def _contrast(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    grey = tv.rgb_to_grayscale(images_nchw).to(torch.float32)
    return _blended(grey.mean(dim=(1, 2, 3), keepdim=True), images_nchw, changes)


def _sharpness(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    """Blend with PIL's SMOOTH filter: 5/13 of a pixel and 1/13 of each neighbour, no border."""
    smooth = images_nchw.to(torch.float32, copy=True)
    if min(smooth.shape[2:]) > 2:
        inner = smooth[:, :, 1:-1, 1:-1]
        inner.copy_(((9 * F.avg_pool2d(smooth, 3, stride=1) + 4 * inner) / 13).round_())
    images = images_nchw.to(torch.float32)
    return _levels(images + (smooth - images) * (1 - _factors(images, changes)))


def _posterize(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    kept = [256 - 2 ** (8 - int(bits)) for _, bits in changes]
    return images_nchw & _column(kept, images_nchw, torch.uint8)


def _solarize(images_nchw: Tensor, changes: list[Change]) -> Tensor:
    threshold = _column([255 * share for _, share in changes], images_nchw)
    return torch.where(images_nchw >= threshold, 255 - images_nchw, images_nchw)


def _autocontrast(images_nchw: Tensor, _: list[Change]) -> Tensor:
    stretched: Tensor = tv.autocontrast(images_nchw)
    return stretched


def _equalize(images_nchw: Tensor, _: list[Change]) -> Tensor:
    equal: Tensor = tv.equalize(images_nchw)
    return equal


def _column(values: list[float], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    column = torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1)
    return column.to(like.device, non_blocking=True)


_KERNELS: dict[str, Kernel] = {
    **dict.fromkeys(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"), _moved),
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}  # Identity has none
