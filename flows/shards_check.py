"""``graft check`` of shards: validation and test as ever, and of training what its index says."""

from __future__ import annotations

from flows.check_findings import Findings, count_table, look, show
from tasks.config import RunConfig
from tasks.errors import GraftError
from tasks.index import read_index
from tasks.preprocess.checks import Selection
from tasks.preprocess.findings import refuse
from tasks.preprocess.splits import SPLITS
from tasks.preprocess.stream_checks import (
    NOT_LOOKED,
    check_streamed,
    refuse_emptied_split,
)
from tasks.preprocess.stream_prepare import choose_evaluated, read_raw_index
from tasks.preprocess.verdict import absent_classes, refuse_lost
from tasks.splitvalues import ShardIndex
from tasks.values import RawDataset


def check_shards(config: RunConfig, raw: RawDataset, found: Findings) -> None:
    """Decode validation and test, look for their files in training, and count the classes of all.

    No training shard is read: whether they are whole, a run finds out.
    """
    index = read_raw_index(raw)
    try:
        chosen = choose_evaluated(config.data, raw, index)
    except GraftError as error:
        look(config, raw, read_index(raw.index), found)
        found.problems.append(error)
        _count(index, found)
        return
    _check(config, raw, index, chosen, found)
    found.warnings.append(NOT_LOOKED)


def _check(
    config: RunConfig, raw: RawDataset, index: ShardIndex, chosen: Selection, found: Findings
) -> None:
    wanted = [record for name in SPLITS for record in chosen.splits[name]]
    looked = look(config, raw, wanted, found)
    usable = {record.path for record in looked.usable}
    readable = {name: [r for r in chosen.splits[name] if r.path in usable] for name in SPLITS}
    with found.keeping():
        refuse_lost(chosen.splits, readable, index.classes)
    _count(index, found)
    with found.keeping():
        kept = check_streamed(chosen, readable, looked.hashes or None, index, config.data)
        show(kept.findings, found)
        found.warnings += absent_classes(kept.splits, kept.classes)
        refuse(kept.findings)
        refuse_emptied_split(readable, kept.splits)


def _count(index: ShardIndex, found: Findings) -> None:
    found.data["shards"] = {
        name: sum(shard.split == name for shard in index.shards) for name in SPLITS
    }
    counts = {name: index.counts.get(name, (0,) * len(index.classes)) for name in SPLITS}
    table = count_table(index.classes, counts, found)
    table.add("all", *(f"{sum(numbers):,}" for numbers in counts.values()))
