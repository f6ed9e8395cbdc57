"""The size of a split's rows, and how a decoded image becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from tasks.index import ImageRecord
from tasks.preprocess.decode import UnreadableImage, header_size
from tasks.preprocess.reading import Pixels
from tasks.preprocess.views import shrink
from tasks.values import InputSpec, SplitName


class Layout(NamedTuple):
    """The size of a split's rows, and whether images are packed as they are."""

    height: int  # px
    width: int
    native: bool


def choose_layouts(
    root: Path, splits: Mapping[SplitName, list[ImageRecord]], spec: InputSpec
) -> dict[SplitName, Layout]:
    """Decide the size to pack each split at; see ``layouts_for``."""
    size = common_size(root / record.path for records in splits.values() for record in records)
    return layouts_for(size, splits, spec)


def layouts_for(
    size: tuple[int, int] | None, names: Iterable[SplitName], spec: InputSpec
) -> dict[SplitName, Layout]:
    """Decide the size of each split's rows; ``size`` is the images' (height, width) if all agree.

    Images that all have one size, of no more pixels than the ``resize`` square, stay as they are
    (32 px images for a 224 px network: a fiftieth of the disk) and are resized batch by batch.
    Otherwise train is packed at ``resize`` px, which leaves room for random crops, and val and
    test at ``crop`` px. A pack at ``crop`` px always holds finished evaluation views, so images of
    just that size stay as they are only where ``resize`` would not change them.
    """
    finished = size == (spec.crop, spec.crop) and spec.resize != spec.crop
    if size is not None and size[0] * size[1] <= spec.resize**2 and not finished:
        return dict.fromkeys(names, Layout(*size, native=True))
    sides = {name: spec.resize if name == "train" else spec.crop for name in names}
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


def row_of(pixels: Pixels, layout: Layout, spec: InputSpec) -> Pixels:
    """Return a decoded image as a pack holds it; raises ``UnreadableImage`` for another size."""
    if layout.native:
        if pixels.shape[:2] != (layout.height, layout.width):
            raise UnreadableImage("damaged: not of the size that its header says")
        return pixels
    image_chw = torch.from_numpy(pixels).permute(2, 0, 1)
    row: Pixels = shrink(image_chw, spec, layout.height).permute(1, 2, 0).numpy()
    return row
