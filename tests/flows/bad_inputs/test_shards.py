"""Shards that others made: their tars and their index, damaged, hostile, or of nothing to learn."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download.shard_index import index_shards
from tasks.download.shards import INDEX_FILE
from tests.flows.bad_inputs.rows import Bad, Make, encoded

Members = Mapping[str | tarfile.TarInfo, bytes]
LONG = 5000 * "k"


def sample(key: str, **facts: object) -> dict[str, bytes]:
    return {f"{key}.png": encoded((9, 9), "PNG"), f"{key}.json": json.dumps(facts).encode()}


def two(*more: Mapping) -> dict:
    """Return an image of each class, and more."""
    members = sample("a", label="cat") | sample("b", label="dog")
    for each in more:
        members |= each
    return members


def write(path: Path, members: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def three(folder: Path, members: Members) -> Path:
    """Write shards of all splits; those of training hold ``members``."""
    shards = folder / "shards"
    shards.mkdir()
    for split in ("train", "val", "test"):
        write(shards / f"{split}-0.tar", members if split == "train" else two())
    return shards


def index(members: Members, change: Callable[[Path], object] = lambda _: None) -> Make:
    """Index shards of which those of training hold ``members``."""

    def make(folder: Path) -> list[str]:
        shards = three(folder, members)
        change(shards)
        return ["shards", "good.yaml", "--index", "data.kind=shards", f"data.path={shards}"]

    return make


def check(change: Callable[[Path], object], *overrides: str) -> Make:
    """Index good shards, change them, and check them."""

    def make(folder: Path) -> list[str]:
        shards = three(folder, two())
        index_shards(DataConfig(kind="shards", path=str(shards)))
        change(shards)
        return ["check", "good.yaml", "data.kind=shards", f"data.path={shards}", *overrides]

    return make


def told(of: str, /, **values: object) -> Callable[[Path], object]:
    """Return what makes an index say something else of its first shard, or at its top."""

    def change(shards: Path) -> None:
        content = json.loads((shards / INDEX_FILE).read_text())
        place = content["shards"][0] if of == "shard" else content
        place |= values
        (shards / INDEX_FILE).write_text(json.dumps(content))

    return change


def content(text: bytes, name: str = INDEX_FILE) -> Callable[[Path], object]:
    return lambda shards: (shards / name).write_bytes(text)


def header(name: str, kind: bytes = tarfile.REGTYPE, **pax: str) -> dict[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" * (kind == tarfile.SYMTYPE)
    info.pax_headers = pax
    return {info: b""}


TARS = {
    "with a link": Bad(index(two(header("x.png", tarfile.SYMTYPE))), 3, "x.png' is a link"),
    "with a device": Bad(index(two(header("x.png", tarfile.CHRTYPE))), 3, "x.png' is a link"),
    "that lead out": Bad(index(two({"../x.png": b""})), 3, r"'\.\./x\.png' is a path that leads"),
    "with a root": Bad(index(two({"/x.png": b""})), 3, "'/x.png' is a path that leads"),
    "with a pax bomb": Bad(index(two(header("x", comment=70_000 * "x"))), 3, "header says 70,0"),
    "of holes": Bad(
        index(two(header("x", **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}))), 3, "sparse"
    ),
    "of bytes without end": Bad(index(two(header("x", size=str(1 << 60)))), 3, "than there is"),
    "of an image without end": Bad(
        index(two(header("x.png", size=str(1 << 60)))), 3, "at most 268,435,456 are read"
    ),
    "cut off": Bad(index(two(), content(b"a" * 700, "val-0.tar")), 3, r"val-0\.tar is no whole"),
    "of no bytes": Bad(index(two(), content(b"", "val-0.tar")), 3, r"val-0\.tar"),
    "with a name to obey": Bad(index(two(sample("c\x1b[31m"))), 3, r"c\\x1b\[31m' has no label"),
    "with a label to obey": Bad(
        index(two(sample("c", label="\x1b[31m"))), 3, r"no plain text: \\x1b\[31m"
    ),
    "with a label too long": Bad(index(two(sample("c", label=LONG))), 3, "label of 5,000 chara"),
    "with a list for a label": Bad(index(two(sample("c", label=["cat"]))), 3, "its label is nei"),
    "with JSON of brackets": Bad(
        index(two({"c.png": b"x", "c.json": 100_000 * b"["})), 3, r"its \.json file cannot be read"
    ),
    "with no image": Bad(index(two({"c.cls": b"cat"})), 3, "sample 'c' has 0 images"),
    "with two images": Bad(
        index(two(sample("c", label="cat"), {"c.jpg": b"x"})), 3, r"'c\.?' has 2 images|no whole"
    ),
    "of one class": Bad(index(sample("a", label="cat")), 3, "no training image of class dog"),
    "of no test images": Bad(
        index(two(), lambda shards: (shards / "test-0.tar").unlink()), 3, "has no shard of test"
    ),
    "that are half written": Bad(
        index(two(), content(b"", "graft-shards.unfinished")), 3, "at work there, or was stopped"
    ),
    "of the same images twice": Bad(
        index(two(), lambda shards: shutil.copy(shards / "train-0.tar", shards / "val-0.tar")),
        3,
        "exact_duplicates: 2",
    ),
}
INDEXES = {
    "of no bytes": Bad(check(content(b"")), 3, "is no index of shards"),
    "of another kind": Bad(check(content(b"[]")), 3, "is no index of shards"),
    "of brackets": Bad(check(content(100_000 * b"[")), 3, "is no index of shards"),
    "that is not there": Bad(check(lambda s: (s / INDEX_FILE).unlink()), 3, "graft shards CONFIG"),
    "of a shard elsewhere": Bad(check(told("shard", name="../x.tar")), 3, "name is not SPLIT-NAME"),
    "of a shard with a root": Bad(check(told("shard", name="/x.tar")), 3, "is not SPLIT-NAME"),
    "of images without end": Bad(check(told("shard", images=1 << 60)), 3, "cannot be right"),
    "of other classes": Bad(check(told("all", classes=["cat", "cow"])), 3, "its digest differs"),
    "of another digest": Bad(
        check(lambda _: None, "data.sha256=" + 64 * "0"), 3, f"{INDEX_FILE} has sha256"
    ),
    "of tars that are gone": Bad(
        check(lambda shards: (shards / "val-0.tar").unlink()), 3, r"val-0\.tar is not there"
    ),
    "of tars that are others now": Bad(
        check(lambda shards: write(shards / "val-0.tar", two(sample("c", label="cat")))),
        3,
        r"val-0\.tar has more than",
    ),
}


@pytest.mark.parametrize("name", TARS)
def test_tars(refuse, name: str):
    refuse(TARS[name])


@pytest.mark.parametrize("name", INDEXES)
def test_an_index(refuse, name: str):
    refuse(INDEXES[name])
