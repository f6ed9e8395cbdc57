"""A split of the images as the rooms hand it on: packed on disk, or streamed from shards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks import measures
from tasks.config import Sha256

SplitName = Literal["train", "val", "test"]


class Value(measures.Measure):
    """Common settings of every value: those of a measure."""


class PackedSplit(Value):
    """One split, decoded: a raw uint8 file of shape (n, height, width, 3) in C order."""

    name: SplitName
    images: Path
    labels: Path  # int64 .npy of shape (n,); multi-label: uint8, 0 or 1, of shape (n, classes)
    multi_label: bool = False
    index: Path  # CSV of tasks.index.ImageRecord, same order
    n: int
    height: int  # px
    width: int  # px
    counts: tuple[int, ...]  # images of each class
    digest: Sha256  # over images and labels


class Shard(Value):
    """One tar file of a split, as WebDataset writes them."""

    name: str  # of the file, beside the index
    split: SplitName
    images: int
    size: int  # bytes
    sha256: Sha256


class ShardIndex(Value):
    """What is in a folder of shards: written once, so that no run has to read them all first."""

    format: Literal["graft shards 1"] = "graft shards 1"
    classes: tuple[str, ...]  # sorted; position is the label
    shards: tuple[Shard, ...]  # by split, then by name
    counts: dict[SplitName, tuple[int, ...]]  # images of each class
    height: int | None  # px, of every image; None where they differ
    width: int | None
    prefixes: dict[SplitName, Sha256]  # of SPLIT.digests.bin: of each image, in order, the first
    # eight bytes of its SHA-256, big-endian
    digest: Sha256  # over classes, and names, splits and digests of the shards


class StreamedSplit(Value):
    """The training split, read from its shards anew each epoch; memory does not grow with it."""

    name: Literal["train"] = "train"
    shards: Path  # JSON of ShardIndex
    url: str  # the folder that the shards' names start at; any of fsspec's, without a password
    n: int
    height: int  # px, of the rows that batches are cut from, as PackedSplit's
    width: int
    native: bool  # images are of that size as they are; else shrunk to it
    multi_label: Literal[False] = False
    counts: tuple[int, ...]  # images of each class
    digest: Sha256
