"""A version is loaded and promoted only while the registry has every one of its files."""

from __future__ import annotations

import compileall
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow import MlflowClient

from tasks.errors import TrackingError
from tasks.register.files import FILES
from tasks.register.promote import register
from tasks.register.registry import fetch, fetch_version
from tasks.register.tracking import open_run
from tasks.register.verify import verify_version

URI = "models:/colours/1"
FILES_OF_EACH_KIND = (
    "artifacts/model.safetensors",
    "artifacts/spec.json",
    "artifacts/learned_images.bin",
    "artifacts/files.json",
    "code/tasks/outputs.py",
    "MLmodel",
)


def do(trained) -> None:
    parts = (trained.config, trained.raw, trained.prepared, trained.model, trained.report)
    with open_run(trained.config) as tracker:
        register(*parts, tracker.run_id)


@contextmanager
def changed(path: Path, gone: bool) -> Iterator[None]:
    content = path.read_bytes()
    path.unlink()
    if not gone:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    yield
    path.write_bytes(content)


def acts(client: MlflowClient, cache: Path) -> tuple[Callable[[], object], ...]:
    """Return what loads, with a warm cache, and what every promotion asks before it moves."""
    fetch(URI, cache)
    version = client.get_model_version("colours", "1")
    return lambda: fetch(URI, cache), lambda: verify_version(client, version)


@pytest.mark.parametrize("gone", [False, True])
def test_no_file_may_be_missing_or_another_however_warm_the_cache(store, strong, tmp_path, gone):
    do(strong)
    both = acts(store, tmp_path / "cache")
    (mlmodel,) = (tmp_path / "mlruns" / "artifacts").rglob("MLmodel")
    words = "is missing in the registry" if gone else "is not the file that was registered"
    for name in FILES_OF_EACH_KIND:
        with changed(mlmodel.parent / name, gone):
            for act in both:
                with pytest.raises(TrackingError, match=f"^{name} of colours version 1 {words}"):
                    act()
    for act in both:
        act()


def test_what_mlflow_and_python_leave_in_a_store_that_is_a_folder_is_no_change(
    store, strong, tmp_path
):
    do(strong)
    root = mlflow.artifacts.download_artifacts(URI)  # as mlflow.pyfunc.load_model
    assert Path(root).is_relative_to(tmp_path / "mlruns")
    assert (Path(root) / "registered_model_meta").is_file()
    compileall.compile_dir(Path(root) / "code", quiet=1)
    for act in acts(store, tmp_path / "cache"):
        act()


def test_a_version_of_an_older_graft_is_taken_and_it_is_said_what_cannot_be_checked(
    store, strong, tmp_path, caplog
):
    do(strong)
    store.delete_model_version_tag("colours", "1", FILES)
    load, verify = acts(store, tmp_path / "cache")
    (mlmodel,) = (tmp_path / "mlruns" / "artifacts").rglob("MLmodel")
    with changed(mlmodel, gone=False), caplog.at_level(logging.INFO):
        for act, level in ((load, "INFO"), (verify, "WARNING")):
            caplog.clear()
            act()
            (said,) = [r for r in caplog.records if "MLmodel and code/ are not" in r.message]
            assert (said.levelname, "version 1 is of an older graft" in said.message) == (
                level,
                True,
            )
    with changed(mlmodel.parent / "artifacts" / "learned_images.bin", gone=True):
        for act in (load, verify):
            with pytest.raises(TrackingError, match=r"learned_images\.bin of colours version 1 is"):
                act()


def test_a_version_that_is_not_ready_is_not_loaded(store, tiny_models, publish, tmp_path):
    publish(store, "tiny", tiny_models[0])
    version = store.get_model_version("tiny", "1")
    version._status = "PENDING_REGISTRATION"
    with pytest.raises(TrackingError, match="is PENDING_REGISTRATION, not ready"):
        fetch_version(version, tmp_path / "cache")
