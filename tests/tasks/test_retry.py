"""Only failures that another try may mend are tried again, told by Prefect's own states."""

from __future__ import annotations

import pytest
from prefect.states import Completed, Failed

from tasks import retry
from tasks.errors import (
    DataError,
    GraftError,
    ResourceError,
    TrackingError,
    TransientDataError,
    TransientTrackingError,
    TransientWeightsError,
    WeightsError,
)
from tasks.retry import PASSING, RETRIES, RETRY_DELAYS, may_pass, with_retries


@pytest.mark.parametrize(
    "error", [TransientDataError, TransientTrackingError, TransientWeightsError]
)
def test_what_may_pass(error: type[GraftError]):
    assert may_pass(None, None, Failed(data=error("the network")))


@pytest.mark.parametrize("error", [DataError, WeightsError, TrackingError, ResourceError, OSError])
def test_what_does_not_pass(error: type[Exception]):
    assert not may_pass(None, None, Failed(data=error("a wrong digest")))


def test_what_went_well_is_not_tried_again():
    assert not may_pass(None, None, Completed(data=3))


def test_every_retry_has_its_delay():
    assert len(RETRY_DELAYS) == RETRIES


@pytest.mark.parametrize(
    ("transient", "code"),
    [(TransientDataError, 3), (TransientWeightsError, 4), (TransientTrackingError, 7)],
)
def test_a_fault_that_does_not_pass_ends_in_the_rooms_exit_code(
    transient: type[GraftError], code: int
):
    assert transient.exit_code == code


class Server:
    """Fails a number of times, then answers."""

    def __init__(self, error: type[Exception], failures: int) -> None:
        self.error = error
        self.failures = failures
        self.asked = 0

    def ask(self, question: str, *, loud: bool) -> str:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error("It is away.\nStart it.")
        return question.upper() if loud else question


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("failures", [0, 1, RETRIES, RETRIES + 1])
def test_a_call_outside_a_task_is_tried_as_often_as_a_task(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[GraftError],
    failures: int,
):
    monkeypatch.setattr(retry, "RETRY_DELAYS", [0.0] * RETRIES)
    server = Server(error, failures)
    if failures > RETRIES:
        with pytest.raises(error):
            with_retries(server.ask, "who", loud=True)
    else:
        assert with_retries(server.ask, "who", loud=True) == "WHO"
    assert server.asked == min(failures, RETRIES) + 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["It is away. Trying again in 0 s."] * min(failures, RETRIES)


@pytest.mark.parametrize("error", [TrackingError, DataError, OSError, KeyboardInterrupt])
def test_a_call_that_no_other_try_would_mend_is_made_once(error: type[BaseException]):
    server = Server(error, 1)
    with pytest.raises(error):
        with_retries(server.ask, "who", loud=False)
    assert server.asked == 1
