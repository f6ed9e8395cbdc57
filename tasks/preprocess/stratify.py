"""Iterative stratification: images of several labels each, dealt out so that every label is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from tasks.errors import DataError
from tasks.index import ImageRecord, count_labels
from tasks.values import SplitName

NO_LABEL = -1
Unit = list[ImageRecord]  # images that stay together: one group, or copies of one file


def stratify(
    units: Sequence[Unit], shares: Mapping[SplitName, float]
) -> dict[SplitName, list[ImageRecord]]:
    """Deal ``units`` out to the splits of ``shares``, which sum to 1, train's first.

    Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", algorithm
    1: again and again the label with the fewest images left is taken, and each unit with it goes
    to the split that lacks most images of that label; on a tie, to the one that lacks most images.
    Three things are not in the paper: to have no label is a label as well, so that each split gets
    its share of such images; what a split is to get is rounded by ``largest_remainder``, so that a
    label with as many images as there are splits is wanted in each; and the last unit of a label
    that train has not goes to train.

    Raises ``DataError`` when a split is left without any image.
    """
    dealer = _Dealer(units, shares)
    while dealer.left:
        label = min(dealer.left, key=lambda label: (dealer.left[label], label))
        for unit in dealer.of_label[label]:
            dealer.deal(unit, label)
    _check_filled(dealer.splits)
    return dealer.splits


class _Dealer:
    """What is dealt, what is left, and what each split still lacks."""

    def __init__(self, units: Sequence[Unit], shares: Mapping[SplitName, float]) -> None:
        self.splits: dict[SplitName, list[ImageRecord]] = {name: [] for name in shares}
        self.of_label: dict[int, list[int]] = defaultdict(list)
        self._units = units
        self._counts = [_counts(unit) for unit in units]
        self._waiting = set(range(len(units)))
        for position, counts in enumerate(self._counts):
            for label in counts:
                self.of_label[label].append(position)
        # units, not images: what decides which is the last
        self.left = Counter({label: len(found) for label, found in self.of_label.items()})
        images = _counts([record for unit in units for record in unit])
        self._lacks = {label: _wanted(n, shares) for label, n in images.items()}
        self._room = _wanted(sum(map(len, units)), shares)
        self._untrained = set(images)

    def deal(self, position: int, label: int) -> None:
        """Give one unit away for the sake of ``label``, unless it is gone."""
        if position not in self._waiting:
            return
        self._waiting.remove(position)
        unit, counts = self._units[position], self._counts[position]
        name = self._choose(counts, label)
        self.splits[name] += unit
        self._room[name] -= len(unit)
        for each, n in counts.items():
            self._lacks[each][name] -= n
        self._untrained -= counts.keys() if name == "train" else set()
        self.left -= Counter(counts.keys())  # drops the labels that are at 0

    def _choose(self, counts: Counter[int], label: int) -> SplitName:
        if any(self.left[each] == 1 for each in counts.keys() & self._untrained):
            return "train"
        lacks = self._lacks[label]
        return max(self.splits, key=lambda name: (lacks[name], self._room[name]))


def _counts(records: Sequence[ImageRecord]) -> Counter[int]:
    counts = count_labels(records)
    bare = sum(not record.labels for record in records)
    return counts + Counter({NO_LABEL: bare})  # which drops it at 0


def _wanted(n: int, shares: Mapping[SplitName, float]) -> dict[SplitName, float]:
    parts = list(shares.values())
    rounded = largest_remainder(n, parts) if n >= len(parts) else [n * part for part in parts]
    return dict(zip(shares, rounded, strict=True))


def largest_remainder(n: int, shares: list[float]) -> list[int]:
    """Round ``n * shares`` to whole numbers with sum ``n`` (Hamilton's method), each at least 1.

    ``shares`` sum to 1 and ``n`` is at least their number. Ties go to the later share, so that
    the small splits, which come last, are not starved.
    """
    counts = [int(n * share + 1e-9) for share in shares]  # 0.1 * 30 is 3, whatever floats say
    order = sorted(range(len(shares)), key=lambda i: (n * shares[i] - counts[i], i), reverse=True)
    for i in order[: n - sum(counts)]:
        counts[i] += 1
    while min(counts) < 1:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(min(counts))] += 1
    return counts


def _check_filled(splits: Mapping[SplitName, list[ImageRecord]]) -> None:
    empty = [name for name, records in splits.items() if not records]
    if empty:
        raise DataError(
            f"Too few images, or groups of them, to split: none is left for {', '.join(empty)}.\n"
            "Add images, use smaller groups, or declare the splits yourself."
        )
