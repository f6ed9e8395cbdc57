"""Five runs in one process leave no handle, thread or temporary file; benchmarks/soak.py: 200."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.benchmarks.soak import Measured, growth, measure

ROUNDS = 5


def test_runs_in_one_process_leave_nothing_open(
    workspace: Path, registry_copy, tmp_path: Path, graft, monkeypatch: pytest.MonkeyPatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    rounds = []
    for _ in range(ROUNDS):
        assert graft("run", "good.yaml", f"output.folder={tmp_path}/runs").code == 0
        assert graft("run", "good.yaml", "data.path=nowhere").code == 3
        rounds.append(measure(workspace, temporary))
    warm = rounds[1:]  # the first may open a pool that stays
    # a pool of connections may take one more at any time; what is left open is one a round or more
    for held in ("handles", "threads"):
        assert getattr(warm[-1], held) - getattr(warm[0], held) < len(warm) - 1, warm
    assert warm[-1].temporary == warm[0].temporary == frozenset()
    assert warm[-1].cache == warm[0].cache
    assert warm[-1].left == warm[0].left
    assert len(list((tmp_path / "runs").iterdir())) == ROUNDS  # and of the others no folder


FLAT = Measured(500.0, 20, 5, frozenset(), 1000, frozenset())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"memory": 1.0}, "memory by 1.000 a round"),
        ({"handles": 1}, "handles by 1.000 a round"),
        ({"threads": 2}, "threads by 2.000 a round"),
        ({"cache": 10}, "cache from"),
    ],
)
def test_the_soak_sees_what_grows(change: dict[str, float], words: str | None):
    def after(number: int) -> Measured:
        grown = {name: getattr(FLAT, name) + number * step for name, step in change.items()}
        return FLAT._replace(**grown)

    found = growth([after(number) for number in range(20)])
    assert [each for each in found if words and words in each] == found
    assert bool(found) == bool(words)
    assert growth([FLAT, FLAT, FLAT._replace(temporary=frozenset({"a"}))])
    assert growth([FLAT._replace(left=frozenset({"a"}))])
