"""What a version goes through, and what a fault at the worst moment leaves of it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tasks.errors import TrackingError, TransientTrackingError
from tasks.register import versions
from tasks.register.promote import register, standing_decision
from tasks.register.registry import fetch, list_versions
from tasks.register.tracking import open_run

KEEP = "BEFORE UPDATE ON model_versions WHEN NEW.current_stage != OLD.current_stage"  # no deletion


@pytest.fixture
def execute(store, tmp_path) -> Iterator[Callable[[str], None]]:
    """Return a function that runs SQL on the tracking database."""
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", isolation_level=None)
    yield lambda sql: database.execute(sql)
    database.close()


@pytest.fixture
def broken(execute) -> Callable[[str, str], None]:
    """Return a function that breaks one kind of write by a fault that may pass."""

    def breaks(name: str, when: str) -> None:
        execute(
            f"CREATE TRIGGER {name} {when} BEGIN SELECT RAISE(ABORT, 'database is locked'); END"
        )

    return breaks


def tag_write(key: str) -> str:
    return f"BEFORE INSERT ON model_version_tags WHEN NEW.key = '{key}'"


def do(trained, run_id):
    parts = (trained.config, trained.raw, trained.prepared, trained.model, trained.report)
    return register(*parts, run_id)


@pytest.fixture
def run_id(store, strong) -> str:
    with open_run(strong.config) as tracker:
        return tracker.run_id


@pytest.fixture
def weak_champion(store, weak) -> None:
    with open_run(weak.config) as tracker:
        assert do(weak, tracker.run_id).promoted


def models_of(store, run_id):
    experiment = store.get_run(run_id).info.experiment_id
    return store.search_logged_models([experiment], f"source_run_id='{run_id}'")


@pytest.mark.parametrize("key", ["promotion.n", "promotion.promoted"])
def test_another_try_leaves_nothing_of_one_that_could_not_even_be_taken_back(
    store, weak_champion, strong, run_id, broken, execute, key, caplog
):
    broken("no_tag", tag_write(key))
    broken("no_deletion", KEEP)
    with pytest.raises(TransientTrackingError):
        do(strong, run_id)
    assert "may be left behind" in caplog.text
    (left, first) = list_versions("colours")
    assert (left.run_id, left.decision) == (run_id, "")

    for name in ("no_tag", "no_deletion"):
        execute(f"DROP TRIGGER {name}")
    decision = do(strong, run_id)
    assert (decision.promoted, decision.champion_version) == (True, first.version)
    rows = list_versions("colours")
    assert [(row.version, row.aliases, row.decision) for row in rows] == [
        (decision.version, ("champion",), "promoted"),
        (first.version, ("previous",), "promoted"),
    ]
    (model,) = models_of(store, run_id)
    source = store.get_model_version("colours", str(decision.version)).source
    assert source == versions.source_of(model.model_id)


def test_the_former_champion_is_champion_again_when_the_last_word_is_not_written(
    store, weak_champion, strong, run_id, broken
):
    broken("no_tag", tag_write("promotion.promoted"))
    with pytest.raises(TransientTrackingError):
        do(strong, run_id)
    assert [(row.version, row.aliases) for row in list_versions("colours")] == [(1, ("champion",))]
    assert not models_of(store, run_id)
    assert standing_decision(strong.config, run_id) is None


def test_a_decision_that_stands_is_returned_and_not_made_twice(store, weak, strong):
    for trained in (weak, strong, weak):
        with open_run(trained.config) as tracker:
            first = do(trained, tracker.run_id)
            assert do(trained, tracker.run_id) == first
            assert standing_decision(trained.config, tracker.run_id) == first
    assert len(list_versions("colours")) == 3


PENDING = (
    "CREATE TRIGGER pending AFTER INSERT ON model_versions BEGIN "
    "UPDATE model_versions SET status = '{}' WHERE version = NEW.version; END"
)


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
def test_a_version_that_never_gets_ready_is_taken_back(
    store, strong, run_id, execute, monkeypatch, status
):
    monkeypatch.setattr(versions, "READY_SECONDS", 0.2)
    execute(PENDING.format(status))
    with pytest.raises(TransientTrackingError, match=f"is {status}, not ready"):
        do(strong, run_id)
    assert list_versions() == []
    assert not store.search_registered_models()
    assert not models_of(store, run_id)


def test_a_version_that_takes_a_while_is_waited_for(store, strong, run_id, execute, tmp_path):
    execute(PENDING.format("PENDING_REGISTRATION"))

    def finish() -> None:
        database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", isolation_level=None)
        while not database.execute("UPDATE model_versions SET status = 'READY'").rowcount:
            time.sleep(0.2)
        database.close()

    copying = threading.Thread(target=finish)
    copying.start()
    assert do(strong, run_id).promoted
    copying.join()


def test_a_whole_run_without_a_named_store(tmp_path, strong, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with open_run(strong.config) as tracker:
        assert do(strong, tracker.run_id).promoted
    model = fetch("models:/colours@champion", tmp_path / "cache")
    assert model.sha256 == strong.model.sha256
    assert {path.name for path in tmp_path.iterdir()} == {"mlruns", "cache"}  # no mlflow.db here
    with pytest.raises(TrackingError, match="There is no models:/colours/2"):
        fetch("models:/colours/2", tmp_path / "cache")
