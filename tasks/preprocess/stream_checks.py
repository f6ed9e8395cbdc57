"""The checks of a data set whose training images are streamed, and so are not in memory at once.

Of those images are known how many each class has, and eight bytes of each one's digest: enough to
find them again in validation and test, to count classes and to compare their shares. Near copies
are looked for in validation and test alone (``NOT_LOOKED``); so are two labels of a file and torn
groups, for which ``graft shards`` looks in all splits when it makes the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.checks import Selection
from tasks.preprocess.drift import counted_drift
from tasks.preprocess.findings import Check, Finding, Splits, left
from tasks.preprocess.near import Hashes, near_duplicates
from tasks.preprocess.splits import SPLITS
from tasks.preprocess.tiny import tiny_counts, tiny_finding
from tasks.preprocess.torn import conflicting_labels, exact_duplicates, group_leakage
from tasks.splitvalues import ShardIndex
from tasks.values import SplitName
from tasks.words import listed

NOT_LOOKED = (
    "Training images are streamed: near copies of them in validation or test are not looked for "
    "here (graft shards does, where it packs images)."
)
_TRAINED = "a training image"  # its path is in its shard


def check_evaluated(
    records: list[ImageRecord],
    trained: Sequence[ImageRecord],
    index: ShardIndex,
    config: DataConfig,
) -> Selection:
    """Look at validation's and test's ``records``, of which ``trained`` are training images too.

    Returns what is left of them, by split, with what was found; as ``check_files``, findings that
    fail are returned. Raises ``DataError`` for images to be left out that are streamed.
    """
    checks, classes = config.checks, index.classes
    splits = _splits(records)
    splits["train"] = [
        record._replace(path=_TRAINED, split="train", group="") for record in trained
    ]
    exact = exact_duplicates(splits, checks.exact_duplicates)
    _refuse_drop(exact, _TRAINED in exact.gone)
    conflicts = conflicting_labels(records, classes, checks.conflicting_labels)
    kept = left(records, (exact, conflicts))
    groups = group_leakage(_splits(kept), checks.group_leakage)
    return Selection(_splits(left(kept, (groups,))), classes, (exact, conflicts, groups))


def check_streamed(
    selection: Selection,
    readable: Splits,
    hashes: Hashes | None,
    index: ShardIndex,
    config: DataConfig,
) -> Selection:
    """Look for near duplicates between validation and test, and at the classes of all splits.

    As ``check_pictures``, with the training images as the ``index`` counts them.
    """
    checks, classes, splits = config.checks, index.classes, dict(readable)
    found = [*selection.findings]
    if hashes is not None and checks.near_duplicates != "off":
        policy, distance = checks.near_duplicates, checks.near_distance
        found.append(near_duplicates(splits, classes, hashes, policy, distance))
        splits = {name: left(splits[name], (found[-1],)) for name in SPLITS}
    tiny = tiny_counts(dict(enumerate(index.counts["train"])), classes, checks.tiny_class)
    found.append(tiny_finding(tiny, (), config, checks.tiny_class))
    _refuse_drop(found[-1], bool(tiny))
    counts = {name: _counts(splits[name], len(classes)) for name in SPLITS[1:]}
    found.append(counted_drift({"train": index.counts["train"], **counts}, classes, config))
    found.sort(key=lambda finding: get_args(Check).index(finding.check))
    return Selection({name: list(splits[name]) for name in SPLITS}, classes, tuple(found))


def refuse_emptied_split(before: Splits, after: Splits) -> None:
    """Raise ``DataError`` where validation or test lost all their images to policies of drop."""
    lost = [name for name in SPLITS[1:] if before[name] and not after[name]]
    if lost:
        raise DataError(
            f"The data checks leave no image in {listed(lost)}.\nMend the data, or set warn there."
        )


def _refuse_drop(finding: Finding, streamed: bool) -> None:
    if finding.policy == "drop" and streamed:
        raise DataError(
            f"{finding.text}, and of streamed training images none can be left out.\n"
            f"Set data.checks.{finding.check}=warn, or write the shards without them."
        )


def _splits(records: Sequence[ImageRecord]) -> dict[SplitName, list[ImageRecord]]:
    return {name: sorted(r for r in records if r.split == name) for name in SPLITS}


def _counts(records: Sequence[ImageRecord], classes: int) -> list[int]:
    counts = count_labels(records)
    return [counts[label] for label in range(classes)]
