"""Class drift, against scipy, closed forms and data drawn by chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency
from scipy.stats.contingency import association

from tasks.config import DataConfig
from tasks.index import ImageRecord
from tasks.preprocess.drift import class_drift, holm, p_value, total_variation
from tasks.values import SplitName

NAMES: tuple[SplitName, ...] = ("train", "val", "test")
CLASSES = ("ants", "bees", "wasps")
ONE = DataConfig(path="x")
SEVERAL = DataConfig(kind="manifest", path="x.csv", multi_label=True)


def splits_of(*counts: tuple[int, ...]) -> dict[SplitName, list[ImageRecord]]:
    """Return so many images of each class in each split."""
    return {
        name: [
            ImageRecord(f"{name}/{label}/{i}", label, name, "", "")
            for label, n in enumerate(row)
            for i in range(n)
        ]
        for name, row in zip(NAMES, counts, strict=True)
    }


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_scipys_and_pearsons(seed: int) -> None:
    table = np.random.default_rng(seed).integers(1, 60, (3, 4))
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    pearson = ((table - expected) ** 2 / expected).sum()
    assert p_value(table) == pytest.approx(chi2_contingency(table).pvalue)
    assert p_value(table) == pytest.approx(chi2.sf(pearson, df=6))
    empty = np.insert(table, 2, 0, axis=1)  # a class that no split has
    assert p_value(empty) == pytest.approx(p_value(table))


@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 2), (3, 5)])
def test_p_values_of_few_images_are_scipys(shape: tuple[int, int]) -> None:
    for seed in range(200):
        table = np.random.default_rng(seed).integers(0, 6, shape)
        table[:, 0] += 1  # no split without images
        there = table[:, table.sum(axis=0) > 0]
        if there.shape[1] > 1:
            assert p_value(table) == pytest.approx(chi2_contingency(there).pvalue, rel=1e-12)


def test_where_there_is_nothing_to_compare_nothing_drifts() -> None:
    assert p_value(np.array([[5, 3]])) == 1
    assert p_value(np.array([[5, 0], [3, 0]])) == 1
    assert total_variation(np.array([[5, 3]])) == 0


def test_total_variation_is_half_the_sum_of_differences() -> None:
    table = np.array([[50, 50, 0], [25, 25, 50], [10, 0, 0]])
    assert total_variation(table) == pytest.approx(0.75)  # 0.25, 0.25, 0.5 against 1, 0, 0
    assert total_variation(np.array([[1, 1], [30, 30]])) == 0
    two = np.array([[80, 20], [20, 80]])  # balanced: Cramer's V is the difference too
    assert total_variation(two) == pytest.approx(association(two, method="cramer"))


def test_drift_is_found_with_the_shares_of_the_classes_furthest_apart() -> None:
    found = class_drift(splits_of((100, 100, 100), (10, 10, 10), (50, 20, 30)), CLASSES, ONE)
    table = [[100, 100, 100], [10, 10, 10], [50, 20, 30]]
    assert (found.found, found.p_value) == (0, pytest.approx(chi2_contingency(table).pvalue))
    drifted = class_drift(splits_of((100, 100, 100), (10, 10, 10), (80, 5, 15)), CLASSES, ONE)
    assert (drifted.found, drifted.unit, drifted.policy) == (1, "distribution", "warn")
    assert drifted.statistic == pytest.approx(0.8 - 1 / 3)
    assert drifted.examples[0] == "'ants' is 33.3% of train, 33.3% of val, 80.0% of test"
    assert not drifted.gone
    (warning,) = drifted.warnings()
    assert "total variation 0.467, chi-square test: p = " in warning


def test_the_level_is_what_chance_exceeds() -> None:
    """Splits drawn from one distribution drift about as often as the level says: binomial."""
    rng = np.random.default_rng(0)
    config = ONE.model_copy(update={"checks": ONE.checks.model_copy(update={"drift_alpha": 0.05})})
    tables = [[rng.multinomial(n, (0.5, 0.3, 0.2)) for n in (300, 60, 90)] for _ in range(200)]
    found = sum(class_drift(splits_of(*table), CLASSES, config).found for table in tables)
    assert 2 <= found <= 20  # 10 expected; 2 to 20 hold 99.8% of binomial(200, 0.05)


def test_holm_is_a_worked_example_and_keeps_the_order() -> None:
    # Holm 1979: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_of_several_labels_each_class_is_tested_alone() -> None:
    rng = np.random.default_rng(1)
    shares = {"train": (0.5, 0.3, 0.2), "val": (0.5, 0.3, 0.2), "test": (0.5, 0.9, 0.2)}
    splits: dict[SplitName, list[ImageRecord]] = {
        name: [
            ImageRecord(f"{name}/{i}", tuple(np.flatnonzero(row).tolist()), name, "", "")
            for i, row in enumerate(rng.random((200, 3)) < shares[name])
        ]
        for name in NAMES
    }
    found = class_drift(splits, CLASSES, SEVERAL)
    assert (found.found, found.unit) == (1, "class")
    present = [sum(1 in r.labels for r in splits[name]) for name in NAMES]
    p = chi2_contingency([[n, 200 - n] for n in present]).pvalue
    assert found.p_value == pytest.approx(3 * p)
    assert found.examples[0].startswith("'bees' is ")
