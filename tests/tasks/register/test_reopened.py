"""An MLflow run that was left goes on: as this process's, with what it has, and what differs."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks import retry
from tasks.config import OutputConfig, RunConfig
from tasks.errors import TrackingError
from tasks.finetune.progress import EpochRecord
from tasks.register.facts import run_tags
from tasks.register.processes import FLOW_RUN, FLOW_RUN_TAG
from tasks.register.reopened import resumable_run
from tests.tasks.register.conftest import colour_config

RECORD = EpochRecord(1, 2, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return colour_config(tmp_path, 0.05)


@pytest.fixture
def left(store, config, monkeypatch) -> str:
    """Return the id of a run of a worker's that was stopped after two epochs."""
    monkeypatch.setenv(FLOW_RUN, "of-a-worker")
    with suppress(KeyboardInterrupt), resumable_run(config, "t", False) as tracker:
        tracker.epoch(RECORD)
        tracker.epoch(replace(RECORD, epoch=2))
        raise KeyboardInterrupt
    monkeypatch.delenv(FLOW_RUN)
    for key in run_tags():
        store.set_tag(tracker.run_id, key, "of another")
    return tracker.run_id


def test_it_goes_on_as_this_process_with_its_own_parameters(
    store, config, left, prepared, tmp_path: Path, caplog
):
    """``output`` may be another: MLflow takes no second value of a parameter."""
    with resumable_run(config, "u", False):
        pass  # a later one of the same experiment
    other = config.model_copy(update={"output": OutputConfig(cache=tmp_path / "other")})
    with resumable_run(other, "t", True) as tracker:
        assert tracker.run_id == left
        tracker.datasets(prepared)
        run = store.get_run(left)
        assert tracker.experiment_id == run.info.experiment_id
        assert run.info.status == "RUNNING"
        assert run.data.params["output.cache"] == str(config.output.cache)
        assert run_tags().items() <= run.data.tags.items()
        assert not {FLOW_RUN_TAG, "graft.error"} & run.data.tags.keys()
    run = store.get_run(left)
    assert run.info.status == "FINISHED"
    assert run.data.tags["graft.token"] == "t"
    assert len(run.inputs.dataset_inputs) == 3
    points = store.get_metric_history(left, "system/cpu_utilization_percentage")
    assert [point.step for point in points] == [0, 1]  # of the machine, after those before
    assert caplog.messages == []
    with resumable_run(config, "t", False) as anew:
        assert anew.run_id != left


def test_an_epoch_is_there_twice_only_if_it_came_out_otherwise(store, config, left):
    again = replace(RECORD, seconds=9.0, images_per_second=1.0)
    with resumable_run(config, "t", True) as tracker:
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


def test_where_no_such_run_is_known_a_new_one_is_opened(store, config, caplog):
    with resumable_run(config, "t", True) as tracker:
        pass
    assert store.get_run(tracker.run_id).data.tags["graft.token"] == "t"
    said = [(record.name, record.getMessage()) for record in caplog.records]
    words = "the tracking server does not know the run: a new one is opened in MLflow"
    assert said == [("tasks.register.reopened", words)]


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.usefixtures("left")
def test_metrics_that_wait_in_a_file_are_sent(store, config, tmp_path: Path, resumed: bool):
    spool = tmp_path / "metrics.jsonl"
    spool.write_text('["val_loss", 0.5, 1700000000000, 7]\n')
    with resumable_run(config, "t", resumed, spool) as tracker:
        pass
    history = store.get_metric_history(tracker.run_id, "val_loss")
    assert (7, 0.5) in [(point.step, point.value) for point in history]
    assert not spool.exists()


@pytest.mark.parametrize(
    ("fault", "doing"),
    [
        ("DROP TABLE tags", "looking for the run to resume"),
        (
            "CREATE TRIGGER full BEFORE UPDATE ON tags BEGIN SELECT RAISE(ABORT, 'no'); END",
            "going on in the run",
        ),
    ],
)
@pytest.mark.usefixtures("left")
def test_what_failed_is_said(store: MlflowClient, config, monkeypatch, fault: str, doing: str):
    monkeypatch.setattr(retry, "RETRY_DELAYS", [])
    with closing(sqlite3.connect(store.tracking_uri.removeprefix("sqlite:///"))) as database:
        database.execute(fault)
        database.commit()
    with pytest.raises(TrackingError, match=f"MLflow failed while {doing}: "):
        resumable_run(config, "t", True).__enter__()
