"""Drift among groups: against every deal there is, scipy's statistic, and false alarms counted."""

from __future__ import annotations

import dataclasses
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import binom, chi2_contingency

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.preprocess import dealt
from tasks.preprocess.dealt import dealt_p_values, gather, too_few
from tasks.preprocess.drift import class_drift
from tasks.preprocess.findings import refuse
from tasks.values import SplitName

CLASSES = ("ants", "bees", "wasps")
SHARES = (0.5, 0.3, 0.2)
ONE = DataConfig(path="x")
SEVERAL = DataConfig(kind="manifest", path="x.csv", multi_label=True)
NAMES: tuple[SplitName, ...] = ("train", "val", "test")
Labelled = list[int] | list[tuple[int, ...]]


def records(split: str, groups: list[Labelled]) -> list[ImageRecord]:
    """Return the images of each group by their labels."""
    return [
        ImageRecord(f"{split}/{g}/{i}", label, split, f"{split}{g}", "")
        for g, labels in enumerate(groups)
        for i, label in enumerate(labels)
    ]


def by_chance(rng: np.random.Generator, groups: int, shares=SHARES) -> list[Labelled]:
    """Return groups of 1 to 30 images, most of each of one class: patients, not images, differ."""
    drawn = []
    for _ in range(groups):
        own, n = rng.choice(3, p=shares), int(rng.geometric(0.1)) % 30 + 1
        drawn.append(np.where(rng.random(n) < 0.8, own, rng.choice(3, n, p=shares)).tolist())
    return drawn


def drift(splits, config=ONE, alpha: float = 0.05):
    checks = config.checks.model_copy(update={"drift_alpha": alpha})
    return class_drift(splits, CLASSES, config.model_copy(update={"checks": checks}))


def test_chance_alarms_as_often_as_the_level_says_and_not_as_images_would() -> None:
    rng = np.random.default_rng(0)
    found = {True: 0, False: 0}
    for _ in range(200):
        splits = {
            name: records(name, by_chance(rng, groups))
            for name, groups in zip(NAMES, (30, 8, 12), strict=True)
        }
        found[True] += drift(splits).found
        alone = {name: [r._replace(group="") for r in rs] for name, rs in splits.items()}
        found[False] += drift(alone).found
    assert binom.cdf(found[True], 200, 0.05) > 0.001
    assert binom.sf(found[True] - 1, 200, 0.05) > 0.001
    assert found[False] > 100  # of images taken for independent: what this is for


def test_drift_of_groups_is_found() -> None:
    rng = np.random.default_rng(1)
    splits = {
        "train": records("train", by_chance(rng, 60)),
        "val": records("val", by_chance(rng, 15)),
        "test": records("test", by_chance(rng, 25, (0.05, 0.05, 0.9))),
    }
    found = drift(splits, alpha=0.001)
    assert (found.found, found.p_value) == (1, 1 / (dealt.DRAWS + 1))
    assert "whole groups dealt at random: p = 0.0001" in found.text


def test_the_p_value_is_the_share_of_all_deals_that_are_as_far_apart(monkeypatch) -> None:
    monkeypatch.setattr(dealt, "ENOUGH", 10**9)  # every draw is made
    sizes = [[9, 1, 0], [2, 5, 0], [0, 3, 1], [1, 1, 1], [6, 0, 2], [0, 0, 4], [3, 2, 0]]
    groups = [[label for label, n in enumerate(row) for _ in range(n)] for row in sizes]
    splits = [records("train", groups[:4]), records("test", groups[4:])]
    table = np.array(sizes)

    def statistic(train: tuple[int, ...]) -> float:
        test = [g for g in range(7) if g not in train]
        halves = np.stack((table[list(train)].sum(axis=0), table[test].sum(axis=0)))
        return chi2_contingency(halves, correction=False).statistic

    here = statistic((0, 1, 2, 3))
    exact = np.mean([statistic(train) >= here - 1e-9 for train in combinations(range(7), 4)])
    (found,) = dealt_p_values(gather(splits), 3, False)
    assert abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / dealt.DRAWS)


def test_stopping_early_gives_nearly_the_same(monkeypatch) -> None:
    rng = np.random.default_rng(3)
    splits = [records(name, by_chance(rng, n)) for name, n in zip(NAMES, (30, 8, 12), strict=True)]
    (early,) = dealt_p_values(gather(splits), 3, False)
    monkeypatch.setattr(dealt, "ENOUGH", 10**9)
    (whole,) = dealt_p_values(gather(splits), 3, False)
    assert 0.05 < whole < 0.95
    assert early == pytest.approx(whole, rel=0.7)  # of 20 draws: a fifth is one standard error


def test_of_several_labels_each_class_is_held_against_the_greatest_of_all() -> None:
    rng = np.random.default_rng(4)

    def patients(n: int, shares) -> list[Labelled]:
        own = rng.random((n, 3)) < shares
        return [[tuple(np.flatnonzero(row).tolist())] * int(rng.integers(1, 9)) for row in own]

    splits = {
        "train": records("train", patients(120, (0.5, 0.3, 0.2))),
        "val": records("val", patients(40, (0.5, 0.3, 0.2))),
        "test": records("test", patients(40, (0.5, 0.95, 0.2))),
    }
    found = drift(splits, SEVERAL, 0.001)
    assert (found.found, found.unit) == (1, "class")
    assert found.examples[0].startswith("'bees' is ")
    each = dealt_p_values(gather([splits[name] for name in NAMES]), 3, True)
    assert each[1] == min(each) < 0.001 < min(each[0], each[2])


def test_images_without_a_group_are_groups_of_their_own_and_torn_groups_are_two() -> None:
    one = [ImageRecord("a", 0, "train", "", ""), ImageRecord("b", 1, "train", "", "")]
    assert gather([one, []]).single
    torn = [ImageRecord("c", 0, "test", "p", "")]
    groups = gather([[*one, *records("train", [[0, 0, 1]])], [torn[0], torn[0]._replace(path="d")]])
    assert groups.sizes_g.tolist() == [1, 1, 3, 2]
    assert groups.splits_g.tolist() == [0, 0, 0, 1]
    assert not groups.single
    both = gather([[torn[0]], [torn[0]._replace(path="d")]])
    assert both.splits_g.tolist() == [0, 1]
    assert gather([]).single


def test_the_same_data_drifts_the_same() -> None:
    rng = np.random.default_rng(5)
    groups = gather([records(name, by_chance(rng, 10)) for name in NAMES])
    assert dealt_p_values(groups, 3, False) == dealt_p_values(groups, 3, False)
    assert gather([[]]).single


def hospitals(*shares_of_ants: tuple[float, ...]) -> dict[SplitName, list[ImageRecord]]:
    """Return splits of so many hospitals of 1,000 images, of which such shares are ants."""
    return {
        name: records(name, [[0] * round(1000 * a) + [1] * round(1000 * (1 - a)) for a in shares])
        for name, shares in zip(NAMES, shares_of_ants, strict=True)
    }


def test_too_few_groups_to_tell_are_said_and_their_distance_decides() -> None:
    found = drift(hospitals((0.9,) * 4, (0.9,), (0.05,)), alpha=0.001)
    assert (found.status, found.statistic) == ("warned", pytest.approx(0.85))
    assert found.examples[0].startswith("too few groups to tell: 30 deal(s), so that p is at least")
    assert found.row().examples == found.examples
    (warning,) = found.warnings()
    assert "by more than 0.1 (total variation 0.850" in warning
    assert "too few groups to tell: 30 deal(s)" in warning
    with pytest.raises(DataError, match="too few groups to tell: 30 deal"):
        refuse([dataclasses.replace(found, policy="fail")])


def test_few_groups_that_are_alike_are_no_drift_and_still_untold() -> None:
    found = drift(hospitals((0.9,) * 4, (0.86,), (0.94,)), alpha=0.001)
    assert (found.status, len(found.row().examples)) == ("ok", 1)
    assert found.examples[0].startswith("too few groups to tell")
    told = drift(hospitals((0.9,) * 4, (0.86,), (0.94,)), alpha=0.2)  # p is 2 in 30
    assert told.found == 1
    assert told.examples[0].startswith("'bees' is ")


def test_of_several_labels_too_few_groups_are_counted_by_class() -> None:
    ants, all_three = [(0,)] * 50, [(0, 1, 2)] * 50
    splits = {
        "train": records("train", [ants, ants]),
        "val": records("val", [ants]),
        "test": records("test", [all_three]),
    }
    found = drift(splits, SEVERAL)
    assert (found.found, found.unit, found.status) == (2, "class", "warned")


@pytest.mark.parametrize("counts", [(4, 1, 1), (2, 2, 2), (3, 2, 0), (5, 1, 0), (3, 3, 0)])
def test_no_data_have_a_smaller_p_than_the_bound(counts) -> None:
    splits = [s for s, n in enumerate(counts) for _ in range(n)]
    deals = set(permutations(splits))
    groups = dealt.Groups(np.array(splits), *[np.ones(len(splits), np.int64)] * 4)
    found, alike = dealt._deals_and_alike(groups)
    assert found == pytest.approx(len(deals))
    # groups of unlike shares: no two deals tie but those that swap whole splits
    ones = np.array([1, 2, 4, 8, 16, 32])[: len(splits)]
    sums = [sorted(ones[np.array(deal) == s].sum() for s in range(3)) for deal in deals]
    assert min(sums.count(each) for each in sums) == alike
    assert too_few(groups, alike / len(deals) * 1.001) == ""
    assert f"{len(deals)} deal(s)" in too_few(groups, alike / len(deals) * 0.999)


def test_a_level_below_what_is_drawn_is_told_too() -> None:
    groups = gather([records(name, [[0]] * 30) for name in NAMES])
    assert too_few(groups, 0.001) == ""
    assert too_few(groups, 0.0001) == (
        "too few deals are drawn to tell: p is at least 0.0001, drift_alpha=0.0001"
    )
