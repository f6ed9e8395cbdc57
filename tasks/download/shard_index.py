"""Index tars that others wrote: every one is read once, several at a time, and nothing is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.artifacts import sha256_bytes, sha256_parts
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_leaks import find_leaks, refuse_drop
from tasks.download.shard_marker import refuse_unfinished
from tasks.download.shard_numbers import Numbers, Part, Reading, numbers_beside, put_pieces
from tasks.download.shard_pack import Sizes
from tasks.download.shard_tar import read_entries
from tasks.download.shards import (
    INDEX_FILE,
    SHARD,
    in_order,
    index_digest,
    prefix_of,
    prefixes_file,
)
from tasks.download.splits import SPLITS
from tasks.errors import ConfigError, DataError
from tasks.preprocess.decode import UnreadableImage, header_size
from tasks.preprocess.findings import refuse
from tasks.preprocess.findings import said as findings_said
from tasks.preprocess.verdict import refuse_bad
from tasks.retry import with_retries
from tasks.splitvalues import Shard, ShardIndex, SplitName
from tasks.values import SkippedImage
from tasks.words import SHOWN, listed, printable

AT_ONCE = 4  # shards
TAR = re.compile(r"\.(tar(\.\w+)?|t[gbx]z|tzst)$", re.IGNORECASE)
HOW = "Name tars SPLIT-NAME.tar, of train, val and test: train-000000.tar, val-000000.tar, …"


@dataclass(frozen=True)
class Indexed:
    """The index that a folder has now."""

    url: str
    index: ShardIndex
    sha256: str  # of the index file
    warnings: tuple[str, ...]


class _Labels:
    """A number for each label, the same in all shards; threads share it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._adding = Lock()

    def number(self, label: str) -> int:
        """Return a label's number, from 0 in the order in which they were first asked for."""
        known = self._numbers.get(label)
        if known is not None:
            return known
        with self._adding:
            return self._numbers.setdefault(label, len(self._numbers))

    def names(self) -> list[str]:
        """Return the labels in the order of their numbers."""
        return list(self._numbers)


class _Looked(NamedTuple):
    """What one shard holds."""

    shard: Shard
    part: Part  # of the numbers
    sizes: Sizes
    bad: list[SkippedImage]  # the first
    unusable: int  # all such


def index_shards(config: DataConfig) -> Indexed:
    """Read every shard of the folder ``data.path`` once, and write its index.

    A damaged tar, an image without a label and, by ``data.checks``, the same file or group in two
    splits or a file of two labels raise ``DataError``; then nothing is written. Memory holds a
    shard's facts and each class; what grows with the images lies in files beside the shards, which
    have no name and so leave nothing. Pixels are not decoded: of each image its header is read.
    Raises ``ConfigError`` for another kind of data, ``ResourceError``, and as ``read_samples``.
    """
    if config.kind != "shards" or config.path is None:
        raise ConfigError("Only data.kind=shards is indexed.\nName the folder in data.path.")
    refuse_drop(config)
    folder = open_folder(config.path, config.timeout_seconds)
    sizes = folder.sizes()
    refuse_unfinished(folder, sizes)
    names = _names(folder, sizes)
    with numbers_beside(folder) as numbers:
        labels = _Labels()
        looked = _look_at_all(folder, names, labels, numbers)
        counts = numbers.counts(len(labels.names()))
        classes = _classes(counts, labels.names(), folder)
        position = _positions(labels.names(), classes)
        said = _judged(looked, numbers, position, config, _passed_over(sizes))
        by_class = counts[:, np.argsort(position)]
        index, content = _write(folder, looked, numbers, classes, by_class)
    return Indexed(folder.url, index, sha256_bytes(content), tuple(said))


def _names(folder: Folder, files: Iterable[str]) -> list[str]:
    names = [name for name in files if SHARD.fullmatch(name)]
    absent = [split for split in SPLITS if not any(n.startswith(f"{split}-") for n in names)]
    if absent:
        others = "".join(f" {words}" for words in _passed_over(files))
        raise DataError(f"{printable(folder.url)} has no shard of {listed(absent)}.{others}\n{HOW}")
    return names


def _look_at_all(
    folder: Folder, names: Iterable[str], labels: _Labels, numbers: Numbers
) -> list[_Looked]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looked = list(pool.map(partial(_look, folder, labels, numbers), names))
    order = {shard.name: place for place, shard in enumerate(in_order([o.shard for o in looked]))}
    return sorted(looked, key=lambda each: order[each.shard.name])


def _judged(
    looked: Sequence[_Looked],
    numbers: Numbers,
    position: npt.NDArray[np.int64],
    config: DataConfig,
    passed_over: Sequence[str],
) -> list[str]:
    """Return the warnings of a run's checks; raises ``DataError`` for what they refuse."""
    bad = [image for each in looked for image in each.bad]
    unusable = sum(each.unusable for each in looked)
    refuse_bad(bad, sum(each.shard.images for each in looked), config, unusable)
    findings = find_leaks(numbers, [each.part for each in looked], position.tolist(), config)
    refuse(findings)
    said = [*findings_said(findings), *passed_over]
    if bad:
        words = [f"{image.path} ({image.reason})" for image in bad]
        named = listed(words, between="; ", total=unusable)
        said.append(f"{unusable:,} image(s) cannot be used, and runs leave them out: {named}.")
    return said


def _passed_over(files: Iterable[str]) -> list[str]:
    """Say which tars have names that are no shard's: nothing of them is in the data set."""
    others = [printable(name) for name in files if TAR.search(name) and not SHARD.fullmatch(name)]
    if not others:
        return []
    return [f"{len(others):,} tar(s) with names of no split are passed over: {listed(others)}."]


def _look(folder: Folder, labels: _Labels, numbers: Numbers, name: str) -> _Looked:
    split = next(split for split in SPLITS if name.startswith(f"{split}-"))
    sizes, bad, unusable = Sizes(), list[SkippedImage](), 0
    reading = Reading(numbers, name, split)
    with folder.stream(name) as stream:
        for entry in read_entries(stream, f"The shard {folder.where(name)}"):
            group = prefix_of(sha256_parts(entry.group)) if entry.group else None
            reading.add(prefix_of(sha256_bytes(entry.image)), labels.number(entry.label), group)
            try:
                sizes.add(header_size(entry.image))
            except UnreadableImage as fault:
                unusable += 1
                if len(bad) < SHOWN:
                    path = printable(f"{name}, sample {entry.key}")
                    bad.append(SkippedImage(path=path, reason=str(fault)))
        size, sha256 = stream.position, stream.sha256()
    reading.flush()
    if not reading.images:
        raise DataError(f"{folder.where(name)} holds no image.\nRemove it, or make it again.")
    shard = Shard(name=name, split=split, images=reading.images, size=size, sha256=sha256)
    return _Looked(shard, reading.part, sizes, bad, unusable)


def _classes(counts: npt.NDArray[np.int64], names: list[str], folder: Folder) -> tuple[str, ...]:
    """Return all labels, sorted; raises ``DataError`` for those that nothing can be learnt from."""
    in_train = counts[SPLITS.index("train")].tolist()
    untrained = [name for name, images in zip(names, in_train, strict=True) if not images]
    where = printable(folder.url)
    unreadable = sorted(name for name in names if printable(name) != name)
    if unreadable:
        raise DataError(f"{where} has labels that are no plain text: {listed(unreadable)}.")
    if len(names) < 2:
        raise DataError(f"{where} has one label, {listed(names)}.\nA classifier needs two.")
    if untrained:
        raise DataError(
            f"{where} has no training image of class {listed(sorted(untrained))}.\n"
            "Every class of val and test must be among the training images."
        )
    return tuple(sorted(names))


def _positions(names: list[str], classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the position in ``classes`` of each label, in the order of their numbers."""
    position = {name: place for place, name in enumerate(classes)}
    return np.array([position[name] for name in names], np.int64)


def _write(
    folder: Folder,
    looked: Sequence[_Looked],
    numbers: Numbers,
    classes: tuple[str, ...],
    counts: npt.NDArray[np.int64],
) -> tuple[ShardIndex, bytes]:
    sizes = Sizes()
    prefixes: dict[SplitName, str] = {}
    for each in looked:
        sizes |= each.sizes
    for split in SPLITS:
        parts = [each.part for each in looked if each.shard.split == split]
        prefixes[split] = put_pieces(folder, prefixes_file(split), numbers.digests(parts))
    shards = tuple(each.shard for each in looked)
    height, width = sizes.common()
    index = ShardIndex(
        classes=classes,
        shards=shards,
        counts={s: tuple(row) for s, row in zip(SPLITS, counts.tolist(), strict=True)},
        height=height,
        width=width,
        prefixes=prefixes,
        digest=index_digest(classes, shards),
    )
    content = index.model_dump_json(indent=1).encode()
    with_retries(folder.write, content, INDEX_FILE)
    return index, content
