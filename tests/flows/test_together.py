"""Whole runs at the same time: two of one config, and one of another version on their cache."""

from __future__ import annotations

READY = [["READY", "true"], ["READY", "false"]]  # the first is promoted, the same once more is not


def test_two_runs_of_one_config_at_once_and_another_version_on_their_cache(told_by):
    """In a folder of their own, where neither a cache nor a database is."""
    told = told_by("together", timeout=300)
    assert told["codes"] == [0, 0, 0], told["said"]
    assert "Traceback" not in "".join(told["said"])
    starts, ends = (sorted(times) for times in zip(*told["spans"], strict=True))
    assert starts[1] < ends[0]  # all begin at one moment, and two at the least were at work at one

    small, other = told["small"], told["other"]
    assert len(small["weights"]) == 2
    assert set(small["weights"]) == set(other["weights"])
    assert len(set(small["weights"])) == 1
    assert sorted(small["versions"], reverse=True) == READY
    assert other["versions"] == READY[:1]
    assert small["runs"] + other["runs"] == ["FINISHED"] * 3
    assert small["epochs"] + other["epochs"] == [[1, 2, 3]] * 3
    assert small["logged"] + other["logged"] == ["READY"] * 3
    assert sorted(told["aliases"]["small"]) == ["challenger", "champion"]
    assert sorted(map(int, told["aliases"]["small"].values())) == [1, 2]
    assert list(told["aliases"]["other"]) == ["champion"]

    # archives and models lie there by their content, the rest by the version as well
    once, twice = {"archives": 1, "models": 1}, {"raw": 2, "prepared": 2, "features": 2}
    assert told["cache"] == once | twice
    assert (told["hidden"], small["temporary"], other["temporary"]) == ([], [], [])
    folders = [name.partition("-")[0] for name in told["folders"]]
    assert folders == ["other", "small", "small"]
