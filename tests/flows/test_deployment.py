"""The deployments: a real server and worker, `prefect deploy --all`, and a run of digits."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.config import RunConfig
from tasks.configfile import load_config

REPOSITORY = Path(__file__).parents[2]
PREFECT = Path(sys.executable).parent / "prefect"
DEPLOYMENTS = {
    deployment["name"]: deployment
    for deployment in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
}


@pytest.mark.parametrize(("name", "config"), [("digits", "digits"), ("folder", "image_folder")])
def test_parameters_are_those_of_the_config(name: str, config: str):
    given = RunConfig.model_validate(DEPLOYMENTS[name]["parameters"]["config"])
    assert given == load_config(REPOSITORY / "configs" / f"{config}.yaml")


def test_deployments_are_described_scheduled_and_portable():
    assert set(DEPLOYMENTS) == {"digits", "folder", "approval"}
    schedules = []
    for deployment in DEPLOYMENTS.values():
        assert deployment["description"]
        assert "graft" in deployment["tags"]
        flow = "approval" if deployment["name"] == "approval" else "transfer"
        assert deployment["entrypoint"] == f"flows/{flow}.py:{flow}"
        assert deployment["work_pool"]["name"] == "graft"
        schedules += deployment["schedules"]
    assert [schedule["active"] for schedule in schedules] == [False]
    assert ": /" not in (REPOSITORY / "prefect.yaml").read_text()


@dataclass
class Site:
    """A Prefect server with a home of its own, and a folder that runs write into."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

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
        }

    def start(self, *arguments: str) -> None:
        """Start a Prefect command in a process group that ``stop`` ends."""
        with (self.folder / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [PREFECT, *arguments],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            [PREFECT, "--no-prompt", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        logs = "".join(path.read_text()[-4000:] for path in self.folder.glob("*.log"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return done.stdout + done.stderr

    def ask(self, path: str, **filters: object) -> list[dict]:
        return self.post(f"{path}/filter", filters)

    def post(self, path: str, content: object) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def stop(self) -> None:
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Site(tmp_path, port)
    made.start("server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
    try:
        _wait_for(made)
        yield made
    finally:
        made.stop()


def _wait_for(site: Site) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{site.url}/health"):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail((site.folder / "server.log").read_text())


@pytest.mark.slow
def test_a_worker_runs_the_digits_deployment(site: Site):
    site.call("work-pool", "create", "graft", "--type", "process")
    site.call("deploy", "--all")
    site.start("worker", "start", "--pool", "graft", "--type", "process")
    # epochs and folder alone differ from the deployment, to be quick and to leave no run behind
    config = DEPLOYMENTS["digits"]["parameters"]["config"]
    config["training"]["epochs"] = 1
    config["promotion"]["approval"] = True
    config["output"]["folder"] = str(site.folder / "runs")
    output = site.call(
        *("deployment", "run", "transfer/digits", "--watch"),
        *("--params", json.dumps({"config": config})),
    )
    assert "Completed" in output
    runs = {run["name"]: run for run in site.ask("flow_runs")}
    assert runs.keys() == {"digits: graft_tiny, full", "approve models:/digits/1"}
    assert runs["digits: graft_tiny, full"]["state_type"] == "COMPLETED"
    assert {artifact["key"] for artifact in site.ask("artifacts")} >= {"report", "classes"}
    with sqlite3.connect(site.folder / "mlflow.db") as database:
        versions = database.execute("select name, version from model_versions").fetchall()
    assert versions == [("digits", 1)]
    assert (site.folder / "runs").is_dir()
    messages = [entry["message"] for entry in site.ask("logs", limit=200)]
    assert any(message.startswith("epoch 1/1") for message in messages), messages
    _approve(site, runs["approve models:/digits/1"]["id"])


def _approve(site: Site, run_id: str) -> None:
    """Resume the flow run that asks, as the form in Prefect's pages does."""
    _wait_until(site, run_id, "PAUSED")
    assert _champions(site) == []
    bad = {"run_input": {"approve": "perhaps"}}
    assert site.post(f"flow_runs/{run_id}/resume", bad)["status"] == "REJECT"
    answer = {"run_input": {"approve": True, "reason": "looked at the errors"}}
    assert site.post(f"flow_runs/{run_id}/resume", answer)["status"] == "ACCEPT"
    _wait_until(site, run_id, "COMPLETED")
    assert _champions(site) == [("digits", 1)]
    with sqlite3.connect(site.folder / "mlflow.db") as database:
        events = database.execute("select value from registered_model_tags").fetchall()
    assert any("looked at the errors" in value for (value,) in events)


def _champions(site: Site) -> list[tuple[str, int]]:
    with sqlite3.connect(site.folder / "mlflow.db") as database:
        return database.execute(
            "select name, version from registered_model_aliases where alias = 'champion'"
        ).fetchall()


def _wait_until(site: Site, run_id: str, state: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        (run,) = site.ask("flow_runs", flow_runs={"id": {"any_": [run_id]}})
        if run["state_type"] == state:
            return
        assert run["state_type"] not in ("FAILED", "CRASHED"), run
        time.sleep(0.5)
    pytest.fail(f"{run['state_name']}\n{(site.folder / 'worker.log').read_text()[-4000:]}")
