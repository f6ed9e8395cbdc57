"""Runs in MLflow while a clock is set back: they end after they began, what is later counts."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

from tasks.finetune.progress import EpochRecord
from tasks.register.reopened import resumable_run

RECORD = EpochRecord(1, 2, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)


def test_a_run_that_is_resumed_an_hour_earlier(store, strong, monkeypatch):
    with suppress(KeyboardInterrupt), resumable_run(strong.config, "t", False) as tracker:
        tracker.epoch(RECORD)
        raise KeyboardInterrupt
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() - 3600)
    with resumable_run(strong.config, "t", True) as tracker:
        tracker.epoch(replace(RECORD, val_loss=1.5))
        tracker.epoch(replace(RECORD, epoch=2))
    run = store.get_run(tracker.run_id)
    history = store.get_metric_history(tracker.run_id, "val_loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.timestamp)] == [
        (1, 1.25),
        (1, 1.5),
        (2, 1.25),
    ]
    assert run.info.start_time < run.info.end_time


def test_a_run_says_whether_it_is_repeatable(store, strong):
    with resumable_run(strong.config, "u", False) as tracker:
        tracker.finished(strong.model, strong.report)
    tags = store.get_run(tracker.run_id).data.tags
    assert tags["graft.repeatable"] == "yes"
    assert strong.model.repeatable is not None
    assert tags["graft.machine"] == strong.model.repeatable.machine.model_dump_json()
