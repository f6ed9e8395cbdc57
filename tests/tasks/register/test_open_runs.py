"""Runs left RUNNING are closed, and one that ended meanwhile stays as it ended."""

from __future__ import annotations

import subprocess

from mlflow import MlflowClient

from tasks.register.nested import COMPARISON
from tasks.register.open_runs import OpenRun, close_open, find_open
from tasks.register.processes import FLOW_RUN_TAG, PROCESS_TAG, process_tags
from tasks.register.searches import SEARCH, trial_tags


def test_a_run_that_ended_since_it_was_found_stays_as_it_ended(store: MlflowClient):
    left, ended = (store.create_run("0").info.run_id for _ in range(2))
    store.set_terminated(ended, "FINISHED")
    assert [close_open(run, "its process is gone") for run in (left, ended)] == [True, False]
    runs = [store.get_run(run) for run in (left, ended)]
    assert [run.info.status for run in runs] == ["KILLED", "FINISHED"]
    assert [run.data.tags.get("graft.error") for run in runs] == ["its process is gone", None]


def test_a_search_goes_on_while_another_process_has_a_trial_of_it(store: MlflowClient):
    def opened(tags: dict[str, str]) -> str:
        return str(store.create_run("0", tags=tags).info.run_id)

    def found(run_id: str) -> OpenRun:
        (one,) = (run for run in find_open() if run.run_id == run_id)
        return one

    gone, here = {PROCESS_TAG: ended_process()}, {PROCESS_TAG: process_tags()[PROCESS_TAG]}
    joined = gone | {FLOW_RUN_TAG: "last"}
    search = opened(joined | {SEARCH: "s"})
    assert found(search).process_is_gone
    of_the_gone = opened(joined | trial_tags(search, 1))
    opened(here | {FLOW_RUN_TAG: "last"} | trial_tags(search, 2))  # ends with its flow run
    assert found(search).process_is_gone
    other = opened(here | trial_tags(search, 3))
    assert (found(search).process_is_gone, found(search).flow_run) == (False, None)
    assert found(of_the_gone).process_is_gone
    store.set_terminated(other, "FINISHED")
    assert (found(search).process_is_gone, found(search).flow_run) == (True, "last")
    comparison = opened(gone | {COMPARISON: "c"})  # of one process: what it left open is over
    opened(here | trial_tags(comparison, 1))
    assert found(comparison).process_is_gone


def ended_process() -> str:
    place, _, _ = process_tags()[PROCESS_TAG].rsplit(" ", 2)
    with subprocess.Popen(["true"]) as process:
        pass
    return f"{place} {process.pid} ticks:0"
