from __future__ import annotations

import sqlite3

import pytest
from mlflow.exceptions import MlflowException

from tasks.errors import TrackingError
from tasks.register.promote import register
from tasks.register.registry import fetch, find_champion, find_model, list_versions
from tasks.register.tracking import open_run


@pytest.fixture
def registered(store, strong):
    """Two versions of colours; the first is champion."""
    for _ in range(2):
        with open_run(strong.config) as tracker:
            register(
                strong.config,
                strong.raw,
                strong.prepared,
                strong.model,
                strong.report,
                tracker.run_id,
            )
    return store


def test_a_version_is_fetched_by_alias_or_number(registered, strong, tmp_path):
    by_alias = fetch("models:/colours@champion", tmp_path / "cache")
    by_number = fetch("models:/colours/1", tmp_path / "cache")
    assert by_alias == by_number
    assert by_alias.uri == "models:/colours/1"
    assert by_alias.classes == strong.model.classes
    assert by_alias.input == strong.model.input
    assert by_alias.architecture == "graft_tiny"
    assert by_alias.weights.read_bytes() == strong.model.weights.read_bytes()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/nobody@champion", "There is: colours"),
        ("models:/colours@staging", "Versions of colours: 2 @challenger, 1 @champion"),
        ("models:/colours/7", "Versions of colours: 2 @challenger, 1 @champion"),
        ("colours", "Write models:/NAME@ALIAS"),
        ("models:/colours", "Write models:/NAME@ALIAS"),
    ],
)
def test_what_is_missing_is_told_with_what_there_is(registered, tmp_path, uri, words):
    with pytest.raises(TrackingError, match=words) as caught:
        fetch(uri, tmp_path / "cache")
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "spec.json"])
def test_a_file_changed_in_the_store_is_refused(registered, tmp_path, name):
    for file in (tmp_path / "mlruns" / "artifacts" / "models").rglob(f"artifacts/{name}"):
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    with pytest.raises(TrackingError, match=f"{name} of colours version 1 is not the file"):
        fetch("models:/colours/1", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_file_gone_from_the_store_is_told(registered, tmp_path):
    for file in (tmp_path / "mlruns" / "artifacts" / "models").rglob("artifacts/model.safetensors"):
        file.unlink()
    with pytest.raises(TrackingError, match="safetensors of colours version 1 is missing"):
        fetch("models:/colours/1", tmp_path / "cache")


def test_a_damaged_copy_in_the_cache_is_fetched_again(registered, strong, tmp_path):
    first = fetch("models:/colours/1", tmp_path / "cache")
    first.weights.write_bytes(b"broken")
    again = fetch("models:/colours/1", tmp_path / "cache")
    assert again == first
    assert again.weights.read_bytes() == strong.model.weights.read_bytes()


def test_versions_are_listed_newest_first(registered, strong):
    rows = list_versions()
    assert [(r.name, r.version, r.aliases) for r in rows] == [
        ("colours", 2, ("challenger",)),
        ("colours", 1, ("champion",)),
    ]
    assert [r.decision for r in rows] == ["refused", "promoted"]
    assert {r.accuracy for r in rows} == {strong.report.accuracy}
    assert rows == list_versions("colours")
    assert registered.get_run(rows[0].run_id).info.status == "FINISHED"


def test_an_empty_registry_lists_nothing_and_an_unknown_model_is_told(store):
    assert list_versions() == []
    with pytest.raises(TrackingError, match="No model is registered here yet"):
        list_versions("colours")


def test_without_a_store_fetching_says_so_and_makes_none(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match="no tracking database"):
        fetch("models:/colours@champion", tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_only_what_is_not_there_is_taken_for_that(store, tmp_path):
    assert find_champion(store, "nobody") is None
    with pytest.raises(TrackingError, match="nobody"):
        find_model(store, "nobody")
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute("ALTER TABLE registered_models RENAME TO elsewhere")
        database.execute("ALTER TABLE registered_model_aliases RENAME TO elsewhere_too")
    for find in (find_champion, find_model):
        with pytest.raises(MlflowException, match="no such table"):
            find(store, "nobody")
