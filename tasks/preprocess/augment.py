"""The augmented training views: mirrored, cropped, changed by a policy, erased in part."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from tasks.preprocess.crops import TRIES, random_boxes, resized_crops
from tasks.preprocess.policies import apply_policy
from tasks.preprocess.views import fitted, normalize
from tasks.recipe import TrainingConfig
from tasks.values import InputSpec

# Small-image networks (CIFAR's 32 px) are trained on shifted images instead of crops: zeros are
# put around the image, 4 px at 32 px, and a crop is taken at random (He et al. 2016, section 4.2).
SMALL_SIDE = 64  # px
PAD_SHARE = 8  # of the side
# torchvision's RandomErasing, and so Zhong et al. 2017 with 0.02 to 0.33 of the area
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = (0.3, 3.3)


def train_view(
    images_bhwc: Tensor, spec: InputSpec, recipe: TrainingConfig, generator: torch.Generator
) -> Tensor:
    """Augment uint8 (b, h, w, 3) of a pack into float32 (b, 3, crop, crop), normalised.

    That is ``augmented``, normalised, and then ``erased``; channels_last.
    """
    views_bchw = normalize(augmented(images_bhwc, spec, recipe, generator), spec)
    return erased(views_bchw, recipe, generator)


def augmented(
    images_bhwc: Tensor, spec: InputSpec, recipe: TrainingConfig, generator: torch.Generator
) -> Tensor:
    """Augment uint8 (b, h, w, 3) of a pack into uint8 (b, crop, crop, 3).

    ``recipe.augment`` is ``none`` (the evaluation view), ``flip`` (mirrored left to right with
    probability 1/2), ``crop`` (RandomResizedCrop; on a pack at the own size of a network of at
    most 64 px: pad and crop, He et al. 2016) or ``crop_flip``; ``recipe.policy`` comes on top.
    Every random number is drawn from ``generator``, on the CPU, so that a seed gives the same
    views on any device. No call waits for the device.
    """
    b, height, width, _ = images_bhwc.shape
    if recipe.augment.endswith("flip"):
        images_bhwc = _mirrored(images_bhwc, torch.rand(b, generator=generator) < 1 / 2)
    # under a caller's autocast the products below would be rounded to bfloat16
    with torch.autocast(images_bhwc.device.type, enabled=False):
        if not recipe.augment.startswith("crop"):
            views_bhwc = fitted(images_bhwc, spec)
        elif height == width == spec.crop <= SMALL_SIDE:
            views_bhwc = _shifted(images_bhwc, generator)
        else:
            boxes = random_boxes(b, height, width, generator)
            views_bhwc = resized_crops(images_bhwc, boxes, spec)
        if recipe.policy == "none":
            return views_bhwc
        return apply_policy(views_bhwc, recipe.policy, generator)


def erased(images_bchw: Tensor, recipe: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Erase a box of some images, in place: Zhong et al. 2017, as torchvision's RandomErasing.

    ``recipe.random_erasing`` is the probability of each image. The box becomes 0, which after
    normalisation is the mean colour. Where none of ten tries fits, the image stays whole.
    """
    if recipe.random_erasing == 0:
        return images_bchw
    b, _, height, width = images_bchw.shape
    chosen = torch.rand(b, generator=generator) < recipe.random_erasing
    boxes = _erasing_boxes(b, height, width, generator) * chosen[:, None]  # no height: no box
    top, left, h, w = boxes.to(images_bchw.device, non_blocking=True)[:, :, None].unbind(1)
    y = torch.arange(height, device=images_bchw.device)
    x = torch.arange(width, device=images_bchw.device)
    rows, columns = (y >= top) & (y < top + h), (x >= left) & (x < left + w)
    return images_bchw.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _erasing_boxes(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return int64 (n, 4) of top, left, height, width, px, on the CPU; all 0 where none fits."""
    share, aspect, x, y = torch.rand(4, n, TRIES, generator=generator)
    area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * share)
    ratio = ERASED_ASPECT[0] * (ERASED_ASPECT[1] / ERASED_ASPECT[0]) ** aspect
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < height) & (widths < width)
    top, left = ((height - heights + 1) * y).floor(), ((width - widths + 1) * x).floor()
    first = fits.float().argmax(1)
    boxes = torch.stack((top, left, heights, widths), dim=2)[torch.arange(n), first]
    some: Tensor = fits.any(1, keepdim=True)
    return (boxes * some).long()


def _mirrored(images_bhwc: Tensor, chosen_b: Tensor) -> Tensor:
    chosen = chosen_b.to(images_bhwc.device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.where(chosen, images_bhwc.flip(2), images_bhwc)


def _shifted(images_bhwc: Tensor, generator: torch.Generator) -> Tensor:
    """Pad with zeros and crop at random back to the same size, uint8 (b, h, w, 3)."""
    b, side = images_bhwc.shape[:2]
    pad = side // PAD_SHARE
    padded = F.pad(images_bhwc, (0, 0, pad, pad, pad, pad))
    starts = torch.randint(0, 2 * pad + 1, (2, b, 1), generator=generator)
    # the starts alone travel: CUDA copies up to 64 KiB of ordinary memory without a wait
    starts = starts.to(images_bhwc.device, non_blocking=True)
    rows, columns = (starts + torch.arange(side, device=images_bhwc.device)).unbind(0)
    images = torch.arange(b, device=images_bhwc.device)
    return padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]
