"""An MLflow run that was left goes on: as this process's, with what it has, and what differs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.config import OutputConfig
from tasks.finetune.progress import EpochRecord
from tasks.register.processes import FLOW_RUN, FLOW_RUN_TAG, PROCESS_TAG, process_tags
from tasks.register.reopened import resumable_run

RECORD = EpochRecord(1, 2, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)


@pytest.fixture
def left(store, strong, monkeypatch):
    """Return the id of a run of a worker's that was stopped after two epochs."""
    monkeypatch.setenv(FLOW_RUN, "of-a-worker")
    with suppress(KeyboardInterrupt), resumable_run(strong.config, "t", False) as tracker:
        tracker.epoch(RECORD)
        tracker.epoch(replace(RECORD, epoch=2))
        raise KeyboardInterrupt
    monkeypatch.delenv(FLOW_RUN)
    store.set_tag(tracker.run_id, PROCESS_TAG, "of another")
    return tracker.run_id


def test_it_goes_on_as_this_process_with_its_own_parameters(store, strong, left, tmp_path: Path):
    """``output`` may be another: MLflow takes no second value of a parameter."""
    config = strong.config.model_copy(update={"output": OutputConfig(cache=tmp_path / "other")})
    with resumable_run(config, "t", True) as tracker:
        assert tracker.run_id == left
        run = store.get_run(left)
        assert run.info.status == "RUNNING"
        assert run.data.params["output.cache"] == str(strong.config.output.cache)
        assert run.data.tags[PROCESS_TAG] == process_tags()[PROCESS_TAG]
        assert not {FLOW_RUN_TAG, "graft.error"} & run.data.tags.keys()
    assert store.get_run(left).info.status == "FINISHED"


def test_an_epoch_is_there_twice_only_if_it_came_out_otherwise(store, strong, left):
    again = replace(RECORD, seconds=9.0, images_per_second=1.0)
    with resumable_run(strong.config, "t", True) as tracker:
        tracker.epoch(again)
        tracker.epoch(replace(again, epoch=2, val_loss=1.5))
    points = {
        name: [(m.step, m.value) for m in store.get_metric_history(left, name)]
        for name in ("val_loss", "val_accuracy", "seconds")
    }
    assert points["val_loss"] == [(1, 1.25), (2, 1.25), (2, 1.5)]
    assert points["val_accuracy"] == [(1, 0.625), (2, 0.625), (2, 0.625)]
    assert points["seconds"] == [(1, 3.0), (2, 3.0), (2, 9.0)]
    assert store.get_run(left).data.metrics["val_loss"] == 1.5  # what MLflow's pages show
