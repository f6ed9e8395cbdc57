"""RandomResizedCrop of whole batches: where the boxes lie, and how they are scaled."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tasks.values import InputSpec

# RandomResizedCrop (Szegedy et al. 2015, as in torchvision). The area starts at 0.35, not 0.08:
# fine-tuning runs are short, and on small data the hardest crops cost more than they teach.
AREA = (0.35, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10


def random_boxes(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` boxes as RandomResizedCrop does: int64 (n, 4) of top, left, height, width, px.

    They are on the CPU. Where none of ten tries fits into the image, the first is cut down to fit.
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
    return torch.stack((top, left, h, w), dim=1).long()


def resized_crops(images_bhwc: Tensor, boxes_b4: Tensor, spec: InputSpec) -> Tensor:
    """Scale each image's box (on the CPU) to uint8 (b, crop, crop, 3), antialiased.

    On a CPU one image at a time, by torchvision's uint8 kernel; elsewhere all at once.
    """
    if images_bhwc.device.type == "cpu":
        return _one_by_one(images_bhwc, boxes_b4, spec)
    return batched_crops(images_bhwc, boxes_b4, spec)


def _one_by_one(images_bhwc: Tensor, boxes_b4: Tensor, spec: InputSpec) -> Tensor:
    mode, size = InterpolationMode(spec.interpolation), [spec.crop, spec.crop]
    views = images_bhwc.new_empty((len(boxes_b4), spec.crop, spec.crop, 3))
    for image_hwc, box, view_hwc in zip(images_bhwc, boxes_b4.tolist(), views, strict=True):
        image_chw = image_hwc.permute(2, 0, 1)
        crop_chw = tv.resized_crop(image_chw, *box, size, interpolation=mode, antialias=True)
        view_hwc.copy_(crop_chw.permute(1, 2, 0))
    return views


def batched_crops(images_bhwc: Tensor, boxes_b4: Tensor, spec: InputSpec) -> Tensor:
    """Scale each image's box to uint8 (b, crop, crop, 3): two batched matrix products in float32.

    An antialiased resize is separable, so that with its filters written out as matrices a crop is
    ``down @ image @ across.T``. A GPU does a batch of these in the time that a kernel an image
    takes to be launched for a few of them. No call waits for the device. The pixels are
    torchvision's within the rounding of its fixed-point CPU kernel.
    """
    b, height, width, _ = images_bhwc.shape
    boxes = boxes_b4.to(torch.float32).to(images_bhwc.device, non_blocking=True)
    top, left, h, w = boxes[:, :, None, None].unbind(1)
    down, across = _filters(top, h, height, spec), _filters(left, w, width, spec)
    rows = images_bhwc.permute(0, 1, 3, 2).to(torch.float32).reshape(b, height * 3, width)
    # whole levels in between as well, as the CPU's kernel has them
    narrow = torch.bmm(rows, across.transpose(1, 2)).round_().clamp_(0, 255)
    crops = torch.bmm(down, narrow.view(b, height, 3 * spec.crop)).round_().clamp_(0, 255)
    crops = crops.to(torch.uint8).view(b, spec.crop, 3, spec.crop)
    return crops.permute(0, 1, 3, 2).contiguous()


def _filters(start_b11: Tensor, length_b11: Tensor, size: int, spec: InputSpec) -> Tensor:
    """Return (b, crop, size): how much each pixel along one side gives to each pixel of a crop.

    As torch's ``upsample`` kernels do: pixel i of the crop lies at (i + 1/2) * length / crop, and
    where that shrinks, the filter is as much wider (Turkowski 1990, "Filters for common
    resampling tasks"). Weights outside the box are 0, and those of one pixel add up to 1.
    """
    device = start_b11.device
    out = torch.arange(spec.crop, device=device, dtype=torch.float32)[:, None]
    offset = torch.arange(size, device=device, dtype=torch.float32) - start_b11
    scale = length_b11 / spec.crop
    if spec.interpolation == "nearest":
        return (offset == (out * scale).floor()).to(torch.float32)
    distance = (offset + 0.5 - (out + 0.5) * scale) / scale.clamp(min=1)
    kernel = _triangle if spec.interpolation == "bilinear" else _cubic
    weights = kernel(distance.abs_()) * ((offset >= 0) & (offset < length_b11))
    return weights / weights.sum(dim=2, keepdim=True)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Return the cubic convolution of Keys 1981 with a = -1/2, as PIL's and torch's antialiased."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, far * (distance < 2))
