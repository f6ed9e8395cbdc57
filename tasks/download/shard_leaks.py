"""What of a whole data set is known by a few numbers an image: the same file, or group, twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tasks.config import DataConfig
from tasks.download.shard_numbers import Numbers, Part, rows_of
from tasks.errors import ConfigError
from tasks.measures import Policy
from tasks.preprocess.findings import Check, Finding
from tasks.spilled import Rows, Spilled, by_value
from tasks.words import SHOWN

Held = Iterable[tuple[str, int, Rows]]  # a shard, the place of the first image, rows in order


def refuse_drop(config: DataConfig) -> None:
    """Raise ``ConfigError`` where images of shards would have to be left out."""
    for name in ("exact_duplicates", "conflicting_labels", "group_leakage"):
        if getattr(config.checks, name) == "drop":
            raise ConfigError(
                f"data.checks.{name}=drop cannot leave images out of shards that are there.\n"
                "Set fail or warn, or make the shards anew."
            )


def find_leaks(
    numbers: Numbers, parts: Sequence[Part], position: Sequence[int], config: DataConfig
) -> tuple[Finding, ...]:
    """Return what the checks of files find; two different files of a million look alike 1 in 37e6.

    Source of that figure: the birthday bound, n^2 / 2^65. Shards are in the index's ``parts``, in
    its order; ``position`` is that of each label's number among the classes. Rows are sorted in a
    file beside those of ``numbers``: memory holds a piece. Raises ``ResourceError``.
    """
    copies, labels, groups = _Torn("split"), _Torn("label"), _Torn("split")
    _look(numbers.images, copies, labels)
    _look(numbers.groups, groups)
    checks = config.checks

    def images() -> Held:
        return rows_of(parts, numbers.images, groups=False)

    copied = copies.places(images, "image {place} of {shard}", int)
    labelled = labels.places(images, "image {place} of {shard}", position.__getitem__)
    torn = groups.places(lambda: rows_of(parts, numbers.groups, groups=True), "{shard}", int)
    return (
        _finding("exact_duplicates", checks.exact_duplicates, copies.count, copied),
        _finding("conflicting_labels", checks.conflicting_labels, labels.count, labelled),
        _finding("group_leakage", checks.group_leakage, groups.count, torn),
    )


class _Torn:
    """Values that come on two sides, splits or labels: how many, and the first of them."""

    def __init__(self, side: str) -> None:
        self.count = 0
        self._side = side
        self._first: list[int] = []
        self._last: np.uint64 | None = None

    def look(self, rows: Rows) -> None:
        """Look at rows sorted by value, the first of which was the last one before."""
        values, sides = rows["value"], rows[self._side]
        # in any order of a value's rows, two neighbours differ unless all are alike
        differ = (values[1:] == values[:-1]) & (sides[1:] != sides[:-1])
        torn = np.unique(values[1:][differ])
        if len(torn) and torn[0] == self._last:
            torn = torn[1:]
        if len(torn):
            self.count, self._last = self.count + len(torn), torn[-1]
            self._first += torn[: SHOWN - len(self._first)].tolist()

    def places(
        self, held: Callable[[], Held], words: str, order: Callable[[int], int]
    ) -> list[list[str]]:
        """Say where each of the first values is first on each side; ``order`` sorts the sides."""
        found: dict[int, dict[int, str]] = {value: {} for value in self._first}
        wanted = np.array(self._first, np.uint64)
        for shard, place, rows in held() if found else ():
            at = np.flatnonzero(np.isin(rows["value"], wanted))
            which = rows[at]
            columns = (which["value"].tolist(), which[self._side].tolist(), (place + at).tolist())
            for value, side, n in zip(*columns, strict=True):
                if side not in found[value]:
                    found[value][side] = words.format(place=n + 1, shard=shard)
        return [[sides[side] for side in sorted(sides, key=order)] for sides in found.values()]


def _look(file: Spilled, *checks: _Torn) -> None:
    for rows in _overlapping(by_value(file.pieces(), file.row, file.folder)):
        for check in checks:
            check.look(rows)


def _overlapping(pieces: Iterable[Rows]) -> Iterator[Rows]:
    """Yield each piece with the last row of the one before it in front."""
    last: Rows | None = None
    for piece in pieces:
        yield piece if last is None else np.concatenate([last, piece])
        last = piece[-1:]


def _finding(check: Check, policy: Policy, found: int, places: Sequence[Sequence[str]]) -> Finding:
    unit = "group" if check == "group_leakage" else "image"
    between = " and " if unit == "group" else " = "
    where = "have two labels" if check == "conflicting_labels" else "are in two splits"
    examples = tuple(between.join(each) for each in places)
    return Finding(check, policy, found, unit, f"{found:,} {unit}(s) {where}", examples)
