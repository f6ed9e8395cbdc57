"""Decoded once: each split as one flat uint8 file whose rows training reads.

A pack is a folder: ``{train,val,test}.u8`` (rows of h*w*3 bytes), ``.labels.npy``, ``.index.csv``
and ``prepared.json``, which is written last and names the files relative to the folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.artifacts import sha256_bytes, sha256_parts, write_atomic
from tasks.errors import ResourceError
from tasks.formats import fields_of, versions_of
from tasks.index import ImageRecord, count_labels, write_index
from tasks.preprocess.layouts import Layout, row_of
from tasks.preprocess.near import perceptual_hash
from tasks.preprocess.reading import Pixels, read_images
from tasks.presence import CHANNELS, is_present
from tasks.splitvalues import ShardIndex
from tasks.values import (
    InputSpec,
    PackedSplit,
    PreparedDataset,
    SkippedImage,
    SplitName,
    StreamedSplit,
)

FORMAT = "graft pack 3"  # change it when the same images would give other files
MANIFEST = "prepared.json"
_MAKERS = ("pillow", "numpy", "torch", "torchvision")  # of pixels, which may differ by version

Labels = npt.NDArray[np.int64] | npt.NDArray[np.uint8]


class Decoded(NamedTuple):
    """One split's readable images, as rows of a file, before it is settled which of them stay."""

    name: SplitName
    layout: Layout
    records: list[ImageRecord]  # in the order of the rows
    skipped: list[SkippedImage]
    hashes: dict[str, int]  # perceptual hash by path, where asked for
    digest: str  # SHA-256 of the file


def pack_format() -> str:
    """Return what a pack is written in and by: its files, its manifest, and what decodes images."""
    fields = fields_of(PreparedDataset, ShardIndex)
    return ", ".join((FORMAT, fields, *ImageRecord._fields, versions_of(*_MAKERS)))


def check_space(
    folder: Path, splits: Mapping[SplitName, list[ImageRecord]], layouts: dict[SplitName, Layout]
) -> None:
    """Raise ``ResourceError`` when the packs will not fit on the disk that ``folder`` is on."""
    there = next(parent for parent in folder.absolute().parents if parent.is_dir())
    rows = ((len(splits[name]), *layouts[name][:2]) for name in splits)
    need = sum(n * height * width * CHANNELS for n, height, width in rows)
    free = shutil.disk_usage(there).free
    if need > free:
        raise ResourceError(
            f"The packed images need {need / 1e9:.2f} GB in {there}, which has {free / 1e9:.2f} "
            "GB free.\nFree some space, or set output.cache to a folder on another disk."
        )


def decode_split(
    folder: Path,
    name: SplitName,
    root: Path,
    records: list[ImageRecord],
    layout: Layout,
    spec: InputSpec,
    hashed: bool,
) -> Decoded:
    """Decode ``records`` into ``folder`` in their order, what cannot be read left out.

    ``hashed`` asks for each picture's ``perceptual_hash`` as well, of all its pixels. Raises
    ``DataError`` for files that changed since the index was made, and ``OSError`` when the disk is
    full.
    """

    def view(pixels: Pixels) -> tuple[Pixels, int | None]:
        return row_of(pixels, layout, spec), perceptual_hash(pixels) if hashed else None

    kept: list[ImageRecord] = []
    skipped: list[SkippedImage] = []
    hashes: dict[str, int] = {}
    content = hashlib.sha256()
    with (folder / f"{name}.u8").open("wb") as file:
        for record, seen in read_images(root, records, view):
            if isinstance(seen, SkippedImage):
                skipped.append(seen)
                continue
            pixels, code = seen
            row = pixels.tobytes()
            content.update(row)
            file.write(row)
            kept.append(record._replace(split=name))
            if code is not None:
                hashes[record.path] = code
    return Decoded(name, layout, kept, skipped, hashes, content.hexdigest())


def pack_split(
    folder: Path,
    decoded: Decoded,
    kept: Sequence[ImageRecord],
    classes: int,
    multi_label: bool = False,
) -> PackedSplit:
    """Make a split of the decoded images that are ``kept``, with their labels, in their order.

    The split's files are named relative to ``folder``.
    """
    content = decoded.digest
    if len(kept) < len(decoded.records):
        paths = {record.path for record in kept}
        rows = [row for row, record in enumerate(decoded.records) if record.path in paths]
        content = _keep_rows(folder / f"{decoded.name}.u8", rows, decoded.layout)
    labels = _indicators(kept, classes) if multi_label else _positions(kept)
    return _describe(folder, decoded.name, kept, labels, decoded.layout, content, classes)


def _keep_rows(path: Path, rows: Sequence[int], layout: Layout) -> str:
    """Cut a file of images down, in place, to some of its rows, ascending; return its digest."""
    size = layout.height * layout.width * CHANNELS
    content = hashlib.sha256()
    with path.open("r+b") as file:
        for to, row in enumerate(rows):
            file.seek(row * size)
            image = file.read(size)
            file.seek(to * size)
            file.write(image)
            content.update(image)
        file.truncate(len(rows) * size)
    return content.hexdigest()


def _positions(records: Sequence[ImageRecord]) -> Labels:
    """Return the label of each record, int64 (n,)."""
    return np.array([record.label for record in records], dtype=np.int64)


def _indicators(records: Sequence[ImageRecord], classes: int) -> Labels:
    """Return which labels each record has, uint8 (n, classes)."""
    labels_nk = np.zeros((len(records), classes), dtype=np.uint8)
    for row, record in zip(labels_nk, records, strict=True):
        row[list(record.labels)] = 1
    return labels_nk


def _describe(
    folder: Path,
    name: SplitName,
    kept: Sequence[ImageRecord],
    labels: Labels,
    layout: Layout,
    content: str,
    classes: int,
) -> PackedSplit:
    """Write labels and index beside the images."""
    np.save(folder / f"{name}.labels.npy", labels)
    write_index(folder / f"{name}.index.csv", kept)
    counts = count_labels(kept)
    return PackedSplit(
        name=name,
        images=Path(f"{name}.u8"),
        labels=Path(f"{name}.labels.npy"),
        multi_label=labels.ndim > 1,
        index=Path(f"{name}.index.csv"),
        n=len(kept),
        height=layout.height,
        width=layout.width,
        counts=tuple(counts[label] for label in range(classes)),
        digest=sha256_parts(content, sha256_bytes(labels.astype("<i8").tobytes())),
    )


def save_prepared(prepared: PreparedDataset, folder: Path) -> None:
    """Write the manifest that makes ``folder`` a pack; raises ``ResourceError``."""
    write_atomic(folder / MANIFEST, prepared.model_dump_json(indent=1).encode())


def load_prepared(folder: Path) -> PreparedDataset | None:
    """Return the pack in ``folder``, or None where there is none, or not a whole one.

    No image is read: the manifest must parse and every file have its size.
    """
    try:
        stored = PreparedDataset.model_validate_json((folder / MANIFEST).read_bytes())
        splits = [_placed(split, folder) for split in (stored.train, stored.val, stored.test)]
    except (OSError, ValueError):
        return None
    update = {"folder": folder} | {split.name: split for split in splits}
    prepared = stored.model_copy(update=update)
    return prepared if is_present(prepared) else None


def located(split: PackedSplit, folder: Path) -> PackedSplit:
    """Return ``split`` with its files in ``folder``."""
    files = {"images": split.images, "labels": split.labels, "index": split.index}
    return split.model_copy(update={key: folder / path.name for key, path in files.items()})


def _placed(split: PackedSplit | StreamedSplit, folder: Path) -> PackedSplit | StreamedSplit:
    if isinstance(split, StreamedSplit):
        return split.model_copy(update={"shards": folder / split.shards.name})
    return located(split, folder)
