"""Which images go into shards, and in which split: as ``prepare`` would choose them."""

from __future__ import annotations

from typing import NamedTuple

from tasks.config import DataConfig
from tasks.index import ImageRecord, read_index
from tasks.preprocess.check import check_images
from tasks.preprocess.checks import (
    Selection,
    check_files,
    check_pictures,
    dropping,
    refuse_early,
    refuse_emptied,
)
from tasks.preprocess.findings import refuse
from tasks.preprocess.splits import SPLITS
from tasks.preprocess.verdict import (
    absent_classes,
    bad_images,
    ignored_files,
    refuse_bad,
    refuse_lost,
)
from tasks.values import RawDataset, SplitName


class Chosen(NamedTuple):
    """The images of each split, sorted by path, and what is to be said of them."""

    splits: dict[SplitName, list[ImageRecord]]
    classes: tuple[str, ...]  # what the records' labels are positions in
    warnings: tuple[str, ...]


def choose_images(config: DataConfig, seed: int, raw: RawDataset) -> Chosen:
    """Split the images of ``raw`` and check them, every image decoded once, as a run would.

    That is the last time that training images are compared with others by what they show: of
    shards only the bytes are known. Raises ``DataError`` as ``prepare`` does.
    """
    first = check_files(read_index(raw.index), raw.classes, config, seed)
    refuse_early(first, config)
    wanted = [record for name in SPLITS for record in first.splits[name]]
    looked = check_images(raw.root, wanted, config.checks.near_duplicates != "off")
    refuse_bad(looked.bad, len(wanted), config)
    usable = {record.path for record in looked.usable}
    readable = {name: [r for r in first.splits[name] if r.path in usable] for name in SPLITS}
    refuse_lost(first.splits, readable, first.classes)
    kept = check_pictures(first, readable, looked.hashes, config)
    refuse(kept.findings)
    refuse_emptied(readable, kept.splits, kept.classes, dropping(kept.findings))
    said = (warning for finding in kept.findings for warning in finding.warnings())
    absent = absent_classes(kept.splits, kept.classes)
    warnings = (*ignored_files(raw), *bad_images(looked.bad), *said, *absent)
    return Chosen(_sorted(kept), kept.classes, warnings)


def _sorted(kept: Selection) -> dict[SplitName, list[ImageRecord]]:
    return {name: sorted(kept.splits[name]) for name in SPLITS}
