"""Pages served for as long as the user looks at them: MLflow's, and the studio's."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from tasks.errors import ConfigError, TrackingError

HOST = "127.0.0.1"
STOP_SECONDS = 10.0  # for requests under way


def serve_pages(store: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve MLflow's pages of ``store`` as ``serve_command`` does."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    serve_command(command, port, ready, "MLflow takes some seconds to start")


def serve_command(
    command: list[str], port: int, ready: Callable[[str], None], waiting: str
) -> None:
    """Run a server of pages and call ``ready`` with their address once they answer.

    Returns at Ctrl-C, the way to end it; no process outlives the call. Raises ``ConfigError`` for a
    port that is taken, ``TrackingError`` when the server ends by itself.
    """
    _check_port(port)
    with suppress(KeyboardInterrupt), _running(command) as server:
        with Console(stderr=True).status(waiting):
            while server.poll() is None and not _answers(port):
                time.sleep(0.1)
        if server.poll() is None:
            ready(f"http://{HOST}:{port}")
            server.wait()
        raise TrackingError(f"The server ended by itself.\nTry: {' '.join(command)}")


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as a process group of its own, and end the whole of it."""
    # jobs are MLflow's evaluations of language models: nine processes that graft has no use for
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(  # noqa: S603 - our own interpreter, and no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as server:
        try:
            yield server
        finally:
            _end(server)


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the group to stop, and make it stop once its leader is gone or the time is up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):  # macOS's word for a group of zombies
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _check_port(port: int) -> None:
    try:
        with socket.create_server((HOST, port)):
            return
    except OSError as error:
        raise ConfigError(
            f"Port {port} is taken: {error.strerror}.\nName another, for example --port 5001."
        ) from error
