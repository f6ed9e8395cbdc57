"""From image files to three packed splits, once for each content, split and input size.

Of shards the training split is not packed, but handed on as a stream.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tasks.artifacts import folder_atomic, sha256_parts
from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import read_index
from tasks.memory import return_fragments
from tasks.preprocess.checks import (
    Selection,
    check_files,
    check_pictures,
    dropping,
    refuse_early,
    refuse_emptied,
)
from tasks.preprocess.findings import refuse, said
from tasks.preprocess.layouts import choose_layouts
from tasks.preprocess.pack import (
    Decoded,
    check_space,
    decode_split,
    load_prepared,
    pack_format,
    pack_split,
    save_prepared,
)
from tasks.preprocess.splits import SPLITS, missing_splits
from tasks.preprocess.stream_prepare import address, pack_evaluated
from tasks.preprocess.verdict import (
    absent_classes,
    bad_images,
    describe,
    ignored_files,
    refuse_bad,
    refuse_lost,
)
from tasks.use import mark_used
from tasks.values import InputSpec, PreparedDataset, RawDataset, SplitName


def prepare(
    config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec, cache: Path
) -> PreparedDataset:
    """Split, decode and pack ``raw`` for ``spec``, or return the pack that is in ``cache``.

    Splits are made by ``assign_splits``; images are decoded as ``decode_rgb`` says and cut by
    ``shrink``. What ``data.checks`` finds is in the pack's ``checks``; where its policy is drop,
    the pack holds neither those images nor, of tiny classes, the name. Nothing is left in ``cache``
    when an error is raised: ``DataError`` for images that cannot be used (all of them listed at
    once, unless ``data.on_bad_image=skip``), checks that fail and classes without images;
    ``ConfigError`` for fractions that leave no training images; ``ResourceError`` for a full disk.
    """
    folder = cache / "prepared" / _key(config, seed, raw, spec)
    fill = partial(pack_evaluated, config, raw, spec)
    if raw.shards is None:
        fill = partial(_pack, config, seed, raw, spec)
    prepared = load_prepared(folder) or _make(folder, fill)
    mark_used(folder)
    # of the source, not of the images that the pack is kept under
    update: dict[str, object] = {"warnings": (*ignored_files(raw), *prepared.warnings)}
    if raw.shards is not None:  # wherever they are now
        update["train"] = prepared.train.model_copy(update={"url": address(config)})
    return prepared.model_copy(update=update)


def _make(folder: Path, fill: Callable[[Path], PreparedDataset]) -> PreparedDataset:
    with folder_atomic(folder) as scratch:
        save_prepared(fill(scratch), scratch)
        return_fragments()  # of images of every size that were decoded
        if folder.exists() and load_prepared(folder) is None:
            shutil.rmtree(folder)  # damaged; a whole one was made by another process meanwhile
    prepared = load_prepared(folder)
    if prepared is None:
        raise DataError(f"{folder} was changed while it was written.\nRun again.")
    return prepared


def _pack(
    config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec, scratch: Path
) -> PreparedDataset:
    chosen = check_files(read_index(raw.index), raw.classes, config, seed)
    refuse_early(chosen, config)
    decoded = _decode(scratch, config, raw, chosen, spec)
    skipped = tuple(bad for split in decoded.values() for bad in split.skipped)
    refuse_bad(skipped, sum(map(len, chosen.splits.values())), config)
    kept = _keep(config, chosen, decoded)
    packed = {
        name: pack_split(
            scratch, decoded[name], kept.splits[name], len(kept.classes), raw.multi_label
        )
        for name in SPLITS
    }
    warnings = (
        *bad_images(skipped),
        *said(kept.findings),
        *absent_classes(kept.splits, kept.classes),
    )
    return describe(raw, spec, packed, skipped, kept.classes, kept.findings, warnings)


def _key(config: DataConfig, seed: int, raw: RawDataset, spec: InputSpec) -> str:
    """Digest what decides the pack; the seed counts only where it decides a split."""
    carved = missing_splits({split for split, n in raw.counts.items() if n})
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    split = [f"{name} {fractions[name]!r} {seed}" for name in carved]
    # every setting of a check stands in its row, or in what is left
    policies = (config.on_bad_image, config.checks.model_dump_json())
    return sha256_parts(pack_format(), raw.digest, spec.model_dump_json(), *policies, *split)


def _decode(
    folder: Path, config: DataConfig, raw: RawDataset, chosen: Selection, spec: InputSpec
) -> dict[SplitName, Decoded]:
    splits, hashed = chosen.splits, config.checks.near_duplicates != "off"
    layouts = choose_layouts(raw.root, splits, spec)
    check_space(folder, splits, layouts)
    return {
        name: decode_split(folder, name, raw.root, splits[name], layouts[name], spec, hashed)
        for name in SPLITS
    }


def _keep(config: DataConfig, chosen: Selection, decoded: dict[SplitName, Decoded]) -> Selection:
    """Settle which of the readable images stay, or raise what is wrong with them."""
    readable = {name: split.records for name, split in decoded.items()}
    hashes = {path: code for split in decoded.values() for path, code in split.hashes.items()}
    refuse_lost(chosen.splits, readable, chosen.classes)
    kept = check_pictures(chosen, readable, hashes, config)
    refuse(kept.findings)
    refuse_emptied(readable, kept.splits, kept.classes, dropping(kept.findings))
    return kept
