"""``graft ui``: MLflow's pages, and not a process more than they need."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def started(command: list[str], port: int) -> Iterator[subprocess.Popen[str]]:
    """Start what shows pages, and yield when they answer; how it ends is up to the block."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            address = json.loads(process.stdout.readline())["address"]
            assert address == f"http://127.0.0.1:{port}"
            assert urllib.request.urlopen(address, timeout=30).status == 200
            yield process
        finally:
            process.terminate()


def end(process: subprocess.Popen[str], number: int, code: int, most: int) -> list[str]:
    """Send a signal, and return the commands of the processes that end with it."""
    children = psutil.Process(process.pid).children(recursive=True)
    words = [" ".join(child.cmdline()) for child in children]
    process.send_signal(number)
    assert process.wait(30) == code
    assert len(children) == most
    assert not [child for child in children if child.is_running()]
    return words


def test_the_pages_answer_when_their_address_is_shown_and_end_with_graft(
    workspace: Path, listening
):
    port = free_port()
    with started(["-m", "flows.cli", "ui", "--port", str(port), "--json"], port) as process:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30).read().decode()
        assert "MLflow" in page
        assert listening(process.pid) == {"127.0.0.1"}
        words = end(process, signal.SIGINT, 0, 2)  # mlflow and its one worker
    assert not [line for line in words if "job" in line or "huey" in line]


_OTHER_PAGES = """
import sys
from flows import pages
from flows.cli import main
serve = pages.serve_command
quick = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", sys.argv[1]]
pages.serve_command = lambda _, *rest: serve(quick, *rest)
sys.exit(main(["ui", "--port", sys.argv[1], "--json"]))
"""


def test_sigterm_ends_the_pages_too(workspace: Path):
    """With a server in MLflow's place that is there at once: whose it is makes no difference."""
    port = free_port()
    with started(["-c", _OTHER_PAGES, str(port)], port) as process:
        end(process, signal.SIGTERM, 143, 1)


def test_a_port_that_is_taken_is_said(workspace: Path, graft):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = graft("ui", "--port", str(port))
    assert result.code == 2
    assert str(port) in result.message
    assert len(result.message.splitlines()) == 2
