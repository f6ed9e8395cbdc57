"""The services of .deploy/compose.yaml as processes of this machine, where no Docker runs.

Commands and environment are the file's own. What stands for a container is stated here: the names
of hosts become this machine and free ports, Postgres comes from the system's packages, and moto's
S3 server takes the place of MinIO.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.deployments.site import stop

REPOSITORY = Path(__file__).parents[3]
DEPLOY = REPOSITORY / ".deploy"
BIN = Path(sys.executable).parent
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SECRETS = {
    "POSTGRES_PASSWORD": "postgres-secret-74c1",
    "MINIO_PASSWORD": "minio-secret-20be",
    "PREFECT_AUTH": "graft:prefect-secret-9d53",
}
HOSTS = ("postgres:5432", "minio:9000", "mlflow:5000", "prefect:4200")
UNKEPT = ("AWS_", "MLFLOW_", "PREFECT_", "GRAFT_", "UV_")


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """Return a compose file with its variables put in, as ``docker compose config`` does."""
    return yaml.safe_load(interpolated((DEPLOY / name).read_text(), SECRETS))


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """Put ``values`` in the place of ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if name in values:
            return values[name]
        if kind != ":-":
            raise KeyError(f"{name}: {rest}")
        return rest

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


@dataclass
class Stack:
    """The services that run, and where each of the file's hosts is on this machine."""

    folder: Path
    services: dict[str, Any] = field(default_factory=lambda: compose()["services"])
    hosts: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Return ``text`` with the file's hosts, and the ports they listen on, as they are here."""
        for host, address in self.hosts.items():
            port = address.rsplit(":", 1)[1]
            listening = host.rsplit(":", 1)[1]
            text = text.replace(host, address).replace(f"--port={listening}", f"--port={port}")
            text = text.replace(f"localhost:{listening}", f"localhost:{port}")
            text = text.replace(f"127.0.0.1:{listening}", f"127.0.0.1:{port}")
        return text.replace("--host=0.0.0.0", "--host=127.0.0.1")

    def environment(self, service: str) -> dict[str, str]:
        """Return what the container of ``service`` would see, on top of this machine's PATH."""
        given = {k: self.here(v) for k, v in self.services[service]["environment"].items()}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(UNKEPT)}
        image = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder / service),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
            "GRAFT_CACHE": str(self.folder / "cache"),
            "NO_COLOR": "1",
            # not the image's: 10 s between two questions are long where a run takes as many
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        }
        return kept | image | given

    def start(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service of our image by its own command."""
        (self.folder / service).mkdir(exist_ok=True)
        command = [self.here(word) for word in self.services[service]["command"]]
        return self.launch(service, command, self.environment(service))

    def launch(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name: str, url: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except OSError:
                ended = self.processes[name].poll() is not None
            if ended or time.monotonic() > deadline:
                pytest.fail(f"{name} does not answer\n{self.log(name)[-4000:]}")
            time.sleep(0.3)


def start_postgres(stack: Stack) -> None:
    """Start Postgres with the file's user, password and databases."""
    port = stack.hosts["postgres:5432"].rsplit(":", 1)[1]
    given = stack.services["postgres"]["environment"]
    data = stack.folder / "postgres"
    data.mkdir()
    password = stack.folder / "postgres_password"
    password.write_text(given["POSTGRES_PASSWORD"])
    as_user: list[str] = []
    if os.getuid() == 0:  # Postgres refuses to run as root
        for path in (data, password):
            shutil.chown(path, "postgres", "postgres")
        for parent in data.parents:
            if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
                parent.chmod(0o755)
        as_user = ["runuser", "-u", "postgres", "--"]
    binaries = POSTGRES[-1]
    account = ("--username", given["POSTGRES_USER"], "--pwfile", password)
    made = subprocess.run(
        [*as_user, binaries / "initdb", "--pgdata", data, *account, "--auth", "scram-sha-256"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert made.returncode == 0, made.stderr
    local = ("-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}")
    command = [*as_user, str(binaries / "postgres"), "-D", str(data), "-p", port, *local]
    stack.launch("postgres", command)
    _run_sql(stack, port, given)


def _run_sql(stack: Stack, port: str, given: Mapping[str, str]) -> None:
    """Run databases.sql once the server answers, as the image does at its first start."""
    login = {"PGPASSWORD": given["POSTGRES_PASSWORD"], "PGUSER": given["POSTGRES_USER"]}
    address = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGDATABASE": "postgres"}
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            [POSTGRES[-1] / "psql", "-v", "ON_ERROR_STOP=1", "-f", DEPLOY / "databases.sql"],
            env={**os.environ, **login, **address},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            pytest.fail(done.stderr + stack.log("postgres"))
        time.sleep(0.3)


def start_store(stack: Stack) -> None:
    """Start the S3 server; it takes some seconds until it answers."""
    port = stack.hosts["minio:9000"].rsplit(":", 1)[1]
    stack.launch("minio", [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", port])


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@contextmanager
def open_stack(folder: Path) -> Iterator[Stack]:
    """Give the file's services, each started as soon as those it depends on are ready."""
    stack = Stack(folder)
    ports = free_ports(len(HOSTS))
    stack.hosts = {h: f"127.0.0.1:{p}" for h, p in zip(HOSTS, ports, strict=True)}
    try:
        start_store(stack)
        start_postgres(stack)
        stack.start("prefect")
        stack.wait_for("minio", f"http://{stack.hosts['minio:9000']}/moto-api/")
        assert stack.start("bucket").wait(120) == 0, stack.log("bucket")
        stack.start("mlflow")
        stack.wait_for("mlflow", f"http://{stack.hosts['mlflow:5000']}/health")
        stack.wait_for("prefect", f"http://{stack.hosts['prefect:4200']}/api/health")
        stack.start("worker")
        yield stack
    finally:
        for name, process in reversed(stack.processes.items()):
            if name == "postgres":
                process.send_signal(signal.SIGINT)
            stop(process)
