"""What came of a flow run on a worker, in the words and the exit code of ``graft run``.

The worker's process notes them as labels of the flow run: what Prefect itself keeps of an error is
a sentence of its own around it, and of a full disk or a lost server only the library's words.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flows.failures import describe
from tasks.errors import ConfigError, GraftError, ResourceError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

KIND, CODE, WORDS = "graft.failure", "graft.exit_code", "graft.message"
CANCELLED = 143  # as SIGTERM, by which a worker cancels a run

log = logging.getLogger(__name__)


def note_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Note on a deployment's flow run what its error says: for ``on_failure`` of a flow."""
    if flow_run.deployment_id is None:  # whoever typed graft run is told by it
        return
    error = state.result(raise_on_failure=False)
    if not isinstance(error, BaseException):
        return
    from prefect.client.orchestration import get_client

    failure = describe(error)
    labels: dict[str, bool | int | float | str] = {
        KIND: failure.kind,
        CODE: failure.exit_code,
        WORDS: failure.message,
    }
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, labels)


def problem_of(run: FlowRun) -> GraftError | None:
    """Return what a finished flow run came to as an error to tell; None where it went well."""
    state = run.state
    if state is None or state.is_completed():
        return None
    labels = run.labels
    if WORDS in labels:
        return _problem(str(labels[KIND]), str(labels[WORDS]), int(labels[CODE]))
    words = " ".join((state.message or "it does not say why").split())[:300]
    if state.is_cancelled():
        return _problem("Cancelled", f"The run {run.name} was cancelled: {words}", CANCELLED)
    advice = f"See its worker's log, or prefect flow-run logs {run.id}."
    if state.is_crashed():
        dead = f"The run {run.name} crashed, its process was killed or lost: {words}\n{advice}"
        return _problem("Crashed", dead, ResourceError.exit_code)
    code = ConfigError.exit_code if "Validation of flow parameters" in words else 1
    return _problem("Failed", f"The run {run.name} failed: {words}\n{advice}", code)


def _problem(kind: str, words: str, code: int) -> GraftError:
    """Return an error that is described as the one on the worker was."""
    made: type[GraftError] = type(kind, (GraftError,), {"exit_code": code})
    return made(words)
