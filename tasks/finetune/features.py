"""What a frozen part makes of the images, computed once and kept for every epoch and run."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts import disk_errors, folder_atomic
from tasks.finetune.cut import Cut
from tasks.finetune.device import memory_errors
from tasks.finetune.feature_disk import make_room
from tasks.finetune.feature_files import (
    PackedFeatures,
    StoredFeatures,
    load_whole,
    save_manifest,
    write_split,
)
from tasks.finetune.feature_key import (
    FeatureRequest,
    bytes_needed,
    cache_key,
    origin_digest,
    views_kept,
)
from tasks.finetune.feature_pass import FeaturePass, evaluation_view, training_view
from tasks.finetune.feature_worth import worth_caching
from tasks.finetune.tracing import modes_kept
from tasks.preprocess.batches import read_labels
from tasks.use import in_use
from tasks.values import PreparedDataset, StreamedSplit

__all__ = ["CachedFeatures", "FeatureRequest", "PackedFeatures", "cache_features", "worth_caching"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedFeatures:
    """Both splits' features."""

    train: PackedFeatures
    val: PackedFeatures


def cache_features(
    cut: Cut, prepared: PreparedDataset, request: FeatureRequest, folder: Path
) -> CachedFeatures:
    """Return the features at ``cut``, from ``folder`` where they are there already.

    They are kept in ``folder/KEY``, the key being a digest of all that decides them: the frozen
    weights, the prefix's code, data and input, precision, device, and, where views are augmented,
    their settings, number and seed. A damaged cache is made anew. Raises ``ResourceError`` when
    disk or memory do not suffice; then nothing is left behind.
    """
    origin = origin_digest(cut, prepared)
    target = folder / cache_key(origin, request)
    # in use until its files are open, and so kept by the system
    with disk_errors(str(target)), in_use([target]):
        stored = load_whole(target)
        if stored is None:
            if target.exists():
                log.warning("the cached features in %s are damaged: making them anew", target)
                shutil.rmtree(target)
            make_room(folder, bytes_needed(cut, prepared, request.recipe, request.precision))
            with folder_atomic(target) as scratch:
                stored = _compute(cut, prepared, request, scratch, origin)
        else:
            log.info("features: %s images from the cache", f"{stored.train.n + stored.val.n:,}")
        return CachedFeatures(
            PackedFeatures(target, "train", stored.train), PackedFeatures(target, "val", stored.val)
        )


def _compute(
    cut: Cut, prepared: PreparedDataset, request: FeatureRequest, scratch: Path, origin: str
) -> StoredFeatures:
    start, views, spec = time.perf_counter(), views_kept(request.recipe), prepared.input
    if isinstance(prepared.train, StreamedSplit):
        raise AssertionError("ruled_out keeps streams out of the cache")
    size = request.evaluation_batch
    with modes_kept(cut.prefix), memory_errors(size, "evaluation.batch_size"):
        run = FeaturePass(cut.prefix.eval(), request.device, request.precision, size)
        view = training_view(spec, request.recipe, request.seed)
        train, val = (
            run.over(prepared.train, view, views),
            run.over(prepared.val, evaluation_view(spec), 1),
        )
        stored = StoredFeatures(
            origin=origin,
            weights=request.backbone_digest,
            train=write_split(scratch, "train", train, read_labels(prepared.train), views),
            val=write_split(scratch, "val", val, read_labels(prepared.val), 1),
        )
    save_manifest(stored, scratch)
    log.info(
        "features: %s images, %d view(s) each in training, %.2f GB, in %.1f s",
        f"{stored.train.n + stored.val.n:,}",
        views,
        (stored.train.size + stored.val.size) / 1e9,
        time.perf_counter() - start,
    )
    return stored
