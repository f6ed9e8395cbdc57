"""From image files to three packed splits, once for each content, split and input size."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tasks.artifacts import folder_atomic, sha256_parts
from tasks.config import DataConfig
from tasks.download.words import listed
from tasks.errors import DataError
from tasks.index import ImageRecord, read_index
from tasks.preprocess.leaks import check_leaks
from tasks.preprocess.pack import (
    FORMAT,
    check_space,
    choose_layouts,
    load_prepared,
    pack_split,
    save_prepared,
)
from tasks.preprocess.splits import SPLITS, assign_splits, missing_splits
from tasks.values import (
    InputSpec,
    PackedSplit,
    PreparedDataset,
    RawDataset,
    SkippedImage,
    SplitName,
)

FEW = 10  # training images of a class

Splits = Mapping[SplitName, list[ImageRecord]]


def prepare(
    config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec, cache: Path
) -> PreparedDataset:
    """Split, decode and pack ``raw`` for ``spec``, or return the pack that is in ``cache``.

    Splits are made by ``assign_splits``; images are decoded as ``decode_rgb`` says and cut by
    ``shrink``. Nothing is left in ``cache`` when an error is raised: ``DataError`` for images that
    cannot be used (all of them listed at once, unless ``data.on_bad_image=skip``), leaks between
    splits and classes without images; ``ConfigError`` for fractions that leave no training
    images; ``ResourceError`` for a full disk.
    """
    folder = cache / "prepared" / _key(config, seed, raw, spec)
    prepared = load_prepared(folder) or _make(folder, config, seed, raw, spec)
    # of the source, not of the images that the pack is kept under
    warnings = (*left_out(raw), *prepared.warnings)
    return prepared.model_copy(update={"warnings": warnings})


def left_out(raw: RawDataset) -> tuple[str, ...]:
    """Warn of files that the source holds and that are no images by name."""
    if not raw.ignored_count:
        return ()
    names = listed(raw.ignored, total=raw.ignored_count)
    return (f"{raw.ignored_count:,} file(s) are not images by name and were left out: {names}.",)


def _make(
    folder: Path, config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec
) -> PreparedDataset:
    splits = assign_splits(read_index(raw.index), raw.classes, config, seed)
    leaks = check_leaks(splits, raw.classes, config)
    with folder_atomic(folder) as scratch:
        packed, skipped = _pack(scratch, raw, splits, spec)
        _refuse_bad(skipped, sum(map(len, splits.values())), config)
        _refuse_lost(splits, packed, raw.classes)
        warnings = (*leaks, *_skipped(skipped), *_thin(packed, raw.classes))
        save_prepared(_describe(raw, spec, packed, skipped, warnings), scratch)
        if folder.exists() and load_prepared(folder) is None:
            shutil.rmtree(folder)  # damaged; a whole one was made by another process meanwhile
    prepared = load_prepared(folder)
    if prepared is None:
        raise DataError(f"{folder} was changed while it was written.\nRun again.")
    return prepared


def _key(config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec) -> str:
    """Digest what decides the pack; the seed counts only where it decides a split."""
    carved = missing_splits({split for split, n in raw.counts.items() if n})
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    split = [f"{name} {fractions[name]!r} {seed}" for name in carved]
    policies = (config.on_bad_image, config.on_leak)
    return sha256_parts(FORMAT, raw.digest, spec.model_dump_json(), *policies, *split)


def _pack(
    folder: Path, raw: RawDataset, splits: Splits, spec: InputSpec
) -> tuple[dict[SplitName, PackedSplit], tuple[SkippedImage, ...]]:
    layouts = choose_layouts(raw.root, splits, spec)
    check_space(folder, splits, layouts)
    packed: dict[SplitName, PackedSplit] = {}
    skipped: list[SkippedImage] = []
    for name in SPLITS:
        packed[name], bad = pack_split(
            folder, name, raw.root, splits[name], layouts[name], spec, len(raw.classes)
        )
        skipped += bad
    return packed, tuple(skipped)


def _refuse_bad(skipped: tuple[SkippedImage, ...], n: int, config: DataConfig) -> None:
    if not skipped or config.on_bad_image == "skip":
        return
    raise DataError(
        f"{len(skipped)} of {n} images cannot be used (data.on_bad_image=skip leaves them out):\n"
        f"{_listed(skipped)}"
    )


def _listed(skipped: tuple[SkippedImage, ...]) -> str:
    return listed([f"{image.path} ({image.reason})" for image in skipped], between="; ")


def _refuse_lost(
    splits: Splits, packed: Mapping[SplitName, PackedSplit], classes: tuple[str, ...]
) -> None:
    """Refuse splits that lost a class because none of its images can be used."""
    lost = [
        f"{classes[label]!r} in {name}"
        for name in SPLITS
        for label in sorted({record.label for record in splits[name]})
        if packed[name].counts[label] == 0
    ]
    if lost:
        raise DataError(
            f"No readable image is left of class {listed(lost)}.\n"
            "Run graft check to list the bad images, and replace them."
        )


def _skipped(skipped: tuple[SkippedImage, ...]) -> tuple[str, ...]:
    if not skipped:
        return ()
    return (f"{len(skipped):,} image(s) cannot be used and were left out: {_listed(skipped)}.",)


def _thin(packed: Mapping[SplitName, PackedSplit], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Warn of classes with few training images, and of those that val or test do not have."""
    few = (
        f"Class {name!r} has only {n} training image(s)."
        for name, n in zip(classes, packed["train"].counts, strict=True)
        if n < FEW
    )
    none = (
        f"No {split} image of class {name!r}."
        for split in SPLITS[1:]
        for name, n in zip(classes, packed[split].counts, strict=True)
        if n == 0
    )
    return (*few, *none)


def _describe(
    raw: RawDataset,
    spec: InputSpec,
    packed: dict[SplitName, PackedSplit],
    skipped: tuple[SkippedImage, ...],
    warnings: tuple[str, ...],
) -> PreparedDataset:
    digests = (packed[name].digest for name in SPLITS)
    return PreparedDataset(
        folder=Path(),
        classes=raw.classes,
        input=spec,
        train=packed["train"],
        val=packed["val"],
        test=packed["test"],
        skipped=skipped,
        warnings=warnings,
        raw_digest=raw.digest,
        digest=sha256_parts(*raw.classes, spec.model_dump_json(), *digests),
    )
