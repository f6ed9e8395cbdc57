"""Make shards of any other data set: checked and split as a run would, then packed in order.

The same images, settings and seed give the same shards, byte by byte.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts import disk_errors, sha256_bytes, sha256_parts
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Folder
from tasks.download.shard_marker import (
    UNFINISHED,
    begin,
    clear,
    end,
    refuse_others,
    refuse_overtaken,
)
from tasks.download.shard_pack import Packing, Sizes, pack_shard, parcels, shard_names
from tasks.download.shard_select import Chosen, choose_images
from tasks.download.shards import (
    INDEX_FILE,
    index_digest,
    prefixes_file,
    prefixes_of,
    read_shard_index,
)
from tasks.download.source import download
from tasks.errors import ConfigError, DataError
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.splits import SPLITS
from tasks.retry import with_retries
from tasks.splitvalues import Shard, ShardIndex, SplitName
from tasks.use import in_use
from tasks.words import printable

log = logging.getLogger(__name__)

SCRATCH = ".shards-"  # begins the name of a folder in the cache, which holds one shard at a time
PACKING = Packing()


@dataclass(frozen=True)
class Written:
    """What a folder of shards holds now."""

    url: str
    index: ShardIndex
    sha256: str  # of the index file: what data.sha256 may say
    new: bool  # else all of it was there already
    warnings: tuple[str, ...]


def write_shards(
    config: DataConfig, seed: int, cache: Path, url: str, packing: Packing = PACKING
) -> Written:
    """Write the images that ``config`` names to the folder ``url``, and its index last.

    Splits and checks are those of a run with this ``seed``; training images are mixed by it once.
    A folder that has an index must be of the same shards, and is left as it is, but for files that
    are gone or cut off. What an earlier attempt left, which ``UNFINISHED`` tells, is overwritten or
    removed; other shards without an index are refused. Memory holds a line an image and one image.
    Raises ``ConfigError`` for data that shards cannot hold, ``DataError``, ``TransientDataError``,
    ``ResourceError``.
    """
    _refuse_what_does_not_fit(config)
    folder = open_folder(url, config.timeout_seconds)
    target = _Target(folder)  # before the images are looked at, which may take hours
    raw = download(config, cache)
    chosen = choose_images(config, seed, raw)
    with disk_errors(str(cache)):
        cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH, dir=cache) as scratch,
        in_use([Path(scratch)]),
    ):
        index = _write(target, chosen, seed, raw.root, packing, Path(scratch))
    content = index.model_dump_json(indent=1).encode()
    target.finish(index, content)
    return Written(folder.url, index, sha256_bytes(content), target.there is None, chosen.warnings)


def _refuse_what_does_not_fit(config: DataConfig) -> None:
    if config.kind == "shards":
        raise ConfigError("data.kind=shards are shards already.\nName the images they are to hold.")
    for name in ("multi_label", "slice_columns"):
        if getattr(config, name):
            raise ConfigError(
                f"data.{name} is set, and shards hold one label an image and no slices.\n"
                "Leave it out, or train from the manifest itself."
            )


class _Target:
    """The folder that is written to, and what it holds already."""

    def __init__(self, folder: Folder) -> None:
        folder.check_bucket()
        self._folder, self._sizes = folder, folder.sizes()
        self._marked = UNFINISHED in self._sizes
        self._attempt: str | None = None  # this one's name, once it writes
        self.there: ShardIndex | None = None
        refuse_others(folder, self._sizes)
        if INDEX_FILE in self._sizes:
            self.there, _ = read_shard_index(folder)

    def put(self, path: Path, shard: Shard) -> None:
        """Take in a shard, unless it is there; raises ``DataError`` where another should be."""
        if self.there is not None and shard not in self.there.shards:
            raise self._refusal(self.there)
        if self.there is None:
            self._hold()
        if self.there is None or self._sizes.get(shard.name) != shard.size:
            with_retries(self._folder.put, path, shard.name)
            log.info("%s: %s images", shard.name, f"{shard.images:,}")

    def _hold(self) -> None:
        """Mark the folder as this attempt's; raises ``DataError`` where it is another's by now."""
        if self._attempt is None:
            self._attempt, self._marked = begin(self._folder), True
        else:
            refuse_overtaken(self._folder, self._attempt)

    def write(self, content: bytes, split: SplitName) -> None:
        """Take in a split's prefixes as ``put`` does a shard."""
        name = prefixes_file(split)
        if self.there is not None and self.there.prefixes[split] != sha256_bytes(content):
            raise self._refusal(self.there)
        if self.there is None or self._sizes.get(name) != len(content):
            with_retries(self._folder.write, content, name)

    def finish(self, index: ShardIndex, content: bytes) -> None:
        """Write the index; raises ``DataError`` where the folder has one that says otherwise."""
        if self.there is not None and self.there != index:
            raise self._refusal(self.there)
        if self._attempt is not None:
            self._hold()
        if self._marked:
            clear(self._folder, {shard.name for shard in index.shards})
        if self.there is None:
            with_retries(self._folder.write, content, INDEX_FILE)
        if self._marked:
            end(self._folder)

    def _refusal(self, there: ShardIndex) -> DataError:
        return DataError(
            f"{printable(self._folder.url)} holds other shards already, digest "
            f"{there.digest[:12]}.\nName an empty folder: runs may still read those."
        )


def _write(
    target: _Target, chosen: Chosen, seed: int, root: Path, packing: Packing, scratch: Path
) -> ShardIndex:
    sizes, shards, prefixes = Sizes(), list[Shard](), dict[SplitName, str]()
    for name in SPLITS:
        records = _in_order(name, chosen.splits[name], seed)
        for path, parcel, first in _numbered(name, records, root, packing, scratch):
            shard = pack_shard(path, name, parcel, first, root, chosen.classes, sizes)
            target.put(path, shard)
            path.unlink(missing_ok=True)
            shards.append(shard)
        content = _prefixes(records)
        prefixes[name] = sha256_bytes(content)
        target.write(content, name)
    height, width = sizes.common()
    return ShardIndex(
        classes=chosen.classes,
        shards=tuple(shards),
        counts={name: _counts(chosen, name) for name in SPLITS},
        height=height,
        width=width,
        prefixes=prefixes,
        digest=index_digest(chosen.classes, shards),
    )


def _numbered(
    split: SplitName, records: Sequence[ImageRecord], root: Path, packing: Packing, scratch: Path
) -> Iterator[tuple[Path, list[ImageRecord], int]]:
    """Yield where each shard is to be made, what is to be in it, and the number of its first."""
    first, contents = 0, list(parcels(records, root, packing))
    for name, parcel in zip(shard_names(split, len(contents)), contents, strict=True):
        yield scratch / name, parcel, first
        first += len(parcel)


def _in_order(split: SplitName, records: list[ImageRecord], seed: int) -> list[ImageRecord]:
    """Mix training images, so that no shard is of one class; others stay sorted by path."""
    if split != "train":
        return records
    # the same on every machine: no library's random numbers
    return sorted(records, key=lambda record: sha256_parts(str(seed), record.path))


def _prefixes(records: Sequence[ImageRecord]) -> bytes:
    return prefixes_of(records).astype(">u8").tobytes()


def _counts(chosen: Chosen, split: SplitName) -> tuple[int, ...]:
    found = count_labels(chosen.splits[split])
    return tuple(found[label] for label in range(len(chosen.classes)))
