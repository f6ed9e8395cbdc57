"""Cached features on disk: a split is one flat file, a row an image.

A cache is a folder: ``{train,val}.features``, ``{train,val}.labels.npy``, and ``features.json``,
which is written last and tells the files' form and digests.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tasks.artifacts import sha256_file, write_atomic
from tasks.config import Sha256
from tasks.preprocess.batches import Batch, Labels, Order, read_ahead, read_rows
from tasks.storedrows import StoredRows
from tasks.values import Value

MANIFEST = "features.json"
# A file of up to so many bytes is read and compared with its digest before it is used, at 1 GB/s or
# more, and then lies in memory. Of a larger one, whose reading could cost more than it saves, only
# the size is looked at.
DIGESTED = 1_000_000_000
SplitName = Literal["train", "val"]
# numpy has no bfloat16: its 16-bit words are kept as integers
_STORED: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<i2"),
}
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class StoredSplit(Value):
    """One split's features: an array of shape (views, n, *row), in C order."""

    n: int
    views: int
    row: tuple[int, ...]  # one image's features, the slowest dimension first
    order: tuple[int, ...]  # row[i] is dimension order[i] of the network's features
    kind: Literal["float32", "bfloat16"]
    sha256: Sha256
    labels_sha256: Sha256

    @property
    def size(self) -> int:
        """How many bytes the features take."""
        return self.views * self.n * math.prod(self.row) * _STORED[self.kind].itemsize


class StoredFeatures(Value):
    """The manifest."""

    origin: Sha256  # of prefix and data: which features of which images, in whatever form
    weights: str  # what the user's weights file is
    train: StoredSplit
    val: StoredSplit


class PackedFeatures:
    """The cached features of one split, read as ``PackedImages`` is."""

    def __init__(self, folder: Path, name: SplitName, stored: StoredSplit) -> None:
        self.n, self.views = stored.n, stored.views
        self.labels_n: Labels = np.load(folder / f"{name}.labels.npy")
        shape = (stored.views * stored.n, *stored.row)
        self._rows = StoredRows(folder / f"{name}.features", _STORED[stored.kind], shape)
        self._first = 0  # of the rows of this view
        self._kind = _TYPES[stored.kind]
        self._order = tuple(1 + stored.order.index(i) for i in range(len(stored.order)))

    def view(self, index: int) -> PackedFeatures:
        """Return the same images in another of the cached views, from 0."""
        if not 0 <= index < self.views:
            raise IndexError(f"view {index} of {self.views}")
        other = copy.copy(self)  # with the open file: another run may delete the files meanwhile
        other._first = index * self.n
        return other

    def read(self, rows: Order, pin: bool) -> Batch:
        """Copy ``rows`` out of the file: features (b, *shape) and labels.

        The features lie in memory as the network made them, maps channels_last.
        """
        features = read_rows(self._rows, self._first + rows, self._kind, pin)
        labels_b = torch.from_numpy(self.labels_n[rows])
        return features.permute(0, *self._order), labels_b.pin_memory() if pin else labels_b

    def batches(self, order: Order, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Yield ``order`` in batches of new tensors on ``device``, reading one batch ahead."""
        return read_ahead(self.read, order, batch_size, device)


def write_split(
    folder: Path, name: SplitName, batches: Iterable[Tensor], labels: Labels, views: int
) -> StoredSplit:
    """Write features, in batches (b, *shape) of one view after the other, and their labels.

    All are float32 or all bfloat16. Raises ``OSError`` when the disk is full.
    """
    content = hashlib.sha256()
    order: tuple[int, ...] = ()
    row: tuple[int, ...] = ()
    kind = torch.float32
    with (folder / f"{name}.features").open("wb") as file:
        for number, features in enumerate(batches):
            if number == 0:
                order, kind = _memory_order(features), features.dtype
            stored = features.permute(order).contiguous().cpu()
            row = tuple(stored.shape[1:])
            words = stored.view(torch.uint8).numpy()
            file.write(words.data)
            content.update(words.data)
    np.save(folder / f"{name}.labels.npy", labels)
    return StoredSplit(
        n=len(labels),
        views=views,
        row=row,
        order=tuple(i - 1 for i in order[1:]),
        kind="bfloat16" if kind == torch.bfloat16 else "float32",
        sha256=content.hexdigest(),
        labels_sha256=sha256_file(folder / f"{name}.labels.npy"),
    )


def _memory_order(features: Tensor) -> tuple[int, ...]:
    """Return the dimensions as they lie in memory, that of the images first."""
    order = tuple(features.dim_order())
    return order if order[0] == 0 else tuple(range(features.ndim))


def save_manifest(stored: StoredFeatures, folder: Path) -> None:
    """Write the manifest that makes ``folder`` a cache; raises ``ResourceError``."""
    write_atomic(folder / MANIFEST, stored.model_dump_json(indent=1).encode())


def load_manifest(folder: Path) -> StoredFeatures | None:
    """Return the manifest in ``folder``, or None where there is none that can be read."""
    try:
        return StoredFeatures.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None


def load_whole(folder: Path) -> StoredFeatures | None:
    """Return the manifest in ``folder``, or None where a file is missing, cut off or damaged."""
    stored = load_manifest(folder)
    if stored is None:
        return None
    try:
        whole = _is_whole(folder, "train", stored.train) and _is_whole(folder, "val", stored.val)
    except OSError:
        return None
    return stored if whole else None


def _is_whole(folder: Path, name: SplitName, stored: StoredSplit) -> bool:
    path = folder / f"{name}.features"
    if sha256_file(folder / f"{name}.labels.npy") != stored.labels_sha256:
        return False
    if path.stat().st_size != stored.size:
        return False
    return stored.size > DIGESTED or sha256_file(path) == stored.sha256
