"""What makes the key of a cache entry another: fields and packages, and no words about them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from tasks import formats
from tasks.config import DataConfig
from tasks.download import source
from tasks.download.identity import download_key
from tasks.formats import fields_of, versions_of
from tasks.preprocess import pack
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec, PreparedDataset, RawDataset
from tests.tasks.shard_folders import CLASSES, picture

SPEC = InputSpec(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")


def test_fields_count_and_what_is_said_of_them_does_not():
    class Documented(BaseModel):
        """Some words."""

        description: str
        n: int = Field(1, description="more words", title="N")

    class Bare(BaseModel):
        description: str
        n: int = 1

    class Other(BaseModel):
        description: str
        n: int = 2

    class More(Bare):
        later: float | None = None

    class Fewer(BaseModel):
        n: int = 1

    class Outer(BaseModel):
        inner: Bare

    class OuterMore(BaseModel):
        inner: More

    assert fields_of(Documented) == fields_of(Bare)
    others = (Bare, Other, More, Fewer, Outer, OuterMore)
    assert len({fields_of(kind) for kind in others}) == len(others)
    assert fields_of(Bare, Other) != fields_of(Other, Bare)


@pytest.fixture
def raw(tmp_path: Path) -> RawDataset:
    for number in range(30):
        path = tmp_path / "photos" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, number % 3))
    return source.download(DataConfig(path=str(tmp_path / "photos")), tmp_path / "cache")


class NewerPrepared(PreparedDataset):
    """Of a graft that says one thing more, which has a value where nothing is said."""

    counted: bool = True


def newer_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PreparedDataset", NewerPrepared)


def newer_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "FORMAT", "graft pack 4")


def newer_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    version = formats.metadata.version
    versions_of.cache_clear()
    monkeypatch.setattr(
        formats.metadata, "version", lambda name: version(name) + "1" * (name == "pillow")
    )


@pytest.mark.parametrize("newer", [newer_fields, newer_layout, newer_pillow])
def test_another_version_finds_no_pack_of_this_one_and_touches_none(newer, raw, tmp_path):
    config, cache = DataConfig(path="photos"), tmp_path / "cache"
    try:
        ours = prepare(config, 0, raw, SPEC, cache)
        before = {path: path.stat().st_ino for path in ours.folder.iterdir()}
        with pytest.MonkeyPatch.context() as patch:
            newer(patch)
            theirs = prepare(config, 0, raw, SPEC, cache)
            assert prepare(config, 0, raw, SPEC, cache).folder == theirs.folder != ours.folder
        versions_of.cache_clear()
        assert prepare(config, 0, raw, SPEC, cache) == ours
        assert {path: path.stat().st_ino for path in ours.folder.iterdir()} == before
    finally:
        versions_of.cache_clear()


@pytest.mark.parametrize("change", ['"later": 1,', ""])
def test_a_manifest_with_another_field_or_without_one_is_not_read(change, raw, tmp_path):
    """As a graft would leave it whose key told no fields."""
    config, cache = DataConfig(path="photos"), tmp_path / "cache"
    ours = prepare(config, 0, raw, SPEC, cache)
    manifest = ours.folder / pack.MANIFEST
    text = manifest.read_text()
    manifest.write_text(
        text.replace("{", "{" + change, 1) if change else text.replace('"n": ', '"m": ')
    )
    assert prepare(config, 0, raw, SPEC, cache) == ours
    assert manifest.read_text() == text


def test_facts_of_a_download_are_of_its_fields(tmp_path, monkeypatch):
    config = DataConfig(kind="digits")
    before = download_key(config, tmp_path)

    class NewerRaw(RawDataset):
        resolution: int | None = None

    monkeypatch.setattr(source, "RawDataset", NewerRaw)
    assert download_key(config, tmp_path) != before
