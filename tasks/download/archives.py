"""Unpack a zip or tar into the cache: whole, inside its folder and within limits, or not at all.

Archives are untrusted: a member may try to write elsewhere, to be a link or a device, or to fill
the disk (D. Fifield, "A better zip bomb", WOOT 2019); what describes the members, the memory.
"""

from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_ISDIR, S_ISREG
from typing import IO, NamedTuple

from tasks.download.sealed import sealed
from tasks.errors import DataError, GraftError, ResourceError
from tasks.words import printable

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # APPNOTE.TXT 4.3.7 and 4.3.16 (no member)
TAR_BLOCK = 512  # bytes; POSIX.1-1988 ustar
# OSErrors that tell of the archive, not of the disk: bz2 and gzip give no number, a seek to where
# no file reaches is invalid, and a member's name may be longer than any file's
MALFORMED = (None, errno.EINVAL, errno.ENAMETOOLONG)
# tar's members that describe others, whose content tarfile holds in memory: names and pax records
DESCRIBING = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
DEEPEST = 100  # folders one in another: what walks through them, or removes them, nests as deep
LONGEST_DESCRIPTION = 1 << 16  # bytes, of one of them and of all that hold for the whole archive


class Limits(NamedTuple):
    """What an archive may hold."""

    members: int = 2_000_000
    ratio: int = 200  # unpacked bytes for each packed byte, beyond ...
    harmless: int = 1 << 30  # ... this many bytes unpacked
    listed: int = 1 << 28  # bytes of a zip's list of members, which zipfile reads as a whole


class Member(NamedTuple):
    """One entry of an archive of either kind."""

    name: str
    size: int  # bytes unpacked; neither zipfile nor tarfile reads beyond it
    fault: str  # why it is refused; "" where it is not
    folder: bool
    open: Callable[[], IO[bytes] | None]


def extract(archive: Path, sha256: str, cache: Path, limits: Limits | None = None) -> Path:
    """Return ``cache/archives/<sha256>/files``, unpacked there unless it was before.

    ``sha256`` is the archive's own digest. Raises ``DataError`` where the archive is damaged, is
    neither zip nor tar (plain, gz, bz2, xz), holds a link, a device, a name twice, a path that
    leads out or is over ``DEEPEST`` folders deep, or unpacks to more than ``limits``;
    ``ResourceError`` where the disk is too small.
    """

    def unpack(folder: Path) -> None:
        with _damage(archive), _members(archive, (limits or Limits()).listed) as members:
            _unpack(members, folder, archive, limits or Limits())

    return sealed(cache / "archives" / sha256, unpack)


def _unpack(members: Iterator[Member], folder: Path, archive: Path, limits: Limits) -> None:
    packed, free = archive.stat().st_size, shutil.disk_usage(folder).free
    total = 0
    for number, member in enumerate(members, start=1):
        total += member.size
        if number > limits.members:
            raise DataError(
                f"{printable(archive)} holds more than {limits.members:,} files.\nSplit it up."
            )
        if total > max(limits.harmless, limits.ratio * packed):
            raise DataError(
                f"{printable(archive)} unpacks to over {limits.ratio} times its size: a bomb?\n"
                "Where it is genuine, unpack it yourself and name the folder in data.path."
            )
        if total > free:
            raise ResourceError(
                f"{printable(archive)} unpacks to more than the {free:,} bytes left.\n"
                "Free some space, or name another folder in output.cache."
            )
        _write(member, folder / _safe(member, archive), archive)


def _safe(member: Member, archive: Path) -> PurePosixPath:
    """Return the member's path, sure to lie inside; raises ``DataError``."""
    path = PurePosixPath(member.name)
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in member.name
    deep = f"nested over {DEEPEST} folders deep" if len(path.parts) > DEEPEST else ""
    fault = member.fault or ("a path that leads out of its folder" if leads_out else deep)
    if fault:
        raise DataError(
            f"{printable(archive)} is not unpacked: {member.name!a} is {fault}.\n"
            "Pack plain files and folders with relative paths."
        )
    return path


def _write(member: Member, path: Path, archive: Path) -> None:
    try:
        if member.folder:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        assert source is not None  # tarfile's is of a link or a device, which are refused
        with source, path.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (FileExistsError, NotADirectoryError) as fault:
        raise DataError(
            f"{printable(archive)} holds {member.name!a} twice.\nPack every file once."
        ) from fault


@contextmanager
def _members(archive: Path, longest_list: int) -> Iterator[Iterator[Member]]:
    with archive.open("rb") as file:
        is_zip = file.read(4) in ZIP_MAGIC
        if is_zip:
            _check_list(file, archive, longest_list)
    if is_zip:
        with zipfile.ZipFile(archive) as opened_zip:
            yield (_zip_member(opened_zip, info) for info in opened_zip.infolist())
    else:
        with tarfile.open(archive, "r:*", tarinfo=_short_headers()) as opened_tar:
            yield _tar_members(opened_tar)


def _check_list(file: IO[bytes], archive: Path, longest: int) -> None:
    """Refuse a list of members that zipfile would make too many objects of, before it does."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # Zip64 as well; None: no zip
    if end is not None and end[zipfile._ECD_SIZE] > longest:  # type: ignore[attr-defined]
        raise DataError(
            f"{printable(archive)} lists its files in over {longest:,} bytes.\nSplit it up."
        )


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16  # Unix mode where made on Unix, else without a file type
    plain = S_IFMT(mode) == 0 or S_ISREG(mode) or S_ISDIR(mode)
    locked = info.flag_bits & 0x1
    fault = "" if plain else "a link or a device"
    return Member(
        name=info.filename,
        size=info.file_size,
        fault="encrypted" if locked else fault,
        folder=info.is_dir(),
        open=lambda: archive.open(info),
    )


def _short_headers() -> type[tarfile.TarInfo]:
    """Return a reader of headers that refuses those whose content would fill the memory.

    It raises no error of tarfile's, which would be taken for the archive's end.
    """

    class Header(tarfile.TarInfo):
        of_all = 0  # bytes of what holds for every later member, which tarfile keeps

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            header = super().frombuf(buf, encoding, errors)
            if header.type == tarfile.GNUTYPE_SPARSE:
                cls._proc_gnusparse_10(header)
            if header.type in DESCRIBING:
                cls.of_all += header.size if header.type == tarfile.XGLTYPE else 0
                if header.size < 0 or max(header.size, cls.of_all) > LONGEST_DESCRIPTION:
                    raise ValueError(f"{header.size:,} bytes describe a file, a bomb?")
            return header

        def _proc_gnusparse_10(self, *_: object) -> None:
            # tarfile's would read the map of holes, as long as the archive says
            raise ValueError("it holds a sparse file, pack it without --sparse")

    return Header


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    while (info := archive.next()) is not None:
        yield _tar_member(archive, info)
        archive.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every header
    # tarfile takes a damaged header in the middle for the end
    assert archive.fileobj is not None  # as of one that is being written
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(TAR_BLOCK) != bytes(TAR_BLOCK):
        raise tarfile.ReadError("no end mark: cut off, or a damaged header")


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    return Member(
        name=info.name,
        size=info.size,
        fault=_tar_fault(info),
        folder=info.isdir(),
        open=lambda: archive.extractfile(info),
    )


def _tar_fault(info: tarfile.TarInfo) -> str:
    if info.size < 0:  # tarfile takes it, and would read backwards
        return "of a negative size"
    return "" if info.isreg() or info.isdir() else "a link or a device"


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Turn what the readers raise on a damaged archive into a ``DataError``."""
    try:
        yield
    except (GraftError, MemoryError):
        raise
    except Exception as fault:  # the readers raise anything on damaged or hostile bytes
        if isinstance(fault, OSError) and fault.errno not in MALFORMED:
            raise
        raise DataError(
            f"{printable(archive)} cannot be unpacked: {_reason(fault)}.\n"
            "It must be a whole zip or tar (plain, gz, bz2, xz): make or download it again."
        ) from fault


def _reason(fault: Exception) -> str:
    """Return what a reader says, without the place that it was writing to."""
    if isinstance(fault, tarfile.ReadError) and str(fault).startswith("file could not be opened"):
        return "it is neither a zip nor a tar, or its start is damaged"
    if isinstance(fault, OSError) and fault.strerror and fault.filename:
        return printable(f"{fault.strerror}: {PurePosixPath(str(fault.filename)).name:.60}")
    return printable(str(fault).splitlines()[0] if str(fault) else type(fault).__name__)
