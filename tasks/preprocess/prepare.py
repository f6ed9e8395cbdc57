"""From image files to three packed splits, once for each content, split and input size."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.artifacts import folder_atomic, sha256_parts
from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import read_index
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
from tasks.preprocess.verdict import (
    Splits,
    bad_images,
    ignored_files,
    refuse_bad,
    refuse_lost,
    thin_classes,
)
from tasks.values import (
    InputSpec,
    PackedSplit,
    PreparedDataset,
    RawDataset,
    SkippedImage,
    SplitName,
)


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
    warnings = (*ignored_files(raw), *prepared.warnings)
    return prepared.model_copy(update={"warnings": warnings})


def _make(
    folder: Path, config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec
) -> PreparedDataset:
    splits = assign_splits(read_index(raw.index), raw.classes, config, seed)
    leaks = check_leaks(splits, raw.classes, config)
    with folder_atomic(folder) as scratch:
        packed, skipped = _pack(scratch, raw, splits, spec)
        counts = {name: split.counts for name, split in packed.items()}
        refuse_bad(skipped, sum(map(len, splits.values())), config)
        refuse_lost(splits, counts, raw.classes)
        warnings = (*leaks, *bad_images(skipped), *thin_classes(counts, raw.classes))
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
    policies = (config.on_bad_image, config.checks.exact_duplicates)
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
            folder,
            name,
            raw.root,
            splits[name],
            layouts[name],
            spec,
            len(raw.classes),
            raw.multi_label,
        )
        skipped += bad
    return packed, tuple(skipped)


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
