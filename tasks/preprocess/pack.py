"""Decoded once: each split as one flat uint8 file that training maps into memory.

A pack is a folder: ``{train,val,test}.u8`` (rows of h*w*3 bytes), ``.labels.npy``, ``.index.csv``
and ``prepared.json``, which is written last and names the files relative to the folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tasks.artifacts import sha256_bytes, sha256_parts, write_atomic
from tasks.errors import ResourceError
from tasks.index import ImageRecord, count_labels, write_index
from tasks.preprocess.decode import UnreadableImage, header_size
from tasks.preprocess.reading import Pixels, read_images
from tasks.preprocess.views import shrink
from tasks.presence import CHANNELS, is_present
from tasks.values import InputSpec, PackedSplit, PreparedDataset, SkippedImage, SplitName

FORMAT = "graft pack 2"
MANIFEST = "prepared.json"

Labels = npt.NDArray[np.int64] | npt.NDArray[np.uint8]


class Layout(NamedTuple):
    """The size of a split's rows, and whether images are packed as they are."""

    height: int  # px
    width: int
    native: bool


def choose_layouts(
    root: Path, splits: Mapping[SplitName, list[ImageRecord]], spec: InputSpec
) -> dict[SplitName, Layout]:
    """Decide the size to pack each split at.

    Images that all have one size, of no more pixels than the ``resize`` square, stay as they are
    (32 px images for a 224 px network: a fiftieth of the disk) and are resized batch by batch.
    Otherwise train is packed at ``resize`` px, which leaves room for random crops, and val and
    test at ``crop`` px. A pack at ``crop`` px always holds finished evaluation views, so images of
    just that size stay as they are only where ``resize`` would not change them.
    """
    size = common_size(root / record.path for records in splits.values() for record in records)
    finished = size == (spec.crop, spec.crop) and spec.resize != spec.crop
    if size is not None and size[0] * size[1] <= spec.resize**2 and not finished:
        return dict.fromkeys(splits, Layout(*size, native=True))
    sides = {name: spec.resize if name == "train" else spec.crop for name in splits}
    return {name: Layout(side, side, native=False) for name, side in sides.items()}


def common_size(paths: Iterable[Path]) -> tuple[int, int] | None:
    """Return the (height, width) that all readable headers agree on; stop at the first other."""
    found: tuple[int, int] | None = None
    for path in paths:
        try:
            size = header_size(path)
        except UnreadableImage:  # reported when it is decoded, together with all others
            continue
        if found is not None and size != found:
            return None
        found = size
    return found


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


def pack_split(
    folder: Path,
    name: SplitName,
    root: Path,
    records: list[ImageRecord],
    layout: Layout,
    spec: InputSpec,
    classes: int,
    multi_label: bool = False,
) -> tuple[PackedSplit, list[SkippedImage]]:
    """Decode ``records`` into ``folder`` in their order; return the split and what was left out.

    The split's files are named relative to ``folder``. Raises ``DataError`` for files that changed
    since the index was made, and ``OSError`` when the disk is full.
    """
    kept: list[ImageRecord] = []
    skipped: list[SkippedImage] = []
    content = hashlib.sha256()
    with (folder / f"{name}.u8").open("wb") as file:
        for record, image in read_images(root, records, lambda px: _row(px, layout, spec)):
            if isinstance(image, SkippedImage):
                skipped.append(image)
                continue
            row = image.tobytes()
            file.write(row)
            content.update(row)
            kept.append(record._replace(split=name))
    labels = _indicators(kept, classes) if multi_label else _positions(kept)
    return _describe(folder, name, kept, labels, layout, content.hexdigest(), classes), skipped


def _row(pixels: Pixels, layout: Layout, spec: InputSpec) -> Pixels:
    if layout.native:
        if pixels.shape[:2] != (layout.height, layout.width):
            raise UnreadableImage("damaged: not of the size that its header says")
        return pixels
    image_chw = torch.from_numpy(pixels).permute(2, 0, 1)
    row: Pixels = shrink(image_chw, spec, layout.height).permute(1, 2, 0).numpy()
    return row


def _positions(records: list[ImageRecord]) -> Labels:
    """Return the label of each record, int64 (n,)."""
    return np.array([record.label for record in records], dtype=np.int64)


def _indicators(records: list[ImageRecord], classes: int) -> Labels:
    """Return which labels each record has, uint8 (n, classes)."""
    labels_nk = np.zeros((len(records), classes), dtype=np.uint8)
    for row, record in zip(labels_nk, records, strict=True):
        row[list(record.labels)] = 1
    return labels_nk


def _describe(
    folder: Path,
    name: SplitName,
    kept: list[ImageRecord],
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
        splits = [_located(split, folder) for split in (stored.train, stored.val, stored.test)]
    except (OSError, ValueError):
        return None
    update = {"folder": folder} | {split.name: split for split in splits}
    prepared = stored.model_copy(update=update)
    return prepared if is_present(prepared) else None


def _located(split: PackedSplit, folder: Path) -> PackedSplit:
    files = {"images": split.images, "labels": split.labels, "index": split.index}
    return split.model_copy(update={key: folder / path.name for key, path in files.items()})
