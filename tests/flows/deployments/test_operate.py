"""graft deploy, schedule, submit and status, against a real server and real workers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml

from flows.deploying import _make_queue
from flows.notify import block_of, make_automations
from flows.stale_runs import DEFAULT, _set_period
from tasks.download.fetch import fetch
from tasks.errors import DataError
from tests.flows.conftest import Result
from tests.flows.deployments.site import REPOSITORY, RUN_SECONDS, Site, until
from tests.flows.deployments.vault import IN_BLOCK, IN_ENVIRONMENT, Vault

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = pytest.mark.slow

CRON = "0 3 * * 1"
OLD_SCHEMA = {
    "type": "object",
    "properties": {
        "config": {
            "type": "object",
            "properties": {"name": {}, "gone": {}},
            "additionalProperties": False,
        }
    },
}
YEARLY = {"cron": "0 0 1 1 *", "timezone": "UTC"}


@dataclass
class Hook:
    """A web server that keeps what it is sent."""

    port: int
    got: list[dict[str, str]] = field(default_factory=list)

    def wait_for(self, subject: str, *words: str) -> None:
        def came() -> bool:
            bodies = [one["body"] for one in self.got if one["subject"] == subject]
            return any(all(word in body for word in words) for body in bodies)

        until(came, 60, lambda: f"{subject}, {words}: not in {self.got}")


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    """Give the address that a team's notifications go to."""

    class Pages(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    made = Hook(httpd.server_address[1])
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield made
    httpd.shutdown()
    httpd.server_close()


@contextmanager
def client_of(site: Site) -> Iterator[SyncPrefectClient]:
    """Give what graft's functions speak to the site's server with."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: site.url}), get_client(sync_client=True) as client:
        yield client


def typed(site: Site, *arguments: str) -> Result:
    """Run a command of graft's at the site, in this process: one of its own starts for seconds."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_API_URL: site.url}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.chdir(REPOSITORY)
        for name, value in site.environment.items():
            patch.setenv(name, value)
        code = main(list(arguments))
    return Result(code, out.getvalue(), err.getvalue())


def graft(site: Site, *arguments: str) -> dict[str, Any]:
    """Return what a command of graft's that must end well says to machines."""
    done = typed(site, *arguments, "--json")
    assert done.code == 0, done.out + done.err + site.logs()
    answer: dict[str, Any] = json.loads(done.out)
    return answer


def found(site: Site, name: str) -> dict[str, Any]:
    flow, deployment = name.split("/")
    wanted = {"deployments": {"name": {"any_": [deployment]}}, "flows": {"name": {"any_": [flow]}}}
    (one,) = site.ask("deployments", **wanted)
    return one


@pytest.fixture(scope="module")
def deployed_again(site: Site, hook: Hook) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Schedule a config and deploy once more; return both answers and what there was before."""
    from prefect.blocks.system import Secret
    from prefect.blocks.webhook import Webhook

    with client_of(site):
        Webhook(url=f"http://127.0.0.1:{hook.port}/").save("team")
        Secret(value=IN_BLOCK).save("photo-key")
    _made_by_an_earlier_graft(site, "old", {"name": "old"})
    _made_by_an_earlier_graft(site, "older", {"name": "older", "gone": 1})
    cleanup = found(site, "cleanup/cleanup")
    (sundays,) = cleanup["schedules"]
    site.send("PATCH", f"deployments/{cleanup['id']}/schedules/{sundays['id']}", {"active": True})
    of_a_person = [{"schedule": YEARLY, "active": True}]
    site.post(f"deployments/{found(site, 'transfer/folder')['id']}/schedules", of_a_person)
    before = {one["id"]: one for one in site.ask("deployments")}
    config = "configs/digits.yaml"
    timezone = ("--timezone", "Europe/Berlin")
    scheduled = graft(site, "schedule", CRON, config, "training.epochs=20", *timezone)
    return scheduled, graft(site, "deploy", "--notify", "webhook/team"), before


def _made_by_an_earlier_graft(site: Site, name: str, config: dict[str, object]) -> None:
    """Make a deployment as submit did before a config got new keys."""
    old = {
        "flow_id": found(site, "transfer/digits")["flow_id"],
        "name": name,
        "description": "Made by graft submit or graft schedule, as transfer/digits.",
        "tags": ["graft"],
        "path": "/old",
        "entrypoint": "old.py:transfer",
        "parameters": {"config": config},
        "parameter_openapi_schema": OLD_SCHEMA,
        "enforce_parameter_schema": True,
        "work_pool_name": "graft",
        "work_queue_name": "gpu",
    }
    site.post("deployments/", old)


def test_deploying_again_changes_nothing_but_what_is_asked_for(site: Site, deployed_again):
    _, again, before = deployed_again
    after = {one["id"]: one for one in site.ask("deployments")}
    assert after.keys() == before.keys()
    assert {one["id"] for one in again["deployments"]} == before.keys()
    for identity, one in before.items():
        assert after[identity]["parameters"] == one["parameters"]
    limits = {q["name"]: q["concurrency_limit"] for q in site.ask("work_pools/graft/queues")}
    assert limits == {"default": None, "gpu": 2}  # as the fixture site made it
    with client_of(site) as client:
        assert _make_queue(client, "graft", "gpu", 1, 1) == 1
        make_automations(client, block_of(client, "webhook/team"))
    every = (one["name"] for one in site.ask("automations"))  # a trigger of prefect.yaml's as well
    names = sorted(name for name in every if name.startswith("graft: "))
    assert names == sorted(again["automations"])
    assert len(names) == 3


def test_what_people_turned_on_stays_on(site: Site, deployed_again):
    for name, count in (("cleanup/cleanup", 1), ("transfer/folder", 1)):
        schedules = found(site, name)["schedules"]
        assert [one["active"] for one in schedules] == [True] * count
    assert schedules[0]["schedule"]["cron"] == YEARLY["cron"]


def test_a_deployment_that_submit_made_follows_its_pattern(site: Site, deployed_again):
    old, digits = found(site, "transfer/old"), found(site, "transfer/digits")
    assert deployed_again[1]["outdated"] == ["transfer/older"]  # it has a key that is gone
    same = ("path", "entrypoint", "pull_steps", "job_variables", "parameter_openapi_schema")
    assert {key: old[key] for key in same} == {key: digits[key] for key in same}
    assert (old["work_queue_name"], old["parameters"]) == ("gpu", {"config": {"name": "old"}})
    (step,) = digits["pull_steps"]
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(REPOSITORY)


def test_a_scheduled_run_waits_in_the_queue_of_its_config(site: Site, deployed_again):
    done = typed(site, "schedule", CRON, "configs/digits.yaml", "training.device=cuda")
    assert done.code == 2
    assert "name=digits-gpu" in done.err
    graft(site, "schedule", CRON, "configs/digits.yaml", "name=old")  # was in the queue gpu
    old = found(site, "transfer/old")
    assert (old["work_queue_name"], len(old["schedules"])) == ("default", 1)
    graft(site, "schedule", "configs/digits.yaml", "name=old", "--remove")
    assert found(site, "transfer/old")["schedules"] == []


def test_a_run_goes_on_when_its_deployment_is_deleted(site: Site, deployed_again):
    old = found(site, "transfer/old")
    running = {"flow_id": old["flow_id"], "deployment_id": old["id"], "state": {"type": "RUNNING"}}
    run = site.post("flow_runs/", running)["id"]
    site.send("DELETE", f"deployments/{old['id']}", None)
    assert _state(site, run) == "RUNNING"
    with client_of(site) as client:
        orphan = client.read_flow_run(run)
        assert orphan.deployment_id is not None
        assert _set_period(client, orphan) == DEFAULT
    site.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


def test_a_schedule_is_active_with_its_config_and_outlives_a_deployment(site: Site, deployed_again):
    scheduled, *_ = deployed_again
    assert scheduled["deployment"] == "transfer/digits"
    assert [when[11:16] for when in scheduled["next"]] == ["03:00"] * 3
    digits = found(site, "transfer/digits")
    ours, theirs = sorted(digits["schedules"], key=lambda one: one["slug"] != "graft")
    assert (ours["active"], theirs["active"]) == (True, False)
    assert (ours["schedule"]["cron"], ours["schedule"]["timezone"]) == (CRON, "Europe/Berlin")
    assert ours["parameters"]["config"]["training"]["epochs"] == 20
    assert digits["parameters"]["config"]["training"]["epochs"] == 8
    # the server means the same times, and has runs ready for them: it has none with SQLAlchemy 2.1
    until(lambda: len(_coming(site)) == 3, 60, site.logs)
    assert _coming(site) == [datetime.fromisoformat(when) for when in scheduled["next"]]
    graft(site, "schedule", "configs/digits.yaml", "--pause")
    (status,) = (d for d in graft(site, "status")["deployments"] if d["name"] == "transfer/digits")
    assert f"{CRON} (Europe/Berlin), paused" in status["schedules"]
    graft(site, "schedule", "configs/digits.yaml", "--remove")
    (left,) = found(site, "transfer/digits")["schedules"]
    assert (left["schedule"], left["active"]) == (theirs["schedule"], False)


def _coming(site: Site) -> list[datetime]:
    wanted = {"deployments": {"name": {"any_": ["digits"]}}}
    ready = site.ask("flow_runs", flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}}, **wanted)
    return sorted(datetime.fromisoformat(run["expected_start_time"]) for run in ready)


def small(site: Site, name: str, **sections: object) -> Path:
    """Write a config of a run of seconds."""
    config: dict[str, object] = {
        "name": name,
        "data": {"kind": "digits"},
        "preprocess": {"resize": 32, "crop": 32},
        "model": {"architecture": "graft_tiny", "weights": "graft:tiny-cifar10"},
        "training": {"epochs": 1, "batch_size": 64, "threads": 1, "device": "cpu"},
        "evaluation": {"bootstrap": 100, "novelty": False, "explained_images": 0},
        "promotion": {"model": name},
        "output": {"folder": site.runs},
    }
    path = site.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | sections))
    return path


def test_a_secret_is_sent_and_left_nowhere(site: Site, vault: Vault, hook: Hook, deployed_again):
    photos = f"{vault.address('photos.zip')}?key=${{secret:photo-key}}"
    weights = f"{vault.address('tiny.safetensors')}?key=${{secret:weights-key}}"
    model = {"weights": weights, "sha256": vault.sha256("tiny.safetensors")}
    config = small(
        site,
        "sealed",
        data={"kind": "folder", "path": photos, "sha256": vault.sha256("photos.zip")},
        model={"architecture": "graft_tiny", **model},
    )
    done = site.attempt("submit", str(config), program="graft")
    assert done.returncode == 0, done.stdout + done.stderr + site.logs()
    assert vault.given == ["photos.zip", "tiny.safetensors"]
    assert "finetune    epoch 1/1" in done.stderr
    assert "models:/sealed/1" in done.stderr
    hook.wait_for("graft: a new champion", "sealed: Version 1 is champion, the first one.")
    left = {path: path.read_bytes() for path in site.folder.rglob("*") if path.is_file()}
    left[Path("terminal")] = (done.stdout + done.stderr).encode()
    left[Path("hook")] = json.dumps(hook.got).encode()
    names = {path.name for path in left}
    assert {"prefect.db", "mlflow.db", "worker.log", "server.log", "config.yaml"} <= names
    # what is looked for would be found: the secret's name is where its value must not be
    assert any(
        b"${secret:photo-key}" in text for path, text in left.items() if _is(path, "prefect")
    )
    for secret in (IN_BLOCK, IN_ENVIRONMENT):
        assert [path for path, text in left.items() if secret.encode() in text] == []


def _is(path: Path, name: str) -> bool:
    return path.name.startswith(name)


LONG = 100_000  # epochs


@dataclass(frozen=True)
class Left:
    """Runs that nobody follows, and the command that looks at them."""

    healthy: str
    killed: str
    taking_turns: list[str]
    looking: subprocess.Popen[str]


@pytest.fixture(scope="module")
def left(site: Site, deployed_again) -> Iterator[Left]:
    """Leave a healthy run and a killed one, and let graft look at both.

    It looks for longer than a heartbeat takes, 53 s: tests that need none of this come meanwhile.
    """
    healthy = _left_by_ctrl_c(site)
    taking_turns = [_on_gpu_queue(site) for _ in range(2)]
    killed = _killed_with_its_worker(site)
    # 1 s of silence is no sign of anything, and so both are looked at
    with site.beside("status", "--mark-stale", "--after", "1", "--json") as looking:
        yield Left(healthy, killed, taking_turns, looking)


def test_ctrl_c_leaves_a_run_going_and_a_killed_one_says_that_it_runs(site: Site, left: Left):
    assert _state(site, left.healthy) == "RUNNING"
    assert _state(site, left.killed) == "RUNNING"


def _left_by_ctrl_c(site: Site) -> str:
    """Follow a run until it trains, press Ctrl-C, and return the run, which goes on."""
    config = small(site, "long", training={"epochs": LONG, "threads": 1, "device": "cpu"})
    with site.beside("submit", str(config)) as follower:
        assert follower.stderr is not None
        lines = []
        for line in follower.stderr:
            lines.append(line)
            if "epoch 2/" in line:
                break
        follower.send_signal(signal.SIGINT)
        said, _ = follower.communicate(timeout=60)
    assert follower.returncode == 130, lines
    assert "cancel      prefect flow-run cancel " in said
    run = said.split("prefect flow-run cancel ")[1].split()[0]
    assert _state(site, run) == "RUNNING"
    return run


def _killed_with_its_worker(site: Site) -> str:
    """Start a run on a worker of its own, kill both, and return the run, which says it runs."""
    template = site.send("GET", "work_pools/graft", None)["base_job_template"]
    pool = {"name": "doomed", "type": "process", "base_job_template": template}
    site.post("work_pools/", pool)
    long = found(site, "transfer/long")
    copied = ("flow_id", "entrypoint", "path", "pull_steps", "job_variables")
    config = long["parameters"]["config"] | {"name": "doomed"}
    deployment = site.post(
        "deployments/",
        {key: long[key] for key in copied}
        | {"name": "doomed", "work_pool_name": "doomed", "parameters": {"config": config}},
    )
    run = site.post(f"deployments/{deployment['id']}/create_flow_run", {})["id"]
    worker = site.start_worker("doomed")
    until(lambda: any("epoch 1/" in m for m in site.messages(run)), RUN_SECONDS, site.logs)
    family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    worker.wait()
    psutil.wait_procs(family, timeout=20)
    assert _state(site, run) == "RUNNING"
    return str(run)


def _on_gpu_queue(site: Site) -> str:
    """Start a short run in the queue gpu; a CPU computes it, the queue does not know."""
    config = found(site, "transfer/long")["parameters"]["config"]
    config["name"] = config["promotion"]["model"] = "short"
    config["training"]["epochs"] = 1
    asked = {"parameters": {"config": config}, "work_queue_name": "gpu"}
    identity = found(site, "transfer/long")["id"]
    return str(site.post(f"deployments/{identity}/create_flow_run", asked)["id"])


def _run(site: Site, run: str) -> dict[str, Any]:
    (one,) = site.ask("flow_runs", flow_runs={"id": {"any_": [run]}})
    return one


def _state(site: Site, run: str) -> str:
    return str(_run(site, run)["state_type"])


def _span(site: Site, run: str) -> tuple[str, str]:
    one = _run(site, run)
    return one["start_time"], one["end_time"]


def test_a_run_that_fails_on_a_worker_ends_as_it_would_here(
    site: Site, hook: Hook, tmp_path: Path, deployed_again
):
    config = small(site, "failing", data={"kind": "folder", "path": str(tmp_path / "nowhere")})
    done = site.attempt("submit", str(config), program="graft")
    with pytest.raises(DataError) as here:
        fetch(str(tmp_path / "nowhere"), None, tmp_path, 1.0, DataError)
    said = f"graft: {here.value}".partition("starts at")[0]  # runs start in graft's folder
    assert said + f"starts at {REPOSITORY}.\n" in done.stderr
    assert done.returncode == DataError.exit_code
    hook.wait_for("graft: a run failed", "failing: graft_tiny, full (transfer): Failed", "nowhere")


def test_an_alert_is_passed_on(site: Site, hook: Hook, deployed_again):
    site.emit("graft.alert.drop", "graft.model.digits", reason="accuracy fell to 80%")
    hook.wait_for("graft: an alert", "digits: accuracy fell to 80%")


def test_a_query_that_prefect_would_show_is_refused(site: Site):
    data = {"kind": "folder", "path": "https://host/a.zip?sig=s3cr3t", "sha256": "0" * 64}
    done = typed(site, "submit", str(small(site, "open", data=data)))
    assert (done.code, "s3cr3t" in done.out + done.err) == (2, False)
    assert not any("s3cr3t" in json.dumps(run) for run in site.ask("flow_runs"))


def test_a_killed_run_is_marked_and_a_healthy_one_is_not(site: Site, left: Left):
    """Also: the queue gpu has one run at a time."""
    said, errors = left.looking.communicate(timeout=RUN_SECONDS)
    assert left.looking.returncode == 0, said + errors + site.logs()
    marked = json.loads(said)["marked"]
    assert [line for line in marked if left.killed in line and "CRASHED" in line]
    assert [line for line in marked if "KILLED: its process is gone" in line]
    assert len(marked) == 2, marked
    assert _state(site, left.killed) == "CRASHED"
    assert _state(site, left.healthy) == "RUNNING"
    runs = site.query("select name, status from runs where name in ('long', 'doomed')")
    assert sorted(runs) == [("doomed", "KILLED"), ("long", "RUNNING")]
    site.call("flow-run", "cancel", left.healthy)
    site.wait_until(left.healthy, "CANCELLED")
    for run in left.taking_turns:
        site.wait_until(run, "COMPLETED")
    spans = sorted(_span(site, run) for run in left.taking_turns)
    assert spans[0][1] <= spans[1][0]


def test_status_knows_server_workers_and_runs(site: Site):
    before = time.time()
    answer = graft(site, "status")
    assert answer["server"]["url"].startswith(site.url)
    online = [one for one in answer["workers"] if one["pool"] == "graft"]
    assert [one["state"] for one in online] == ["online"]
    assert online[0]["heartbeat_s"] < 60 + time.time() - before
    assert online[0]["queues"]["gpu"] == 1
    assert {"transfer/digits", "approval/approval", "stale/stale"} <= {
        one["name"] for one in answer["deployments"]
    }


def test_the_flow_that_marks_finds_nothing_where_all_is_well(site: Site):
    run = site.run("stale/stale", {})
    assert run["state_type"] == "COMPLETED"
    said = "every running run is alive"
    until(lambda: said in site.messages(run["id"]), 30, lambda: str(site.messages(run["id"])))
