"""What the exact tests show, at their edges: by closed forms, and by what a level must mean.

Sizes are looked at over 20 shares of images told apart, as good for few images as 200 are.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
import pytest
from scipy.stats import binom

from tasks.register import power
from tasks.register.paired import non_inferiority_exact
from tasks.register.power import (
    chance,
    detectable,
    non_inferior_wins,
    score_statistic,
    size,
    superior_wins,
    wins_from,
)


@pytest.fixture
def few_shares(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at a tenth of the shares; what is found by that is forgotten."""
    monkeypatch.setattr(power, "SHARES", 20)
    power._critical.cache_clear()
    yield
    power._critical.cache_clear()


def test_the_score_where_the_likeliest_chance_of_a_loss_is_no_image_above_0():
    """1 win of 9 images, no loss, gain 1/17: the derivative of the likelihood at 0 is 17 - 17."""
    found = score_statistic(np.array(1), np.array(0), 9, 1 / 17)
    assert found == pytest.approx((1 - 9 / 17) / sqrt(9 * 1 / 17 * 16 / 17))


def test_regions_of_all_tables_and_of_none():
    assert wins_from(5, -0.1, 100.0).tolist() == [1, 2, 3, 4, 5, 6]
    assert wins_from(5, -0.1, -100.0).tolist() == [0] * 6
    assert superior_wins(6, 0.05).tolist() == [1, 2, 3, 4, 5, 6, 6]  # 2 / 2^6 = 0.03125
    assert superior_wins(3, 0.9).tolist() == [1, 2, 2, 3]  # of 2 images 2 (p = 0.5), of 3 all


def test_a_gain_above_its_share_by_rounding_is_as_large_as_its_share():
    least = superior_wins(20, 0.05)
    share = 0.4 * (1 - 1e-14)
    for gain in (0.4, -0.4):
        assert chance(least, gain, share) == pytest.approx(chance(least, gain, 0.4), abs=1e-11)
    assert chance(least, 0.4, 0.4) > 0.8


def test_chances_of_all_tables_are_1_wherever_the_shares_lie():
    for n, share in ((5000, 0.3), (300, 0.001), (300, 0.999), (300, 1.0)):
        assert chance(np.zeros(n + 1, dtype=np.int64), 0.0, share) == pytest.approx(1.0, abs=1e-9)


def test_no_share_is_overlooked():
    """Just 861 of 2,000 images told apart: a chance of 1.8%, and 1.2% at a share 1 point off."""
    least = np.arange(2001) + 1
    least[861] = 0
    greatest = binom.pmf(861, 2000, 861 / 2000)
    assert 0.95 * greatest < size(least, 0.01) <= greatest


@pytest.mark.usefixtures("few_shares")
@pytest.mark.parametrize(
    ("n", "margin", "level"),
    [(12, 0.1, 0.3), (30, 0.05, 0.025), (15, 0.2, 0.001), (40, 0.1, 0.45), (9, 0.02, 0.4)],
)
def test_the_critical_score_is_the_least_of_a_size_under_the_level(n, margin, level):
    critical = power._critical(n, margin, level)
    assert size(wins_from(n, -margin, critical), margin) < level
    slack = 1.01 * max(1e-4, 0.002 * critical)
    assert size(wins_from(n, -margin, critical - slack), margin) >= level
    assert non_inferior_wins(n, margin, level).tolist() == wins_from(n, -margin, critical).tolist()


@pytest.mark.usefixtures("few_shares")
@pytest.mark.parametrize(("wins", "losses"), [(4, 1), (4, 0), (2, 0)])
def test_a_size_at_the_level_is_not_under_it(wins, losses):
    p = non_inferiority_exact(wins, losses, 7, 0.1)
    for level, shown in ((p, False), (1.0001 * p, True)):
        least = non_inferior_wins(7, 0.1, level)
        assert (wins >= least[wins + losses]) == shown


def test_what_all_images_cannot_show_and_what_the_first_can():
    every = np.arange(11)
    every[:10] += 1  # all ten must be won
    # the tenth root of 0.8: each image is told apart, and won, with a chance of the gain
    assert detectable(every, 0.0, 0.0) == pytest.approx(0.8**0.1, abs=1e-4)
    assert detectable(every + 1, 0.0, 0.0) is None
    assert detectable(np.zeros(11, dtype=np.int64), 0.5, -0.1) == pytest.approx(-0.1, abs=1e-4)
