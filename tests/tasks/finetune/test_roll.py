"""Who is still there: what a process that watches the store ends for."""

from __future__ import annotations

import pytest

from tasks.errors import GraftError, ResourceError
from tasks.finetune import roll
from tasks.finetune.meeting import Meeting
from tasks.finetune.roll import Roll, Watch, beat_of, host_of
from tests.tasks.finetune.conftest import store_here


@pytest.fixture
def meeting() -> Meeting:
    """Return a line to the store of three nodes, which is in this process."""
    return Meeting(*store_here(3, silence=5))


def test_a_node_that_counts_no_further_is_gone(meeting, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(roll.time, "monotonic", lambda: now[0])
    seen = Roll(meeting.place)
    assert seen.missing(meeting) is None  # none has come
    meeting.say(host_of(2), "far")
    meeting.count(beat_of(2))
    assert seen.missing(meeting) is None
    now[0] = 104.0
    meeting.count(beat_of(2))
    assert seen.missing(meeting) is None
    now[0] = 109.0  # to the second as long as may be
    assert seen.missing(meeting) is None
    now[0] = 109.1
    gone = seen.missing(meeting)
    assert isinstance(gone, ResourceError)
    assert str(gone).startswith("Node 2 (far) left: nothing has been heard of it for 5 s.\n")


def test_a_store_that_is_gone_ends_the_process_and_says_where_it_was(meeting):
    ended: list[GraftError] = []
    nowhere = meeting.place.model_copy(update={"port": 1})
    Watch(nowhere, lambda _: None, ended.append)._listen()
    Watch(meeting.place, lambda _: ResourceError("a reason"), ended.append)._listen()
    assert [str(error).partition(",")[0] for error in ended] == ["The first node", "a reason"]
    assert nowhere.address in str(ended[0])


def test_a_store_that_answers_nothing_for_too_long_ends_the_process(meeting, monkeypatch):
    now, ended = [100.0], []
    monkeypatch.setattr(roll.time, "monotonic", lambda: now[0])
    watch = Watch(meeting.place, lambda _: None, ended.append)
    now[0] = 105.0
    watch._count()
    assert [str(error).partition(",")[0] for error in ended] == ["The first node"]
    watch.__exit__(None, None, None)
    watch._count()  # by then it is too late
    assert len(ended) == 1
    now[0] = 101.0
    watch._count()  # ends at once: the watch is closed
    assert len(ended) == 1
