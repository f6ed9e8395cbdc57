"""New images packed as one split, as those of a test set are: nothing is split off, or checked."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.preprocess.layouts import choose_layouts
from tasks.preprocess.pack import check_space, decode_split, located, pack_split
from tasks.values import InputSpec, PackedSplit, SkippedImage, SplitName
from tasks.words import listed


def pack_fresh(
    folder: Path,
    root: Path,
    records: list[ImageRecord],
    spec: InputSpec,
    classes: int,
    multi_label: bool,
    on_bad_image: str,
) -> tuple[PackedSplit, tuple[SkippedImage, ...]]:
    """Decode ``records`` into ``folder`` by the rules of a run's test split; return what is unread.

    Raises ``DataError`` where an image cannot be used and ``on_bad_image`` is fail, or where none
    can, ``ResourceError`` when the disk is full.
    """
    splits: dict[SplitName, list[ImageRecord]] = {"test": records}
    layouts = choose_layouts(root, splits, spec)
    check_space(folder / "test.u8", splits, layouts)
    decoded = decode_split(folder, "test", root, records, layouts["test"], spec, hashed=False)
    bad = tuple(decoded.skipped)
    if bad and (on_bad_image == "fail" or not decoded.records):
        words = listed([f"{image.path} ({image.reason})" for image in bad], between="; ")
        raise DataError(
            f"{len(bad)} of {len(records)} images cannot be used "
            f"(images.on_bad_image=skip goes on without them, where any is left):\n{words}"
        )
    packed = pack_split(folder, decoded, decoded.records, classes, multi_label)
    return located(packed, folder), bad
