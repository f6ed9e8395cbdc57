"""Which failures another try may mend; the rooms' Prefect tasks share this."""

from __future__ import annotations

from typing import Any

from tasks.errors import TransientDataError, TransientTrackingError, TransientWeightsError

PASSING = (TransientDataError, TransientTrackingError, TransientWeightsError)
RETRIES = 3
RETRY_DELAYS = [2.0, 10.0, 30.0]  # seconds before each further try


def may_pass(_task: object, _run: object, state: Any) -> bool:  # noqa: ANN401 - Prefect's State
    """Say whether a failed task run is worth another try; a wrong digest, say, is not."""
    return isinstance(state.result(raise_on_failure=False), PASSING)
