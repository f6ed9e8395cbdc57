"""What the record of a registered model's moves is read as: tables of pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from mlflow.entities.model_registry import RegisteredModel

from tasks.register import history
from tasks.register.aliases import below
from tasks.register.history import (
    Event,
    Note,
    compose,
    line_of_champions,
    read_events,
    with_outside_moves,
)
from tasks.register.journal import turn

BACK = "rolled back"


def moved(before, after, kind="promoted", **moves):
    return Event(
        kind=kind,
        version=after,
        when=datetime.now(UTC),
        moves={"champion": (before, after)} | moves,
    )


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([], []),
        ([moved(None, 1), moved(1, 2), moved(2, 3)], [1, 2, 3]),
        ([moved(None, 1), moved(1, 2), moved(2, 3), moved(3, 2, BACK)], [1, 2]),
        ([moved(None, 1), moved(1, 2), moved(2, 1, BACK), moved(1, 3)], [1, 3]),
        # 1 was champion twice: going back goes to the last time, then to the first
        ([moved(None, 1), moved(1, 2), moved(2, 1), moved(1, 2, BACK)], [1, 2]),
        ([moved(None, 1), moved(1, 2), moved(2, 1), moved(1, 2, BACK), moved(2, 1, BACK)], [1]),
        # 7 was made champion outside graft, and gone back from
        ([moved(None, 1), moved(7, 8)], [1, 7, 8]),
        ([moved(None, 1), moved(1, 2), moved(7, 2, BACK)], [1, 2]),
        # a person named another version previous than the one before
        ([moved(None, 1), moved(1, 2), moved(2, 9, BACK)], [1, 9]),
        # the champion was deleted
        ([moved(None, 1), moved(1, 2), moved(None, 3)], [1, 2, 3]),
        ([moved(None, 1), moved(1, 2), moved(None, 1, BACK)], [1]),
        ([moved(None, 1), moved(1, 2), moved(2, 3), moved(3, 1, BACK)], [1]),
        ([moved(None, 1), moved(1, None)], [1]),  # nobody is champion
        # the first version ever, taken back
        ([moved(None, 1), moved(1, None, "taken back")], []),
        ([Event(kind="refused", version=4, when=None)], []),
    ],
)
def test_the_line_of_champions(events, line):
    assert line_of_champions(events) == line


@pytest.mark.parametrize(
    ("line", "champion", "there", "found"),
    [
        ([1, 2, 3], 3, {1, 2, 3}, 2),
        ([1, 2, 3], 2, {1, 2, 3}, 1),
        ([1, 2, 3], 3, {1, 3}, 1),
        ([1, 2, 1], 1, {1, 2}, 2),
        ([3], 3, {3}, None),
        ([], None, {1}, None),
        ([1, 2], 9, {1, 2, 9}, 2),
    ],
)
def test_what_comes_below_a_champion(line, champion, there, found):
    before = list(line)
    assert below(line, champion, there) == found
    assert line == before


def kinds(events):
    return [(event.kind, event.moves) for event in events]


def test_moves_that_nobody_recorded_are_told_between_those_that_were():
    first, second = moved(None, 1), moved(5, 6, previous=(None, 5))
    told = with_outside_moves([first, second], {"champion": 6, "previous": 5})
    assert kinds(told) == [
        ("promoted", {"champion": (None, 1)}),
        ("moved outside graft", {"champion": (1, 5)}),
        ("promoted", {"champion": (5, 6), "previous": (None, 5)}),
    ]
    later = with_outside_moves([first], {"champion": 4})
    assert kinds(later)[1:] == [("moved outside graft", {"champion": (1, 4)})]
    gone = with_outside_moves([first], {})
    assert kinds(gone)[1:] == [("moved outside graft", {"champion": (1, None)})]
    assert kinds(with_outside_moves([], {"champion": 2, "mine": 1})) == [
        ("moved outside graft", {"champion": (None, 2)})
    ]


def test_events_are_read_in_the_order_they_were_written_in(store, monkeypatch, caplog):
    store.create_registered_model("m")
    ahead = datetime.now(UTC) + timedelta(hours=1)

    class Ahead(datetime):
        """A machine whose clock is an hour ahead."""

        @classmethod
        def now(cls, tz=None):
            return ahead

    def record(note):
        with turn(store, "m") as mine:
            mine.move({}, note)

    monkeypatch.setenv(history.FLOW_RUN, "0b2a")
    with monkeypatch.context() as patch:
        patch.setattr(history, "datetime", Ahead)
        record(Note("promoted", 1, "first"))
    record(Note("promoted by hand", 2, "y" * 9000))
    store.set_registered_model_tag("m", f"{history.EVENT}2000", "{}")
    first, second = read_events(store.get_registered_model("m"))
    assert (first.why, first.when, first.flow_run) == ("first", ahead, "0b2a")
    assert second.when == ahead + timedelta(microseconds=1)
    assert len(second.why) == history.LONGEST_REASON
    assert second.who
    assert f"{history.EVENT}2000 of m is no event of graft" in caplog.text
    assert max(map(len, store.get_registered_model("m").tags.values())) < 5000


ODD = {
    "no UTF-8": ("caf\udce9 \x1b[31m\x00", "caf\\udce9 \\x1b[31m\\x00"),
    "lines": ("  one\r\ntwo\n", "one\ntwo"),
    "quotes": ('"\\' * 4000, None),
}


@pytest.mark.parametrize("case", ODD)
def test_whatever_is_typed_can_be_kept(case):
    typed, kept = ODD[case]
    stamp, text = compose(RegisteredModel("m"), Note("approved", 1, typed, who=typed), {})
    assert len(text.encode()) < 5000
    event = Event.model_validate_json(text)
    assert f"{event.when:%Y%m%dT%H%M%S.%fZ}" in stamp
    assert event.typed
    assert len(event.who) <= history.LONGEST_NAME
    if kept is not None:
        assert (event.who, event.why) == (kept, kept)
