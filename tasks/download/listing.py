"""What a source holds before anything is hashed, and the checks that every source must pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tasks.errors import DataError
from tasks.words import listed, printable

LINK = " (link)"  # ends the name of an ignored link


class ListedImage(NamedTuple):
    """An image file and what the source says of it."""

    path: str  # relative to the listing's root, with forward slashes; absolute where outside
    label: str | tuple[str, ...]  # multi-label: all of them, sorted
    split: str  # train, val, test, or "" where the source declares none
    group: str  # "" for an image on its own
    slices: tuple[str, ...] = ()  # values of data.slice_columns, in their order

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label, or all of them, as a tuple."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


class Listing(NamedTuple):
    """Every image of a source."""

    root: Path
    images: tuple[ListedImage, ...]
    ignored: tuple[str, ...]  # the first files that are no images by name ...
    ignored_count: int  # ... and how many there are


def classes_of(listing: Listing) -> tuple[str, ...]:
    """Return the labels in lexicographic order (``10`` before ``2``), as ``ImageFolder`` does."""
    return tuple(sorted({label for image in listing.images for label in image.labels}))


def check_listing(listing: Listing, where: str) -> None:
    """Refuse a listing that nothing can be learnt from; ``where`` opens an error's text.

    Raises ``DataError`` on no image, less than two classes, a class of one image (multi-label data
    may have such), a class that is in another split but not among the training images, and a class
    name that is no UTF-8.
    """
    if not listing.images:
        raise DataError(_no_image(listing, where))
    classes = classes_of(listing)
    unreadable = [name for name in classes if printable(name) != name]
    if unreadable:
        raise DataError(f"{where} has class names that are no plain text: {listed(unreadable)}.")
    if len(classes) < 2:
        raise DataError(
            f"{where} has one class, {classes[0]}.\nA classifier needs two classes or more."
            if classes
            else f"{where} gives no image a label.\nFill the column that data.label_column names."
        )
    _check_counts(listing, where)


def _no_image(listing: Listing, where: str) -> str:
    links = [name for name in listing.ignored if name.endswith(LINK)]
    if links:
        return (
            f"{where} holds no image, only links, which are not followed: {listed(links)}.\n"
            "Name the folder that they lead to, or list the images in a manifest."
        )
    return f"{where} holds no image file (found: {listed(listing.ignored)}).\nCheck data.path."


def _check_counts(listing: Listing, where: str) -> None:
    counts = Counter(label for image in listing.images for label in image.labels)
    several = any(isinstance(image.label, tuple) for image in listing.images)
    single = sorted(label for label, n in counts.items() if n == 1)
    if single and not several:  # rare labels are usual there, and warned of when they are split
        raise DataError(
            f"{where} has one image only of class {listed(single)}.\n"
            "Every class needs at least two: add images or leave the class out."
        )
    train = [image for image in listing.images if image.split in ("", "train")]
    unknown = sorted(set(counts) - {label for image in train for label in image.labels})
    if unknown:
        raise DataError(
            f"{where} has no training image of class {listed(unknown)}.\n"
            "Every class of val and test must be among the training images."
        )
