"""What the network sees: the evaluation view, and the normalisation of every view.

Only torch and torchvision (and tasks.values) are needed, because this file also travels inside
the served model: training, evaluation and serving share these lines, so they cannot drift apart.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tasks.values import InputSpec


def shrink(image_chw: Tensor, spec: InputSpec, size: int) -> Tensor:
    """Resize the short side to ``spec.resize`` px and cut the central ``size`` x ``size`` px.

    Takes uint8 (..., 3, h, w) and gives uint8 (..., 3, size, size), by torchvision's antialiased
    resize and ``center_crop``: the pixels of its ``ImageClassification`` preset by transforms *v2*
    (v1, which resizes Pillow images, may round otherwise).
    """
    mode = InterpolationMode(spec.interpolation)
    resized = tv.resize(image_chw, [spec.resize], interpolation=mode, antialias=True)
    cropped: Tensor = tv.center_crop(resized, [size, size])
    return cropped


def fitted(images_bhwc: Tensor, spec: InputSpec) -> Tensor:
    """Return uint8 (b, crop, crop, 3): a pack at ``(crop, crop)`` as it is, any other shrunk."""
    if images_bhwc.shape[1:3] == (spec.crop, spec.crop):
        return images_bhwc
    return shrink(images_bhwc.permute(0, 3, 1, 2), spec, spec.crop).permute(0, 2, 3, 1)


def eval_view(images_bhwc: Tensor, spec: InputSpec) -> Tensor:
    """Turn uint8 (b, h, w, 3) of a pack into float32 (b, 3, crop, crop), normalised.

    The result is channels_last. A pack at ``(crop, crop)`` holds the evaluation view already; any
    other is shrunk first.
    """
    return normalize(fitted(images_bhwc, spec), spec)


def normalize(images_bhwc: Tensor, spec: InputSpec) -> Tensor:
    """Return (x / 255 - mean) / std of uint8 (b, h, w, 3) as float32 (b, 3, h, w), channels_last.

    Whole rows are treated at once: on a CPU three times as fast as broadcasting over 3 channels.
    """
    b, height, width, _ = images_bhwc.shape
    mean, std = (_a_row(values, width, images_bhwc.device) for values in (spec.mean, spec.std))
    rows = images_bhwc.reshape(b, height, width * 3).to(torch.float32, copy=True)
    return rows.sub_(mean).div_(std).view(b, height, width, 3).permute(0, 3, 1, 2)


@lru_cache(maxsize=32)
def _a_row(values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    """Return a channel's value at every place of a row, float32 (width * 3), on 0 to 255.

    It is sent to a device once, and waited for, since a later batch may come on another stream.
    """
    with torch.inference_mode(False):  # what is made in it cannot be used in training
        return torch.tensor(values).mul(255).repeat(width).to(device)
