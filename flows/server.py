"""A Prefect server of one command's own, for users who run none.

Prefect's built-in ephemeral server starts only once a flow does, which adds its start (6 s on 2
cores) to every run. This one starts in a process beside the imports of torch and MLflow, on a
socket that is open from the first moment. Its state is kept in mlruns/prefect, so that neither a
broken nor a locked ~/.prefect stops a run.
"""

from __future__ import annotations

import atexit
import fcntl
import http.client
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from flows.store import lay_store
from tasks.artifacts import disk_errors
from tasks.errors import ResourceError, TrackingError

log = logging.getLogger(__name__)

STARTUP_SECONDS = 120.0  # the first start on a machine creates the database
KNOCK_SECONDS = 2.0  # a server that has ended leaves who knocks at our own socket waiting
RESTARTS = 3  # of a server that ends before its run does
RETRIES = 6  # of a request, after 2, 4, 8, … s: 126 s in all, a fifth more or less


class LocalServer:
    """A Prefect server in a child process; it ends when this process does, however that ends."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with disk_errors(str(home)):
            home.mkdir(parents=True, exist_ok=True)
            self._lock = (home / "starting.lock").open("a")
            self._log = (home / "server.log").open("a")
        self._starting, self._stopping = True, threading.Lock()
        # two servers must not create one database at the same time
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        lay_store(home)
        # open until the end, so that who connects while a server begins again waits for it
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._process = self._spawn()
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        """Return the address for ``PREFECT_API_URL``."""
        return f"http://127.0.0.1:{self.port}/api"

    def _spawn(self) -> subprocess.Popen[bytes]:
        listener = self._listener.fileno()
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "flows.server", str(listener)],
            stdin=subprocess.PIPE,  # closes with this process, which tells the child to stop
            stdout=self._log,
            stderr=self._log,
            pass_fds=[listener],
            start_new_session=True,  # Ctrl-C is for the run, which still reports to the server
            env={**os.environ, "PREFECT_HOME": str(self.home), "PREFECT_UI_ENABLED": "false"},
        )

    def wait(self) -> None:
        """Return when the server answers; raises ``ResourceError`` when it does not start."""
        if not self._starting:
            return
        deadline = time.monotonic() + STARTUP_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ResourceError(
                    f"The local Prefect server did not start; see {self.home / 'server.log'}.\n"
                    f"Remove {self.home} to start afresh, or name a server by PREFECT_API_URL."
                )
            time.sleep(0.05)
        self._starting = False
        self._lock.close()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """Begin a server that was killed again, on its socket and database, a few times."""
        for _ in range(RESTARTS):
            self._process.wait()
            with self._stopping:
                if self._listener.fileno() < 0:
                    return
                log.warning("the local Prefect server was lost: it begins again")
                self._process = self._spawn()
        self._process.wait()
        self._listener.close()  # or who connects would wait in vain

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=KNOCK_SECONDS)
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """End the server; safe to call again."""
        self._lock.close()
        with self._stopping:
            self._listener.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def start_server() -> LocalServer | None:
    """Start a server, or return None where the user's settings name one.

    Must run before prefect is imported: it decides which PREFECT_HOME prefect reads.
    """
    if server_is_named():
        return None
    home = Path(os.environ.get("PREFECT_HOME") or "mlruns/prefect").absolute()
    for name in ("PREFECT_PROFILES_PATH", "PREFECT_PROFILE"):
        os.environ.pop(name, None)
    os.environ["PREFECT_HOME"] = str(home)
    return _server(home)


def server_is_named() -> bool:
    """Say whether the user's settings name a Prefect server."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    return _profile_names_server(Path(home).expanduser())


@cache
def _server(home: Path) -> LocalServer:
    """Return this process's server for ``home``: one is enough for all its runs."""
    return LocalServer(home)


def _profile_names_server(home: Path) -> bool:
    """Say whether the active profile sets PREFECT_API_URL; an unreadable one is reported."""
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        settings = tomllib.loads(path.read_text())
        active = os.environ.get("PREFECT_PROFILE") or settings.get("active")
        return "PREFECT_API_URL" in settings.get("profiles", {}).get(active, {})
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s is not read (%s); going on with a server of our own", path, error)
        return False


@contextmanager
def using(server: LocalServer | None) -> Iterator[None]:
    """Send the block's flow runs to ``server``; for None where Prefect's settings say.

    Raises ``ResourceError`` when ``server`` does not start, ``TrackingError`` when the one that
    the user named does not answer.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    from flows.console import hide_prefect_lines

    hide_prefect_lines()
    if server is None:
        _check_named_server()
        # Prefect's five bear a server that is away for a minute only just, or not
        with temporary_settings(set_defaults={PREFECT_CLIENT_MAX_RETRIES: RETRIES}):
            yield
        return
    server.wait()
    settings = {
        PREFECT_API_URL: server.url,
        # heartbeats tell a watching server that a worker died; nobody watches here, and ending
        # them takes a second
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        # one that is lost is there again in seconds, or never: waiting for it, call after call,
        # took five minutes
        PREFECT_CLIENT_MAX_RETRIES: 2,
    }
    with temporary_settings(settings):
        yield


@contextmanager
def named_server() -> Iterator[None]:
    """Speak to the server that the user's settings name; raises ``TrackingError`` without one."""
    if not server_is_named():
        raise TrackingError(
            "This needs a Prefect server, and PREFECT_API_URL names none.\n"
            "Type prefect server start, and export PREFECT_API_URL=http://127.0.0.1:4200/api."
        )
    with using(None):
        yield


def _check_named_server() -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
        if fault is not None:
            raise TrackingError(
                f"The Prefect server at {client.api_url} does not answer.\n"
                "Start it, or unset PREFECT_API_URL to go on without one."
            ) from fault


def serve(listener: int) -> None:
    """Serve Prefect's API on an open socket until standard input closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error")
    server = uvicorn.Server(config)

    def stop_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    with socket.socket(fileno=listener) as bound:
        server.run(sockets=[bound])
    os._exit(0)  # all is stored; taking the interpreter apart would keep graft waiting for 2 s


if __name__ == "__main__":
    serve(int(sys.argv[1]))
