"""Only failures that another try may mend are tried again, told by Prefect's own states."""

from __future__ import annotations

import pytest
from prefect.states import Completed, Failed

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
from tasks.retry import RETRIES, RETRY_DELAYS, may_pass


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
