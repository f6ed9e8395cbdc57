"""``graft ui``: MLflow's pages, and not a process more than they need."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_pages_answer_when_their_address_is_shown_and_end_with_graft(
    workspace: Path, listening, number: int, code: int
):
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "ui", "--port", str(port), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = json.loads(process.stdout.readline())["address"]
            assert address == f"http://127.0.0.1:{port}"
            assert "MLflow" in urllib.request.urlopen(address, timeout=30).read().decode()
            children = psutil.Process(process.pid).children(recursive=True)
            words = [" ".join(child.cmdline()) for child in children]
            assert not [line for line in words if "job" in line or "huey" in line]
            assert len(children) == 2  # mlflow and its one worker
            assert listening(process.pid) == {"127.0.0.1"}
        finally:
            process.send_signal(number)
        assert process.wait(30) == code
    assert not [child for child in children if child.is_running()]


def test_a_port_that_is_taken_is_said(workspace: Path, graft):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = graft("ui", "--port", str(port))
    assert result.code == 2
    assert str(port) in result.message
    assert len(result.message.splitlines()) == 2
