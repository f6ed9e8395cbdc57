"""Index tars that others wrote: every one is read once, several at a time, and nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from tasks.artifacts import sha256_bytes, sha256_parts
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_leaks import Numbers, find_leaks, refuse_drop
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
from tasks.preprocess.verdict import refuse_bad
from tasks.retry import with_retries
from tasks.splitvalues import Shard, ShardIndex, SplitName
from tasks.values import SkippedImage
from tasks.words import listed, printable

AT_ONCE = 4  # shards
HOW = "Name tars SPLIT-NAME.tar, of train, val and test: train-000000.tar, val-000000.tar, …"


@dataclass(frozen=True)
class Indexed:
    """The index that a folder has now."""

    url: str
    index: ShardIndex
    sha256: str  # of the index file
    warnings: tuple[str, ...]


class _Looked(NamedTuple):
    """What one shard holds."""

    shard: Shard
    names: list[str]  # the labels that it has; the numbers' are positions in it
    numbers: Numbers
    sizes: Sizes
    bad: list[SkippedImage]


def index_shards(config: DataConfig) -> Indexed:
    """Read every shard of the folder ``data.path`` once, and write its index.

    A damaged tar, an image without a label and, by ``data.checks``, the same file or group in two
    splits or a file of two labels raise ``DataError``; then nothing is written. Memory holds a
    shard's facts and 12 bytes an image, 21 while copies are looked for. Pixels are not decoded: of
    each image its header is read.
    Raises ``ConfigError`` for another kind of data, and as ``read_samples``.
    """
    if config.kind != "shards" or config.path is None:
        raise ConfigError("Only data.kind=shards is indexed.\nName the folder in data.path.")
    refuse_drop(config)
    folder = open_folder(config.path, config.timeout_seconds)
    looked = _look_at_all(folder)
    classes = _classes(looked, folder)
    looked = [_renumbered(each, classes) for each in looked]
    bad = [image for each in looked for image in each.bad]
    refuse_bad(bad, sum(each.shard.images for each in looked), config)
    findings = find_leaks([each.numbers for each in looked], config)
    refuse(findings)
    said = [warning for finding in findings for warning in finding.warnings()]
    if bad:
        named = listed([f"{image.path} ({image.reason})" for image in bad], between="; ")
        said.append(f"{len(bad):,} image(s) cannot be used, and runs leave them out: {named}.")
    index, content = _write(folder, looked, classes)
    return Indexed(folder.url, index, sha256_bytes(content), tuple(said))


def _look_at_all(folder: Folder) -> list[_Looked]:
    names = [name for name in folder.sizes() if SHARD.fullmatch(name)]
    absent = [split for split in SPLITS if not any(n.startswith(f"{split}-") for n in names)]
    if absent:
        raise DataError(f"{printable(folder.url)} has no shard of {listed(absent)}.\n{HOW}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looked = list(pool.map(partial(_look, folder), names))
    order = {shard.name: place for place, shard in enumerate(in_order([o.shard for o in looked]))}
    return sorted(looked, key=lambda each: order[each.shard.name])


def _look(folder: Folder, name: str) -> _Looked:
    split = next(split for split in SPLITS if name.startswith(f"{split}-"))
    sizes, names, bad = Sizes(), dict[str, int](), list[SkippedImage]()
    prefixes, labels, groups = list[int](), list[int](), set[int]()
    with folder.stream(name) as stream:
        for entry in read_entries(stream, f"The shard {folder.where(name)}"):
            prefixes.append(prefix_of(sha256_bytes(entry.image)))
            labels.append(names.setdefault(entry.label, len(names)))
            if entry.group:
                groups.add(prefix_of(sha256_parts(entry.group)))
            try:
                sizes.add(header_size(entry.image))
            except UnreadableImage as fault:
                path = printable(f"{name}, sample {entry.key}")
                bad.append(SkippedImage(path=path, reason=str(fault)))
        size, sha256 = stream.position, stream.sha256()
    if not prefixes:
        raise DataError(f"{folder.where(name)} holds no image.\nRemove it, or make it again.")
    shard = Shard(name=name, split=split, images=len(prefixes), size=size, sha256=sha256)
    arrays = (np.array(prefixes, np.uint64), np.array(labels, np.uint32))
    numbers = Numbers(name, split, *arrays, np.array(sorted(groups), np.uint64))
    return _Looked(shard, list(names), numbers, sizes, bad)


def _classes(looked: Sequence[_Looked], folder: Folder) -> tuple[str, ...]:
    """Return all labels, sorted; raises ``DataError`` for those that nothing can be learnt from."""
    found = {name for each in looked for name in each.names}
    trained = {name for each in looked if each.shard.split == "train" for name in each.names}
    where = printable(folder.url)
    unreadable = sorted(name for name in found if printable(name) != name)
    if unreadable:
        raise DataError(f"{where} has labels that are no plain text: {listed(unreadable)}.")
    if len(found) < 2:
        raise DataError(f"{where} has one label, {listed(list(found))}.\nA classifier needs two.")
    if found != trained:
        raise DataError(
            f"{where} has no training image of class {listed(sorted(found - trained))}.\n"
            "Every class of val and test must be among the training images."
        )
    return tuple(sorted(found))


def _renumbered(looked: _Looked, classes: tuple[str, ...]) -> _Looked:
    number = {name: position for position, name in enumerate(classes)}
    places = np.array([number[name] for name in looked.names], np.uint32)
    numbers = looked.numbers._replace(labels=places[looked.numbers.labels])
    return looked._replace(names=[], numbers=numbers)  # none is asked for again


def _write(
    folder: Folder, looked: Sequence[_Looked], classes: tuple[str, ...]
) -> tuple[ShardIndex, bytes]:
    sizes = Sizes()
    prefixes: dict[SplitName, str] = {}
    for each in looked:
        sizes |= each.sizes
    for split in SPLITS:
        arrays = [each.numbers.prefixes for each in looked if each.shard.split == split]
        content = np.concatenate(arrays).astype(">u8").tobytes()
        prefixes[split] = sha256_bytes(content)
        with_retries(folder.write, content, prefixes_file(split))
    shards = tuple(each.shard for each in looked)
    height, width = sizes.common()
    index = ShardIndex(
        classes=classes,
        shards=shards,
        counts={split: _counts(looked, split, len(classes)) for split in SPLITS},
        height=height,
        width=width,
        prefixes=prefixes,
        digest=index_digest(classes, shards),
    )
    content = index.model_dump_json(indent=1).encode()
    with_retries(folder.write, content, INDEX_FILE)
    return index, content


def _counts(looked: Sequence[_Looked], split: SplitName, classes: int) -> tuple[int, ...]:
    counts = np.zeros(classes, np.int64)
    for each in looked:
        if each.shard.split == split:
            counts += np.bincount(each.numbers.labels, minlength=classes)
    return tuple(counts.tolist())
