"""When something happened, as MLflow keeps it: in an order that no clock which is set can turn."""

from __future__ import annotations

import time

from mlflow import MlflowClient


def now_after(before: int) -> int:
    """Return the present in ms since 1970, or the ms after ``before``, whichever is later.

    Of two values of a step MLflow shows that with the later time.
    """
    return max(int(time.time() * 1000), before + 1)


def end_run(client: MlflowClient, run_id: str, status: str) -> None:
    """Close a run, not before it began; raises MLflow's exceptions."""
    began = client.get_run(run_id).info.start_time or 0
    client.set_terminated(run_id, status, end_time=now_after(began))
