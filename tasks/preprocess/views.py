"""What the network sees: the evaluation view and the augmented training views.

Only torch and torchvision (and tasks.values) are needed, because this file also travels inside
the served model: training, evaluation and serving share these lines, so they cannot drift apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tasks.values import InputSpec

# RandomResizedCrop (Szegedy et al. 2015, as in torchvision). The area starts at 0.35, not 0.08:
# fine-tuning runs are short, and on small data the hardest crops cost more than they teach.
AREA = (0.35, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10
# Small-image networks (CIFAR's 32 px) are trained on shifted images instead: zeros are put around
# the image, 4 px at 32 px, and a crop is taken at random (He et al. 2016, section 4.2).
SMALL_SIDE = 64  # px
PAD_SHARE = 8  # of the side


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


def eval_view(images_bhwc: Tensor, spec: InputSpec) -> Tensor:
    """Turn uint8 (b, h, w, 3) of a pack into float32 (b, 3, crop, crop), normalised.

    The result is channels_last. A pack at ``(crop, crop)`` holds the evaluation view already; any
    other is shrunk first.
    """
    if images_bhwc.shape[1:3] != (spec.crop, spec.crop):
        images_bhwc = shrink(images_bhwc.permute(0, 3, 1, 2), spec, spec.crop).permute(0, 2, 3, 1)
    return _normalize(images_bhwc, spec)


def train_view(
    images_bhwc: Tensor, spec: InputSpec, augment: str, generator: torch.Generator
) -> Tensor:
    """Augment uint8 (b, h, w, 3) of a pack into float32 (b, 3, crop, crop), normalised.

    ``augment`` is ``none`` (the evaluation view), ``flip`` (mirrored left to right with
    probability 1/2), ``crop`` (RandomResizedCrop; on a pack at the own size of a network of at
    most 64 px: pad and crop, He et al. 2016) or ``crop_flip``. Every random number is drawn from
    ``generator``, on the CPU, so that a seed gives the same views on any device.
    """
    b, height, width, _ = images_bhwc.shape
    if augment.endswith("flip"):
        images_bhwc = _mirrored(images_bhwc, torch.rand(b, generator=generator) < 1 / 2)
    if not augment.startswith("crop"):
        return eval_view(images_bhwc, spec)
    if height == width == spec.crop <= SMALL_SIDE:
        return _normalize(_shifted(images_bhwc, generator), spec)
    boxes = random_boxes(b, height, width, generator)
    return _normalize(_resized_crops(images_bhwc, boxes, spec), spec)


def random_boxes(
    n: int, height: int, width: int, generator: torch.Generator
) -> list[tuple[int, int, int, int]]:
    """Draw ``n`` boxes (top, left, height, width), px, as RandomResizedCrop does.

    Where none of ten tries fits into the image, the first one is cut down to fit.
    """
    share, aspect, x, y = torch.rand(4, n, TRIES, generator=generator)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * share)
    ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect  # uniform in the logarithm
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    first = ((widths <= width) & (heights <= height)).float().argmax(1, keepdim=True)
    w = widths.gather(1, first)[:, 0].clamp(1, min(width, height * ASPECT[1]))
    h = heights.gather(1, first)[:, 0].clamp(1, min(height, width / ASPECT[0]))
    w, h = w.floor(), h.floor()
    top, left = ((height - h + 1) * y[:, 0]).floor(), ((width - w + 1) * x[:, 0]).floor()
    boxes = torch.stack((top, left, h, w), dim=1).long().tolist()
    return [(box[0], box[1], box[2], box[3]) for box in boxes]


def _mirrored(images_bhwc: Tensor, chosen_b: Tensor) -> Tensor:
    chosen = _to(chosen_b, images_bhwc.device).view(-1, 1, 1, 1)
    return torch.where(chosen, images_bhwc.flip(2), images_bhwc)


def _resized_crops(
    images_bhwc: Tensor, boxes: list[tuple[int, int, int, int]], spec: InputSpec
) -> Tensor:
    """Scale each image's box to uint8 (b, crop, crop, 3), antialiased.

    One image at a time: on a CPU torchvision's uint8 kernel is three times as fast as one float
    ``grid_sample`` for the batch, which has no antialiasing either. No call waits for the device.
    """
    mode, size = InterpolationMode(spec.interpolation), [spec.crop, spec.crop]
    views = images_bhwc.new_empty((len(boxes), spec.crop, spec.crop, 3))
    for image_hwc, box, view_hwc in zip(images_bhwc, boxes, views, strict=True):
        image_chw = image_hwc.permute(2, 0, 1)
        crop_chw = tv.resized_crop(image_chw, *box, size, interpolation=mode, antialias=True)
        view_hwc.copy_(crop_chw.permute(1, 2, 0))
    return views


def _shifted(images_bhwc: Tensor, generator: torch.Generator) -> Tensor:
    """Pad with zeros and crop at random back to the same size, uint8 (b, h, w, 3)."""
    b, side = images_bhwc.shape[:2]
    pad = side // PAD_SHARE
    padded = F.pad(images_bhwc, (0, 0, pad, pad, pad, pad))
    starts = torch.randint(0, 2 * pad + 1, (2, b, 1), generator=generator)
    rows, columns = _to(starts + torch.arange(side), images_bhwc.device)
    images = torch.arange(b, device=images_bhwc.device)
    return padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def _normalize(images_bhwc: Tensor, spec: InputSpec) -> Tensor:
    """Return (x / 255 - mean) / std as float32 (b, 3, h, w), channels_last.

    Whole rows are treated at once: on a CPU three times as fast as broadcasting over 3 channels.
    """
    b, height, width, _ = images_bhwc.shape
    mean, std = (
        _to(torch.tensor(values).mul(255).repeat(width), images_bhwc.device)
        for values in (spec.mean, spec.std)
    )
    rows = images_bhwc.reshape(b, height, width * 3).to(torch.float32, copy=True)
    return rows.sub_(mean).div_(std).view(b, height, width, 3).permute(0, 3, 1, 2)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
