"""Aliases that several move at once, and those that a version leaves which is taken back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from tasks.errors import TransientTrackingError
from tasks.register.aliases import read_aliases, take_aliases_back
from tasks.register.locks import locked
from tasks.register.moves import promote, story
from tasks.register.versions import write_decision
from tasks.values import PromotionDecision

QUIET_SECONDS = 0.7  # who writes nothing for so long is done, or waits for the lock


@pytest.fixture
def decide(store, publish, tiny_models) -> Callable[..., int]:
    """Return what registers a version of ``m``, and puts a decision on it into effect."""

    def make(champion: int | None, number: int | None = None, **change: object) -> int:
        number = number or publish(store, "m", tiny_models[0])
        facts = {"promoted": True, "reason": "r", "n": 9, "accuracy": 0.5, "alpha": 0.05}
        decision = PromotionDecision(
            model="m",
            version=number,
            uri=f"models:/m/{number}",
            run_id="",
            champion_version=champion,
            **(facts | change),
        )
        write_decision(store, store.get_model_version("m", str(number)), decision)
        return number

    return make


def aliases(store) -> tuple[int | None, ...]:
    """Return champion, previous and challenger."""
    return tuple(asdict(read_aliases(store.get_registered_model("m"))).values())


def kinds() -> list[str]:
    return [event.kind for event in story("m").events]


def test_of_two_refused_at_once_the_newer_is_challenger_and_both_are_told(
    store, decide, publish, tiny_models
):
    decide(None)
    numbers = [publish(store, "m", tiny_models[0]) for _ in range(2)]

    def written() -> list[dict[str, str]]:
        return [store.get_model_version("m", str(number)).tags for number in numbers]

    with ThreadPoolExecutor(2) as pool:
        with locked(store, "m"):  # both come to it, or ask for no lock
            doing = [pool.submit(decide, 1, number, promoted=False) for number in numbers]
            before: list[dict[str, str]] = []
            while before != (seen := written()) or "promotion.accuracy" not in seen[0]:
                before = seen
                time.sleep(QUIET_SECONDS)
            assert not [one for one in doing if one.done()]
        assert [one.result() for one in doing] == numbers == [2, 3]
    assert aliases(store) == (1, None, 3)
    assert kinds() == ["promoted", "refused", "refused"]


def test_a_decision_against_a_champion_of_before_is_not_put_into_effect(store, decide):
    decide(None)
    decide(1)
    before = store.get_registered_model("m")
    with pytest.raises(TransientTrackingError, match="Champion of m is version 2 by now"):
        decide(1, promoted=False, waiting=True)
    after = store.get_registered_model("m")
    assert (after.aliases, after.tags) == (before.aliases, before.tags)


def take_back(store, number: int, before: int) -> None:
    take_aliases_back(store, store.get_model_version("m", str(number)), before)
    store.delete_model_version("m", str(number))


def test_previous_is_what_it_was_and_not_what_it_might_have_been(store, decide):
    for champion in (None, 1, 2):
        decide(champion)
    store.set_registered_model_alias("m", "previous", "1")  # as in MLflow's UI
    decide(3)
    assert aliases(store) == (4, 3, None)
    take_back(store, 4, 3)
    assert aliases(store) == (3, 1, None)
    assert kinds().count("moved outside graft") == 1


def test_what_is_taken_back_from_below_the_champion_is_previous_no_more(store, decide):
    for champion in (None, 1, 2):
        decide(champion)
    assert aliases(store) == (3, 2, None)
    take_back(store, 2, 1)
    assert aliases(store) == (3, 1, None)
    assert "moved outside graft" not in kinds()


def test_a_reason_that_is_no_utf_8_is_kept_as_it_can_be(store, decide):
    decide(None)
    decide(1, promoted=False)
    moved = promote("m", "2", "caf\udce9")
    assert (moved.version, story("m").events[-1].why) == (2, "caf\\udce9")
