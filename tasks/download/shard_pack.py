"""Pack image files into tars by WebDataset's writer: the same files give the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tasks.artifacts import disk_errors, sha256_bytes, sha256_file
from tasks.download.shard_tar import IMAGE_BYTES, IMAGES, PLAIN
from tasks.errors import ConfigError, DataError
from tasks.index import ImageRecord
from tasks.preprocess.decode import header_size
from tasks.splitvalues import Shard, SplitName
from tasks.words import printable


class Packing(NamedTuple):
    """When a shard is full; it has one image at least."""

    images: int = 2_000
    size: int = 256 << 20  # bytes of image files


class Sizes:
    """The sizes that images have: two at most are kept, which tell one from many."""

    def __init__(self) -> None:
        self._found: set[tuple[int, int]] = set()

    def add(self, size: tuple[int, int]) -> None:
        """Note an image's (height, width) in px."""
        if len(self._found) < 2:
            self._found.add(size)

    def __or__(self, other: Sizes) -> Sizes:
        """Return the sizes of both."""
        both = Sizes()
        both._found = self._found | other._found
        return both

    def common(self) -> tuple[int, int] | tuple[None, None]:
        """Return the (height, width) of every image, or twice None where they differ."""
        return next(iter(self._found)) if len(self._found) == 1 else (None, None)


def parcels(
    records: Sequence[ImageRecord], root: Path, packing: Packing
) -> Iterator[list[ImageRecord]]:
    """Cut ``records``, whose files are below ``root``, into the contents of one shard each.

    Raises ``DataError`` for a file that is no longer there.
    """
    parcel: list[ImageRecord] = []
    size = 0
    for record in records:
        image = _size(root, record)
        if parcel and (len(parcel) >= packing.images or size + image > packing.size):
            yield parcel
            parcel, size = [], 0
        parcel.append(record)
        size += image
    if parcel:
        yield parcel


def shard_names(split: SplitName, shards: int) -> Iterator[str]:
    """Yield the names of so many shards; sorted by name, as an index has them, they stay so."""
    digits = max(6, len(str(shards - 1)))
    return (f"{split}-{number:0{digits}d}.tar" for number in range(shards))


def pack_shard(
    path: Path,
    split: SplitName,
    parcel: Sequence[ImageRecord],
    first: int,
    root: Path,
    classes: Sequence[str],
    sizes: Sizes,
) -> Shard:
    """Write one shard to ``path``, whose first image is number ``first`` of its split.

    Raises ``DataError`` for a file that is no longer the record's, ``ResourceError``.
    """
    with disk_errors(str(path)), path.open("wb") as file:
        writer = _writer(file)
        for number, record in enumerate(parcel, start=first):
            image = _read(root, record)
            sizes.add(header_size(image))
            writer.write(_sample(f"{number:09d}", record, image, classes))
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    return Shard(
        name=path.name,
        split=split,
        images=len(parcel),
        size=path.stat().st_size,
        sha256=sha256_file(path),
    )


def _writer(file: IO[bytes]) -> Any:  # noqa: ANN401 - webdataset has no types
    try:
        from webdataset import TarWriter
    except ImportError as fault:
        raise ConfigError(
            f"Shards need webdataset, which is not installed: {fault}.\nInstall graft[shards]."
        ) from fault
    return TarWriter(file, user="", group="", mode=0o644, compress=False, encoder=False, mtime=0)


def _size(root: Path, record: ImageRecord) -> int:
    try:
        return (root / record.path).stat().st_size
    except OSError as fault:
        raise _gone(record, fault) from fault


def _gone(record: ImageRecord, fault: OSError) -> DataError:
    return DataError(
        f"{printable(record.path)} cannot be read: {fault.strerror}.\n"
        "It could when its checks were made: mend it, and run again."
    )


def _read(root: Path, record: ImageRecord) -> bytes:
    try:
        image = (root / record.path).read_bytes()
    except OSError as fault:
        raise _gone(record, fault) from fault
    if sha256_bytes(image) != record.sha256:
        raise DataError(f"{printable(record.path)} changed while graft was at work.\nRun again.")
    if len(image) > IMAGE_BYTES:
        raise DataError(
            f"{printable(record.path)} has {len(image):,} bytes; of an image in a shard at most "
            f"{IMAGE_BYTES:,} are read.\nMake it smaller, or leave it out."
        )
    return image


def _sample(key: str, record: ImageRecord, image: bytes, classes: Sequence[str]) -> dict[str, Any]:
    suffix = PurePosixPath(record.path).suffix[1:].lower()
    facts = {"label": classes[record.labels[0]], "path": record.path.lstrip("/")}
    facts |= {"group": record.group} if record.group else {}
    content = json.dumps(facts).encode()
    return {"__key__": key, (suffix if suffix in IMAGES else PLAIN): image, "json": content}
