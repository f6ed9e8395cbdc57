"""A real Prefect server with a worker, for tests of what is deployed on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from flows.store import lay_store

REPOSITORY = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    deployment["name"]: deployment
    for deployment in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
}
BUSY_SECONDS = 60  # the server's sqlite is another's for so long at most
RUN_SECONDS = 240
OF_FLOWS, LAST = "prefect.flow_runs", "Finished in state"  # how Prefect ends a flow run's log
# of what is scored, where a test is not about that
LEAST = {"bootstrap": 0, "latency_runs": 0, "explained_images": 0}


@dataclass
class Site:
    """A Prefect server with a home of its own, and a folder that runs write into."""

    folder: Path
    port: int
    extra: dict[str, str] = field(default_factory=dict)  # of the environment
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def runs(self) -> str:
        """Where runs write to: a value for config.output.folder."""
        return str(self.folder / "runs")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "GRAFT_CACHE": str(self.folder / "cache"),
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "PWD": str(self.folder),  # of elsewhere, as a program's that changed its folder is
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            **self.extra,
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a Prefect command in a process group that ``stop`` ends."""
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [BIN / "prefect", *arguments],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_worker(self, pool: str = "graft") -> subprocess.Popen[bytes]:
        return self.start("worker", "start", "--pool", pool, "--type", "process")

    def call(self, *arguments: str, program: str = "prefect") -> str:
        """Return what a command said that must end well, ``prefect`` or ``graft``."""
        done = self.attempt(*arguments, program=program)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout + done.stderr

    def attempt(
        self, *arguments: str, program: str = "prefect"
    ) -> subprocess.CompletedProcess[str]:
        quiet = ["--no-prompt"] if program == "prefect" else []
        return subprocess.run(
            [BIN / program, *quiet, *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    @contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Begin a command of graft's and go on; it is killed if it outlives the block."""
        with subprocess.Popen(
            [BIN / "graft", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as begun:
            try:
                yield begun
            finally:
                begun.kill()

    def logs(self) -> str:
        return "".join(path.read_text()[-4000:] for path in self.folder.glob("*.log"))

    def ask(self, path: str, **filters: object) -> list[dict]:
        return self.post(f"{path}/filter", filters)

    def post(self, path: str, content: object) -> Any:
        return self.send("POST", path, content)

    def send(self, method: str, path: str, content: object) -> Any:
        """Send as Prefect's own clients do: a server that is busy is asked again."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            request = urllib.request.Request(
                f"{self.url}/{path}",
                json.dumps(content).encode(),
                {"Content-Type": "application/json"},
                method=method,
            )
            try:
                with urllib.request.urlopen(request) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def run(self, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Run ``flow/deployment`` on the worker to its end and return the flow run."""
        return self.finish(self.begin(deployment, parameters))

    def begin(self, deployment: str, parameters: dict[str, Any], **given: object) -> str:
        """Ask for a run of ``flow/deployment`` and return its id; ``given`` goes with it."""
        identity = self.send("GET", f"deployments/name/{deployment}", None)["id"]
        asked = {"parameters": parameters, **given}
        return str(self.post(f"deployments/{identity}/create_flow_run", asked)["id"])

    def finish(self, run_id: str) -> dict[str, Any]:
        """Wait for a run's good end and the last of its lines, and return the flow run."""
        run = self.wait_until(run_id, "COMPLETED")
        # what it logged comes in batches, some of them after its state
        until(lambda: self._has_said_all(run_id), 60, self.logs)
        return run

    def _has_said_all(self, run_id: str) -> bool:
        about = {"flow_run_id": {"any_": [run_id]}}
        rows = self.ask("logs", logs=about, limit=20, sort="TIMESTAMP_DESC")
        return any(r["name"] == OF_FLOWS and r["message"].startswith(LAST) for r in rows)

    def emit(self, event: str, resource: str, **payload: object) -> None:
        """Tell the server of an event, as Prefect's own clients do."""
        name = resource.rpartition(".")[2]
        about = {"prefect.resource.id": resource, "prefect.resource.name": name}
        now = datetime.now(UTC).isoformat()
        told = {"id": str(uuid4()), "occurred": now, "event": event, "resource": about}
        self.post("events", [told | {"payload": payload}])

    def wait_until(self, run_id: str, *states: str) -> dict[str, Any]:
        """Wait until a flow run is in one of ``states``; one that crashes or fails else is told."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            (run,) = self.ask("flow_runs", flow_runs={"id": {"any_": [run_id]}})
            if run["state_type"] in states:
                return run
            assert run["state_type"] not in ("FAILED", "CRASHED"), self.messages(run_id)
            time.sleep(0.5)
        pytest.fail(f"{run['state_name']}\n{self.logs()}")

    def messages(self, run_id: str) -> list[str]:
        """Return what a flow run logged, oldest first."""
        about = {"flow_run_id": {"any_": [run_id]}}
        rows = self.ask("logs", logs=about, limit=200, sort="TIMESTAMP_ASC")
        return [row["message"] for row in rows]

    def query(self, statement: str) -> list[tuple]:
        """Return the rows of MLflow's database."""
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return database.execute(statement).fetchall()

    def stop(self) -> None:
        for process in reversed(self.processes):
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it has started."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def open_site(folder: Path, extra: dict[str, str] | None = None) -> Iterator[Site]:
    """Give a site whose server answers; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Site(folder, port, extra or {})
    lay_store(folder / "prefect")
    made.start("server", "start", "--port", str(port), "--no-ui")  # at the host that is usual
    try:
        until(lambda: _answers(made.url), 120, lambda: (folder / "server.log").read_text())
        yield made
    finally:
        made.stop()


def until(met: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> None:
    """Wait until ``met`` is true; fail with what ``explain`` says after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            pytest.fail(explain())
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health"):
            return True
    except OSError:
        return False
