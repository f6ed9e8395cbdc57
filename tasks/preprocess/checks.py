"""The checks of the data before training, in order, each under its policy.

First those of files, before anything is decoded; then, with every readable image known, those of
pictures and of what is left. Each looks at what the ones before it left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import ImageRecord, count_labels
from tasks.preprocess.drift import class_drift
from tasks.preprocess.findings import Check, Finding, Splits, left, refuse
from tasks.preprocess.near import Hashes, near_duplicates
from tasks.preprocess.splits import SPLITS, assign_splits
from tasks.preprocess.tiny import TinyClass, tiny_classes, tiny_finding, without_tiny
from tasks.preprocess.torn import conflicting_labels, exact_duplicates, group_leakage
from tasks.values import SplitName
from tasks.words import listed

FEWEST = 2  # classes that a classifier can tell apart


@dataclass(frozen=True)
class Selection:
    """The images that are left, by split, and what was found so far."""

    splits: dict[SplitName, list[ImageRecord]]
    classes: tuple[str, ...]  # what the records' labels are positions in
    findings: tuple[Finding, ...] = ()
    lost: tuple[TinyClass, ...] = ()  # classes that are too small whatever the split
    lost_images: frozenset[str] = frozenset()


def check_files(
    records: list[ImageRecord], classes: tuple[str, ...], config: DataConfig, seed: int
) -> Selection:
    """Split ``records`` by ``assign_splits`` and look for equal files, torn groups, two labels.

    What a policy of ``drop`` leaves out is gone before the splits are made, so that those that are
    split off the training images have their shares of what is left. Classes that are too small to
    be split go as well where ``data.checks.tiny_classes=drop``. Findings that fail are returned
    (``refuse`` raises them). Raises ``DataError`` where nothing is left of a split or a class,
    and as ``assign_splits`` does.
    """
    checks = config.checks
    conflicts = conflicting_labels(records, classes, checks.conflicting_labels)
    first = _select(records, classes, config, seed, (conflicts,))
    exact = exact_duplicates(first.splits, checks.exact_duplicates)
    groups = group_leakage(_without(first.splits, exact), checks.group_leakage)
    findings = (exact, conflicts, groups)
    if exact.gone or groups.gone:
        return _select(records, classes, config, seed, findings)
    return Selection(first.splits, first.classes, findings, first.lost, first.lost_images)


def refuse_early(selection: Selection, config: DataConfig) -> None:
    """Raise what fails already before hours of decoding, unless that may add to the message.

    Class drift alone waits: bad images and near duplicates that are left out can undo it.
    """
    if config.checks.near_duplicates == "fail":
        return
    findings = check_pictures(selection, selection.splits, None, config).findings
    if any(each.status == "failed" and each.check != "class_drift" for each in findings):
        refuse(findings)


def check_pictures(
    selection: Selection, readable: Splits, hashes: Hashes | None, config: DataConfig
) -> Selection:
    """Look for near duplicates, tiny classes and class drift among the ``readable`` images.

    ``hashes`` are their ``perceptual_hash``; without them near duplicates are not looked for.
    Returns what is left, with all findings in the order of ``ChecksConfig``; those that fail are
    returned too.
    """
    checks, classes, lost, gone = config.checks, selection.classes, selection.lost, frozenset[str]()
    splits = {name: list(readable[name]) for name in SPLITS}
    found = [*selection.findings]
    if hashes is not None and checks.near_duplicates != "off":
        policy, distance = checks.near_duplicates, checks.near_distance
        found.append(near_duplicates(splits, classes, hashes, policy, distance))
        splits = _without(splits, found[-1])
    lost += tiny_classes(splits, classes, checks.tiny_class)
    if checks.tiny_classes == "drop":
        splits, classes, _, gone = without_tiny(splits, classes, checks.tiny_class)
    found.append(tiny_finding(lost, gone | selection.lost_images, config, checks.tiny_class))
    found.append(class_drift(splits, classes, config))
    found.sort(key=lambda finding: get_args(Check).index(finding.check))
    return Selection(splits, classes, tuple(found))


def refuse_emptied(before: Splits, after: Splits, classes: tuple[str, ...], what: str) -> None:
    """Raise ``DataError`` where leaving images out took a whole split or a class's training images.

    ``what`` names the checks that left images out; where it is empty, none did.
    """
    trained = count_labels(after["train"])
    short = [f"no image in {name}" for name in SPLITS if before[name] and not after[name]]
    short += [
        f"no training image of class {name!r}"
        for label, name in enumerate(classes)
        if not trained[label]
    ]
    if len(classes) < FEWEST:
        short = [f"{listed(classes)} as the only class" if classes else "no class"]
    if what and short:
        raise DataError(f"{what} leaves {listed(short)}.\nMend the data, or set warn there.")


def dropping(findings: Sequence[Finding]) -> str:
    """Name the checks that leave images out; "" where none does."""
    names = [finding.check for finding in findings if finding.status == "dropped"]
    return ", ".join(f"data.checks.{name}=drop" for name in names)


def _select(
    records: list[ImageRecord],
    classes: tuple[str, ...],
    config: DataConfig,
    seed: int,
    findings: tuple[Finding, ...],
) -> Selection:
    """Split what the findings leave, and what tiny classes do where they are left out."""
    before = _declared(records)
    splits = _declared(left(records, findings))
    lost: tuple[TinyClass, ...] = ()
    gone, what = frozenset[str](), dropping(findings)
    if config.checks.tiny_classes == "drop":
        splits, classes, lost, gone = without_tiny(splits, classes, config.checks.tiny_class)
        what = ", ".join(filter(None, (what, "data.checks.tiny_classes=drop" if lost else "")))
    refuse_emptied(before, splits, classes, what)
    kept = [record for name in SPLITS for record in splits[name]]
    return Selection(_assigned(kept, classes, config, seed, what), classes, findings, lost, gone)


def _declared(records: list[ImageRecord]) -> dict[SplitName, list[ImageRecord]]:
    """Return the records by the split that the source declares; without one they are train's."""
    splits: dict[SplitName, list[ImageRecord]] = {
        name: [record for record in records if record.split == name] for name in SPLITS
    }
    splits["train"] = [record for record in records if record.split not in SPLITS[1:]]
    return splits


def _assigned(
    records: list[ImageRecord],
    classes: tuple[str, ...],
    config: DataConfig,
    seed: int,
    what: str,
) -> dict[SplitName, list[ImageRecord]]:
    try:
        return assign_splits(records, classes, config, seed)
    except DataError as error:
        if not what:
            raise
        raise DataError(f"After {what}: {error}") from error


def _without(splits: Splits, finding: Finding) -> dict[SplitName, list[ImageRecord]]:
    return {name: left(splits[name], (finding,)) for name in SPLITS}
