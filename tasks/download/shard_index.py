"""Index tars that others wrote: every one is read once, several at a time, and nothing is kept."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from threading import Lock
from typing import NamedTuple

import numpy as np

from tasks.artifacts import sha256_bytes, sha256_parts
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_leaks import Numbers, find_leaks, refuse_drop
from tasks.download.shard_marker import refuse_unfinished
from tasks.download.shard_pack import Sizes
from tasks.download.shard_tar import read_entries
from tasks.download.shards import (
    INDEX_FILE,
    PREFIX_BYTES,
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
    sizes, labels = folder.sizes(), _Labels()
    refuse_unfinished(folder, sizes)
    looked = _look_at_all(folder, sizes, labels)
    classes = _classes(looked, labels.names(), folder)
    _renumber(looked, labels.names(), classes)
    bad = [image for each in looked for image in each.bad]
    refuse_bad(bad, sum(each.shard.images for each in looked), config)
    findings = find_leaks([each.numbers for each in looked], config)
    refuse(findings)
    said = [warning for finding in findings for warning in finding.warnings()]
    said += _passed_over(sizes)
    if bad:
        named = listed([f"{image.path} ({image.reason})" for image in bad], between="; ")
        said.append(f"{len(bad):,} image(s) cannot be used, and runs leave them out: {named}.")
    index, content = _write(folder, looked, classes)
    return Indexed(folder.url, index, sha256_bytes(content), tuple(said))


def _look_at_all(folder: Folder, files: Iterable[str], labels: _Labels) -> list[_Looked]:
    names = [name for name in files if SHARD.fullmatch(name)]
    absent = [split for split in SPLITS if not any(n.startswith(f"{split}-") for n in names)]
    if absent:
        others = "".join(f" {words}" for words in _passed_over(files))
        raise DataError(f"{printable(folder.url)} has no shard of {listed(absent)}.{others}\n{HOW}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looked = list(pool.map(partial(_look, folder, labels), names))
    order = {shard.name: place for place, shard in enumerate(in_order([o.shard for o in looked]))}
    return sorted(looked, key=lambda each: order[each.shard.name])


def _passed_over(files: Iterable[str]) -> list[str]:
    """Say which tars have names that are no shard's: nothing of them is in the data set."""
    others = [printable(name) for name in files if TAR.search(name) and not SHARD.fullmatch(name)]
    if not others:
        return []
    return [f"{len(others):,} tar(s) with names of no split are passed over: {listed(others)}."]


def _look(folder: Folder, labels: _Labels, name: str) -> _Looked:
    split = next(split for split in SPLITS if name.startswith(f"{split}-"))
    sizes, bad = Sizes(), list[SkippedImage]()
    # not lists, whose numbers take 40 bytes each
    prefixes, numbers, groups = array("Q"), array("I"), array("Q")
    with folder.stream(name) as stream:
        for entry in read_entries(stream, f"The shard {folder.where(name)}"):
            prefixes.append(prefix_of(sha256_bytes(entry.image)))
            numbers.append(labels.number(entry.label))
            if entry.group:
                groups.append(prefix_of(sha256_parts(entry.group)))
            try:
                sizes.add(header_size(entry.image))
            except UnreadableImage as fault:
                path = printable(f"{name}, sample {entry.key}")
                bad.append(SkippedImage(path=path, reason=str(fault)))
        size, sha256 = stream.position, stream.sha256()
    if not prefixes:
        raise DataError(f"{folder.where(name)} holds no image.\nRemove it, or make it again.")
    shard = Shard(name=name, split=split, images=len(prefixes), size=size, sha256=sha256)
    arrays = (np.array(prefixes, np.uint64), np.array(numbers, np.uint32))
    found = Numbers(name, split, *arrays, np.unique(np.array(groups, np.uint64)))
    return _Looked(shard, found, sizes, bad)


def _classes(looked: Sequence[_Looked], names: list[str], folder: Folder) -> tuple[str, ...]:
    """Return all labels, sorted; raises ``DataError`` for those that nothing can be learnt from."""
    in_train = _counts(looked, "train", len(names))
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


def _renumber(looked: Sequence[_Looked], names: list[str], classes: tuple[str, ...]) -> None:
    """Turn the labels' numbers into positions in ``classes``, in place: there may be millions."""
    position = {name: place for place, name in enumerate(classes)}
    places = np.array([position[name] for name in names], np.uint32)
    for each in looked:
        each.numbers.labels[:] = places[each.numbers.labels]


def _prefixes(looked: Sequence[_Looked], split: SplitName) -> bytes:
    """Return the content of a split's file of digests, made without a second copy."""
    arrays = [each.numbers.prefixes for each in looked if each.shard.split == split]
    content = BytesIO(bytes(PREFIX_BYTES * sum(map(len, arrays))))
    with content.getbuffer() as room:
        np.concatenate(arrays, out=np.frombuffer(room, ">u8"))
    return content.getvalue()  # what it holds, not a copy; stores' drivers take bytes alone


def _write(
    folder: Folder, looked: Sequence[_Looked], classes: tuple[str, ...]
) -> tuple[ShardIndex, bytes]:
    sizes = Sizes()
    prefixes: dict[SplitName, str] = {}
    for each in looked:
        sizes |= each.sizes
    for split in SPLITS:
        numbers = _prefixes(looked, split)
        prefixes[split] = sha256_bytes(numbers)
        with_retries(folder.write, numbers, prefixes_file(split))
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
