"""A digest for every file of a model: each one that is changed, gone or slipped in is found."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from mlflow.entities.model_registry import ModelVersion

from tasks.errors import TrackingError, WeightsError
from tasks.register.carried import check_carried
from tasks.register.files import (
    FILES,
    FILES_FILE,
    SHA256,
    SPEC_SHA256,
    check_files,
    is_listed,
    list_files,
    without_list,
)
from tasks.register.learned import LEARNED, LEARNED_FILE

LIST = b"12345678"  # of one image that was learned from


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tiny_models, tmp_path) -> Path:
    """Return a copy of an MLflow model with a list of images and no list of files."""
    shutil.copytree(tiny_models[0].folder, tmp_path / "model")
    (tmp_path / "model" / LEARNED_FILE).write_bytes(LIST)
    return tmp_path / "model"


@pytest.fixture
def old(tiny_models) -> ModelVersion:
    """Return a version as graft made them before it kept a list of files."""
    spec = tiny_models[0].spec
    tags = {SHA256: spec.sha256, SPEC_SHA256: spec.digest, LEARNED: digest(LIST)}
    return version(tags)


def version(tags: dict[str, str]) -> ModelVersion:
    made = ModelVersion("m", "7", 0)
    made._tags = tags
    return made


@pytest.fixture
def new(folder, old) -> ModelVersion:
    return version(old.tags | {FILES: list_files(folder)})


def files_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(version: ModelVersion, folder: Path, changed: Path, words: str) -> bool:
    """Tell whether the version is refused, and the file is named."""
    try:
        check_files(version, folder)
    except TrackingError as error:
        first, way_out = str(error).splitlines()
        path = changed.relative_to(folder).as_posix()
        assert first == f"{path} of m version 7 {words}."
        assert "register the model again" in way_out
        return True
    return False


def found_changed(version: ModelVersion, folder: Path) -> set[str]:
    """Return the files of which a change and an absence are found; one of both is a failure."""
    found = set()
    for name, content in files_of(folder).items():
        path = folder / name
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b" ")
        changed = refused(version, folder, path, "is not the file that was registered")
        path.unlink()
        gone = refused(version, folder, path, "is missing in the registry")
        path.write_bytes(content)
        assert changed is gone, name
        found |= {name} if changed else set()
    check_files(version, folder)
    return found


def test_every_file_is_listed_with_its_digest_and_each_change_is_found(folder, new):
    before = files_of(folder)
    listed = json.loads(before.pop(FILES_FILE))
    assert listed == {name: digest(content) for name, content in before.items()}
    assert {"MLmodel", "conda.yaml", "code/tasks/outputs.py", LEARNED_FILE} < set(listed)
    assert new.tags[FILES] == digest((folder / FILES_FILE).read_bytes())
    assert is_listed(new)
    assert found_changed(new, folder) == {*before, FILES_FILE}


def test_of_an_older_version_what_has_a_digest_is_checked_and_what_has_none_is_said(folder, old):
    assert not is_listed(old)
    assert found_changed(old, folder) == {
        "artifacts/model.safetensors",
        "artifacts/spec.json",
        LEARNED_FILE,
    }
    said = without_list(old)
    assert "m version 7 is of an older graft" in said
    assert "MLmodel and code/ are not" in said
    (folder / LEARNED_FILE).unlink()
    older = version({key: value for key, value in old.tags.items() if key != LEARNED})
    check_files(older, folder)


def test_a_list_of_other_weights_than_the_version_has_is_refused(folder, new, old):
    other = version(old.tags | {FILES: new.tags[FILES], SHA256: "0" * 64})
    weights = folder / "artifacts" / "model.safetensors"
    assert refused(other, folder, weights, "is not the file that was registered")


def test_code_that_was_slipped_in_is_refused_but_not_what_python_and_mlflow_leave(folder, new):
    for left in ("code/tasks/__pycache__/outputs.cpython-311.pyc", "registered_model_meta"):
        (folder / left).parent.mkdir(exist_ok=True)
        (folder / left).write_bytes(b"x")
    check_files(new, folder)
    with pytest.raises(TrackingError, match=r"__pycache__/outputs.cpython-311.pyc of m version 7"):
        check_files(new, folder, in_place=False)  # a download, in which nothing was imported
    added = folder / "code" / "numpy.py"
    added.write_text("raise SystemExit")
    assert refused(new, folder, added, "is not the file that was registered")


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "code/../../secret", None])
def test_a_list_of_files_that_lie_elsewhere_is_not_followed(path, folder, old, tmp_path):
    """Who may write to the registry could else ask by it which files a reader has."""
    (tmp_path / "secret").write_text("s")
    content = json.dumps([] if path is None else {path: digest(b"s")})
    (folder / FILES_FILE).write_text(content)
    hostile = version(old.tags | {FILES: digest(content.encode())})
    with pytest.raises(TrackingError, match="lists files that lie elsewhere"):
        check_files(hostile, folder)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"5", b"[1]", b"[[1, 2]]"])
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / FILES_FILE).parent.mkdir()
    (tmp_path / FILES_FILE).write_bytes(content)
    with pytest.raises(WeightsError, match=FILES_FILE):
        check_carried(tmp_path)
