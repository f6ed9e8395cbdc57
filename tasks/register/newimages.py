"""New images, found, held against what a model learned from, and packed for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.artifacts import cache_folder, disk_errors
from tasks.download.fresh import FreshImages, Labels, find_fresh
from tasks.errors import DataError
from tasks.evaluate.scorer import Scorer, open_model
from tasks.index import ImageRecord, digest_records, read_index
from tasks.monitorconfig import NewImagesConfig, WatchConfig
from tasks.preprocess.fresh import pack_fresh
from tasks.register.watching import Watched, WatchRun
from tasks.retry import with_retries
from tasks.use import in_use
from tasks.values import PackedSplit, RegisteredModel


@dataclass(frozen=True)
class NewImages:
    """New images, packed as the model wants them, and what became of the others."""

    fresh: FreshImages
    split: PackedSplit
    bad: int
    seen: int | None  # the model learned from them; None where that is not known

    @property
    def records(self) -> list[ImageRecord]:
        """Return the images in the order of the split."""
        return read_index(self.split.index)


@contextmanager
def packed(
    config: WatchConfig,
    images: NewImagesConfig,
    watched: Watched,
    labels: Labels | None = None,
    unseen_only: bool = False,
) -> Iterator[NewImages]:
    """Yield the new images; their pack goes again with the block.

    Without ``labels`` they have none. With ``unseen_only`` those that the model is known to have
    learned from are left out. Raises as ``find_fresh`` and ``pack_fresh``, and ``DataError`` where
    none is left.
    """
    cache, model = cache_folder(config.output.cache), watched.model
    fresh = with_retries(find_fresh, images, config.seed, cache, labels)
    seen = watched.learned.seen_of(fresh.records)
    if unseen_only:
        fresh = _unseen(fresh, watched)
    several = labels is not None and labels.multi_label
    with disk_errors(str(cache)):
        cache.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(dir=cache, prefix=".watch-")
    with scratch as folder, in_use([Path(folder)]):
        split, bad = pack_fresh(
            Path(folder),
            fresh.root,
            fresh.records,
            model.input,
            len(model.classes),
            several,
            images.on_bad_image,
        )
        yield NewImages(fresh, split, len(bad), seen)


def _unseen(fresh: FreshImages, watched: Watched) -> FreshImages:
    seen_n = watched.learned.seen(fresh.records)
    kept = [record for record, seen in zip(fresh.records, seen_n, strict=True) if not seen]
    if not kept:
        raise DataError(
            f"{watched.model.uri} has learned from every one of the {len(seen_n):,} images.\n"
            "Give it images that it has not seen."
        )
    return replace(fresh, records=kept)


def opened(config: WatchConfig, model: RegisteredModel) -> AbstractContextManager[Scorer]:
    """Open what scores with the model, on what ``config.scoring`` says."""
    settings = config.scoring
    return open_model(
        model, settings.device, settings.threads, settings.batch_size, "scoring.batch_size"
    )


def common_facts(
    config: WatchConfig, run: WatchRun, folder: Path, watched: Watched, new: NewImages
) -> dict[str, Any]:
    """Return the fields of a ``WatchReport`` that do not depend on what was found."""
    return {
        "name": config.name,
        "model": watched.model.uri,
        "asked_for": config.model,
        "folder": folder,
        "run_id": run.run_id,
        "experiment_id": run.experiment_id,
        "found": new.fresh.found,
        "n": new.split.n,
        "copies": new.fresh.copies,
        "bad": new.bad,
        "seen": new.seen,
        "images_digest": digest_records(watched.model.classes, new.records),
        "alpha": config.alpha,
        "checks_a_day": config.checks_a_day,
        "false_alarms_a_year": config.false_alarms_a_year,
    }
