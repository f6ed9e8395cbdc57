"""Runs left RUNNING are closed, and one that ended meanwhile stays as it ended."""

from __future__ import annotations

import subprocess

from mlflow import MlflowClient

from tasks.register.nested import COMPARISON
from tasks.register.open_runs import close_open, find_over
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

    def over(*ended: str) -> dict[str, str]:
        found = find_over(lambda flow_run: "ended" if flow_run in ended else None)
        return {run.run_id: why for run, why in found}

    gone, here = {PROCESS_TAG: ended_process()}, {PROCESS_TAG: process_tags()[PROCESS_TAG]}
    joined, lost = gone | {FLOW_RUN_TAG: "last"}, "its process is gone"
    search = opened(joined | {SEARCH: "s"})
    of_the_gone = opened(joined | trial_tags(search, 1))
    both = {search: lost, of_the_gone: lost}
    assert over() == both
    same = opened(here | {FLOW_RUN_TAG: "last"} | trial_tags(search, 2))
    assert over() == both  # that one ends with the flow run of the search
    assert over("last") == both | {same: "ended"}
    other = opened(here | {FLOW_RUN_TAG: "other"} | trial_tags(search, 3))
    assert over() == over("next") == {of_the_gone: lost}
    assert over("other") == both | {other: "ended"}  # at once, not when it is asked again
    typed = opened(here | trial_tags(search, 4))  # by hand, without a flow run that is known
    assert over("other") == {of_the_gone: lost, other: "ended"}
    for run_id in (other, typed):
        store.set_terminated(run_id, "FINISHED")
    assert over() == both
    comparison = opened(gone | {COMPARISON: "c"})  # of one process: what it left open is over
    opened(here | trial_tags(comparison, 1))
    assert over() == both | {comparison: lost}


def ended_process() -> str:
    place, _, _ = process_tags()[PROCESS_TAG].rsplit(" ", 2)
    with subprocess.Popen(["true"]) as process:
        pass
    return f"{place} {process.pid} ticks:0"
