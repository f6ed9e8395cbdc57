"""What is said of a data set once every image has been read: refusals and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.artifacts import sha256_parts
from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import count_labels
from tasks.preprocess.findings import Finding, Splits
from tasks.preprocess.splits import SPLITS
from tasks.values import (
    InputSpec,
    PackedSplit,
    PreparedDataset,
    RawDataset,
    SkippedImage,
    SplitName,
    StreamedSplit,
)
from tasks.words import SHOWN, listed


def refuse_bad(
    bad: Sequence[SkippedImage], n: int, config: DataConfig, found: int | None = None
) -> None:
    """Raise ``DataError`` for bad images, of ``n`` in all, where the policy is to fail.

    ``found`` counts them where they are more than are given.
    """
    found = len(bad) if found is None else found
    if bad and config.on_bad_image == "fail":
        raise DataError(
            f"{found} of {n} images cannot be used (data.on_bad_image=skip leaves them out):\n"
            f"{_listed(bad, found)}"
        )


def refuse_lost(splits: Splits, readable: Splits, classes: tuple[str, ...]) -> None:
    """Raise ``DataError`` for splits that lost a class: none of its images can be used."""
    counts = {name: count_labels(readable[name]) for name in SPLITS}
    lost = [
        f"{classes[label]!r} in {name}"
        for name in SPLITS
        for label in sorted(count_labels(splits[name]))
        if counts[name][label] == 0
    ]
    if lost:
        raise DataError(
            f"No readable image is left of class {listed(lost)}.\n"
            "Replace its bad images (graft check lists them all), or leave the class out."
        )


def bad_images(bad: Sequence[SkippedImage]) -> tuple[str, ...]:
    """Warn of images that were left out."""
    if not bad:
        return ()
    return (f"{len(bad):,} image(s) cannot be used and were left out: {_listed(bad)}.",)


def ignored_files(raw: RawDataset) -> tuple[str, ...]:
    """Warn of files that the source holds and that are no images by name."""
    if not raw.ignored_count:
        return ()
    names = listed(raw.ignored, total=raw.ignored_count)
    return (f"{raw.ignored_count:,} file(s) are not images by name and were left out: {names}.",)


def absent_classes(splits: Splits, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Warn of classes that val or test do not have; of many in one line."""
    counts = {name: count_labels(splits[name]) for name in SPLITS}
    lines: list[str] = []
    for split in SPLITS[1:]:
        absent = [name for label, name in enumerate(classes) if counts[split][label] == 0]
        if len(absent) <= SHOWN:
            lines += [f"No {split} image of class {name!r}." for name in absent]
        else:
            lines.append(f"No {split} image of {len(absent):,} classes: {listed(absent)}.")
    return tuple(lines)


def describe(
    raw: RawDataset,
    spec: InputSpec,
    splits: Mapping[SplitName, PackedSplit | StreamedSplit],
    skipped: tuple[SkippedImage, ...],
    classes: tuple[str, ...],
    findings: Sequence[Finding],
    warnings: Sequence[str],
) -> PreparedDataset:
    """Return what was made of ``raw``; its files' names are relative to a folder still to come."""
    return PreparedDataset(
        folder=Path(),
        classes=classes,
        input=spec,
        skipped=skipped,
        warnings=tuple(warnings),
        checks=tuple(finding.row() for finding in findings),
        raw_digest=raw.digest,
        digest=sha256_parts(
            *classes, spec.model_dump_json(), *(splits[name].digest for name in SPLITS)
        ),
        **{name: splits[name] for name in SPLITS},
    )


def _listed(bad: Sequence[SkippedImage], found: int = 0) -> str:
    return listed([f"{image.path} ({image.reason})" for image in bad], between="; ", total=found)
