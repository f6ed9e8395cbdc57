"""Whether it pays to keep a frozen part's features, by rules: not by a clock or by what is there.

Training on features rounds otherwise than training on images, so the same run must decide the same.
A disk that is too full is the one thing that may be otherwise another time: ``NoRoom``.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.finetune.cut import Cut
from tasks.finetune.device import pick_device, pick_precision
from tasks.finetune.feature_disk import MOST, free_bytes
from tasks.finetune.feature_files import load_manifest
from tasks.finetune.feature_key import bytes_needed, origin_digest, views_kept
from tasks.finetune.tracing import modes_kept
from tasks.presence import CHANNELS
from tasks.recipe import TrainingConfig
from tasks.values import PreparedDataset, StreamedSplit

# Orders of magnitude: what a processor computes while one more byte is read. A thread of a CPU does
# some 30 GFLOP/s, a GPU some 100 TFLOP/s, Apple's a few; one reader gets 1 to 2 GB/s.
_CPU_THREAD, _APPLE, _GPU = 30, 2_000, 50_000


class NoRoom(str):
    """A reason not to cache that another disk, or the same one tomorrow, does not have."""


def worth_caching(
    cut: Cut,
    prepared: PreparedDataset,
    recipe: TrainingConfig,
    epochs: int,
    folder: Path,
    trainings: int = 1,
) -> str | None:
    """Return None where caching pays for a phase of ``epochs`` epochs, else why it does not.

    A job goes through that phase in each of its ``trainings``, and all take the same features. It
    pays when the frozen part would run over the images more often than there are views to compute,
    and each training comes to see all of them; when to read them is quicker than to compute them:
    for every byte by which they exceed the packed images, more floating-point operations are saved
    than the device does while that byte is read; and when the features take at most ``MOST`` and,
    unless they lie in ``folder`` already, half of the free disk.
    """
    reason = ruled_out(prepared, recipe)
    if reason is not None:
        return reason
    return (
        _too_few_passes(views_kept(recipe), epochs, trainings)
        or _quicker_computed(cut, prepared, recipe)
        or _too_large(cut, prepared, recipe, folder)
    )


def _too_few_passes(views: int, epochs: int, trainings: int) -> str | None:
    if epochs < views:
        return f"{epochs} epoch(s) in a phase would not come to see all of {views} views"
    if views < epochs * trainings:
        return None
    return f"{epochs} epoch(s) run the frozen part no more often than {views} view(s) would"


def ruled_out(prepared: PreparedDataset, recipe: TrainingConfig) -> str | None:
    """Say why data or recipe rule a cache out, whatever the network; None where they do not."""
    if isinstance(prepared.train, StreamedSplit):
        return "the training images are streamed, and may be more than a disk holds"
    if recipe.feature_cache == "off":
        return "training.feature_cache is off"
    for name in ("mixup", "cutmix"):
        if getattr(recipe, name) > 0:
            return f"{name} mixes images, not features"
    if recipe.augmented and recipe.feature_views is None:
        return "new augmented views every epoch (training.feature_views keeps some)"
    return None


def _are_there(cut: Cut, prepared: PreparedDataset, recipe: TrainingConfig, folder: Path) -> bool:
    if recipe.augmented or not folder.is_dir():  # augmented ones depend on a seed as well
        return False
    origin, kind = origin_digest(cut, prepared), str(_precision(recipe)).removeprefix("torch.")
    manifests = (load_manifest(path) for path in folder.iterdir())
    return any(m is not None and (m.origin, m.train.kind) == (origin, kind) for m in manifests)


def _too_large(
    cut: Cut, prepared: PreparedDataset, recipe: TrainingConfig, folder: Path
) -> str | None:
    need = bytes_needed(cut, prepared, recipe, _precision(recipe))
    wanted = f"they would take {need / 1e9:.1f} GB, and"
    if need > MOST:
        return f"{wanted} {MOST / 1e9:.1f} GB all caches may take"
    half = free_bytes(folder) // 2
    if need <= half or _are_there(cut, prepared, recipe, folder):
        return None
    return NoRoom(f"{wanted} {half / 1e9:.1f} GB is half of the free disk")


def _quicker_computed(cut: Cut, prepared: PreparedDataset, recipe: TrainingConfig) -> str | None:
    """Compare one image's operations with the bytes that its features take beyond its pixels."""
    features = math.prod(cut.shape) * _precision(recipe).itemsize
    more = features - prepared.train.height * prepared.train.width * CHANNELS
    if more <= 0 or _operations(cut, prepared.input.crop) > more * _operations_a_byte(recipe):
        return None
    return f"{features / 1e6:.1f} MB an image take longer to read than to compute"


def _operations(cut: Cut, crop: int) -> int:
    """Return the floating-point operations of the prefix for one image of ``crop`` px."""
    weight = next(cut.prefix.parameters())
    image_bchw = torch.zeros(1, CHANNELS, crop, crop, device=weight.device)
    with modes_kept(cut.prefix), torch.no_grad(), FlopCounterMode(display=False) as counter:
        cut.prefix.eval()(image_bchw)
    return int(counter.get_total_flops())


def _operations_a_byte(recipe: TrainingConfig) -> int:
    kind = pick_device(recipe.device).type
    if kind == "cpu":
        return _CPU_THREAD * torch.get_num_threads()
    return _APPLE if kind == "mps" else _GPU


def _precision(recipe: TrainingConfig) -> torch.dtype:
    return pick_precision(recipe.precision, pick_device(recipe.device))
