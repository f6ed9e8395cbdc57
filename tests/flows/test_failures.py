"""From any exception to two lines and an exit code."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch

from flows.failures import describe


@pytest.mark.usefixtures("unchanged", "own_alarm")
def test_a_task_that_runs_out_of_time_is_named(workspace: Path, graft, monkeypatch):
    """Prefect's timer is made to end when an epoch is over, however long that takes here."""
    from tasks.finetune.training import _validate

    def in_time(*given):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        monkeypatch.setattr("tasks.finetune.training._validate", _validate)
        return _validate(*given)

    monkeypatch.setattr("tasks.finetune.training._validate", in_time)
    result = graft("run", "good.yaml", "training.epochs=100000", "name=out-of-time")
    assert result.code == 8, result.err
    assert result.message.startswith("graft: finetune took longer than it may: ")
    assert "tasks/finetune/task.py" in result.message
    assert len(result.message.splitlines()) == 2
    (folder,) = Path("mlruns/runs").glob("out-of-time-*")
    assert f"{folder.resolve()} is kept: the same command with --resume" in result.err
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 8, "Memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory"), 8, "Memory ran out"),
        (OSError(28, "No space left on device"), 8, "disk is full"),
        (KeyboardInterrupt(), 130, "SIGINT"),
        (RuntimeError("database or disk is full"), 8, "disk is full"),
    ],
)
def test_shortages_and_signals_have_their_codes(error: BaseException, code: int, words: str):
    outer = RuntimeError("outer")
    outer.__cause__ = error
    failure = describe(error if code == 130 else outer)
    assert failure.exit_code == code
    assert words in failure.message
    assert len(failure.message.splitlines()) <= 2


def test_a_fault_of_ours_is_one_line_and_a_log():
    try:
        {}["missing\nkey"]
    except KeyError as error:
        failure = describe(error)
    log = Path(failure.message.rpartition(" in ")[2].rstrip("."))
    assert failure.exit_code == 1
    assert len(failure.message.splitlines()) == 2
    assert "Traceback" in log.read_text()
    log.unlink()
