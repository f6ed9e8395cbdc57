"""Class drift where images come in groups: whole groups are dealt to the splits, not images.

Photographs of one patient are no independent draws. Pearson's chi-square takes them for such, and
finds drift wherever a few large groups lie in one split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.index import ImageRecord

DRAWS = 9_999  # so that no p value is below 1 in 10,000
# Draws as far apart as the data that are enough: 20 over the draws made is a valid p value at any
# level (Besag & Clifford 1991), 22% off or so (one over the root of 20). At a level below 20 in
# 9,999 no further draw could make drift of it; at a higher one some might, and the level holds too.
ENOUGH = 20
_AT_ONCE = 1 << 20  # groups that are dealt, or classes counted, together
_ALIKE = 1e-9  # relative; statistics that differ by rounding alone are the same
_SEED = 0
_COUNTED = 30  # logarithm of the most deals that are told from no end of them

Positions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Groups(NamedTuple):
    """Groups of images by number; an image without a group is one of its own.

    What a group has in another split, where it is torn, is another group.
    """

    splits_g: Positions  # (g,) the split that each is in, from 0
    sizes_g: Positions  # (g,) images
    groups_e: Positions  # (e,) of each entry: a group, ...
    labels_e: Positions  # ... a class that it has, ...
    counts_e: Positions  # ... and how many of its images do

    @property
    def single(self) -> bool:
        """Tell whether every group is one image."""
        return bool((self.sizes_g <= 1).all())


def gather(splits: list[list[ImageRecord]]) -> Groups:
    """Return the groups of the images of each split."""
    numbers: dict[tuple[int, str], int] = {}
    sizes: list[int] = []
    of_split: list[int] = []
    entries: dict[tuple[int, int], int] = {}
    for split, records in enumerate(splits):
        for record in records:
            key = (split, f"group {record.group}" if record.group else f"image {record.path}")
            number = numbers.setdefault(key, len(numbers))
            if number == len(sizes):
                sizes.append(0)
                of_split.append(split)
            sizes[number] += 1
            for label in record.labels:
                entries[number, label] = entries.get((number, label), 0) + 1
    pairs = np.array([*entries], dtype=np.int64).reshape(-1, 2)
    counts = np.array([*entries.values()], dtype=np.int64)
    places, n = (np.array(each, dtype=np.int64) for each in (of_split, sizes))
    return Groups(places, n, pairs[:, 0], pairs[:, 1], counts)


def too_few(groups: Groups, alpha: float) -> str:
    """Say why no p value of ``dealt_p_values`` can be below ``alpha``; "" where one can.

    Of D different deals none is rarer than 1 in D. Splits of equally many groups may swap all of
    theirs, which Pearson's statistic does not see: of s such splits no p value is below s! in D.
    The bound is of how many groups there are; data in which many deals tie may not reach it.
    """
    deals, alike = _deals_and_alike(groups)
    if alike / deals >= alpha:
        return (
            f"too few groups to tell: {deals:,.0f} deal(s), so that p is at least "
            f"{alike / deals:.2g}, not below drift_alpha={alpha:g}"
        )
    if alpha <= 1 / (DRAWS + 1):
        return f"too few deals are drawn to tell: p is at least 0.0001, drift_alpha={alpha:g}"
    return ""


def _deals_and_alike(groups: Groups) -> tuple[float, int]:
    """Return how many deals there are, a multinomial coefficient, and how many surely tie."""
    counts_s = np.bincount(groups.splits_g)
    counts_s = counts_s[counts_s > 0]
    logarithm = math.lgamma(counts_s.sum() + 1) - sum(math.lgamma(n + 1) for n in counts_s)
    _, equal = np.unique(counts_s, return_counts=True)
    deals = math.exp(logarithm) if logarithm < _COUNTED else math.inf
    return (deals, math.prod(math.factorial(int(n)) for n in equal))


def dealt_p_values(groups: Groups, classes: int, multi_label: bool) -> list[float]:
    """Return how often chance deals the groups as far apart as they are, by Pearson's statistic.

    The null hypothesis is that any group might as well lie in another split; each draw deals them
    anew, so many to each split as there are. With one label an image there is one p value; with
    several, one a class, present against absent, adjusted over all by the greatest statistic of
    each draw (single-step maxT; Westfall & Young 1993). Drawing stops as soon as ``ENOUGH`` draws
    reach the greatest statistic (Besag & Clifford 1991): where nothing drifts after some dozens,
    and after ``DRAWS`` at the latest. The draws are always the same.
    """
    statistics = _statistics(groups, classes, multi_label)
    found_k = statistics(groups.splits_g[None].astype(np.int8))[0] * (1 - _ALIKE)
    reached_k, drawn = np.zeros(len(found_k), np.int64), 0
    for splits_dg in _deals(groups, classes):
        greatest_d = statistics(splits_dg).max(axis=1)
        as_far_d = np.cumsum(greatest_d >= found_k.max()) + reached_k.min()
        last = int(np.searchsorted(as_far_d, ENOUGH)) + 1
        reached_k += (greatest_d[:last, None] >= found_k).sum(axis=0)
        drawn += min(last, len(greatest_d))
        if reached_k.min() >= ENOUGH:
            return [float(p) for p in reached_k / drawn]
    return [float(p) for p in (reached_k + 1) / (drawn + 1)]


def _deals(groups: Groups, classes: int) -> Iterator[npt.NDArray[np.int8]]:
    """Yield the split of each group (d, g), by chance, a block of draws at a time."""
    random = np.random.default_rng(_SEED)
    most = max(1, _AT_ONCE // max(1, classes, len(groups.sizes_g)))
    left, step = DRAWS, min(2 * ENOUGH, most)
    while left:
        d = min(step, left)
        splits_dg = np.tile(groups.splits_g.astype(np.int8), (d, 1))
        yield random.permuted(splits_dg, axis=1)
        left, step = left - d, min(4 * step, most)


def _statistics(
    groups: Groups, classes: int, multi_label: bool
) -> Callable[[npt.NDArray[np.int8]], Floats]:
    """Return what gives Pearson's chi-square of deals (d, 1), or with several labels (d, k)."""
    from scipy.sparse import csr_array

    g, s = len(groups.sizes_g), int(groups.splits_g.max(initial=0)) + 1
    entries = (groups.counts_e.astype(float), (groups.labels_e, groups.groups_e))
    counts_kg = csr_array(entries, shape=(classes, g)).tocsr()
    share_k = np.asarray(counts_kg.sum(axis=1)).ravel() / groups.sizes_g.sum()
    spread_k = share_k * (1 - share_k) if multi_label else share_k
    there = spread_k > 0

    def statistics(splits_dg: npt.NDArray[np.int8]) -> Floats:
        found_dk = np.zeros((len(splits_dg), classes))
        for split in range(s):
            in_gd = (splits_dg == split).T.astype(float)
            n_d1 = (groups.sizes_g @ in_gd)[:, None]
            table_dk = (counts_kg @ in_gd).T[:, there]
            far_dk = (table_dk - n_d1 * share_k[there]) ** 2
            found_dk[:, there] += far_dk / (n_d1 * spread_k[there])
        return found_dk if multi_label else found_dk.sum(axis=1, keepdims=True)

    return statistics
