"""Reading shards: whole or refused, from a folder or a store, with the memory of one image."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tasks.config import DataConfig
from tasks.download.shard_samples import read_samples
from tasks.download.shard_tar import read_entries
from tasks.download.shard_write import write_shards
from tasks.download.shards import (
    INDEX_FILE,
    index_digest,
    parse_index,
    read_index_file,
    read_prefixes,
    shared_with_training,
)
from tasks.errors import DataError, TransientDataError
from tasks.index import ImageRecord
from tasks.splitvalues import Shard, ShardIndex

CLASSES = ("cat", "dog")
Png = Callable[[int], bytes]


def shard_of(path: Path, images: int) -> Shard:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return Shard(name=path.name, split="train", images=images, size=len(content), sha256=sha256)


def tar(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], **given: object) -> Path:
    with tarfile.open(path, "w", **given) as archive:
        for info, content in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def made(tmp_path: Path, png: Png) -> tuple[Path, Shard]:
    """Return a shard of six images that WebDataset's writer made, of its own kinds of fields."""
    pattern = str(tmp_path / "train-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=100, verbose=0) as writer:
        for number in range(3):
            writer.write({"__key__": f"a/{number}", "png": png(number), "cls": "cat"})
        for number in range(3, 6):
            facts = {"label": "dog", "path": f"dog/{number}.png", "group": number % 2}
            writer.write({"__key__": f"b{number}", "png": png(number), "json": facts, "txt": "x"})
    path = tmp_path / "train-000000.tar"
    return path, shard_of(path, 6)


def test_what_webdataset_writes_is_read_byte_by_byte(made: tuple[Path, Shard], png: Png):
    path, shard = made
    samples = list(read_samples(str(path.parent), shard, CLASSES))
    assert [s.image for s in samples] == [png(number) for number in range(6)]
    assert [s.label for s in samples] == [0, 0, 0, 1, 1, 1]
    assert [s.path for s in samples[:4]] == [
        *(f"train-000000/a/{number}.png" for number in range(3)),
        "dog/3.png",
    ]
    assert [s.group for s in samples] == ["", "", "", "1", "0", "1"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read(tmp_path: Path, png: Png, form: int):
    long = "folder/" + 90 * "n"  # more than a plain header has room for
    members = [
        (member("folder", tarfile.DIRTYPE), b""),
        (f"{long}.PNG", png(1)),
        (f"{long}.cls", b"1\n"),
        ("__meta__.json", b"{}"),
        ("é.jpeg", png(2)),
        ("é.cls", b"0"),
    ]
    path = tar(tmp_path / "train-x.tar", members, format=form)
    samples = list(read_samples(str(tmp_path), shard_of(path, 2), ("0", "1")))
    assert [(s.key, s.label, s.image) for s in samples] == [(long, 1, png(1)), ("é", 0, png(2))]


def test_a_shard_that_was_cut_off_anywhere_is_refused(made: tuple[Path, Shard]):
    path, shard = made
    content = path.read_bytes()
    for end in [*range(0, len(content), 512), 700, len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"is no whole tar|the index says"):
            list(read_samples(str(path.parent), shard, CLASSES))


def test_a_shard_with_one_bit_changed_is_refused(made: tuple[Path, Shard]):
    path, shard = made
    content = path.read_bytes()
    for place in range(3, len(content), 997):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DataError):
            list(read_samples(str(path.parent), shard, CLASSES))


@pytest.mark.parametrize("seed", range(3))
def test_any_damage_is_a_data_error_or_does_no_harm(made: tuple[Path, Shard], seed: int):
    content, rng = made[0].read_bytes(), np.random.default_rng(seed)
    for _ in range(100):
        damaged = np.frombuffer(content, np.uint8).copy()
        start = 512 * rng.integers(0, 2) * rng.integers(0, len(content) // 512)
        at = (start + rng.integers(0, 512, rng.integers(1, 9))) % len(content)
        damaged[at] = rng.integers(0, 256, len(at))
        found = 0
        with suppress(DataError):
            for _entry in read_entries(io.BytesIO(damaged.tobytes()), "it"):
                found += 1
        assert found <= 6


def test_a_shard_with_more_behind_its_end_is_refused(made: tuple[Path, Shard]):
    path, shard = made
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(DataError, match="was changed after it was indexed"):
        list(read_samples(str(path.parent), shard, CLASSES))


class Endless(io.RawIOBase):
    """A shard that goes on and on: the tar so often, or zeros behind it; counts what is taken."""

    def __init__(self, head: bytes, tail: bytes):
        self.bytes = itertools.chain([head], itertools.repeat(tail))
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        assert self.taken < 1 << 22, "it goes on reading"
        self.taken += len(piece := next(self.bytes))
        return piece


def test_a_shard_that_grew_is_read_no_further_than_the_index_says(made, monkeypatch):
    path, shard = made
    content = path.read_bytes()
    samples = content[: content.rindex(b"b5.txt") + 1024]  # without an end mark
    for head, tail in ((content, bytes(512)), (samples, bytes(512)), (samples, samples)):
        endless = Endless(head, tail)
        monkeypatch.setattr("tasks.download.shard_folder.Folder.open", lambda *_: endless)  # noqa: B023
        found = []
        with pytest.raises(DataError, match="was changed after it was indexed"):
            found.extend(read_samples(str(path.parent), shard, CLASSES))
        assert len(found) <= 6
        assert endless.taken <= shard.size + (1 << 18)


def test_images_beyond_those_of_the_index_are_not_given(made):
    path, shard = made
    fewer = shard.model_copy(update={"images": 4})
    samples = read_samples(str(path.parent), fewer, CLASSES)
    assert len(list(itertools.islice(samples, 4))) == 4
    with pytest.raises(DataError, match="more than 4 images"):
        next(samples)


def test_prefixes_take_the_memory_of_those_that_are_there(local):
    folder, index = local
    shard = index.shards[0].model_copy(update={"images": 1 << 60, "size": 1 << 62})
    claimed = index.model_copy(update={"shards": (shard,)})
    with pytest.raises(DataError, match="was changed"):
        list(read_prefixes(str(folder / "digits"), claimed))


HUGE = member("a.png", tarfile.REGTYPE)
HUGE.size = 1 << 40
PAX = tarfile.TarInfo("a.png")
PAX.pax_headers = {"comment": "x" * (2 << 20)}
SPARSE = member("a.png", tarfile.GNUTYPE_SPARSE)
HOLES = tarfile.TarInfo("a.png")
HOLES.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
ENDLESS = tarfile.TarInfo("a.txt")  # no part of a sample: passed over, piece by piece
ENDLESS.pax_headers = {"size": str(1 << 60)}


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (member("a.png", tarfile.SYMTYPE, "/etc/passwd"), "a link, a device or a sparse file"),
        (member("a.png", tarfile.LNKTYPE, "b.png"), "a link, a device or a sparse file"),
        (member("a.png", tarfile.CHRTYPE), "a link, a device or a sparse file"),
        (member("a.png", tarfile.FIFOTYPE), "a link, a device or a sparse file"),
        (member("/a.png", tarfile.REGTYPE), "leads out"),
        (member("x/../../a.png", tarfile.REGTYPE), "leads out"),
        (HUGE, "at most 268,435,456 are read"),
        (PAX, "a header says"),
        (SPARSE, "sparse"),
        (HOLES, "sparse"),
        (ENDLESS, "claims more than there is"),
    ],
    ids=[
        "link",
        "hard link",
        "device",
        "pipe",
        "absolute",
        "upwards",
        "huge",
        "huge header",
        "sparse",
        "holes",
        "endless",
    ],
)
def test_a_hostile_member_is_refused_before_it_is_read(
    tmp_path: Path, info: tarfile.TarInfo, words: str
):
    path = tmp_path / "train-x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    with pytest.raises(DataError, match=words):
        list(read_samples(str(tmp_path), shard_of(path, 1), CLASSES))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.png": b"x"}, "has no label"),
        ({"a.cls": b"cat"}, "has 0 images"),
        ({"a.png": b"x", "a.jpg": b"y", "a.cls": b"cat"}, "has 2 images"),
        ({"a.png": b"x", "a.json": b"{"}, "cannot be read"),
        ({"a.png": b"x", "a.json": b"[" * 100_000}, "cannot be read"),
        ({"a.png": b"x", "a.json": b'{"label": 1.5}'}, "neither a word nor"),
        ({"a.png": b"x", "a.json": b'{"label": "cat", "group": []}'}, "neither a word nor"),
        ({"a.png": b"x", "a.cls": b"\xff"}, "no whole tar of samples"),
        ({"a.png": b"x", "a.cls": 1_001 * b"c"}, "a label of 1,001 characters"),
        ({"a.png": b"x", "a.cls": b"cow"}, "sample 'a' has the label 'cow'"),
        ({"a.png": b"x", "a.pyd": b"cos\nsystem\n"}, "has no label"),
    ],
)
def test_a_sample_without_one_image_and_a_known_label_is_named(
    tmp_path: Path, members: dict[str, bytes], words: str
):
    path = tar(tmp_path / "train-x.tar", list(members.items()))
    with pytest.raises(DataError, match=words) as raised:
        list(read_samples(str(tmp_path), shard_of(path, 1), CLASSES))
    assert "train-x.tar" in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2


def test_names_without_end_are_refused(tmp_path: Path):
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2
    content = (name.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * 5_000
    path = tmp_path / "train-x.tar"
    path.write_bytes(content)
    with pytest.raises(DataError, match="recursion"):
        list(read_samples(str(tmp_path), shard_of(path, 1), CLASSES))


def test_a_name_that_comes_twice_is_refused(tmp_path: Path):
    path = tar(tmp_path / "train-x.tar", [("a.cls", b"x"), ("a.cls", b"y"), ("a.png", b"cat")])
    with pytest.raises(DataError, match="duplicate"):
        list(read_samples(str(tmp_path), shard_of(path, 1), CLASSES))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ShardIndex]:
    """Return a folder of the digits, a shard a split."""
    folder = tmp_path_factory.mktemp("shards")
    config = DataConfig(kind="digits", checks={"near_duplicates": "off"})
    return folder, write_shards(config, 0, folder / "cache", str(folder / "digits")).index


@pytest.fixture
def stored(s3: str, local: tuple[Path, ShardIndex]) -> ShardIndex:
    """Return what is in the store at ``s3``: the digits."""
    import fsspec

    fsspec.filesystem("s3").put(str(local[0] / "digits") + "/", s3 + "/", recursive=True)
    return local[1]


def test_a_line_that_is_cut_is_mended_where_it_was_cut(s3, stored, store, at_once, monkeypatch):
    shard = stored.shards[0]
    whole = list(read_samples(s3, shard, stored.classes))
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)  # else it tries again by itself
    store.cut(2, after=60_000)
    assert list(read_samples(s3, shard, stored.classes)) == whole
    assert store.cuts == 0


def test_a_line_that_stays_cut_may_pass(s3, stored, store, at_once, monkeypatch):
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    store.cut(10_000, after=60_000)
    with pytest.raises(TransientDataError, match=r"cannot be reached.*\nCheck the network"):
        list(read_samples(s3, stored.shards[0], stored.classes))
    store.cut(0, after=0)


def test_a_shard_in_a_store_that_is_another_now_is_refused(s3, stored, tmp_path):
    import fsspec

    shard = stored.shards[0]
    path = f"{s3}/{shard.name}".removeprefix("s3://")
    files = fsspec.filesystem("s3")
    content = files.cat_file(path)
    files.pipe_file(path, content[: len(content) // 2])
    with pytest.raises(DataError, match="no whole tar"):
        list(read_samples(s3, shard, stored.classes))
    files.rm_file(path)
    with pytest.raises(DataError, match="is not there"):
        list(read_samples(s3, shard, stored.classes))


def test_the_prefixes_are_those_of_the_images_in_order(s3, stored):
    for split in ("train", "val", "test"):
        found = np.concatenate(list(read_prefixes(s3, stored, split)))
        shards = [shard for shard in stored.shards if shard.split == split]
        samples = [s for shard in shards for s in read_samples(s3, shard, stored.classes)]
        wanted = [int(hashlib.sha256(s.image).hexdigest()[:16], 16) for s in samples]
        assert found.tolist() == wanted
        counts = np.bincount([s.label for s in samples], minlength=10)
        assert tuple(counts) == stored.counts[split]


def test_changed_prefixes_are_refused(s3, stored):
    import fsspec

    path = f"{s3}/train.digests.bin".removeprefix("s3://")
    files = fsspec.filesystem("s3")
    content = files.cat_file(path)
    for changed in (content[:-8], content[:-3], content + bytes(8), b"\1" + content[1:]):
        files.pipe_file(path, changed)
        with pytest.raises(DataError, match="was changed"):
            list(read_prefixes(s3, stored))


def test_images_that_are_trained_on_as_well_are_found(s3, stored):
    first = next(read_samples(s3, stored.shards[0], stored.classes)).image
    known, other = (hashlib.sha256(image).hexdigest() for image in (first, b"other"))
    records = [ImageRecord(name, 0, "val", "", name) for name in (other, known, known)]
    assert shared_with_training(s3, stored, records) == records[1:]


@pytest.mark.parametrize("seed", range(20))
def test_images_that_are_trained_on_are_those_of_a_plain_look(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    trained = [rng.integers(0, 60, rng.integers(1, 9)).astype(np.uint64) for _ in range(5)]
    monkeypatch.setattr("tasks.download.shards.read_prefixes", lambda *_: iter(trained))
    numbers = rng.integers(0, 60, rng.integers(0, 20)).tolist()
    records = [
        ImageRecord(str(place), 0, "val", "", f"{number:016x}{0:048x}")
        for place, number in enumerate(numbers)
    ]
    known = {number for shard in trained for number in shard.tolist()}
    wanted = [record for record, number in zip(records, numbers, strict=True) if number in known]
    assert shared_with_training("x", None, records) == wanted


def test_a_copy_of_an_index_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"shards.json cannot be read: No such .*\nRun again"):
        read_index_file(tmp_path / "shards.json")


def facts_of(name: str) -> dict[str, object]:
    return {"name": name, "split": "train", "images": 5, "size": 9_000, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ("b", "a")}, "not sorted"),
        ({"counts": {"train": (1, 2)}}, "counts of train"),
        ({"counts": {"train": (3, 2), "val": (0, 0)}}, "counts or digests"),
        ({"name": "../train-0.tar"}, "not SPLIT-NAME.tar"),
        ({"name": "val-0.tar"}, "not SPLIT-NAME.tar"),
        ({"shards": [facts_of("train-1.tar"), facts_of("train-0.tar")]}, "not in order"),
        ({"shards": [facts_of("train-0.tar"), facts_of("train-0.tar")]}, "not in order"),
        ({"images": 0}, "a shard is empty"),
        ({"images": 1 << 40, "counts": {"train": (1 << 40, 0)}}, "or too small"),
        ({"sha256": "1" * 64}, "its digest differs"),
        ({"format": "graft shards 9"}, "format"),
        ({"more": 1}, "more"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(change: dict[str, object], words: str):
    shard = Shard(name="train-0.tar", split="train", images=5, size=9_000, sha256="0" * 64)
    index = ShardIndex(
        classes=("a", "b"),
        shards=(shard,),
        counts={"train": (3, 2)},
        height=None,
        width=None,
        prefixes={"train": "0" * 64},
        digest=index_digest(("a", "b"), [shard]),
    )
    facts = index.model_dump(mode="json")
    assert parse_index(json.dumps(facts).encode(), INDEX_FILE) == index
    for name, value in change.items():
        of = facts["shards"][0] if name in ("name", "images", "sha256") else facts
        of[name] = value
    with pytest.raises(DataError, match=words):
        parse_index(json.dumps(facts).encode(), INDEX_FILE)


MEMORY = """
import sys
import psutil
from tasks.download.shard_samples import read_samples
from tasks.splitvalues import Shard
shard = Shard.model_validate_json(sys.argv[2])
held = []  # the peak since the start would be that of imports
for number, sample in enumerate(read_samples(sys.argv[1], shard, ("a",)), start=1):
    if number % 1_000 == 0:
        held.append(psutil.Process().memory_info().rss)
print(max(held[1:]) - held[0])
"""


def test_memory_does_not_grow_with_a_shard(tmp_path: Path, repository: Path):
    image = bytes(500)
    members = (
        (f"{n:06d}.{kind}", c) for n in range(20_000) for kind, c in (("png", image), ("cls", b"a"))
    )
    path = tar(tmp_path / "train-x.tar", members)
    shard = shard_of(path, 20_000)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), shard.model_dump_json()],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 << 20, done.stdout
