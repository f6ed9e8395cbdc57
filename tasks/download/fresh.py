"""New images, to watch a model by: nothing is learnt from them, so little is asked of them.

One class may be there alone, a class may have one image, and there are no splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.artifacts import user_folder
from tasks.config import DataConfig
from tasks.download.folders import find_images
from tasks.download.listing import ListedImage, Listing, classes_of
from tasks.download.manifest import column_labels, column_texts, place_paths, read_table
from tasks.download.manifest import unique_images as unique
from tasks.download.source import Origin, hashed_records, locate
from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.monitorconfig import LabelledImagesConfig, NewImagesConfig
from tasks.words import listed, printable

NO_LABEL = ""


@dataclass(frozen=True)
class FreshImages:
    """Images of a source, drawn at random where there are more than are looked at."""

    root: Path  # the folder that the records' relative paths start at
    records: list[ImageRecord]  # a file once, however many copies there are
    found: int  # images in the whole source
    copies: int  # of the images drawn, left out


@dataclass(frozen=True)
class Labels:
    """Which labels there may be, in the order of their positions, and how many an image has."""

    classes: tuple[str, ...]
    multi_label: bool = False
    separator: str = "|"


def find_fresh(
    config: NewImagesConfig, seed: int, cache: Path, labels: Labels | None = None
) -> FreshImages:
    """Return at most ``config.at_most`` of the images that ``config`` names, hashed.

    Without ``labels`` no label is looked for, and each record's is 0. With them, an image's label
    is the first folder of its path, or the manifest's. An archive is fetched and unpacked into
    ``cache`` once. Raises ``ConfigError``, ``DataError`` (no image; a label that is not among
    ``labels``), ``TransientDataError``, ``ResourceError``.
    """
    data = _as_data(config, labels)
    try:
        origin = locate(data, user_folder(cache))
        listing = _listing(origin, data, labels)
        _check(listing, labels, origin.path)
        drawn = _drawn(listing, config.at_most, seed)
        known = (NO_LABEL,) if labels is None else labels.classes
        records = hashed_records(listing._replace(images=drawn), known)
    except OSError as fault:  # writing raises ResourceError: what is left is the user's files
        raise DataError(f"{printable(fault.filename)} cannot be read: {fault.strerror}.") from fault
    once = list({record.sha256: record for record in reversed(records)}.values())[::-1]
    return FreshImages(listing.root, once, len(listing.images), len(records) - len(once))


def _as_data(config: NewImagesConfig, labels: Labels | None) -> DataConfig:
    several = labels is not None and labels.multi_label and config.kind == "manifest"
    return DataConfig(
        kind=config.kind,
        path=config.path,
        sha256=config.sha256,
        manifest=config.manifest,
        path_column=config.path_column,
        label_column=config.label_column if isinstance(config, LabelledImagesConfig) else "",
        multi_label=several,
        label_separator="|" if labels is None else labels.separator,
        timeout_seconds=config.timeout_seconds,
    )


def _listing(origin: Origin, data: DataConfig, labels: Labels | None) -> Listing:
    if data.kind == "manifest":
        return _from_manifest(origin, data, labels)
    paths, ignored = find_images(origin.path)
    if labels is None:
        images = [ListedImage(path, NO_LABEL, "", "") for path in paths]
        return Listing(origin.path, tuple(images), tuple(ignored), len(ignored))
    if labels.multi_label:
        raise DataError(
            "The model gives an image any number of labels, which folders cannot hold.\n"
            "Set images.kind=manifest and name a table of paths and labels."
        )
    bare = [path for path in paths if "/" not in path]
    images = [ListedImage(path, path.split("/")[0], "", "") for path in paths if "/" in path]
    return Listing(origin.path, tuple(images), (*bare, *ignored), len(bare) + len(ignored))


def _from_manifest(origin: Origin, data: DataConfig, labels: Labels | None) -> Listing:
    table = read_table(origin.path)
    paths = column_texts(table, data.path_column, origin.path)
    root = (origin.sealed or origin.path.parent).resolve()
    placed = place_paths(paths, origin.path, root, inside=origin.sealed is not None)
    given: list[str | tuple[str, ...]] = [NO_LABEL] * len(placed)
    if labels is not None:
        given = column_labels(table, data, origin.path)
    images = [ListedImage(*row, "", "") for row in zip(placed, given, strict=True)]
    return Listing(root, unique(images, origin.path), (), 0)


def _check(listing: Listing, labels: Labels | None, where: Path) -> None:
    if not listing.images:
        found = listed(listing.ignored, total=listing.ignored_count)
        raise DataError(f"{printable(where)} holds no image (found: {found}).\nCheck images.path.")
    if labels is None:
        return
    unknown = [name for name in classes_of(listing) if name not in labels.classes]
    if unknown:
        raise DataError(
            f"{printable(where)} has labels that the model does not know: {listed(unknown)}.\n"
            f"It knows: {listed(labels.classes)}."
        )


def _drawn(listing: Listing, most: int, seed: int) -> tuple[ListedImage, ...]:
    """Return ``most`` images at random, in the listing's order, or all where there are fewer."""
    n = len(listing.images)
    if n <= most:
        return listing.images
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:most])
    return tuple(listing.images[row] for row in rows)
