"""Ten common corruptions of images, each at five severities.

Constants and definitions are those of ImageNet-C and CIFAR-10-C (Hendrycks & Dietterich 2019,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", with the authors'
``make_imagenet_c.py`` and ``make_cifar_c.py``). Those are for 224 and for 32 px: an image takes the
constants of the size that it is nearer to in proportion, and lengths in pixels, the blurs' radii
and standard deviations, grow with its side. Snow, frost and the others that need pictures of their
own or a second image library are left out.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, radians, sin

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as tv

Constants = tuple[float, ...]
# (image uint8 (3, h, w), constants, h / published side, random numbers) to uint8 (3, h, w)
Apply = Callable[[Tensor, Constants, float, Generator], Tensor]

_IMAGENET, _CIFAR = 224, 32  # px
_STEEPEST = 45.0  # degrees of a motion from the horizontal
_TRUNCATE = 4.0  # standard deviations, beyond which a Gaussian is cut off


@dataclass(frozen=True)
class Kind:
    """One corruption, with its constants of severity 1 to 5 for both published sizes."""

    apply: Apply
    imagenet: tuple[Constants, ...]
    cifar: tuple[Constants, ...]

    def corrupt(self, image_chw: Tensor, severity: int, generator: Generator) -> Tensor:
        """Return a uint8 (3, h, w) image on the CPU, corrupted at ``severity`` 1 to 5.

        Random numbers are drawn from ``generator``.
        """
        side = image_chw.shape[-2]
        small = side**2 < _IMAGENET * _CIFAR
        constants, published = (self.cifar, _CIFAR) if small else (self.imagenet, _IMAGENET)
        return self.apply(image_chw, constants[severity - 1], side / published, generator)


def _unit(image_chw: Tensor) -> Tensor:
    return image_chw.float() / 255


def _whole(unit_chw: Tensor) -> Tensor:
    return (unit_chw.clamp(0, 1) * 255).round().to(torch.uint8)


def gaussian_noise(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Add normal noise of a standard deviation, on the scale 0 to 1."""
    (deviation,) = constants
    return _whole(_unit(image) + deviation * torch.randn(image.shape, generator=random))


def shot_noise(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Count photons (Poisson), as many as a constant in a white pixel on average."""
    (photons,) = constants
    return _whole(torch.poisson(_unit(image) * photons, generator=random) / photons)


def impulse_noise(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Set a share of the values to 0 or 255, either with equal probability."""
    (share,) = constants
    hit, white = (torch.rand(image.shape, generator=random) for _ in range(2))
    return torch.where(hit < share, torch.where(white < 0.5, 255, 0), image).to(torch.uint8)


def gaussian_blur(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Blur by a Gaussian of a standard deviation in published pixels, along rows, then columns."""
    deviation = constants[0] * scale
    size = 2 * int(_TRUNCATE * deviation + 0.5) + 1
    if size == 1:
        return image
    across = tv.gaussian_blur(_unit(image), [size, 1], [deviation, deviation])
    return _whole(tv.gaussian_blur(across, [1, size], [deviation, deviation]))


def motion_blur(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Blur along a line at a random angle up to 45 degrees from the horizontal."""
    radius, deviation = constants
    angle = _STEEPEST * (2 * torch.rand((), generator=random).item() - 1)
    return blur_along(image, radius * scale, deviation * scale, angle)


def blur_along(image: Tensor, radius: float, deviation: float, angle: float) -> Tensor:
    """Blur a uint8 (3, h, w) image along one direction, as ImageMagick's ``-motion-blur``.

    Half a Gaussian of ``deviation`` px, cut off after 2 ``radius`` px, is laid from each pixel in
    the direction of ``angle`` (degrees, clockwise from the right); edges are repeated.
    """
    steps = 2 * ceil(radius) + 1
    weights = torch.exp(-(torch.arange(steps) ** 2) / (2 * deviation**2))
    height, width = image.shape[-2:]
    padded = pad(_unit(image)[None], [steps] * 4, mode="replicate")[0]
    blurred = torch.zeros(image.shape)
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        top = steps + ceil(step * sin(radians(angle)) - 0.5)
        left = steps + ceil(step * cos(radians(angle)) - 0.5)
        blurred += weight * padded[:, top : top + height, left : left + width]
    return _whole(blurred)


def brightness(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Add to the value of HSV; hue and saturation stay, so that channels keep their ratio."""
    (more,) = constants
    unit = _unit(image)
    value = unit.amax(dim=0, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return _whole(torch.where(value > 0, unit * brighter / value, brighter))


def saturate(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Multiply the saturation of HSV and add to it; hue and value stay. Grey has the hue of red."""
    factor, more = constants
    unit = _unit(image)
    value = unit.amax(dim=0, keepdim=True)
    chroma = value - unit.amin(dim=0, keepdim=True)
    red = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    hue = torch.where(chroma > 0, (value - unit) / chroma, red)  # 0 in the strongest channel
    saturation = torch.where(value > 0, chroma / value, 0.0)
    return _whole(value * (1 - hue * (factor * saturation + more).clamp(0, 1)))


def contrast(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Draw every value towards its channel's mean in the image."""
    (factor,) = constants
    unit = _unit(image)
    mean = unit.mean(dim=(1, 2), keepdim=True)
    return _whole((unit - mean) * factor + mean)


def pixelate(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Shrink to a share of the side by Pillow's box filter, and enlarge again by it."""
    height, width = image.shape[-2:]
    small = (max(1, int(width * constants[0])), max(1, int(height * constants[0])))
    coarse = _picture(image).resize(small, Image.Resampling.BOX)
    return _tensor(coarse.resize((width, height), Image.Resampling.BOX))


def jpeg(image: Tensor, constants: Constants, scale: float, random: Generator) -> Tensor:
    """Encode as JPEG at a quality of 1 to 100, and decode; by Pillow, as torchvision's goes."""
    content = io.BytesIO()
    _picture(image).save(content, "jpeg", quality=int(constants[0]))
    return _tensor(Image.open(content))


def _picture(image_chw: Tensor) -> Image.Image:
    return Image.fromarray(image_chw.permute(1, 2, 0).numpy())


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _each(*values: float) -> tuple[Constants, ...]:
    return tuple((value,) for value in values)


KINDS: dict[str, Kind] = {
    "gaussian_noise": Kind(
        gaussian_noise, _each(0.08, 0.12, 0.18, 0.26, 0.38), _each(0.04, 0.06, 0.08, 0.09, 0.10)
    ),
    "shot_noise": Kind(shot_noise, _each(60, 25, 12, 5, 3), _each(500, 250, 100, 75, 50)),
    "impulse_noise": Kind(
        impulse_noise, _each(0.03, 0.06, 0.09, 0.17, 0.27), _each(0.01, 0.02, 0.03, 0.05, 0.07)
    ),
    "gaussian_blur": Kind(gaussian_blur, _each(1, 2, 3, 4, 6), _each(0.4, 0.6, 0.7, 0.8, 1)),
    "motion_blur": Kind(
        motion_blur,
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ),
    "brightness": Kind(
        brightness, _each(0.1, 0.2, 0.3, 0.4, 0.5), _each(0.05, 0.1, 0.15, 0.2, 0.3)
    ),
    "contrast": Kind(contrast, _each(0.4, 0.3, 0.2, 0.1, 0.05), _each(0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": Kind(
        saturate,
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    ),
    "pixelate": Kind(pixelate, _each(0.6, 0.5, 0.4, 0.3, 0.25), _each(0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": Kind(jpeg, _each(25, 18, 15, 10, 7), _each(80, 65, 58, 50, 40)),
}
