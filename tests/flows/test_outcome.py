"""What came of a run on a worker, told as here. A real worker's runs are in deployments/."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, State

from flows.failures import describe
from flows.outcome import CODE, KIND, WORDS, problem_of


def run_in(state: State, **labels: str | int) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="a run", state=state, labels=labels)


def test_a_run_that_went_well_has_no_problem():
    assert problem_of(run_in(Completed())) is None


def test_labels_say_what_the_worker_would_have_said_here():
    labels = {KIND: "WeightsError", WORDS: "Bad weights.\nGet others.", CODE: 4}
    problem = problem_of(run_in(Failed(message="Prefect's words"), **labels))
    failure = describe(problem)
    assert (failure.kind, failure.message, failure.exit_code) == (
        "WeightsError",
        "Bad weights.\nGet others.",
        4,
    )


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (Crashed(message="status code -9"), 8, "a run crashed, its process was killed or lost: s"),
        (Cancelled(message="by hand"), 143, "a run was cancelled: by hand"),
        (Failed(message="No module"), 1, "a run failed: No module"),
        (Failed(message="Validation of flow parameters failed"), 2, "Validation"),
    ],
)
def test_what_no_label_explains_is_told_by_its_state(state: State, code: int, words: str):
    failure = describe(problem_of(run_in(state)))
    assert (failure.exit_code, failure.message.count("\n") < 2) == (code, True)
    assert words in failure.message
