"""Cron lines: what is wrong with them, and when they come."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from flows.scheduling import firings
from tasks.errors import ConfigError


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_the_next_three_mondays_at_three(timezone: str):
    times = firings("0 3 * * 1", timezone)
    local = [when.replace(tzinfo=None) for when in times]
    assert [(when.isoweekday(), when.hour, when.minute) for when in local] == [(1, 3, 0)] * 3
    assert [b - a for a, b in pairwise(local)] == [timedelta(days=7)] * 2
    assert timedelta(0) < times[0] - datetime.now(times[0].tzinfo) <= timedelta(days=7, hours=1)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 3 * *", "it has 4 fields, not 5"),
        ("0 0 3 * * 1", "it has 6 fields, not 5"),
        ("@daily", "it has 1 fields, not 5"),
        ("60 3 * * 1", "'60' is no minute"),
        ("0 24 * * 1", "'24' is no hour"),
        ("0 3 32 * 1", "'32' is no day"),
        ("0 3 * x 1", "'x' is no month"),
        ("0 3 * * Mo", "'Mo' is no weekday"),
        ("H 3 * * 1", "'H' is no minute"),
        ("0 3 31 2 *", "never comes"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(cron: str, words: str):
    with pytest.raises(ConfigError, match=words):
        firings(cron, "UTC")


def test_a_timezone_must_be_known():
    with pytest.raises(ConfigError, match="'Mars/Olympus' is no timezone"):
        firings("0 3 * * 1", "Mars/Olympus")
