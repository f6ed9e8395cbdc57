"""Which failures another try may mend; the rooms' Prefect tasks share this."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tasks.errors import TransientDataError, TransientTrackingError, TransientWeightsError

PASSING = (TransientDataError, TransientTrackingError, TransientWeightsError)
RETRIES = 3
RETRY_DELAYS = [2.0, 10.0, 30.0]  # seconds before each further try

Given = ParamSpec("Given")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def may_pass(_task: object, _run: object, state: Any) -> bool:  # noqa: ANN401 - Prefect's State
    """Say whether a failed task run is worth another try; a wrong digest, say, is not."""
    return isinstance(state.result(raise_on_failure=False), PASSING)


def with_retries(
    call: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """Return ``call(*args, **kwargs)``, tried as often as a room's task: for calls outside tasks.

    Raises what ``call`` raises, the last time or when no other try would help.
    """
    for delay in RETRY_DELAYS:
        try:
            return call(*args, **kwargs)
        except PASSING as error:
            log.warning("%s Trying again in %g s.", str(error).partition("\n")[0], delay)
        time.sleep(delay)
    return call(*args, **kwargs)
