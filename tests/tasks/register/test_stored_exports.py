"""Exports that are kept with the run of their version: all of one, or nothing of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tasks.errors import TrackingError
from tasks.evaluate.exported import ExportSpec
from tasks.register.stored_exports import TAG, store_export

FILES = ["export.json", "model.onnx", "spec.json"]


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    for name in FILES:
        (made / name).write_text(name)
    return made


@pytest.fixture
def version(store, publish, tiny_models, tmp_path):
    """Return a version that a run made."""
    experiment = store.create_experiment("e", artifact_location=(tmp_path / "files").as_uri())
    run_id = store.create_run(experiment).info.run_id
    store.create_registered_model("m")
    return store.create_model_version("m", tiny_models[0].folder.as_uri(), run_id)


def spec(digest: str) -> ExportSpec:
    return ExportSpec.model_construct(format="onnx", sha256=digest)


def kept(store, version) -> tuple[list[str], str | None]:
    files = store.list_artifacts(version.run_id, "exports/onnx")
    tags = store.get_model_version("m", version.version).tags
    return sorted(Path(file.path).name for file in files), tags.get(f"{TAG}onnx")


def test_what_cannot_be_said_on_the_version_is_not_kept(store, version, folder, tmp_path):
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", isolation_level=None)
    database.execute(
        f"CREATE TRIGGER broken BEFORE INSERT ON model_version_tags WHEN NEW.key = '{TAG}onnx' "
        "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
    )
    with pytest.raises(TrackingError, match="refused by the test"):
        store_export(store, version, spec("a"), folder)
    assert kept(store, version) == ([], None)
    database.execute("DROP TRIGGER broken")
    store_export(store, version, spec("a"), folder)
    assert kept(store, version) == (FILES, "a")

    database.execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON model_version_tags "
        "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
    )
    with pytest.raises(TrackingError, match="refused by the test"):
        store_export(store, version, spec("b"), folder)
    assert kept(store, version) == (FILES, "a")  # an earlier export is not taken away
    database.close()
