"""Locks of folders in use, against real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.use import alone, entry_of, in_use, lock_file

HOLD = """
import sys, time
from pathlib import Path
from tasks.use import in_use
with in_use([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_entry_of_a_path_is_two_folders_below_the_cache(tmp_path: Path):
    assert entry_of(tmp_path / "a" / "b" / "c" / "d", tmp_path) == tmp_path / "a" / "b"
    assert entry_of(tmp_path / "a" / "b", tmp_path) == tmp_path / "a" / "b"
    assert entry_of(tmp_path / "a", tmp_path) is None
    assert entry_of(Path("/elsewhere/a/b"), tmp_path) is None


def test_many_may_use_a_folder_and_nobody_is_alone_with_it_meanwhile(tmp_path: Path):
    entry = tmp_path / "entry"
    entry.mkdir()
    os.utime(entry, (0, 0))
    with in_use([entry]):
        with in_use([entry]), alone(entry) as free:
            assert not free
        assert lock_file(entry).exists()
        with alone(entry) as free:
            assert not free
    assert entry.stat().st_mtime > 1e9  # its use is noted
    with alone(entry) as free:
        assert free
    assert list(tmp_path.iterdir()) == [entry]  # no lock is left behind


def test_a_killed_process_lets_go(tmp_path: Path):
    entry = tmp_path / "entry"
    process = subprocess.Popen([sys.executable, "-c", HOLD, entry], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with alone(entry) as free:
        assert not free
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert lock_file(entry).exists()
    with alone(entry) as free:
        assert free
    assert not lock_file(entry).exists()


def test_whoever_comes_while_one_is_alone_waits_and_has_the_lock_that_counts(tmp_path: Path):
    entry, order = tmp_path / "entry", []

    def use() -> None:
        with in_use([entry]):
            order.append("used")
            with alone(entry) as free:
                order.append(free)

    with alone(entry) as free:
        assert free
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(0.2)
        order.append("removed")
    thread.join()
    assert order == ["removed", "used", False]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_takes_no_file_is_used_all_the_same(tmp_path: Path):
    tmp_path.chmod(0o500)
    with in_use([tmp_path / "entry"]):
        assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(0o700)


def test_what_is_not_there_is_no_error(tmp_path: Path):
    with in_use([tmp_path / "gone" / "entry"]):
        pass
    assert not (tmp_path / "gone").exists()


def test_a_lock_that_can_be_none_is_no_lock_held(tmp_path: Path):
    lock_file(tmp_path / "entry").mkdir()  # neither a read-only cache nor nothing to remove
    with pytest.raises(IsADirectoryError), in_use([tmp_path / "entry"]):
        pytest.fail("it is in use without a lock")


def test_a_lock_that_was_replaced_meanwhile_is_left_to_whoever_made_it(tmp_path: Path):
    entry = tmp_path / "entry"
    with in_use([entry]):
        lock_file(entry).unlink()
        lock_file(entry).write_bytes(b"another's")
    assert lock_file(entry).read_bytes() == b"another's"
