"""Whether the splits hold the classes in the same shares, but for chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.config import DataConfig
from tasks.index import count_labels
from tasks.preprocess.dealt import dealt_p_values, gather, too_few
from tasks.preprocess.findings import Finding, Splits
from tasks.preprocess.splits import SPLITS
from tasks.values import SplitName
from tasks.words import SHOWN

NOTICED = 0.1  # total variation above which shares differ, where no test can tell

Table = npt.NDArray[np.int64]


class _Shares(NamedTuple):
    """The images of each split: how many there are, and how many of each class."""

    names: list[SplitName]  # of the splits that have images
    sizes_s: npt.NDArray[np.int64]
    counts_sk: Table

    @property
    def fractions_sk(self) -> npt.NDArray[np.float64]:
        fractions: npt.NDArray[np.float64] = self.counts_sk / self.sizes_s[:, None]
        return fractions


def class_drift(splits: Splits, classes: tuple[str, ...], config: DataConfig) -> Finding:
    """Test whether class and split are independent: Pearson's chi-square on the counts.

    ``statistic`` is the greatest total variation distance, 0 to 1, between two splits' shares: how
    many of one's images would have to change class to look like the other. With several labels an
    image each class is tested alone, present against absent, at ``drift_alpha`` over all by Holm's
    step-down procedure (1979): ``p_value`` is the smallest adjusted one, ``found`` counts classes.
    Where counts of under 5 are expected the p value is rough (Cochran 1954).

    Images of one group are no independent draws: where there are groups, the statistic is held
    against deals of whole groups (``dealt_p_values``), and no p value is below 1 in 10,000. Where
    the groups are too few for any p value below ``drift_alpha`` (``too_few``), the distance alone
    decides: above ``NOTICED`` it is found. The first example says so, found or not.
    """
    shares = _count(splits, len(classes))
    groups = gather([list(splits[name]) for name in shares.names])
    if groups.single:
        return _told(shares, classes, config)
    p_values = dealt_p_values(groups, len(classes), config.multi_label)
    untold = too_few(groups, config.checks.drift_alpha) if len(shares.names) > 1 else ""
    return _judged(shares, classes, config, "whole groups dealt at random", p_values, untold)


def counted_drift(
    counts: Mapping[SplitName, Sequence[int]], classes: tuple[str, ...], config: DataConfig
) -> Finding:
    """Do the same where only the images of each class are known, of one label each, no groups."""
    filled = [name for name in SPLITS if sum(counts.get(name, ()))]
    table = np.array([counts[name] for name in filled], dtype=np.int64)
    table = table.reshape(len(filled), len(classes))
    return _told(_Shares(filled, table.sum(axis=1), table), classes, config)


def _told(shares: _Shares, classes: tuple[str, ...], config: DataConfig) -> Finding:
    p_values = [p_value(table) for table in _tables(shares, config.multi_label)]
    p_values = holm(p_values) if config.multi_label else p_values
    return _judged(shares, classes, config, "chi-square test", p_values)


def _judged(
    shares: _Shares,
    classes: tuple[str, ...],
    config: DataConfig,
    test: str,
    p_values: list[float],
    untold: str = "",
) -> Finding:
    distances = [total_variation(one) for one in _tables(shares, config.multi_label)]
    alpha = config.checks.drift_alpha
    distance, least = max(distances, default=0.0), min(p_values, default=1.0)
    far = sum(one > NOTICED for one in distances)
    found = far if untold else sum(p < alpha for p in p_values)
    beyond = f"by more than {NOTICED:g}" if untold else "beyond chance"
    examples = _examples(shares, classes) if found else ()
    return Finding(
        "class_drift",
        config.checks.class_drift,
        found,
        "class" if config.multi_label else "distribution",
        f"The shares of the classes differ between splits {beyond} (total variation "
        f"{distance:.3f}, {test}: p = {least:.2g})",
        (untold, *examples) if untold else examples,
        statistic=distance,
        p_value=least,
    )


def _tables(shares: _Shares, multi_label: bool) -> list[Table]:
    """Return the table that is tested, or one for each class."""
    if not multi_label:
        return [shares.counts_sk]
    return [_present(shares, label) for label in range(shares.counts_sk.shape[1])]


def p_value(table_sk: Table) -> float:
    """Return the chi-square test's p value; 1 where one split, or one class, is left to compare.

    As ``scipy.stats.chi2_contingency`` has it, a table of four cells by Yates's correction (1934).
    Written out, since scipy.stats takes a third of a second to import and 40 MiB to keep.
    """
    from scipy.special import chdtrc

    table = table_sk[:, table_sk.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    freedom, off = (len(table) - 1) * (table.shape[1] - 1), np.abs(table - expected)
    if freedom == 1:
        off = off - np.minimum(0.5, off)
    return float(chdtrc(freedom, (off**2 / expected).sum()))


def total_variation(table_sk: Table) -> float:
    """Return the greatest distance, half the sum of |p - q|, between two rows' shares."""
    fractions = table_sk / table_sk.sum(axis=1, keepdims=True)
    pairs = combinations(fractions, 2)
    return max((float(np.abs(one - other).sum() / 2) for one, other in pairs), default=0.0)


def holm(p_values: list[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given (Holm 1979, Scand. J. Stat. 6, p. 67)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return [float(p) for p in adjusted]


def _count(splits: Splits, classes: int) -> _Shares:
    filled = [name for name in SPLITS if count_labels(splits[name])]
    counts = [count_labels(splits[name]) for name in filled]
    table = np.array([[n[label] for label in range(classes)] for n in counts], dtype=np.int64)
    sizes = np.array([len(splits[name]) for name in filled], dtype=np.int64)
    return _Shares(list(filled), sizes, table.reshape(len(filled), classes))


def _present(shares: _Shares, label: int) -> Table:
    present = shares.counts_sk[:, label]
    return np.stack((present, shares.sizes_s - present), axis=1)


def _examples(shares: _Shares, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Name the classes whose shares are furthest apart, and the shares."""
    spread = np.ptp(shares.fractions_sk, axis=0)
    return tuple(
        f"{classes[label]!r} is "
        + ", ".join(
            f"{share:.1%} of {name}"
            for share, name in zip(shares.fractions_sk[:, label], shares.names, strict=True)
        )
        for label in np.argsort(-spread, kind="stable")[:SHOWN]
    )
