"""Which folder name or manifest value means which split."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.values import SplitName
from tasks.words import listed

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
SYNONYMS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_by_name(name: str) -> SplitName | None:
    """Return the split that ``name`` stands for, whatever its case; None where it is none."""
    return SYNONYMS.get(name.strip().casefold())


def named_splits(config: DataConfig) -> dict[str, SplitName]:
    """Return the names that the user gave to splits; raises ``DataError`` on one given twice."""
    given = [(split, getattr(config, split)) for split in SPLITS]
    named = {name: split for split, name in given if name is not None}
    names = [name for _, name in given if name is not None]
    if len(named) < len(names):
        raise DataError(
            f"data.train, data.val and data.test name {listed(names)}: one of them twice.\n"
            "Images of one split must not be in another."
        )
    return named


def assign_splits(config: DataConfig, present: Sequence[str], where: str) -> dict[str, SplitName]:
    """Map those names in ``present`` that are a split to it: as the user named them, else by name.

    A name that the user gave to one split is not found by name for another: with ``data.test: val``
    the folder ``val`` is the test split, and validation is split off the training images later.
    ``where`` opens an error's text. Raises ``DataError`` where a named one is not in ``present``,
    a split has two names, or there are splits but none to train on.
    """
    named = named_splits(config)
    absent = [f"{split}={name}" for name, split in named.items() if name not in present]
    if absent:
        raise DataError(f"{where} has no {listed(absent)}.\nThere are: {listed(sorted(present))}.")
    splits = dict(named)
    for name in present:
        split = split_by_name(name)
        if split is not None and name not in named and split not in named.values():
            splits[name] = split
    _check(splits, where)
    return splits


def _check(splits: dict[str, SplitName], where: str) -> None:
    for split in SPLITS:
        names = sorted(name for name, of in splits.items() if of == split)
        if len(names) > 1:
            raise DataError(
                f"{where} has {listed(names)}, all for {split}.\nName the one in data.{split}."
            )
    if splits and "train" not in splits.values():
        raise DataError(
            f"{where} has {listed(sorted(splits))} and nothing to train on.\n"
            "Name the training images in data.train."
        )
