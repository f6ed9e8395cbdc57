"""What a finished download is kept under: the content that is named, never what may change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import sha256_file
from tasks.config import DataConfig
from tasks.download.builtin import CIFAR10_SHA256
from tasks.download.identity import content_digest, download_key

Tree = Callable[..., Path]
SHA = "a" * 64


def config(**values: object) -> DataConfig:
    return DataConfig.model_validate({"kind": "folder", **values})


def test_an_archive_is_its_content(tmp_path: Path):
    archive = tmp_path / "data.zip"
    archive.write_bytes(b"one")
    first = content_digest(config(path=str(archive)))
    assert first == sha256_file(archive)
    archive.write_bytes(b"two")
    assert content_digest(config(path=str(archive))) == sha256_file(archive) != first


def test_a_stated_digest_is_taken_at_its_word(tmp_path: Path):
    (tmp_path / "data.zip").write_bytes(b"one")
    assert content_digest(config(path=str(tmp_path / "data.zip"), sha256=SHA)) == SHA
    assert content_digest(config(path="https://example.org/data.zip", sha256=SHA)) == SHA


def test_built_in_data_are_their_release():
    assert "scikit-learn" in (content_digest(config(kind="digits")) or "")
    assert content_digest(config(kind="cifar10")) == CIFAR10_SHA256
    assert content_digest(config(kind="cifar10", sha256=SHA)) == SHA


@pytest.mark.parametrize(
    "path", ["data", "data/labels.csv", "gone.zip", "s3://bucket/x.zip", "~\0"]
)
def test_what_may_change_under_its_name_has_no_key(
    path: str, tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tree("a/1.png") / "labels.csv").write_text("path,label\n")
    kind = "manifest" if path.endswith(".csv") else "folder"
    assert content_digest(config(kind=kind, path=path)) is None
    assert download_key(config(kind=kind, path=path), tmp_path) is None


def test_key_follows_settings_and_cache(tmp_path: Path):
    archive = tmp_path / "data.zip"
    archive.write_bytes(b"one")
    keys = {
        download_key(config(path=str(archive)), tmp_path),
        download_key(config(path=str(archive)), tmp_path / "other"),
        download_key(config(path=str(archive)), Path(os.fsdecode(b"/\xff"))),
        download_key(config(path=str(archive), test="val"), tmp_path),
    }
    assert len(keys) == 4
    assert download_key(config(path=str(archive)), tmp_path) in keys
