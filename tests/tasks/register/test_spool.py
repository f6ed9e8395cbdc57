"""What waits on disk: what a killed process was about to write, and a disk that is full."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import Metric

from tasks.register.spool import Spool

FIRST, SECOND = Metric("val_loss", 0.1, 1700000000123, 1), Metric("val_loss", 1e-300, 5, 2)


def test_what_is_appended_after_a_kill_is_read_in_order_and_to_the_last_bit(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    Spool(path).append([FIRST])
    with path.open("a") as file:
        file.write('["val_loss", 0.')  # killed here
    spool = Spool(path)
    spool.append([SECOND])
    assert [dict(metric) for metric in spool.read()] == [dict(FIRST), dict(SECOND)]
    spool.clear()
    assert (path.exists(), spool.read()) == (False, [])
    spool.clear()


def test_a_disk_that_takes_nothing_is_said_once_and_ends_no_training(tmp_path: Path, caplog):
    spool = Spool(tmp_path / "metrics.jsonl")
    spool.path.symlink_to("/dev/full")
    spool.append([FIRST])
    spool.append([SECOND])
    assert caplog.text.count("metrics wait in memory alone: The disk is full") == 1
