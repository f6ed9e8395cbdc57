"""Folders that cannot be learnt from, and paths that lead to none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.bad_inputs.rows import ARCHIVE, INDEX, Bad, check, photos

LONG = 255 * "n"


def only(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.name not in names:
                shutil.rmtree(path)

    return change


def renamed(before: str, after: str) -> Callable[[Path], object]:
    return lambda folder: (folder / before).rename(folder / after)


def circle(folder: Path) -> None:
    only()(folder)
    (folder / "red").symlink_to(folder)
    (folder / "blue").symlink_to(folder / "red")


def surrogate(folder: Path) -> None:
    (folder / "red").rename(os.fsdecode(os.fsencode(folder) + b"/r\xe9d"))


def split_folders(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).mkdir()
            for label in ("blue", "red"):
                shutil.copytree(folder / label, folder / name / label)
        for label in ("blue", "red"):
            shutil.rmtree(folder / label)

    return change


def lacking(folder: Path) -> None:
    split_folders("train", "test")(folder)
    shutil.rmtree(folder / "train" / "red")


def empty_class(folder: Path) -> None:
    (folder / "green").mkdir()


FOLDERS = {
    "is not there": Bad(check("data.path=nowhere"), 3, "nowhere.*not there"),
    "is empty": Bad(photos(only()), 3, "photos holds no image"),
    "is no folder": Bad(check("data.path=good.yaml"), 3, r"good\.yaml cannot be unpacked", ARCHIVE),
    "is a device": Bad(check("data.path=/dev/null"), 3, "/dev/null is no plain file"),
    "has a null byte": Bad(check('data.path="a\\0b"'), 3, r"no path"),
    "is an empty word": Bad(check("data.path=''"), 3, "no path"),
    "has a name too long": Bad(check(f"data.path={LONG}n"), 3, "nnn.*name too long|not there"),
    "is of nobody": Bad(check("data.path=~nobody-here/x"), 3, "~nobody-here"),
    "is a loop": Bad(photos(circle), 3, "red.*link"),
    "is behind http": Bad(check("data.path=http://example.org/a"), 3, "http:// is not supported"),
    "is behind ftp": Bad(check("data.path=ftp://example.org/a"), 3, "ftp:// is not supported"),
    "is on another machine": Bad(check("data.path=file://there/a"), 3, "names no file on this"),
    "has a digest": Bad(check("data.sha256=" + 64 * "0"), 2, "data.sha256 goes with a file"),
    "has no such split": Bad(check("data.train=training"), 3, "has no train=training"),
    "has one split for two": Bad(check("data.train=red", "data.val=red"), 3, "one of them twice"),
    "has a split that leads out": Bad(check("data.train=.."), 3, r"has no train=\.\."),
    "has no class folders": Bad(
        photos(lambda f: (only("red")(f), renamed("red", "train")(f))), 3, "no class folders"
    ),
    "has one class": Bad(photos(only("red")), 3, "one class, red"),
    "has an empty class": Bad(photos(empty_class), 3, "no image of class green"),
    "has no training images": Bad(photos(split_folders("test")), 3, "nothing to train on"),
    "has a class that train lacks": Bad(photos(lacking), 3, "classes that train has not: red"),
    "has the same images twice": Bad(
        photos(split_folders("train", "test")), 3, "exact_duplicates: 40", INDEX
    ),
    "has a class that is no UTF-8": Bad(photos(surrogate), 3, r"no plain text: r\\udce9d"),
    "has a class with a control character": Bad(
        photos(renamed("red", "r\x1b[31md")), 3, r"no plain text: r\\x1b\[31md"
    ),
    "has a class with a line break": Bad(photos(renamed("red", "r\nd")), 3, r"r\\nd"),
    "has only other files": Bad(
        photos(lambda f: [p.rename(p.with_suffix(".txt")) for p in f.rglob("*.png")]),
        3,
        r"no image file \(found: blue/0\.txt",
    ),
    "leaves nothing to train on": Bad(
        check("data.val_fraction=0.5", "data.test_fraction=0.5"),
        2,
        "leave no training images",
        INDEX,
    ),
    "has settings of a manifest": Bad(check("data.split_column=split"), 2, "data.kind=manifest"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(refuse, name: str):
    refuse(FOLDERS[name])
