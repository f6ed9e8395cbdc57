"""Samples of a WebDataset tar, read as a stream: with the memory of one, whoever made the tar.

Nothing is ever unpickled or run, and nothing written. A tar is untrusted: links, devices, paths
that lead out and absurd sizes are refused, as is one that is cut off, which ``tarfile`` would take
for its end.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

from tasks.download.archives import DESCRIBING, LONGEST_DESCRIPTION
from tasks.download.folders import IMAGE_SUFFIXES
from tasks.download.shard_dots import Dots
from tasks.errors import ConfigError, DataError, GraftError
from tasks.words import printable

PLAIN = "img"  # suffix of an image whose name had none that is known
IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES) | {"gif", "avif", "jp2", PLAIN}
LABELS = frozenset({"json", "cls"})
IMAGE_BYTES = 256 << 20  # of one image, at most
LABEL_BYTES = 1 << 20  # of what describes one
LABEL_LENGTH = 1_000  # characters of one
ONE = "Give each sample just one."
PIECE = 1 << 18  # bytes that tarfile reads at once
ENDS = 4  # how often tarfile is told that a tar is at its end; a whole one takes one or two
META = re.compile(r"__[^/]*__($|[/.])")  # webdataset's skip_meta, of files too


class Entry(NamedTuple):
    """One image as it lies in a tar."""

    key: str
    suffix: str  # of its file, without the dot
    image: bytes  # the file
    label: str
    path: str  # its name where it came from; "" where the tar does not say
    group: str  # never torn between splits; "" for an image on its own


class Bytes(Protocol):
    """What a tar is read from."""

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""


class _Ending:
    """A stream that has one end: tarfile asks on for as many bytes as a header claims there are."""

    def __init__(self, stream: Bytes) -> None:
        self._stream, self._ends = stream, 0

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._ends += not piece
        if self._ends > ENDS:
            raise tarfile.ReadError("cut off, or a header claims more than there is")
        return piece


def read_entries(stream: Bytes, where: str) -> Iterator[Entry]:
    """Yield the images of a tar in order, and read it to its last byte; ``where`` opens errors.

    A sample is ``KEY.jpg`` (or another suffix of an image) and beside it ``KEY.json`` with its
    ``label``, or ``KEY.cls``, a number or name, which goes first. As WebDataset has it, a key ends
    at the first dot of a file's name; other parts of a sample (``KEY.mask.png``), hidden files and
    ``__meta__`` are passed over. Raises ``DataError`` for a damaged or hostile tar, a sample
    without one image and a label, and an image that no sample would have (``Dots``).
    """
    group_by_keys = _group_by_keys()
    try:
        with closing(_members(_Ending(stream), where)) as members:
            for sample in group_by_keys(members):
                yield _entry(sample, where)
        while stream.read(PIECE):  # whatever lies behind the end mark counts for the digest
            pass
    except (GraftError, MemoryError):
        raise
    except Exception as fault:  # readers raise anything on damaged or hostile bytes
        words = printable(" ".join(str(fault or type(fault).__name__).split()))[:200]
        raise DataError(f"{where} is no whole tar of samples: {words}.\nMake it again.") from fault


def _group_by_keys() -> Any:  # noqa: ANN401 - webdataset has no types
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as fault:
        raise ConfigError(
            f"Shards need webdataset, which is not installed: {fault}.\nInstall graft[shards]."
        ) from fault
    return group_by_keys


def _strict_headers() -> type[tarfile.TarInfo]:
    """Return a reader of headers that takes none that is damaged or missing for the tar's end.

    tarfile's own does. Nor does it read what would fill the memory: long descriptions, and where
    the holes of a sparse file are.
    """

    class Header(tarfile.TarInfo):
        of_all = 0  # bytes of what holds for every later member, which tarfile keeps

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            try:
                header = super().frombuf(buf, encoding, errors)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # not in typeshed
                raise
            except tarfile.HeaderError as fault:
                raise tarfile.ReadError("cut off, or a damaged header") from fault
            cls.of_all += header.size if header.type == tarfile.XGLTYPE else 0
            long = header.type in DESCRIBING and max(header.size, cls.of_all) > LONGEST_DESCRIPTION
            if header.size < 0 or long:
                raise tarfile.ReadError(f"a header says {header.size:,} bytes")
            if header.type == tarfile.GNUTYPE_SPARSE:
                cls._proc_gnusparse_10(header)
            return header

        def _proc_gnusparse_10(self, *_: object) -> None:
            raise tarfile.ReadError("it holds a sparse file")

    return Header


def _members(stream: Bytes, where: str) -> Generator[dict[str, Any], None, None]:
    """Yield the files that samples are made of, as webdataset's ``tar_file_iterator`` does."""
    header, pictured, dots = _strict_headers(), "", Dots(where, IMAGES, LABELS)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE, tarinfo=header) as tar:  # type: ignore[call-overload] # a stream that only reads
        for info in tar:
            tar.members = []  # tarfile keeps every header
            base, _, suffix = info.name.rpartition("/")[2].partition(".")
            suffix = suffix.lower()
            _check(info, suffix, where)
            if info.isdir() or META.match(info.name) or not base:
                continue
            key = info.name[: len(info.name) - len(suffix)]
            dots.see(info.name, key, suffix)
            if suffix not in IMAGES | LABELS:
                continue
            if suffix in IMAGES and key == pictured:  # before it is read
                raise DataError(f"{where}, sample {key[:-1]!a} has 2 images.\n{ONE}")
            pictured = key if suffix in IMAGES else pictured
            file = tar.extractfile(info)
            content = b"" if file is None else file.read()
            yield {"fname": info.name, "data": content, "__url__": where}
    dots.end()


def _check(info: tarfile.TarInfo, suffix: str, where: str) -> None:
    path = PurePosixPath(info.name)
    most = LABEL_BYTES if suffix in LABELS else IMAGE_BYTES
    fault = ""
    if not (info.isreg() or info.isdir()) or info.issparse():
        fault = "a link, a device or a sparse file"
    elif path.is_absolute() or ".." in path.parts or "\0" in info.name:
        fault = "a path that leads out of its folder"
    elif info.size < 0 or (info.size > most and suffix in IMAGES | LABELS):
        fault = f"of {info.size:,} bytes, and at most {most:,} are read"
    if fault:
        raise DataError(
            f"{where} is not read: {info.name!a} is {fault}.\n"
            "Make the shard of plain image files and their labels."
        )


def _entry(sample: dict[str, Any], where: str) -> Entry:
    key = sample["__key__"]
    named = f"{where}, sample {key!a}"
    images = [suffix for suffix in sample if suffix in IMAGES]
    if len(images) != 1:
        raise DataError(f"{named} has {len(images)} images.\n{ONE}")
    facts = _facts(sample["json"], named) if "json" in sample else {}
    label = sample["cls"].decode().strip() if "cls" in sample else _text(facts, "label", named)
    if not 0 < len(label) <= LABEL_LENGTH:
        raise DataError(
            f"{named} has {f'a label of {len(label):,} characters' if label else 'no label'}.\n"
            f"Put one of at most {LABEL_LENGTH:,} characters into its .cls or .json file."
        )
    path, group = facts.get("path"), _text(facts, "group", named)
    original = path if isinstance(path, str) else ""
    return Entry(key, images[0], sample[images[0]], label, original, group)


def _facts(content: bytes, named: str) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{named}: its .json file cannot be read: {fault}.") from fault
    return facts if isinstance(facts, dict) else {}


def _text(facts: dict[str, Any], name: str, named: str) -> str:
    value = facts.get(name, "")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{named}: its {name} is neither a word nor a whole number.")
    return str(value).strip()
