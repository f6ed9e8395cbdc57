"""Unpacking: the content against what was packed, and hostile archives that must leave nothing."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import random
import stat
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import sha256_file
from tasks.download.archives import Limits, extract
from tasks.errors import DataError, GraftError, ResourceError
from tests.tasks.download.conftest import full_disk

FILES = [("top/a/1.png", b"one"), ("top/b/2.png", b"two" * 5000), ("top/ä ö/3.png", b"")]
Pack = Callable[..., Path]


def unpack(archive: Path, cache: Path, limits: Limits | None = None) -> Path:
    return extract(archive, sha256_file(archive), cache, limits)


@pytest.mark.parametrize(
    "name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.ZIP"]
)
def test_content_is_what_was_packed(name: str, tmp_path: Path, pack: Pack, snapshot):
    archive = pack(tmp_path / name, FILES)
    folder = unpack(archive, tmp_path / "cache")
    assert folder == tmp_path / "cache" / "archives" / sha256_file(archive) / "files"
    assert snapshot(folder) == dict(FILES)
    assert list((tmp_path / "cache" / "archives").iterdir()) == [folder.parent]


def test_folders_and_dot_members_of_tar_are_fine(tmp_path: Path, snapshot, tree):
    data = tree("a/1.png", "b/2.png")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(data, arcname=".")
    assert snapshot(unpack(tmp_path / "a.tar.gz", tmp_path / "cache")) == snapshot(data)


def test_second_time_is_not_read_again(tmp_path: Path, pack: Pack):
    archive = pack(tmp_path / "a.zip", FILES)
    digest = sha256_file(archive)
    first = extract(archive, digest, tmp_path / "cache")
    archive.unlink()
    assert extract(archive, digest, tmp_path / "cache") == first


def zip_link(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("train/a/1.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")


def zip_twice(path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a/1.png", "one")
        archive.writestr("a/./1.png", "two")


def zip_file_and_folder(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "one")
        archive.writestr("a/1.png", "two")


def zip_locked(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", "one")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # local header, general purpose flag
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the same in the central directory
    path.write_bytes(bytes(content))


def zip_wrong_crc(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/0.png", "zero")
        archive.writestr("a/1.png", "one-one-one")
    path.write_bytes(path.read_bytes().replace(b"one-one-one", b"two-two-two"))


def zip_named(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("fine.png", "fine")
            archive.writestr(name, "bad")

    return make


def tar_of(kind: bytes, name: str = "train/a/1.png", link: str = "") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tarfile.open(path, "w:gz") as archive:
            fine = tarfile.TarInfo("fine.png")
            fine.size = 4
            archive.addfile(fine, io.BytesIO(b"fine"))
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            archive.addfile(info)

    return make


def cut(suffix: str, keep: float) -> Callable[[Path], None]:
    """Pack two files that do not compress, and keep the first part of the archive."""

    def make(path: Path) -> None:
        whole = path.with_name(f"whole{suffix}")
        noise = bytes(range(256)) * 40
        if suffix == ".zip":
            with zipfile.ZipFile(whole, "w") as archive:
                archive.writestr("a/1.png", noise)
        else:
            with tarfile.open(whole, "w" if suffix == ".tar" else "w:gz") as archive:
                for name in ("a/1.png", "b/2.png"):
                    info = tarfile.TarInfo(name)
                    info.size = len(noise)
                    archive.addfile(info, io.BytesIO(noise))
        content = whole.read_bytes()
        whole.unlink()
        path.write_bytes(content[: int(len(content) * keep)])

    return make


def tar_damaged_in_the_middle(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("a/1.png", "b/2.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    content = bytearray(path.read_bytes())
    content[1024:1034] = b"\xff" * 10  # the second header
    path.write_bytes(bytes(content))


def tar_negative_size(path: Path) -> None:
    header = bytearray(tarfile.TarInfo("a/1.png").tobuf())
    header[124:136] = b"\xff" * 12  # the size -1, in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(4096))


def tar_with_pax(records: bytes) -> Callable[[Path], None]:
    """Put an extended header before a member; ``records`` as POSIX.1-2001 has them."""

    def make(path: Path) -> None:
        extended = tarfile.TarInfo("pax")
        extended.type, extended.size = tarfile.XHDTYPE, len(records)
        padded = records + bytes(-len(records) % 512)
        member = tarfile.TarInfo("a/1.png").tobuf()
        path.write_bytes(extended.tobuf() + padded + member + bytes(1024))

    return make


def pax(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def tar_described(kind: bytes, size: int, times: int = 1) -> Callable[[Path], None]:
    """Describe a member at such length: packed it is nothing, and tarfile holds all of it."""

    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for number in range(times):
                header = tarfile.TarInfo("a")
                header.type, header.size = kind, size
                file.write(header.tobuf(tarfile.GNU_FORMAT))
                file.write(pax(b"k%d" % number, b"v" * (size - 20)).ljust(size, b"\0"))
                file.write(bytes(-size % 512))
                file.write(tarfile.TarInfo(f"a/{number}.png").tobuf() * (times > 1))
            file.write(tarfile.TarInfo("a/1.png").tobuf() + bytes(1024))

    return make


def tar_sparse_of_old(path: Path) -> None:
    """Map holes in GNU's first way, in as many blocks as one likes."""
    header = bytearray(tarfile.TarInfo("a/1.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[482] = tarfile.GNUTYPE_SPARSE, 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + (b"00000000001\0" * 42 + b"\1" + bytes(7)) * 50)


def tar_sparse_of_pax(path: Path) -> None:
    """Map holes in GNU's third way: the map says itself how long it is."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a/1.png")
        info.size = 512
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "../out.png",
            "GNU.sparse.realsize": "5",
        }
        archive.addfile(info, io.BytesIO(b"900000000\n" + b"0\n" * 251))


def tar_of_pax_paths(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("fine.png")
        info.pax_headers = {"path": "../../out.png"}
        archive.addfile(info)


def tar_link_to_write_through(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("a/out.png"))


def zip_of_one_place(path: Path) -> None:
    """Let two members have the same bytes: Fifield's bomb of 2019."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", "one")
        twin = copy.copy(archive.filelist[0])
        twin.filename = "a/2.png"
        archive.filelist.append(twin)


def zip_of_other_size(path: Path) -> None:
    """Say that a member has ten bytes where it has a million."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(1_000_000))
        archive.filelist[0].file_size = 10


def zip_of_many_folders(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/" * 1500, "")


TOO_LONG = (1 << 16) + 1
HOSTILE = {
    "tar long name": (tar_described(tarfile.GNUTYPE_LONGNAME, TOO_LONG), "describe a file"),
    "tar long link": (tar_described(tarfile.GNUTYPE_LONGLINK, TOO_LONG), "describe a file"),
    "tar long pax": (tar_described(tarfile.XHDTYPE, TOO_LONG), "describe a file"),
    "tar long Solaris pax": (tar_described(tarfile.SOLARIS_XHDTYPE, TOO_LONG), "describe a file"),
    "tar long pax of all": (tar_described(tarfile.XGLTYPE, 1 << 14, times=5), "describe a file"),
    "tar sparse, old": (tar_sparse_of_old, "sparse"),
    "tar sparse, pax": (tar_sparse_of_pax, "sparse"),
    "tar slip in a pax path": (tar_of_pax_paths, "leads out"),
    "tar link to write through": (tar_link_to_write_through, "a link"),
    "zip of one place": (zip_of_one_place, "differ"),
    "zip of another size": (zip_of_other_size, "CRC"),
    "zip of many folders": (zip_of_many_folders, "nested over 100 folders deep"),
    "tar NUL in a pax path": (tar_with_pax(pax(b"path", b"a\0b.png")), "cannot be unpacked"),
    "tar name too long": (tar_of(tarfile.REGTYPE, "a/" + "x" * 300), "cannot be unpacked"),
    "zip name too long": (zip_named("a/" + "x" * 300), "cannot be unpacked"),
    "tar negative size": (tar_negative_size, "negative size"),
    "tar negative size in pax": (tar_with_pax(pax(b"size", b"-512")), "negative size"),
    "zip slip": (zip_named("../../out.png"), "leads out"),
    "zip absolute": (zip_named("/tmp/graft-out.png"), "leads out"),
    "zip backslash": (zip_named("..\\out.png"), "leads out"),
    "zip link": (zip_link, "a link"),
    "zip twice": (zip_twice, "twice"),
    "zip file and folder": (zip_file_and_folder, "twice"),
    "zip locked": (zip_locked, "encrypted"),
    "zip wrong crc": (zip_wrong_crc, "CRC"),
    "zip cut": (cut(".zip", 0.9), "cannot be unpacked"),
    "tar slip": (tar_of(tarfile.REGTYPE, "../out.png"), "leads out"),
    "tar absolute": (tar_of(tarfile.REGTYPE, "/tmp/graft-out.png"), "leads out"),
    "tar symlink": (tar_of(tarfile.SYMTYPE, link="/etc/passwd"), "a link"),
    "tar hard link": (tar_of(tarfile.LNKTYPE, link="fine.png"), "a link"),
    "tar device": (tar_of(tarfile.CHRTYPE), "a device"),
    "tar fifo": (tar_of(tarfile.FIFOTYPE), "a device"),
    "tar twice": (tar_of(tarfile.REGTYPE, "./fine.png"), "twice"),
    "tar cut in a file": (cut(".tar", 0.2), "cannot be unpacked"),
    "tar cut between files": (cut(".tar", 10752 / 30720), "cannot be unpacked"),
    "tar.gz cut": (cut(".tar.gz", 0.7), "cannot be unpacked"),
    "tar damaged header": (tar_damaged_in_the_middle, "cannot be unpacked"),
    "text": (lambda path: path.write_text("not an archive"), "cannot be unpacked"),
    "empty file": (lambda path: path.write_bytes(b""), "cannot be unpacked"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_and_leaves_nothing(name: str, tmp_path: Path, snapshot):
    make, words = HOSTILE[name]
    home = tmp_path / "home"
    home.mkdir()
    archive = home / "archive"
    make(archive)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        unpack(archive, home / "cache")
    assert str(caught.value).count("\n") <= 1
    assert snapshot(tmp_path) == before
    assert list((home / "cache" / "archives").iterdir()) == []


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.xz"])
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(members=2), "more than 2 files"),
        (Limits(ratio=10, harmless=1000), "a bomb"),
    ],
)
def test_limits_hold(suffix: str, limits: Limits, words: str, tmp_path: Path, pack: Pack):
    files = [("a/1.png", b""), ("a/2.png", bytes(1_000_000)), ("a/3.png", b"")]
    archive = pack(tmp_path / f"a{suffix}", files)
    with pytest.raises(DataError, match=words):
        unpack(archive, tmp_path / "cache", limits)
    assert list((tmp_path / "cache" / "archives").iterdir()) == []


def test_a_list_of_members_is_not_read_where_it_is_too_long(tmp_path: Path, pack: Pack):
    archive = pack(tmp_path / "a.zip", FILES)
    with pytest.raises(DataError, match="lists its files in over 100 bytes"):
        unpack(archive, tmp_path / "cache", Limits(listed=100))
    assert unpack(archive, tmp_path / "cache", Limits(listed=1000)).is_dir()


def test_what_describes_the_members_is_not_kept(tmp_path: Path):
    """Each of 200 names has 60 kB beside it: 12 MB together, and packed next to nothing."""
    one = tmp_path / "a.tar.gz"
    with gzip.open(one, "wb", compresslevel=1) as file:
        for number in range(200):
            content = pax(b"comment", b"x" * 60_000)
            header = tarfile.TarInfo("pax")
            header.type, header.size = tarfile.XHDTYPE, len(content)
            file.write(header.tobuf() + content + bytes(-len(content) % 512))
            file.write(tarfile.TarInfo(f"a/{number}.png").tobuf())
        file.write(bytes(1024))
    tracemalloc.start()
    try:
        folder = unpack(one, tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(list(folder.rglob("*.png"))) == 200
    assert peak < 6 << 20


def test_an_archive_in_an_archive_is_a_file_like_others(tmp_path: Path, pack: Pack, snapshot):
    inner = pack(tmp_path / "inner.zip", FILES).read_bytes()
    archive = pack(tmp_path / "a.zip", [*FILES, ("top/a/inner.zip", inner)])
    folder = unpack(archive, tmp_path / "cache")
    assert snapshot(folder) == {**dict(FILES), "top/a/inner.zip": inner}


def test_names_that_differ_by_case_or_by_form_of_unicode_stay_apart(tmp_path: Path, pack: Pack):
    names = ("A/1.png", "a/1.png", "\u00e9/1.png", "e\u0301/1.png")
    archive = pack(tmp_path / "a.zip", [(name, name.encode()) for name in names])
    if (tmp_path / "A.ZIP").exists():  # a disk that takes them for one name, as a Mac's
        with pytest.raises(DataError, match="twice"):
            unpack(archive, tmp_path / "cache")
        return
    folder = unpack(archive, tmp_path / "cache")
    assert {name: (folder / name).read_bytes() for name in names} == {
        name: name.encode() for name in names
    }


def test_genuine_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path):
    """A header that claims 2 GiB: tarfile would write what follows up to that size."""
    info = tarfile.TarInfo("a/1.png")
    info.size = 2 << 30
    (tmp_path / "bomb.tar").write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(DataError, match="200 times"):
        unpack(tmp_path / "bomb.tar", tmp_path / "cache")


def test_archive_larger_than_the_disk_is_refused(tmp_path: Path):
    info = tarfile.TarInfo("a/1.png")
    info.size = 1 << 60
    (tmp_path / "huge.tar").write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(ResourceError, match="bytes left") as caught:
        unpack(tmp_path / "huge.tar", tmp_path / "cache", Limits(ratio=1 << 62))
    assert isinstance(caught.value, GraftError)


def test_a_disk_that_fills_up_is_no_damage_of_the_archive(tmp_path: Path, pack: Pack, monkeypatch):
    archive = pack(tmp_path / "a.tar", FILES)
    monkeypatch.setattr("shutil.copyfileobj", full_disk)
    with pytest.raises(ResourceError, match="The disk is full while writing"):
        unpack(archive, tmp_path / "cache")
    assert list((tmp_path / "cache" / "archives").iterdir()) == []


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_any_damage_is_a_data_error_or_does_no_harm(suffix: str, tmp_path: Path, pack: Pack):
    """Overwrite a few bytes anywhere: the readers raise what they like, a user sees one error."""
    archive = pack(tmp_path / f"a{suffix}", FILES)
    whole = archive.read_bytes()
    chance = random.Random(0)
    refused = 0
    for number in range(150):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 4, 40))):
            content[chance.randrange(min(len(content), 3000))] = chance.choice((0, 255, 48, 128))
        archive.write_bytes(content)
        with contextlib.suppress(DataError):
            unpack(archive, tmp_path / str(number))
            continue
        refused += 1
    assert refused > 30


def test_lost_file_of_an_unpacked_archive_is_unpacked_again(tmp_path: Path, pack: Pack, snapshot):
    archive = pack(tmp_path / "a.zip", FILES)
    (unpack(archive, tmp_path / "cache") / FILES[0][0]).unlink()
    assert snapshot(unpack(archive, tmp_path / "cache")) == dict(FILES)
