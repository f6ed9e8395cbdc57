"""Runs left RUNNING are closed, and one that ended meanwhile stays as it ended."""

from __future__ import annotations

from mlflow import MlflowClient

from tasks.register.open_runs import close_open


def test_a_run_that_ended_since_it_was_found_stays_as_it_ended(store: MlflowClient):
    left, ended = (store.create_run("0").info.run_id for _ in range(2))
    store.set_terminated(ended, "FINISHED")
    assert [close_open(run, "its process is gone") for run in (left, ended)] == [True, False]
    runs = [store.get_run(run) for run in (left, ended)]
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
    assert [run.data.tags.get("graft.error") for run in runs] == ["its process is gone", None]
