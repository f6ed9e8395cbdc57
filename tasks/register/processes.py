"""Which process works on an MLflow run: tags by which it is found again, and whether it is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.processes import started, still_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # set where Prefect starts a flow run in a process of its own
PROCESS_TAG, FLOW_RUN_TAG = "graft.process", "graft.flow_run"
ERROR_TAG = "graft.error"  # how the process before ended, which is over once another goes on
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")  # a container has process numbers of its own


def process_tags() -> dict[str, str]:
    """Return the tags by which an open run's process is found again."""
    tags = {PROCESS_TAG: f"{_place()} {os.getpid()} {started(os.getpid())}"}
    flow_run = os.environ.get(FLOW_RUN)
    return tags if flow_run is None else tags | {FLOW_RUN_TAG: flow_run}


def take_over(client: MlflowClient, run_id: str) -> None:
    """Open a run again as this process's, without the tags of the one before and how it ended.

    By those it would look left open, or as if it had failed.
    """
    there, own = client.get_run(run_id).data.tags, process_tags()
    for key, value in own.items():
        client.set_tag(run_id, key, value)
    for key in (FLOW_RUN_TAG, ERROR_TAG):
        if key in there and key not in own:
            client.delete_tag(run_id, key)
    client.update_run(run_id, status="RUNNING")


def is_gone(process: str) -> bool:
    """Say whether a process of this machine, since it was last started, has ended.

    False for one of another machine, boot or container, of which nothing is known here.
    """
    place, number, start = process.rsplit(" ", 2)
    return place == _place() and not still_runs(int(number), start)


def _place() -> str:
    """Name this machine as it is since its start, and this container; other systems by name."""
    try:
        return f"{socket.gethostname()} {_BOOT.read_text().strip()} {_PIDS.readlink()}"
    except OSError:
        import psutil

        return f"{socket.gethostname()} {psutil.boot_time():.0f} -"
