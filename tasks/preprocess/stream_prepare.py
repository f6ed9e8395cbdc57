"""What is prepared of shards: validation and test packed, training described as a stream."""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts import sha256_parts, write_atomic
from tasks.config import DataConfig
from tasks.download.shard_address import open_folder
from tasks.download.shards import read_index_file, shared_with_training
from tasks.index import read_index
from tasks.preprocess.checks import Selection
from tasks.preprocess.findings import refuse, said
from tasks.preprocess.layouts import Layout, layouts_for
from tasks.preprocess.pack import Decoded, check_space, decode_split, pack_split
from tasks.preprocess.splits import SPLITS
from tasks.preprocess.stream_checks import (
    NOT_LOOKED,
    check_evaluated,
    check_streamed,
    refuse_emptied_split,
)
from tasks.preprocess.verdict import absent_classes, bad_images, describe, refuse_bad, refuse_lost
from tasks.splitvalues import ShardIndex, StreamedSplit
from tasks.values import InputSpec, PackedSplit, PreparedDataset, RawDataset, SplitName

_INDEX = "shards.json"
_FORMAT = "graft stream 1"


def pack_evaluated(
    config: DataConfig, raw: RawDataset, spec: InputSpec, scratch: Path
) -> PreparedDataset:
    """Pack validation and test of shards into ``scratch``, as ``prepare`` does, and name the rest.

    Reads no training shard. Raises as ``prepare``.
    """
    index = read_raw_index(raw)
    chosen = choose_evaluated(config, raw, index)
    if config.checks.near_duplicates != "fail":  # which may add to the message
        refuse([each for each in chosen.findings if each.status == "failed"])
    layouts = _layouts(index, spec)
    decoded = _decode(scratch, config, raw, chosen, layouts, spec)
    skipped = tuple(bad for split in decoded.values() for bad in split.skipped)
    refuse_bad(skipped, sum(map(len, chosen.splits.values())), config)
    readable = {name: split.records for name, split in decoded.items()} | {"train": []}
    hashes = {path: code for split in decoded.values() for path, code in split.hashes.items()}
    refuse_lost(chosen.splits, readable, index.classes)
    kept = check_streamed(chosen, readable, hashes, index, config)
    refuse(kept.findings)
    refuse_emptied_split(readable, kept.splits)
    write_atomic(scratch / _INDEX, index.model_dump_json().encode())
    splits: dict[SplitName, PackedSplit | StreamedSplit] = {
        name: pack_split(scratch, decoded[name], kept.splits[name], len(index.classes))
        for name in SPLITS[1:]
    }
    splits["train"] = streamed_split(index, layouts["train"])
    absent = absent_classes(kept.splits, kept.classes)
    warnings = (*bad_images(skipped), *said(kept.findings), *absent, NOT_LOOKED)
    return describe(raw, spec, splits, skipped, kept.classes, kept.findings, warnings)


def read_raw_index(raw: RawDataset) -> ShardIndex:
    """Return what is in the shards of ``raw``; raises ``DataError``."""
    assert raw.shards is not None, "a data set of shards has their index"
    return read_index_file(raw.shards)


def choose_evaluated(config: DataConfig, raw: RawDataset, index: ShardIndex) -> Selection:
    """Return validation and test without what policies of drop leave out, and what was found."""
    records = read_index(raw.index)
    trained = shared_with_training(address(config), index, records, config.timeout_seconds)
    return check_evaluated(records, trained, index, config)


def address(config: DataConfig) -> str:
    """Return the address of the folder of shards, without anything secret; absolute if local."""
    return open_folder(config.path or "", config.timeout_seconds).url


def streamed_split(index: ShardIndex, layout: Layout) -> StreamedSplit:
    """Return the training split, its digest over the shards' contents and the rows' size.

    Its address is left open: a pack is the same wherever the shards are.
    """
    shards = (part for s in index.shards if s.split == "train" for part in (s.name, s.sha256))
    return StreamedSplit(
        shards=Path(_INDEX),
        url="",
        n=sum(index.counts["train"]),
        height=layout.height,
        width=layout.width,
        native=layout.native,
        counts=index.counts["train"],
        digest=sha256_parts(_FORMAT, *map(str, layout), *index.classes, "", *shards),
    )


def _layouts(index: ShardIndex, spec: InputSpec) -> dict[SplitName, Layout]:
    if index.height is None or index.width is None:
        return layouts_for(None, SPLITS, spec)
    return layouts_for((index.height, index.width), SPLITS, spec)


def _decode(
    folder: Path,
    config: DataConfig,
    raw: RawDataset,
    chosen: Selection,
    layouts: dict[SplitName, Layout],
    spec: InputSpec,
) -> dict[SplitName, Decoded]:
    splits = {name: chosen.splits[name] for name in SPLITS[1:]}
    check_space(folder, splits, layouts)
    hashed = config.checks.near_duplicates != "off"
    return {
        name: decode_split(folder, name, raw.root, splits[name], layouts[name], spec, hashed)
        for name in splits
    }
