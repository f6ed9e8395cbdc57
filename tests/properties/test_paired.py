"""The gate's tests on any table, against scipy and against what must be so."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tasks.register.paired import mcnemar_exact, non_inferiority_exact, score_interval

counts = st.integers(0, 60)


@given(wins=counts | st.integers(0, 5000), losses=counts | st.integers(0, 5000))
def test_mcnemar_is_twice_the_smaller_tail(wins: int, losses: int):
    p = mcnemar_exact(wins, losses)
    n = wins + losses
    if n:
        tails = [binomtest(k, n, 0.5, alternative="greater").pvalue for k in (wins, losses)]
        assert p == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-9)
    assert p == pytest.approx(mcnemar_exact(losses, wins), rel=1e-12)


@given(wins=counts, losses=counts, same=counts, alpha=st.floats(0.001, 0.5))
def test_the_interval_holds_the_gain_and_turns_with_the_table(wins, losses, same, alpha):
    n = wins + losses + same
    assume(n > 0)
    low, high = score_interval(wins, losses, n, alpha)
    assert -1 <= low <= (wins - losses) / n + 1e-9
    assert (wins - losses) / n - 1e-9 <= high <= 1
    turned = score_interval(losses, wins, n, alpha)
    assert (low, high) == pytest.approx((-turned[1], -turned[0]), abs=1e-6)


@given(
    wins=st.integers(0, 6),
    losses=st.integers(0, 6),
    same=st.integers(1, 6),
    margin=st.floats(0.01, 0.4),
)
def test_a_win_more_or_a_wider_margin_makes_no_weaker_case(wins, losses, same, margin):
    n = wins + losses + same
    p = non_inferiority_exact(wins, losses, n, margin)
    assert 0 <= p <= 1
    assert non_inferiority_exact(wins + 1, losses, n, margin) <= p + 1e-9
    assert non_inferiority_exact(wins, losses, n, margin + 0.1) <= p + 1e-3
