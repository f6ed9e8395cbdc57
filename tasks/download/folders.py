"""Class folders: ``root/CLASS/…`` or ``root/SPLIT/CLASS/…``, as torchvision's ``ImageFolder``.

Unlike it, hidden folders (``.ipynb_checkpoints``, ``__MACOSX``) are no classes and no link is
followed, so that nothing outside the root is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path, PurePosixPath

from tasks.config import DataConfig
from tasks.download.listing import LINK, ListedImage, Listing
from tasks.download.splits import assign_splits, named_splits, split_by_name
from tasks.errors import DataError
from tasks.words import SHOWN, listed, printable

# torchvision.datasets.folder.IMG_EXTENSIONS
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)


def read_folders(root: Path, config: DataConfig) -> Listing:
    """List the images under ``root``; split folders by ``data.train/val/test``, else by name.

    A folder called train, val or test (and the like) is a split where it holds folders; without
    one, the folders of ``root`` are the classes and the split is "". Folders beside the splits are
    ignored. Raises ``DataError`` where a named split is absent, a split holds a class that
    train has not, or a class folder has no image; ``OSError`` where one cannot be read.
    """
    where = f"The folder {printable(root)}"
    splits = assign_splits(config, _candidates(root, config), where)
    bases = {name: str(split) for name, split in splits.items()} or {"": ""}
    _check_bases(root, bases)
    images, ignored = _read_bases(root, bases)
    _check_class_folders(root, bases, images)
    images.sort()
    return Listing(root, tuple(images), tuple(sorted(ignored)[:SHOWN]), len(ignored))


def top_folder(folder: Path) -> Path:
    """Return the folder itself, or the only one in it where archives have such a wrapper.

    A single folder that is a split, or holds no folder itself, is no wrapper.
    """
    names = [entry.name for entry in _visible(folder)]
    if len(names) != 1 or names != subfolders(folder) or split_by_name(names[0]) is not None:
        return folder
    inner = folder / names[0]
    return inner if subfolders(inner) else folder


def find_images(root: Path) -> tuple[list[str], list[str]]:
    """Return the images at any depth under ``root``, sorted, and what is none by its name.

    Paths are relative, with forward slashes; links are not followed. Raises ``OSError``.
    """
    images: list[str] = []
    ignored: list[str] = []
    for entry in _walk(root):
        path = PurePosixPath(entry.path).relative_to(root).as_posix()
        is_image = entry.is_file(follow_symlinks=False) and _names_image(entry.name)
        (images if is_image else ignored).append(path)
    return sorted(images), sorted(ignored)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder``, sorted; links and hidden ones are none."""
    return [entry.name for entry in _visible(folder) if entry.is_dir(follow_symlinks=False)]


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        seen = [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
    return sorted(seen, key=lambda entry: entry.name)


def _candidates(root: Path, config: DataConfig) -> list[str]:
    """Return the names that may be splits: those the user gave and that are there, and others."""
    found = [name for name in subfolders(root) if split_by_name(name) and subfolders(root / name)]
    named = [name for name in named_splits(config) if name not in found]
    return found + [name for name in named if _is_inside(root, name)]


def _is_inside(root: Path, name: str) -> bool:
    folder, top = (root / name).resolve(), root.resolve()
    return folder.is_dir() and folder != top and folder.is_relative_to(top)


def _check_bases(root: Path, bases: dict[str, str]) -> None:
    names = subfolders(root)
    if "" in bases and names and all(split_by_name(name) for name in names):
        raise DataError(
            f"The folder {printable(root)} has {listed(names)}, but no class folders in them.\n"
            "Put the images of each class into a folder of its own, or use a manifest."
        )
    for first, second in permutations(bases, 2):
        if (root / first).resolve().is_relative_to((root / second).resolve()):
            raise DataError(
                f"The folder {printable(root / first)} lies in {printable(root / second)}, "
                "which is another split.\n"
                "Images of one split must not be in another."
            )


def _read_bases(root: Path, bases: dict[str, str]) -> tuple[list[ListedImage], list[str]]:
    images: list[ListedImage] = []
    ignored: list[str] = []
    for base, split in bases.items():
        for entry in _walk(root / base):
            path = PurePosixPath(entry.path).relative_to(root)
            inside = path.relative_to(base).parts
            link = entry.is_symlink()
            is_image = entry.is_file(follow_symlinks=False) and _names_image(entry.name)
            if is_image and len(inside) > 1:
                images.append(ListedImage(str(path), inside[0], split, ""))
            else:
                ignored.append(printable(str(path)) + LINK * link)
    if "" not in bases:
        ignored += _beside(root, bases)
    return images, ignored


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is no folder, folder after folder in order; they may be nested to any depth."""
    waiting = _visible(folder)[::-1]
    while waiting:
        entry = waiting.pop()
        if entry.is_dir(follow_symlinks=False):
            waiting += _visible(entry.path)[::-1]
        else:
            yield entry


def _names_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _beside(root: Path, bases: dict[str, str]) -> list[str]:
    """Return what lies beside the split folders."""
    tops = {PurePosixPath(base).parts[0] for base in bases}
    entries = [entry for entry in _visible(root) if entry.name not in tops]
    return [printable(e.name) + "/" * e.is_dir(follow_symlinks=False) for e in entries]


def _check_class_folders(root: Path, bases: dict[str, str], images: list[ListedImage]) -> None:
    folders = {split: subfolders(root / base) for base, split in bases.items()}
    trained = next(split for split in folders if split in ("", "train"))
    for base, split in bases.items():
        unknown = sorted(set(folders[split]) - set(folders[trained]))
        if unknown:
            raise DataError(
                f"The folder {printable(root / base)} has classes that train has not: "
                f"{listed(unknown)}.\n"
                f"There are: {listed(folders[trained])}."
            )
    filled = {image.label for image in images if image.split == trained}
    empty = sorted(set(folders[trained]) - filled)
    if empty and images:
        raise DataError(
            f"The folder {printable(root)} has no image of class {listed(empty)} to train on.\n"
            "Add images or remove the class folder."
        )
