from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.register.gate import Graded, class_obstacle, decide, mcnemar_exact, obstacle

CLASSES = ("cat", "dog")


def graded(correct: np.ndarray, classes=CLASSES, images=None, several=False) -> Graded:
    names = tuple(map(str, range(len(correct)))) if images is None else images
    return Graded(classes, names, np.asarray(correct, dtype=bool), several)


def closed_form(wins: int, losses: int) -> float:
    """The textbook sum: twice the smaller binomial tail, at most 1."""
    n = wins + losses
    tail = sum(comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 12, 31])
def test_p_value_is_the_closed_form(n):
    for wins in range(n + 1):
        assert mcnemar_exact(wins, n - wins) == pytest.approx(closed_form(wins, n - wins))


def test_p_value_is_scipys_on_large_counts():
    assert mcnemar_exact(412, 301) == pytest.approx(binomtest(412, 713).pvalue)


def test_no_difference_is_no_evidence():
    assert mcnemar_exact(0, 0) == 1.0


def test_the_first_version_becomes_champion():
    verdict = decide(graded([True]), None, 0.05)
    assert verdict.promoted
    assert "no champion" in verdict.reason


def test_a_better_one_is_promoted_and_the_reason_has_the_numbers():
    champion, challenger = np.zeros(40, bool), np.zeros(40, bool)
    champion[:2] = True
    challenger[2:14] = True
    verdict = decide(graded(challenger), graded(champion), 0.05)
    assert verdict.promoted
    assert (verdict.wins, verdict.losses) == (12, 2)
    assert verdict.p_value == pytest.approx(closed_form(12, 2))
    assert verdict.champion_accuracy == pytest.approx(2 / 40)
    for number in ("30.00%", "5.00%", "40 test images", "12 right", "2 right", "0.01294 < 0.05"):
        assert number in verdict.reason


def test_a_significantly_worse_one_is_refused():
    champion, challenger = np.ones(40, bool), np.zeros(40, bool)
    verdict = decide(graded(challenger), graded(champion), 0.05)
    assert not verdict.promoted
    assert verdict.p_value is not None
    assert verdict.p_value < 0.05


def test_better_by_a_few_images_is_not_enough():
    champion, challenger = np.zeros(100, bool), np.zeros(100, bool)
    challenger[:5] = True  # 5 wins, 0 losses: p = 2/32 > 0.05
    verdict = decide(graded(challenger), graded(champion), 0.05)
    assert not verdict.promoted
    assert "0.0625 >= 0.05" in verdict.reason


def test_other_classes_are_refused_by_name():
    verdict = decide(graded([True]), graded([True], classes=("cat", "fox")), 0.05)
    assert not verdict.promoted
    assert "only here dog" in verdict.reason
    assert "only there fox" in verdict.reason
    assert verdict.p_value is None


def test_the_same_classes_in_another_order_are_refused():
    assert "another order" in str(class_obstacle(CLASSES, CLASSES[::-1]))
    assert class_obstacle(CLASSES, CLASSES) is None


def test_other_test_images_are_refused():
    verdict = decide(graded([True]), graded([True], images=("other",)), 0.05)
    assert not verdict.promoted
    assert "same test images" in verdict.reason


def test_equally_good_models_are_promoted_in_at_most_alpha_of_cases():
    draw = np.random.default_rng(0)
    promoted = 0
    for _ in range(2000):
        both = draw.random((2, 300)) < 0.8
        promoted += decide(graded(both[0]), graded(both[1]), 0.05).promoted
    assert promoted / 2000 <= 0.05


def test_a_clearly_better_model_is_promoted_in_most_cases():
    draw = np.random.default_rng(0)
    promoted = 0
    for _ in range(200):
        challenger, champion = draw.random(500) < 0.9, draw.random(500) < 0.8
        promoted += decide(graded(challenger), graded(champion), 0.05).promoted
    assert promoted / 200 >= 0.9


@pytest.mark.parametrize("ours", [True, False])
def test_one_label_and_several_are_not_compared(ours):
    right, wrong = np.ones(40, bool), np.zeros(40, bool)
    verdict = decide(graded(right, several=ours), graded(wrong, several=not ours), 0.05)
    assert not verdict.promoted
    assert verdict.wins is None
    here, there = ("any number of labels", "one label")[:: 1 if ours else -1]
    assert f"champion gives an image {there}, this model {here}" in verdict.reason
    assert obstacle(graded(right, several=ours), graded(wrong, several=ours)) is None


def test_what_right_means_is_said_where_it_is_all_labels():
    right, wrong = np.ones(40, bool), np.zeros(40, bool)
    for several in (True, False):
        verdict = decide(graded(right, several=several), graded(wrong, several=several), 0.05)
        assert verdict.promoted
        assert ("with all labels right" in verdict.reason) is several
