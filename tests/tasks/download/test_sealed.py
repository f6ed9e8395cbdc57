"""Folders of the cache: filled once, and again only when a file of theirs is gone or cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.download.sealed import sealed
from tasks.errors import DataError

CONTENT = {"a/1.png": b"one", "a/deep/2.png": b"two", "b/3.png": b"three"}


class Filler:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        assert list(folder.iterdir()) == []
        for name, content in CONTENT.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def test_filled_once(tmp_path: Path, snapshot):
    fill = Filler()
    for _ in range(3):
        assert sealed(tmp_path / "x", fill) == tmp_path / "x" / "files"
    assert fill.calls == 1
    assert snapshot(tmp_path / "x" / "files") == CONTENT
    shutil.copytree(tmp_path / "x", tmp_path / "copied")
    sealed(tmp_path / "copied", fill)
    assert fill.calls == 1


DAMAGE: dict[str, Callable[[Path], object]] = {
    "lost file": lambda target: (target / "files/a/deep/2.png").unlink(),
    "file cut off": lambda target: (target / "files/b/3.png").write_bytes(b"thre"),
    "file added": lambda target: (target / "files/a/4.png").write_bytes(b"four"),
    "file renamed": lambda target: (target / "files/a/1.png").rename(target / "files/a/0.png"),
    "lost folder": lambda target: shutil.rmtree(target / "files"),
    "lost seal": lambda target: (target / "seal").unlink(),
    "other seal": lambda target: (target / "seal").write_bytes(b""),
    "all is lost": shutil.rmtree,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_mended(name: str, tmp_path: Path, snapshot):
    fill, target = Filler(), tmp_path / "x"
    sealed(target, fill)
    whole = snapshot(tmp_path)
    DAMAGE[name](target)
    sealed(target, fill)
    assert fill.calls == 2
    assert snapshot(tmp_path) == whole


def test_fault_while_filling_again_leaves_what_was_there(tmp_path: Path, snapshot):
    sealed(tmp_path / "x", Filler())
    (tmp_path / "x/files/b/3.png").unlink()
    before = snapshot(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half.png").write_bytes(b"half")
        raise DataError("the archive is gone")

    with pytest.raises(DataError):
        sealed(tmp_path / "x", fail)
    assert snapshot(tmp_path) == before
