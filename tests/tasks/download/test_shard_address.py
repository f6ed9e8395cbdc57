"""Which addresses are folders of shards, and what is said where keys or drivers are missing."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tasks.config import DataConfig
from tasks.download import shard_address
from tasks.download.shard_address import open_folder
from tasks.download.source import download
from tasks.errors import ConfigError, DataError, GraftError, ResourceError


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch planted",
        "pipe://touch planted",
        "https://host/shards",
        "http://host/shards",
        "memory://shards",
        "simplecache::s3://bucket/shards",
        "s3://bucket/a::file://b",
        "S3://bucket/shards",
        "s3://key:secret@bucket/shards",
        "s3://bucket/shards?versionId=secret",
        "s3://bucket/../other",
        "s3://bucket/a*",
        "s3://",
        "s3://${secret:bucket}/shards",
        "",
        "a\0b",
        "\udcff",
        "https://user:key:se?cret@host/x?versionId=1",
        "file://key:secret@host/x",
        "FILE://key:secret@${secret:host}/x",
        "s3://key:secret@${secret:bucket}/x",
        "pipe:curl https://user:key:secret@host#versionId",
    ],
)
def test_other_addresses_are_refused_and_no_secret_is_told(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        open_folder(url)
    assert "key:se" not in str(raised.value)
    assert "versionId" not in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_config_with_a_login_in_its_address_is_refused():
    for path in ("s3://key:secret@bucket/shards", "s3://bucket/shards?token=1"):
        with pytest.raises(ValueError, match="holds a login or query"):
            DataConfig(kind="shards", path=path)


def test_a_path_is_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("./a:b/shards/", f"file://{tmp_path}/a:b/shards"):
        folder = open_folder(url)
        assert folder.url == str(tmp_path / "a:b" / "shards")
        folder.write(b"x", "y")
        assert folder.sizes() == {"y": 1}


def test_every_store_is_told_how_long_it_may_be_silent(monkeypatch):
    """By the names that s3fs, gcsfs and adlfs have for it; the latter two are not installed."""
    told = {}
    monkeypatch.setattr(shard_address, "_driver", lambda scheme, **given: told.update(given))
    for scheme in ("s3", "gs", "az"):
        open_folder(f"{scheme}://bucket/shards", timeout=1.5)
    assert told["config_kwargs"] == {"read_timeout": 1.5, "connect_timeout": 1.5}
    assert (told["requests_timeout"].sock_read, told["requests_timeout"].total) == (1.5, None)
    assert (told["read_timeout"], told["connection_timeout"]) == (1.5, 1.5)


def test_without_what_gcsfs_needs_it_is_told_nothing_and_named_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match="gs:// needs gcsfs"):
        open_folder("gs://bucket/shards", timeout=1.5)


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"s3:// needs s3fs \(in graft\[shards\]\)"):
        open_folder("s3://bucket/shards", timeout=1.5)
    with pytest.raises(ConfigError, match="gs:// needs gcsfs"):
        open_folder("gs://bucket/shards")


def test_without_webdataset_its_extra_is_named(monkeypatch, tmp_path):
    from tasks.download.shard_tar import read_entries

    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(ConfigError, match=r"webdataset.*\nInstall graft\[shards\]"):
        next(read_entries((tmp_path / "none").open("wb+"), "x"))


def test_without_keys_it_is_said_which_are_needed(s3, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        if name != "AWS_ENDPOINT_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"needs keys, and there are none.*\nSet AWS_ACCESS_KEY"):
        download(DataConfig(kind="shards", path=s3), tmp_path / "cache")


def test_what_a_store_refuses_is_told_without_the_keys(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("s3fs.core.S3FileSystem._call_s3", refused)
    with pytest.raises(DataError, match=r"is not open to you: .*\nCheck its rights") as raised:
        download(DataConfig(kind="shards", path=s3), tmp_path / "cache")
    assert "planted-secret" not in str(raised.value)


async def refused(*_given: object, **_named: object) -> None:
    raise PermissionError("The AWS Access Key Id you provided does not exist in our records.")


def test_a_folder_that_takes_no_file_is_no_traceback(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    folder = open_folder(str(tmp_path / "file" / "shards"))
    with pytest.raises(ResourceError):
        folder.write(b"x", "y")
    assert folder.sizes() == {}
    with pytest.raises(GraftError):
        folder.open("y")
