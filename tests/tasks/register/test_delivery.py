"""A tracking server that goes away in mid-run: nothing that was measured is lost, or there twice.

The server is MLflow's own. A line in between cuts it off, where it is not stopped itself.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.finetune.progress import EpochRecord, StepProgress, read_history
from tasks.finetune.train import finetune
from tasks.pretrained.load import load_pretrained
from tasks.register import delivery, wire
from tasks.register.reopened import resumable_run
from tasks.register.tracking import RunTracker, open_run
from tests.tasks.register.line import Line

RECORD = EpochRecord(1, 2, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)
NAMES = [name for name in asdict(RECORD) if name not in ("epoch", "epochs")]
POINT = b'"key": "val_loss"'


@pytest.fixture(autouse=True)
def _no_other_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # of what is not tested here
    monkeypatch.setattr(delivery, "SPARED", 0)
    monkeypatch.setattr(delivery, "QUICK", 60.0)  # what answers may be busy


@pytest.fixture
def history(mlflow_server):
    """Return a function that gives a run's points, by metric; not over the line."""
    client = MlflowClient(mlflow_server.url)

    def read(run_id: str) -> dict[str, list[tuple[int, float]]]:
        points = {name: client.get_metric_history(run_id, name) for name in NAMES}
        return {name: sorted((m.step, m.value) for m in found) for name, found in points.items()}

    return read


def expected(*records: EpochRecord) -> dict[str, list[tuple[int, float]]]:
    return {name: [(one.epoch, asdict(one)[name]) for one in records] for name in NAMES}


class Cutting:
    """Watches a training for a tracker, and cuts its line while two epochs are trained."""

    def __init__(self, tracker: RunTracker, line: Line, spool: Path) -> None:
        self._tracker, self._line, self._spool = tracker, line, spool
        self.waited: list[int] = []

    def step(self, progress: StepProgress) -> None: ...

    def epoch(self, record: EpochRecord) -> None:
        if record.epoch == 2:
            self._line.down()
        if record.epoch == 4:
            self._line.up()
        self._tracker.epoch(record)
        self.waited.append(self._spool.exists())


def test_a_training_goes_on_without_the_server_and_every_epoch_is_there_once(
    line: Line, history, strong, tmp_path: Path, caplog
):
    caplog.set_level(logging.INFO, "tasks.register")
    config, spool = longer(strong.config), tmp_path / "metrics.jsonl"
    cache = cache_folder(config.output.cache)
    backbone = load_pretrained(config, strong.prepared.classes, None, cache)
    with open_run(config) as tracker:
        tracker.keep_in(spool)
        watcher = Cutting(tracker, line, spool)
        (tmp_path / "run").mkdir()
        model = finetune(config, strong.prepared, backbone, tmp_path / "run", watcher)
    assert watcher.waited == [False, True, True, False]
    lines = read_history(model.history)
    assert len(lines) == 4
    assert history(tracker.run_id) == expected(*lines)
    assert line.sent.count(POINT) == 4
    assert caplog.text.count("epoch 2 is not tracked yet, and waits") == 1
    assert "epoch 3 is not tracked" not in caplog.text
    assert "every epoch up to 4 is tracked" in caplog.text


def longer(config: RunConfig) -> RunConfig:
    training = config.training.model_copy(update={"epochs": 4})
    return config.model_copy(update={"training": training})


def test_what_was_taken_and_not_answered_is_not_sent_again(line: Line, history, strong):
    """The server's own key (name, step, time, value) is not what this rests on."""
    second = replace(RECORD, epoch=2, val_loss=1.0)
    with open_run(strong.config) as tracker:
        line.lose(POINT)
        tracker.epoch(RECORD)
        assert history(tracker.run_id) == expected(RECORD)  # it came, and nobody knows
        tracker.epoch(second)
    assert history(tracker.run_id) == expected(RECORD, second)
    assert line.sent.count(POINT) == 2


def test_a_server_that_keeps_silent_holds_no_training_up(
    mlflow_server, line: Line, history, strong, monkeypatch
):
    second = replace(RECORD, epoch=2)
    with open_run(strong.config) as tracker:
        with monkeypatch.context() as patch:
            patch.setattr(delivery, "QUICK", 0.5)
            patch.setattr(delivery, "SPARED", 20)
            os.killpg(mlflow_server.pid, signal.SIGSTOP)
            begun = time.monotonic()
            tracker.epoch(RECORD)  # which the server reads when it goes on
            tracker.epoch(second)  # too early for another try
            took, tries = time.monotonic() - begun, line.sent.count(POINT)
            os.killpg(mlflow_server.pid, signal.SIGCONT)
        assert (0.5 <= took < 4, tries) == (True, 1)
    assert history(tracker.run_id) == expected(RECORD, second)


def test_a_killed_run_delivers_when_it_is_resumed(line: Line, history, strong, tmp_path: Path):
    spool, second = tmp_path / "metrics.jsonl", replace(RECORD, epoch=2, val_loss=1.0)
    with suppress(KeyboardInterrupt), resumable_run(strong.config, "t", False, spool) as tracker:
        line.lose(POINT)
        tracker.epoch(RECORD)
        line.down()
        tracker.epoch(second)
        left = spool.read_bytes()
        raise KeyboardInterrupt
    spool.write_bytes(left + b'\n["val_loss", 1.')  # as if killed in the third epoch
    line.up()
    third = replace(RECORD, epoch=3)
    with resumable_run(strong.config, "t", True, spool) as again:
        again.epoch(replace(second, seconds=9.0))  # the checkpoint was an older one
        again.epoch(third)
    assert again.run_id == tracker.run_id
    assert history(again.run_id) == expected(RECORD, second, third)
    assert line.sent.count(POINT) == 3
    assert not spool.exists()


def test_at_the_end_a_server_that_is_away_is_waited_for(line: Line, monkeypatch, caplog):
    monkeypatch.setattr(wire, "PAUSE", 0.1)
    line.down()
    back = threading.Timer(0.5, line.up)
    back.start()
    wire.wait_for_server()
    back.join()
    assert caplog.text.count("Waiting for it, 180 s at most.") == 1
