"""``graft monitor`` and ``graft reevaluate``: what alerts, what does not, and what they leave."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tasks.configfile import dump_config, load_config
from tasks.monitorvalues import DriftReport, ReevaluationReport

MODEL = "models:/small@champion"


@pytest.fixture
def monitor_yaml(workspace: Path, tmp_path: Path) -> str:
    """Return a config that monitors the champion, with its report in a folder of its own."""
    settings = {"name": "watched", "model": MODEL, "images": {"path": str(tmp_path / "new")}}
    settings |= {"output": {"folder": str(tmp_path / "runs")}, "scoring": {"threads": 1}}
    path = tmp_path / "monitor.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.fixture
def reevaluate_yaml(monitor_yaml: str) -> str:
    path = Path(monitor_yaml).with_name("reevaluate.yaml")
    shutil.copy(monitor_yaml, path)
    return str(path)


def photographs(folder: Path, n: int, draw: Callable[[np.random.Generator], np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    for number in range(n):
        Image.fromarray(draw(rng).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def grey(rng: np.random.Generator) -> np.ndarray:
    """Return what is neither blue nor red, and hardly noisy."""
    return np.full((32, 32, 3), 120) + rng.integers(0, 9, (32, 32, 3))


def folder_of(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def ask(url: str, path: str, body: dict) -> list[dict]:
    """Return what Prefect's server answers to a question."""
    request = urllib.request.Request(
        f"{url}/{path}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found = json.loads(answer.read())
    return found["events"] if isinstance(found, dict) else found


def events(url: str, name: str, about: str, wanted: int) -> list[dict]:
    """Return the events of a name about a check; they arrive a little later."""
    deadline = time.monotonic() + 20
    while True:
        rows = ask(url, "events", {"filter": {"event": {"name": [name]}}, "limit": 50})
        found = [row for row in rows if row["payload"]["mlflow_run_id"] == about]
        if len(found) >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


def last_state(url: str, flow: str) -> dict:
    """Return the state of the latest run of a flow."""
    body = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 1}
    return ask(url, "flow_runs", body)[0]["state"]


@pytest.mark.usefixtures("unchanged")
def test_images_like_those_of_training_are_no_reason_for_an_alert(
    workspace, graft, monitor_yaml, images, tmp_path, prefect_url
):
    images(tmp_path / "new", n=12, seed=99)
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    shutil.copy(tmp_path / "new" / "red" / "0.png", tmp_path / "new" / "again.png")
    shutil.copytree(workspace / "photos" / "red", tmp_path / "new" / "known")
    result = graft("monitor", monitor_yaml, "--fail-on-alert", "--json")
    assert result.code == 0, result.err
    report = DriftReport.model_validate_json(result.out)
    assert (report.alert, report.model, report.asked_for) == (False, "models:/small/1", MODEL)
    assert (report.found, report.n, report.copies, report.bad) == (46, 44, 1, 1)
    assert report.seen is not None
    assert 8 < report.seen <= 20  # the red photographs that are not for the test
    assert (report.reference_from, report.reference_n) == ("version", 12)
    assert [test.name for test in report.tests] == ["kernel", "classifier"]
    assert all(test.level == 0.005 < test.p_value for test in report.tests)
    assert report.false_alarms_a_year == pytest.approx(3.6525)
    folder = folder_of(tmp_path)
    assert report.folder == folder
    assert {path.name for path in folder.iterdir()} == {"drift.json", "drift.md", "unusual.png"}
    assert DriftReport.model_validate_json((folder / "drift.json").read_bytes()) == report
    assert len(report.unusual) == 12
    assert events(prefect_url, "graft.alert.drift", report.run_id, 0) == []
    _check_run(report)


def _check_run(report: DriftReport) -> None:
    """Look at what is in MLflow."""
    from mlflow import MlflowClient

    from tasks.register.client import tracking_uri

    client = MlflowClient(tracking_uri())
    run = client.get_run(report.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "graft-monitoring"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["kernel_p_value"] == report.tests[0].p_value
    assert run.data.tags["graft.watch"] == "monitor"
    assert run.data.tags["graft.alert"] == str(report.alert).lower()
    assert run.data.tags["graft.model"] == "models:/small/1"
    files = {file.path for file in client.list_artifacts(report.run_id)}
    assert files == {"config.yaml", "drift.json", "drift.md", "unusual.png"}


@pytest.mark.usefixtures("unchanged")
def test_other_images_alert_by_event_state_and_if_asked_by_exit_code(
    workspace, graft, monitor_yaml, tmp_path, prefect_url
):
    photographs(tmp_path / "new", 25, grey)
    result = graft("monitor", monitor_yaml)
    assert result.code == 0, result.err
    for words in ("ALERT", "differ from the reference", "3.7 false alarms a year", "drift.md"):
        assert words in result.out
    assert "ALERT: The new images differ" in result.err
    state = last_state(prefect_url, "monitor")
    assert (state["type"], state["name"]) == ("COMPLETED", "Alert")
    assert "ALERT: The new images differ" in state["message"]

    result = graft("monitor", monitor_yaml, "--fail-on-alert", "--json")
    answer = json.loads(result.out)
    assert result.code == answer["error"]["exit_code"] == 6
    assert len(result.message.strip().splitlines()) == 2
    (event,) = events(prefect_url, "graft.alert.drift", answer["run_id"], 1)
    assert event["resource"]["prefect.resource.id"] == "graft.model.small"
    assert event["payload"]["reason"] == answer["reason"]
    related = {one["prefect.resource.role"] for one in event["related"]}
    assert {"flow-run", "flow"} <= related


def test_one_test_takes_the_whole_level(workspace, graft, monitor_yaml, tmp_path):
    photographs(tmp_path / "new", 25, grey)
    for test in ("kernel", "classifier"):
        report = json.loads(graft("monitor", monitor_yaml, f"test={test}", "--json").out)
        assert [(one["name"], one["level"]) for one in report["tests"]] == [(test, 0.01)]
        assert report["alert"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["minimum_images=30"], 3, "25 images of"),
        (["images.path=nowhere"], 3, "nowhere"),
        (["model=models:/other@champion"], 7, "There is no registered model other"),
        (["model=small"], 2, "model"),
        (["permutations=100"], 2, "permutations=100 gives no p-value as small as 0.005"),
        (["scoring.device=cuda"], 8, "cuda"),
    ],
)
def test_what_cannot_be_monitored_is_said_and_leaves_nothing(
    workspace, graft, monitor_yaml, tmp_path, overrides, code, words
):
    photographs(tmp_path / "new", 25, grey)
    result = graft("monitor", monitor_yaml, *overrides)
    assert (result.code, words in result.message) == (code, True), result.err
    assert len(result.message.strip().splitlines()) <= 2
    assert not list((tmp_path / "runs").glob("*"))


def test_a_version_without_a_reference_takes_that_of_its_run(
    workspace, graft, monitor_yaml, tmp_path, registry_copy
):
    photographs(tmp_path / "new", 25, grey)
    before = json.loads(graft("monitor", monitor_yaml, "--json").out)
    registry_copy.delete_model_version_tag("small", "1", "graft.reference_digest")
    result = graft("monitor", monitor_yaml)
    assert result.code == 2
    assert "carries no reference" in result.message
    assert "Set base to the config of its run" in result.message

    settings = yaml.safe_load(Path(monitor_yaml).read_text())
    settings["base"] = yaml.safe_load(dump_config(load_config(workspace / "good.yaml")))
    Path(monitor_yaml).write_text(yaml.safe_dump(settings))
    after = json.loads(graft("monitor", monitor_yaml, "--json").out)
    assert (before["reference_from"], after["reference_from"]) == ("version", "base")
    assert after["reference_digest"] == before["reference_digest"]
    assert after["tests"] == before["tests"]


def test_a_reference_that_was_changed_is_refused(
    workspace, graft, monitor_yaml, tmp_path, registry_copy
):
    photographs(tmp_path / "new", 25, grey)
    registry_copy.set_model_version_tag("small", "1", "graft.reference_digest", "0" * 64)
    result = graft("monitor", monitor_yaml)
    assert result.code == 7
    assert "reference.safetensors of small version 1 is not the file" in result.message


def reevaluated(graft, config: str, *overrides: str) -> ReevaluationReport:
    result = graft("reevaluate", config, *overrides, "--json")
    assert result.code == 0, result.err
    return ReevaluationReport.model_validate_json(result.out)


def test_an_accuracy_that_fell_alerts_and_one_that_did_not_is_silent(
    workspace, graft, reevaluate_yaml, images, tmp_path, prefect_url, registry_copy, once_more
):
    images(tmp_path / "new", n=30, seed=99)
    learned = sorted((workspace / "photos" / "blue").iterdir())
    for path in learned:
        shutil.copy(path, tmp_path / "new" / "blue" / f"known-{path.name}")
    now = reevaluated(graft, reevaluate_yaml)
    assert now.found == 80
    assert now.seen is not None
    assert 8 < now.seen <= 20
    assert now.n == 80 - now.seen  # those it learned from are left out
    assert [one.name for one in now.classes] == ["blue", "red"]
    assert folder_of(tmp_path) == now.folder

    best, worst = (once_more(registry_copy, accuracy=share, n=2000) for share in (0.999, 0.0))
    # half of the labels are wrong by now
    moved = sorted((tmp_path / "new" / "blue").glob("?.png"))
    for path in moved:
        shutil.move(path, tmp_path / "new" / "red" / f"wrong-{path.name}")
    fell = reevaluated(graft, reevaluate_yaml, f"model=models:/small/{best}")
    assert fell.alert
    assert fell.difference_high < -fell.margin
    (event,) = events(prefect_url, "graft.alert.accuracy", fell.run_id, 1)
    assert event["resource"]["graft.version"] == str(best)
    assert last_state(prefect_url, "reevaluate")["name"] == "Alert"
    result = graft("reevaluate", reevaluate_yaml, f"model=models:/small/{best}", "--fail-on-alert")
    assert result.code == 6
    assert "worse by more than 2 points" in result.message
    assert "98% interval" in (fell.folder / "reevaluation.md").read_text()
    rose = reevaluated(graft, reevaluate_yaml, f"model=models:/small/{worst}")
    assert (rose.alert, rose.registered_accuracy) == (False, 0.0)


def test_the_figures_are_those_of_graft_evaluate(
    workspace, graft, reevaluate_yaml, images, tmp_path
):
    """The same images by the other way: as the test split of a data set with splits."""
    root = images(tmp_path / "split" / "test", n=15, seed=5)
    images(tmp_path / "split" / "train", n=5, seed=6)
    images(tmp_path / "split" / "val", n=3, seed=8)
    shutil.copytree(root, tmp_path / "new")
    now = reevaluated(graft, reevaluate_yaml)
    given = f"data.path={tmp_path / 'split'}"
    other = json.loads(graft("evaluate", "good.yaml", given, "--model", MODEL, "--json").out)
    for name in ("n", "accuracy", "accuracy_low", "balanced_accuracy", "macro_f1", "log_loss"):
        assert getattr(now, name) == pytest.approx(other[name]), name


@pytest.mark.usefixtures("unchanged")
def test_what_cannot_be_reevaluated_is_said(workspace, graft, reevaluate_yaml, images, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copytree(workspace / "photos" / "red", tmp_path / "new" / "green")
    result = graft("reevaluate", reevaluate_yaml)
    assert (result.code, "does not know: green" in result.message) == (3, True), result.err


def test_images_it_has_learned_from_alone_say_nothing(
    workspace, graft, reevaluate_yaml, tmp_path, monkeypatch
):
    from tasks.register.learned import Learned

    shutil.copytree(workspace / "photos", tmp_path / "new")
    (tmp_path / "new" / "blue" / "0.png").unlink()
    monkeypatch.setattr(Learned, "seen", lambda _, records: np.ones(len(records), bool))
    result = graft("reevaluate", reevaluate_yaml)
    assert (result.code, "has learned from every one" in result.message) == (3, True), result.err
