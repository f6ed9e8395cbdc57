"""Files and folders that are whole or not there, whatever happens while they are made."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.artifacts import (
    cache_folder,
    disk_errors,
    folder_atomic,
    new_folder,
    sha256_file,
    sha256_parts,
    user_folder,
    write_atomic,
)
from tasks.errors import ConfigError, ResourceError

RAISED = pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])


def names_in(folder: Path) -> set[str]:
    """Return every name below ``folder``, scratch files and folders included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_digest_of_a_file_is_hashlibs(tmp_path: Path):
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_no_two_sequences_share_a_digest():
    odd = os.fsdecode(b"\xff")
    sequences = [(), ("",), ("", ""), ("ab",), ("a", "b"), ("", "ab"), (odd,), (r"\xff",), ("ÿ",)]
    assert len({sha256_parts(*parts) for parts in sequences}) == len(sequences)


def test_folder_appears_whole(tmp_path: Path):
    target = tmp_path / "deep" / "target"
    with folder_atomic(target) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "file").write_bytes(b"content")
        assert not target.exists()
    assert names_in(tmp_path / "deep") == {"target", "target/inner", "target/inner/file"}
    assert target.stat().st_mode & 0o777 == 0o755


@RAISED
def test_folder_that_is_not_finished_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    def half() -> None:
        with folder_atomic(tmp_path / "target") as scratch:
            (scratch / "file").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        half()
    assert names_in(tmp_path) == set()


def test_folder_made_meanwhile_by_another_process_stays(tmp_path: Path):
    target = tmp_path / "target"
    with folder_atomic(target) as scratch:
        (scratch / "file").write_bytes(b"ours")
        target.mkdir()
        (target / "file").write_bytes(b"theirs")
    assert names_in(tmp_path) == {"target", "target/file"}
    assert (target / "file").read_bytes() == b"theirs"


def test_a_file_that_another_process_made_meanwhile_stays(tmp_path: Path):
    target = tmp_path / "target"

    def late() -> None:
        with folder_atomic(target) as scratch:
            (scratch / "file").write_bytes(b"ours")
            target.write_bytes(b"theirs")

    with pytest.raises(ResourceError, match=r"Cannot write .*target: Not a directory"):
        late()
    assert names_in(tmp_path) == {"target"}
    assert target.read_bytes() == b"theirs"


def test_new_folder_gets_a_name_of_its_own(tmp_path: Path):
    for expected in ("run", "run-2", "run-3"):
        with new_folder(tmp_path / "runs", "run") as folder:
            assert folder == tmp_path / "runs" / expected
    assert names_in(tmp_path / "runs") == {"run", "run-2", "run-3"}


@RAISED
def test_new_folder_is_removed_when_its_block_fails(tmp_path: Path, error: type[BaseException]):
    def half() -> None:
        with new_folder(tmp_path, "run") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_bytes(b"half")
            raise error

    with new_folder(tmp_path, "run"):
        pass
    with pytest.raises(error):
        half()
    assert names_in(tmp_path) == {"run"}


def test_file_is_replaced_as_a_whole(tmp_path: Path):
    write_atomic(tmp_path / "deep" / "file", b"old")
    write_atomic(tmp_path / "deep" / "file", b"new")
    assert (tmp_path / "deep" / "file").read_bytes() == b"new"
    assert names_in(tmp_path) == {"deep", "deep/file"}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tasks.artifacts import write_atomic
from tasks.errors import ResourceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with EFBIG
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), bytes(5000))
except ResourceError as error:
    sys.exit(str(error))
"""


def test_old_content_stays_where_the_new_finds_no_room(tmp_path: Path, repository: Path):
    write_atomic(tmp_path / "file", b"old")
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "file"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "The disk is full while writing" in ended.stderr
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names_in(tmp_path) == {"file"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_full_disk_is_a_resource_error():
    with pytest.raises(ResourceError, match=r"disk is full while writing the report\."):
        fill("the report")


def fill(what: str) -> None:
    with disk_errors(what), Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"content")


def test_other_errors_pass_unchanged():
    with pytest.raises(FileNotFoundError), disk_errors("it"):
        Path("nothing/here").read_bytes()


def test_place_that_can_be_no_folder_is_a_resource_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for parent in (tmp_path / "file", tmp_path / "file" / "inner", tmp_path / ("x" * 300)):
        with pytest.raises(ResourceError, match="Cannot write"), new_folder(parent, "run"):
            pass
        with pytest.raises(ResourceError, match="Cannot write"):
            write_atomic(parent / "file", b"content")
        with pytest.raises(ResourceError, match="Cannot write"), folder_atomic(parent / "folder"):
            pass
    assert names_in(tmp_path) == {"file"}


def test_cache_is_the_configured_one_or_the_environments_or_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GRAFT_CACHE", raising=False)
    assert cache_folder(None) == tmp_path / ".cache" / "graft"
    monkeypatch.setenv("GRAFT_CACHE", "~/named")
    assert cache_folder(None) == tmp_path / "named"
    assert cache_folder(Path("~/given")) == tmp_path / "given"
    monkeypatch.chdir(tmp_path)
    assert cache_folder(Path("given")) == tmp_path / "given"


def test_links_on_the_way_are_followed(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert user_folder(tmp_path / "link" / "cache") == tmp_path / "real" / "cache"


def test_folder_that_cannot_be_named_is_a_config_error(tmp_path: Path):
    for named in (Path("~nobody-of-this-name/x"), Path(os.fsdecode(b"/tmp/\xff"))):
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            user_folder(named)
        assert str(caught.value).encode()
        assert str(caught.value).count("\n") <= 1
