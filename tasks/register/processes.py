"""Which process works on an MLflow run: tags by which it is found again, and whether it is gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil

FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # set where Prefect starts a flow run in a process of its own
PROCESS_TAG, FLOW_RUN_TAG = "graft.process", "graft.flow_run"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")  # a container has process numbers of its own
_SLACK = 2.0  # seconds; the clock that a start is told by is set now and then


def process_tags() -> dict[str, str]:
    """Return the tags by which an open run's process is found again."""
    tags = {PROCESS_TAG: f"{_place()} {os.getpid()} {psutil.Process().create_time():.2f}"}
    flow_run = os.environ.get(FLOW_RUN)
    return tags if flow_run is None else tags | {FLOW_RUN_TAG: flow_run}


def is_gone(process: str) -> bool:
    """Say whether a process of this machine, since it was last started, has ended.

    False for one of another machine, boot or container, of which nothing is known here.
    """
    place, _, rest = process.rpartition(" ")
    place, _, number = place.rpartition(" ")
    if place != _place():
        return False
    try:
        started: float = psutil.Process(int(number)).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started - float(rest)) > _SLACK  # its number was given to another


def _place() -> str:
    """Name this machine as it is since its start, and this container; other systems by name."""
    try:
        return f"{socket.gethostname()} {_BOOT.read_text().strip()} {_PIDS.readlink()}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f} -"
