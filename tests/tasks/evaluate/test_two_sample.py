"""The two-sample tests against their definitions, scikit-learn's kernel, and what they promise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from tasks.evaluate import two_sample
from tasks.evaluate.two_sample import classifier_test, kernel_test


def samples(n: int, m: int, d: int = 3, shift: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x, (rng.normal(size=(m, d)) + shift).astype(np.float32)


def mmd2_by_definition(x, y, bandwidth: float) -> float:
    """Return lemma 6 of Gretton et al. 2012, term by term."""

    def k(a, b) -> float:
        return float(np.exp(-np.sum((a.astype(float) - b.astype(float)) ** 2) / (2 * bandwidth**2)))

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 3), (7, 11)])
def test_mmd_is_that_of_the_definition_at_the_median_distance(n: int, m: int):
    x, y = samples(n, m, shift=0.5)
    found = kernel_test(x, y, 99, seed=0)
    both = np.concatenate((x, y)).astype(float)
    distances = sorted(np.linalg.norm(a - b) for a, b in combinations(both, 2))
    assert found.bandwidth == pytest.approx(distances[(len(distances) - 1) // 2])
    assert found.statistic == pytest.approx(mmd2_by_definition(x, y, found.bandwidth))


def test_mmd_and_witness_are_those_of_sklearns_kernel():
    x, y = samples(60, 40, d=20, shift=0.3)
    found = kernel_test(x, y, 99, seed=0)
    gamma = 1 / (2 * found.bandwidth**2)
    xx, yy, yx = (rbf_kernel(a, b, gamma) for a, b in ((x, x), (y, y), (y, x)))
    off_xx, off_yy = xx - np.diag(np.diag(xx)), yy - np.diag(np.diag(yy))
    statistic = off_xx.sum() / (60 * 59) + off_yy.sum() / (40 * 39) - 2 * yx.mean()
    assert found.statistic == pytest.approx(statistic, rel=1e-4, abs=1e-7)
    witness = off_yy.sum(1) / 39 - yx.mean(1)
    np.testing.assert_allclose(found.strangeness_m, witness, rtol=1e-3, atol=1e-6)


def test_p_is_the_share_of_all_relabellings_that_reach_the_statistic():
    x, y = samples(4, 3, shift=1.0, seed=3)
    found = kernel_test(x, y, 20_000, seed=0)
    both = np.concatenate((x, y))
    reached = [
        mmd2_by_definition(both[list(rows)], np.delete(both, rows, axis=0), found.bandwidth)
        >= found.statistic - 1e-9
        for rows in combinations(range(7), 4)
    ]
    assert found.p_value == pytest.approx(np.mean(reached), abs=0.01)


def test_p_is_never_zero_and_blocks_of_permutations_change_nothing(monkeypatch):
    x, y = samples(30, 30, shift=5.0)
    whole = kernel_test(x, y, 199, seed=1)
    assert whole.p_value == 1 / 200
    monkeypatch.setattr(two_sample, "_CELLS", 60 * 7)
    near = samples(30, 30, shift=0.2)
    parts = kernel_test(*near, 199, seed=1)
    assert 1 / 200 <= parts.p_value <= 1


def test_copies_of_one_image_are_no_difference():
    same = np.ones((12, 4), dtype=np.float32)
    found = kernel_test(same, same[:10], 99, seed=0)
    assert (found.statistic, found.p_value) == (pytest.approx(0, abs=1e-12), 1.0)
    assert classifier_test(same, same[:10], seed=0).p_value > 0.4


def test_most_rows_being_copies_leaves_a_bandwidth():
    x, y = samples(20, 20)
    x[:18], y[:18] = 0, 0
    found = kernel_test(x, y, 99, seed=0)
    assert found.bandwidth > 0
    assert found.p_value > 0.05


TESTS = {
    "kernel": lambda x, y, seed: kernel_test(x, y, 99, seed).p_value,
    "classifier": lambda x, y, seed: classifier_test(x, y, seed).p_value,
}


@pytest.mark.parametrize(("name", "draws"), [("kernel", 400), ("classifier", 200)])
def test_false_alarms_are_as_many_as_the_level_says(name: str, draws: int):
    level = 0.05
    p_values = []
    for seed in range(draws):
        x, y = samples(40, 25, d=5, seed=seed)
        p_values.append(TESTS[name](x, y, seed))
    alarms = int(np.sum(np.array(p_values) <= level))
    low, high = binom.ppf([0.0005, 0.9995], draws, level)
    assert low <= alarms <= high
    # and below any level, not at this one alone: p is nowhere too small
    assert binom.sf(np.sum(np.array(p_values) <= 0.2) - 1, draws, 0.2) > 0.0005


@pytest.mark.parametrize("name", TESTS)
def test_a_shift_is_found_and_the_more_the_surer(name: str):
    found = [
        np.mean([TESTS[name](*samples(60, 40, d=5, shift=s, seed=k), k) <= 0.05 for k in range(30)])
        for s in (0.25, 0.8)
    ]
    assert found[1] >= 0.95 > found[0] + 0.1


def test_the_classifiers_auc_and_p_are_sklearns_and_scipys_of_its_held_out_scores():
    x, y = samples(80, 50, d=6, shift=0.5)
    found = classifier_test(x, y, seed=4)
    draw = np.random.default_rng(4)
    halves_x, halves_y = two_sample._half(draw, 80), two_sample._half(draw, 50)
    model = two_sample._fit(x[~halves_x], y[~halves_y])
    ours, theirs = model.decision_function(x[halves_x]), model.decision_function(y[halves_y])
    truth = np.repeat((0, 1), (len(ours), len(theirs)))
    assert found.statistic == pytest.approx(roc_auc_score(truth, np.concatenate((ours, theirs))))
    expected = mannwhitneyu(theirs, ours, alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(found.strangeness_m[halves_y], theirs)


@pytest.mark.parametrize("name", ["kernel", "classifier"])
def test_the_strange_ones_among_new_images_are_named(name: str):
    x, y = samples(200, 60, d=4)
    y[:15] += 4
    found = kernel_test(x, y, 99, 0) if name == "kernel" else classifier_test(x, y, 0)
    strangest = np.argsort(-found.strangeness_m)[:15]
    assert np.mean(strangest < 15) > 0.85
