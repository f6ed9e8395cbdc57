from __future__ import annotations

import json
import logging
import math
import shutil
import sqlite3
import threading
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks import retry
from tasks.artifacts import cache_folder
from tasks.config import RunConfig
from tasks.errors import GraftError, Terminated, TrackingError, TransientTrackingError
from tasks.finetune.progress import EpochRecord
from tasks.pretrained.load import load_pretrained
from tasks.register import locks, wire
from tasks.register.facts import flat_params
from tasks.register.pages import file_page
from tasks.register.promote import register
from tasks.register.registry import fetch
from tasks.register.tracking import find_experiment, open_run

RECORD = EpochRecord(1, 2, 1.5, 0.5, 1.25, 0.625, 0.01, 3.0, 200.0)


def only_run(client, experiment="graft"):
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id])
    return run


def test_a_run_holds_its_config_code_machine_and_status(store, strong, tmp_path):
    with open_run(strong.config) as tracker:
        assert store.get_run(tracker.run_id).info.status == "RUNNING"
    run = store.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "colours"
    assert run.info.experiment_id == tracker.experiment_id
    assert run.data.params == flat_params(strong.config)
    assert run.data.tags["graft.version"]
    root = Path(store.get_experiment(tracker.experiment_id).artifact_location.removeprefix("file:"))
    assert root.resolve() == (tmp_path / "mlruns" / "artifacts").resolve()
    files = root / tracker.run_id / "artifacts"
    written = yaml.safe_load((files / "config.yaml").read_text())
    assert RunConfig.model_validate(written) == strong.config
    assert "torch==" in (files / "environment.txt").read_text()


def test_even_a_short_run_has_system_metrics(store, strong):
    with open_run(strong.config) as tracker:
        pass
    metrics = store.get_run(tracker.run_id).data.metrics
    assert metrics["system/cpu_utilization_percentage"] >= 0
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert not [t for t in threading.enumerate() if t.name == "SystemMetricsMonitor"]


def test_epochs_are_metrics_with_the_epoch_as_step(store, strong):
    with open_run(strong.config) as tracker:
        tracker.epoch(RECORD)
        thread = threading.Thread(
            target=tracker.epoch, args=[replace(RECORD, epoch=2, val_accuracy=0.75)]
        )
        thread.start()
        thread.join()
    history = store.get_metric_history(tracker.run_id, "val_accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.625), (2, 0.75)]
    values = {k: v for k, v in asdict(RECORD).items() if k not in ("epoch", "epochs")}
    for name, value in values.items():
        assert store.get_metric_history(tracker.run_id, name)[0].value == value


def test_a_loss_that_is_no_number_is_said_in_a_tag(store, strong):
    with open_run(strong.config) as tracker:
        tracker.epoch(replace(RECORD, train_loss=math.inf, val_loss=math.nan))
    run = store.get_run(tracker.run_id)
    assert "train_loss" not in run.data.metrics
    assert "val_loss" not in run.data.metrics
    assert run.data.metrics["train_accuracy"] == 0.5
    assert (
        run.data.tags["graft.not_finite"]
        == "train_loss is inf at step 1; val_loss is nan at step 1"
    )


def test_datasets_are_inputs_with_their_digests(store, strong):
    with open_run(strong.config) as tracker:
        tracker.datasets(strong.prepared)
    inputs = store.get_run(tracker.run_id).inputs.dataset_inputs
    by_context = {i.tags[0].value: i.dataset for i in inputs}
    assert set(by_context) == {"training", "validation", "test"}
    for context, split in (("training", "train"), ("validation", "val"), ("test", "test")):
        packed = getattr(strong.prepared, split)
        dataset = by_context[context]
        assert dataset.name == f"images-{split}"
        assert dataset.digest == packed.digest[:36]
        profile = json.loads(dataset.profile)
        assert profile["digest"] == packed.digest
        assert profile["classes"] == dict(zip(strong.prepared.classes, packed.counts, strict=True))
        assert json.loads(dataset.source) == {"uri": strong.config.data.path}


def test_the_backbone_is_named(store, strong):
    cache = cache_folder(strong.config.output.cache)
    backbone = load_pretrained(strong.config, strong.prepared.classes, None, cache)
    with open_run(strong.config) as tracker:
        tracker.backbone(backbone)
    params = store.get_run(tracker.run_id).data.params
    assert params["backbone.architecture"] == "graft_tiny"
    assert params["backbone.head"] == "fc"
    assert params["backbone.sha256"].startswith("none")


def files_of(client, run_id, folder=None):
    """Yield the paths of a run's files, those in folders as well."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from files_of(client, run_id, entry.path)
        else:
            yield entry.path


def test_a_finished_run_has_its_figures_and_every_file(store, strong, tmp_path):
    folder = shutil.copytree(strong.model.folder, tmp_path / "run")
    (folder / "explained").mkdir(exist_ok=True)
    (folder / "explained" / "one.png").write_bytes(b"png")
    with open_run(strong.config) as tracker:
        tracker.finished(strong.model.model_copy(update={"folder": folder}), strong.report)
    metrics = store.get_run(tracker.run_id).data.metrics
    assert metrics["test_accuracy"] == strong.report.accuracy
    assert metrics["test_log_loss"] == strong.report.log_loss
    assert metrics["chosen_epoch"] == strong.model.chosen_epoch
    assert "test_top5_accuracy" not in metrics  # three classes
    stored = set(files_of(store, tracker.run_id))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} <= stored
    assert {"report.html", "README.md", "explained/one.png", "predictions.parquet"} <= stored


def test_nothing_mlflow_keeps_shows_the_secrets_of_an_address(store, strong, tmp_path):
    secret = {"path": "https://host/images.zip?sig=SECRET", "sha256": "0" * 64}
    data = strong.config.data.model_copy(update=secret)
    with open_run(strong.config.model_copy(update={"data": data})) as tracker:
        tracker.datasets(strong.prepared)
    (dataset, *_) = store.get_run(tracker.run_id).inputs.dataset_inputs
    assert dataset.dataset.name.startswith("images-")
    written = [path.read_bytes() for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert any(b"https://host/images.zip?\xe2\x80\xa6" in content for content in written)
    assert not any(b"SECRET" in content for content in written)


def test_what_is_tried_again_is_logged_once(store, strong, tmp_path):
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", isolation_level=None)
    with open_run(strong.config) as tracker:
        files = tmp_path / "mlruns" / "artifacts" / tracker.run_id / "artifacts"
        database.execute("ALTER TABLE metrics RENAME TO away")
        tracker.epoch(RECORD)
        with pytest.raises(TransientTrackingError, match="no such table: metrics"):
            tracker.finished(strong.model, strong.report)
        database.execute("ALTER TABLE away RENAME TO metrics")
        files.rename(tmp_path / "aside")
        files.touch()
        with pytest.raises(GraftError):
            tracker.finished(strong.model, strong.report)
        files.unlink()
        (tmp_path / "aside").rename(files)
        tracker.finished(strong.model, strong.report)
    database.close()
    assert (files / "report.json").is_file()
    for name in ("train_loss", "test_accuracy"):
        assert len(store.get_metric_history(tracker.run_id, name)) == 1


def test_a_server_that_refuses_does_not_end_the_training(store, strong, tmp_path, caplog):
    with open_run(strong.config) as tracker:
        with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
            database.execute(
                "CREATE TRIGGER refused BEFORE INSERT ON metrics "
                "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
            )
        tracker.epoch(RECORD)
        with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
            database.execute("DROP TRIGGER refused")
        tracker.epoch(replace(RECORD, epoch=2))
    assert "epoch 1 is not tracked yet" in caplog.text
    assert [m.step for m in store.get_metric_history(tracker.run_id, "val_loss")] == [1, 2]


@pytest.fixture
def at_once(monkeypatch) -> None:
    """Wait no longer than a tenth of a second before another try."""
    monkeypatch.setattr(retry, "RETRY_DELAYS", [0.1, 0.1, 0.1])


@pytest.mark.usefixtures("at_once")
def test_a_run_that_cannot_be_closed_ended_well_all_the_same(store, strong, tmp_path, caplog):
    with (
        open_run(strong.config) as tracker,
        sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database,
    ):
        database.execute(
            "CREATE TRIGGER open BEFORE UPDATE ON runs "
            "BEGIN SELECT RAISE(ABORT, 'database is locked'); END"
        )
    assert caplog.text.count("Trying again") == 3
    assert "the run stays open in MLflow" in caplog.text
    assert store.get_run(tracker.run_id).info.status == "RUNNING"


@pytest.mark.usefixtures("at_once")
def test_opening_a_run_is_tried_again(store, strong, tmp_path, caplog):
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", check_same_thread=False)
    database.execute(
        "CREATE TRIGGER busy BEFORE INSERT ON params "
        "BEGIN SELECT RAISE(ABORT, 'database is locked'); END"
    )

    class Mend(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Trying again" in record.getMessage():
                database.execute("DROP TRIGGER IF EXISTS busy")

    logging.getLogger("tasks.retry").addHandler(mend := Mend())
    try:
        with open_run(strong.config) as tracker:
            pass
    finally:
        logging.getLogger("tasks.retry").removeHandler(mend)
        database.close()
    run = only_run(store)
    assert (run.info.run_id, run.info.status) == (tracker.run_id, "FINISHED")
    assert run.data.params == flat_params(strong.config)
    assert caplog.text.count("Trying again") == 1


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (TrackingError("no luck"), "FAILED"),
        (ValueError("no luck"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(), "KILLED"),
    ],
)
def test_the_status_says_how_a_run_ended(store, strong, raised, status):
    with pytest.raises(type(raised)), open_run(strong.config):
        raise raised
    run = only_run(store)
    assert run.info.status == status
    assert run.info.end_time is not None
    assert run.data.tags["graft.error"].startswith(type(raised).__name__)


def test_a_deleted_experiment_is_told(store, strong):
    store.delete_experiment(store.create_experiment("graft"))
    with pytest.raises(TrackingError, match="is deleted"), open_run(strong.config):
        pass


def test_nothing_of_mlflow_reaches_the_terminal(store, strong, capfd):
    with open_run(strong.config) as tracker:
        tracker.finished(strong.model, strong.report)
        register(
            strong.config,
            strong.raw,
            strong.prepared,
            strong.model,
            strong.report,
            tracker.run_id,
        )
    assert capfd.readouterr() == ("", "")


def test_a_whole_run_on_a_real_server(
    mlflow_server, line, strong, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 1.0)
    config = strong.config
    with open_run(config) as tracker:
        tracker.epoch(RECORD)
        tracker.datasets(strong.prepared)
        tracker.finished(strong.model, strong.report)
        decision = register(
            config, strong.raw, strong.prepared, strong.model, strong.report, tracker.run_id
        )
    assert decision.promoted
    assert capsys.readouterr().out == ""
    assert_the_page_is_served(tracker, strong.report.folder / "report.html")
    registered = fetch("models:/colours@champion", tmp_path / "other-cache")
    assert registered.sha256 == strong.model.sha256
    assert registered.weights.read_bytes() == strong.model.weights.read_bytes()
    (kept,) = (
        path.parent
        for path in mlflow_server.files.rglob("MLmodel")
        if tracker.run_id in path.read_text()
    )
    assert_a_change_is_found(kept / "artifacts" / "model.safetensors", b"other", tmp_path)
    assert_a_change_is_found(kept / "code" / "numpy.py", b"added", tmp_path)
    folders = [path.name for path in (tmp_path / "other-cache" / "models").iterdir()]
    assert folders == [registered.sha256]  # what was downloaded to be looked at is gone again

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setattr(wire, "PATIENCE", 0)
    with pytest.raises(TrackingError, match="waited for"):
        run_while_the_server_goes_away(line, strong)
    assert "epoch 1 is not tracked yet" in caplog.text


def assert_a_change_is_found(path, content, tmp_path):
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    name = f"{path.parent.name}/{path.name}"
    with pytest.raises(TrackingError, match=f"^{name} of colours version 1 is not the file that"):
        fetch("models:/colours/1", tmp_path / "other-cache")
    path.unlink()
    if before is not None:
        path.write_bytes(before)


def assert_the_page_is_served(tracker, page):
    address = file_page(tracker.experiment_id, tracker.run_id, "report.html")
    server = address.partition("/#/")[0]
    asked = f"{server}/get-artifact?path=report.html&run_uuid={tracker.run_id}"
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.read() == page.read_bytes()


def run_while_the_server_goes_away(line, strong):
    with open_run(strong.config) as tracker:
        line.down()
        tracker.epoch(RECORD)  # training goes on
        tracker.finished(strong.model, strong.report)


def test_an_experiment_that_another_run_makes_at_the_same_moment_is_used(store):
    class Raced(MlflowClient):
        def create_experiment(self, name, *given, **more):
            store.create_experiment(name)
            return super().create_experiment(name, *given, **more)

    found = find_experiment(Raced(store.tracking_uri), "new")
    assert found == store.get_experiment_by_name("new").experiment_id
    with pytest.raises(MlflowException, match="name"):  # which nobody can make
        find_experiment(store, "")
