"""Champion, challenger and previous through promotions, rollbacks, faults and damaged files."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import asdict

import pytest

from tasks.errors import TrackingError, TransientTrackingError
from tasks.register.aliases import move_champion, read_aliases
from tasks.register.approval import answered, approve
from tasks.register.files import SHA256, SPEC_SHA256
from tasks.register.history import EVENT
from tasks.register.moves import _verdict, promote, roll_back, story
from tasks.register.registry import fetch
from tasks.register.versions import take_back, write_decision
from tasks.values import PromotionDecision

NAME = "m"


def decision(number: int, promoted: bool, champion: int | None, run_id: str = ""):
    return PromotionDecision(
        model=NAME,
        version=number,
        uri=f"models:/{NAME}/{number}",
        run_id=run_id,
        promoted=promoted,
        reason=f"[{number}] because",
        n=90,
        accuracy=0.75,
        alpha=0.05,
        champion_version=champion,
        p_value=0.25,
    )


@pytest.fixture
def decided(store, tmp_path, tiny_models):
    """Return what registers a version with files of its own, and the gate's decision on it."""
    store.create_registered_model(NAME)

    def make(promoted: bool, champion: int | None = None, run_id: str | None = None) -> int:
        artifacts = tmp_path / "mlruns" / "artifacts"
        number = 1 + len(list(artifacts.glob("*")))
        model = tiny_models[number % 2]
        shutil.copytree(model.folder, artifacts / str(number))
        version = store.create_model_version(
            NAME,
            source=(artifacts / str(number)).as_uri(),
            run_id=run_id,
            tags={SHA256: model.spec.sha256, SPEC_SHA256: model.spec.digest},
        )
        assert version.version == number
        write_decision(store, version, decision(number, promoted, champion, run_id or ""))
        return number

    return make


def aliases(store) -> tuple[int | None, int | None, int | None]:
    """Return champion, previous and challenger."""
    return tuple(asdict(read_aliases(store.get_registered_model(NAME))).values())


def told() -> list[tuple]:
    return [(event.kind, event.version, event.moves) for event in story(NAME).events]


def everything(store) -> tuple:
    model = store.get_registered_model(NAME)
    versions = {v.version: v.tags for v in store.search_model_versions(f"name='{NAME}'")}
    return model.aliases, model.tags, versions


def test_the_aliases_follow_the_gates_decisions(store, decided, tmp_path):
    decided(promoted=True)
    assert aliases(store) == (1, None, None)
    decided(promoted=False, champion=1)
    assert aliases(store) == (1, None, 2)
    decided(promoted=True, champion=1)
    assert aliases(store) == (3, 1, 2)
    decided(promoted=False, champion=3)
    assert aliases(store) == (3, 1, 4)
    assert told() == [
        ("promoted", 1, {"champion": (None, 1)}),
        ("refused", 2, {"challenger": (None, 2)}),
        ("promoted", 3, {"champion": (1, 3), "previous": (None, 1)}),
        ("refused", 4, {"challenger": (2, 4)}),
    ]
    last = story(NAME).events[-1]
    assert last.numbers == {"n": 90, "accuracy": 0.75, "alpha": 0.05, "p_value": 0.25} | {
        "champion_version": 3
    }
    assert last.why == "[4] because"
    assert fetch("models:/m@previous", tmp_path / "cache").version == 1
    assert fetch("models:/m@challenger", tmp_path / "cache").version == 4


def test_a_person_promotes_what_the_gate_refused_and_goes_back_step_by_step(store, decided):
    for champion in (None, 1):
        decided(promoted=champion is None, champion=champion)
    decided(promoted=True, champion=1)
    moved = promote(NAME, "challenger", "it is the smaller one")
    assert (moved.version, moved.before, moved.decision.promoted) == (2, 3, False)
    assert moved.decision.reason == "[2] because"
    assert aliases(store) == (2, 3, None)
    assert roll_back(NAME, "worse at night").version == 3
    assert aliases(store) == (3, 1, None)
    assert roll_back(NAME).before == 3
    assert aliases(store) == (1, None, None)
    before = everything(store)
    with pytest.raises(TrackingError, match="There is no version of m to go back to") as caught:
        roll_back(NAME)
    assert len(str(caught.value).splitlines()) == 2
    assert everything(store) == before
    assert promote(NAME, "3").before == 1  # and the line goes on from there
    assert aliases(store) == (3, 1, None)
    assert [event[0] for event in told()] == [
        "promoted",
        "refused",
        "promoted",
        "promoted by hand",
        "rolled back",
        "rolled back",
        "promoted by hand",
    ]
    events = story(NAME).events
    assert [event.why for event in events[3:5]] == ["it is the smaller one", "worse at night"]
    assert all(event.who and event.when for event in events)


def test_moves_outside_graft_are_seen_and_gone_back_from(store, decided):
    for champion in (None, 1, 2):
        decided(promoted=True, champion=champion)
    store.set_registered_model_alias(NAME, "champion", "1")  # as in MLflow's UI
    assert told()[-1] == ("moved outside graft", 1, {"champion": (3, 1)})
    assert roll_back(NAME).version == 3  # the last that graft made champion
    assert aliases(store) == (3, 2, None)
    assert told()[-2:] == [
        ("moved outside graft", 1, {"champion": (3, 1)}),
        ("rolled back", 3, {"champion": (1, 3)}),
    ]
    store.set_registered_model_alias(NAME, "previous", "1")  # a person's word counts
    assert roll_back(NAME).version == 1


def test_deleted_versions_are_passed_over_and_stay_in_the_history(store, decided):
    for champion in (None, 1, 2):
        decided(promoted=True, champion=champion)
    store.delete_model_version(NAME, "2")
    assert aliases(store) == (3, None, None)
    assert roll_back(NAME).version == 1
    assert aliases(store) == (1, None, None)
    assert ("promoted", 2, {"champion": (1, 2), "previous": (None, 1)}) in told()
    store.delete_model_version(NAME, "1")
    assert aliases(store) == (None, None, None)
    assert promote(NAME, "3").before is None
    assert aliases(store) == (3, None, None)


@pytest.mark.parametrize("file", ["model.safetensors", "spec.json"])
@pytest.mark.parametrize("change", ["gone", "altered"])
def test_a_version_without_its_files_is_never_promoted(store, decided, tmp_path, file, change):
    decided(promoted=True)
    decided(promoted=True, champion=1)
    cache = tmp_path / "cache"
    fetch("models:/m/1", cache)  # a good copy must not hide what is wrong
    path = tmp_path / "mlruns" / "artifacts" / "1" / "artifacts" / file
    if change == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    before = everything(store)
    for act in (lambda: promote(NAME, "1"), lambda: roll_back(NAME)):
        with pytest.raises(TrackingError) as caught:
            act()
        words = str(caught.value)
        assert caught.value.exit_code == 7
        assert len(words.splitlines()) == 2
        assert file in words
        assert ("missing" if change == "gone" else "not the file that was registered") in words
    with pytest.raises(TrackingError, match=file):  # nor loaded, however warm the cache
        fetch("models:/m/1", cache)
    with pytest.raises(TrackingError, match=file):  # nor promoted by the gate
        write_decision(store, store.get_model_version(NAME, "1"), decision(1, True, 2))
    assert everything(store) == before


def test_nothing_moves_when_the_champion_is_not_the_one_expected(store, decided):
    for champion in (None, 1):
        decided(promoted=True, champion=champion)
    decided(promoted=False, champion=2)
    before = everything(store)
    version = store.get_model_version(NAME, "3")
    for expected, after in ((1, "version 1"), (None, "none")):
        words = rf"version 2 by now \(promoted by .*\), while version 3 was to follow {after}\."
        with pytest.raises(TransientTrackingError, match=words) as caught:
            move_champion(store, version, expected, "")
        assert len(str(caught.value).splitlines()) == 2
    store.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(TransientTrackingError, match="Champion of m is no version by now, while"):
        move_champion(store, version, 2, "")
    store.set_registered_model_alias(NAME, "champion", "2")
    assert everything(store) == before


def test_what_there_is_is_said_where_something_is_not(store, decided):
    decided(promoted=True)
    decided(promoted=False, champion=1)
    for act, words in (
        (lambda: promote("n", "1"), "There is: m"),
        (lambda: roll_back("n"), "There is: m"),
        (lambda: story("n"), "There is: m"),
        (lambda: promote(NAME, "7"), "Versions of m: 2 @challenger, 1 @champion"),
        (lambda: promote(NAME, "9" * 30), "Versions of m: 2 @challenger, 1 @champion"),
        (lambda: promote(NAME, "staging"), "Versions of m: 2 @challenger, 1 @champion"),
        (lambda: promote(NAME, "a/b"), "Write models:/NAME@ALIAS"),
        (lambda: promote(NAME, "champion"), "Version 1 of m is champion already"),
    ):
        with pytest.raises(TrackingError, match=words) as caught:
            act()
        assert len(str(caught.value).splitlines()) == 2
    store.create_model_version(NAME, source="file:///nowhere")
    with pytest.raises(TrackingError, match="No decision stands on version 3 of m") as caught:
        promote(NAME, "3")
    assert len(str(caught.value).splitlines()) == 2


FAULTS = {
    "the alias": "UPDATE ON registered_model_aliases WHEN NEW.alias = 'champion'",
    "the record": f"INSERT ON registered_model_tags WHEN NEW.key LIKE '{EVENT}%'",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_puts_every_alias_back(store, decided, tmp_path, fault):
    for champion in (None, 1):
        decided(promoted=True, champion=champion)
    decided(promoted=False, champion=2)
    before = everything(store)
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute(
            f"CREATE TRIGGER broken BEFORE {FAULTS[fault]} "
            "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )
    database.close()
    with pytest.raises(TrackingError, match="refused by the test"):
        promote(NAME, "3")
    with pytest.raises(TrackingError, match="refused by the test"):
        roll_back(NAME)
    assert everything(store) == before


def test_a_fault_after_the_move_is_told_as_what_it_is(store, decided, tmp_path):
    decided(promoted=True)
    decided(promoted=False, champion=1)
    store.set_model_version_tag(NAME, "2", "promotion.waiting", "True")
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON model_version_tags WHEN NEW.key = "
            "'promotion.waiting' BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )
    words = "Version 2 of m is champion now, but still said to wait: .*graft approve m 2"
    with pytest.raises(TrackingError, match=f"(?s){words}") as caught:
        promote(NAME, "2")
    assert len(str(caught.value).splitlines()) == 2
    assert aliases(store) == (2, 1, None)
    with database:
        database.execute("DROP TRIGGER broken")
    database.close()
    assert approve(NAME, "2").promoted  # the way out that was named
    assert aliases(store) == (2, 1, None)


def test_a_version_that_is_taken_back_leaves_the_aliases_as_they_were(store, decided):
    experiment = store.create_experiment("e")
    for champion in (None, 1):
        decided(promoted=True, champion=champion)
    decided(promoted=False, champion=2)
    before = aliases(store)
    for promoted in (True, False):
        run = store.create_run(experiment).info.run_id
        number = decided(promoted=promoted, champion=2, run_id=run)
        store.delete_model_version_tag(NAME, str(number), "promotion.promoted")  # the last word
        assert aliases(store) != before
        take_back(store, NAME, run)
        assert aliases(store) == before
        assert told()[-1][:2] == ("taken back", number)
    assert "moved outside graft" not in {event[0] for event in told()}


def test_what_became_of_a_version_without_a_history_is_what_its_tags_say(store):
    store.create_registered_model(NAME)
    model = store.get_registered_model(NAME)
    given = (None, decision(1, True, None), decision(1, False, None))
    assert [_verdict(model, 1, one) for one in given] == [None, "promoted", "refused"]


def test_an_answer_is_one_that_a_person_gave_on_a_decision(store, publish, tiny_models):
    number = publish(store, NAME, tiny_models[0])
    with pytest.raises(TrackingError, match=f"No decision stands on version {number} of {NAME}"):
        approve(NAME, str(number))
    waits = decision(number, False, None).model_copy(update={"waiting": True})
    write_decision(store, store.get_model_version(NAME, str(number)), waits)
    assert answered(NAME, str(number), "approved", "ada") is None
    approve(NAME, str(number), who="ada")
    found = answered(NAME, str(number), "approved", "ada")
    assert found is not None
    assert found.promoted
    assert answered(NAME, str(number), "approved", "bob") is None
    assert answered(NAME, str(number), "rejected", "ada") is None
