"""The images of one shard, in order: of the shard that the index names, and no byte beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tasks.download.shard_address import open_folder
from tasks.download.shard_folder import Stream
from tasks.download.shard_tar import Entry, read_entries
from tasks.errors import DataError
from tasks.splitvalues import Shard
from tasks.words import listed, printable


class Sample(NamedTuple):
    """One image of a shard."""

    key: str
    image: bytes  # the file as it was
    label: int  # position in the classes
    path: str  # its name where it came from
    group: str  # "" for an image on its own
    suffix: str  # of its file, without the dot


def read_samples(
    url: str, shard: Shard, classes: Sequence[str], timeout: float = 60.0
) -> Iterator[Sample]:
    """Yield the images of a shard in order, with the memory of one.

    A connection that is cut is opened again where it was cut, a few times. Raises ``DataError`` for
    a label that is not among ``classes``, for a tar that ``read_entries`` refuses, and where it is
    not the one that the index names: as soon as it is longer, else at its end;
    ``TransientDataError`` where the connection stays cut; ``ConfigError`` where a driver or keys
    are missing.
    """
    number = {name: position for position, name in enumerate(classes)}
    with open_folder(url, timeout).stream(shard.name) as stream:
        where = f"The shard {printable(url)}/{shard.name}"
        images = 0
        for entry in read_entries(_Indexed(stream, shard, where), where):
            images += 1
            if images > shard.images:
                raise _differs(where, f"more than {shard.images:,} images")
            yield _sample(entry, shard, number, where)
        if (stream.position, stream.sha256(), images) != (shard.size, shard.sha256, shard.images):
            raise _differs(
                where,
                f"{images:,} images and sha256 {stream.sha256()}, and the index says "
                f"{shard.images:,} and {shard.sha256}",
            )


class _Indexed:
    """A shard's bytes, as many as the index says: one that grew without end would never end."""

    def __init__(self, stream: Stream, shard: Shard, where: str) -> None:
        self._stream, self._size, self._where = stream, shard.size, where

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end; raises ``DataError`` beyond the size."""
        piece = self._stream.read(size)
        if self._stream.position > self._size:
            raise _differs(self._where, f"more than the {self._size:,} bytes that the index says")
        return piece


def _differs(where: str, has: str) -> DataError:
    return DataError(
        f"{where} has {has}.\n"
        "It was changed after it was indexed: restore it, or index the folder again."
    )


def _sample(entry: Entry, shard: Shard, number: dict[str, int], where: str) -> Sample:
    if entry.label not in number:
        raise DataError(
            f"{where}, sample {entry.key!a} has the label {entry.label!a}, which is none of: "
            f"{listed(list(number))}.\nIndex the folder again."
        )
    path = entry.path or f"{shard.name.removesuffix('.tar')}/{entry.key}.{entry.suffix}"
    label = number[entry.label]
    return Sample(entry.key, entry.image, label, path, entry.group, entry.suffix)
