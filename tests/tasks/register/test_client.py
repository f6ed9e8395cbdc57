from __future__ import annotations

import http.server
import multiprocessing
import socket
import threading
import time

import pytest
from sqlalchemy.exc import OperationalError

from tasks.errors import ResourceError, TrackingError, TransientTrackingError
from tasks.register import client
from tasks.register.client import connect, tracking_errors, tracking_uri


def test_tracks_in_this_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert client.artifact_root() == (tmp_path / "mlruns" / "artifacts").as_uri()


def test_asking_for_the_address_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    tracking_uri()
    with pytest.raises(TrackingError, match="no tracking database"):
        connect(create=False)
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_not_there_is_told_within_ten_seconds(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    start = time.monotonic()
    with pytest.raises(TrackingError, match="No MLflow tracking server answers") as caught:
        connect()
    assert time.monotonic() - start < 10
    assert uri in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert not isinstance(caught.value, TransientTrackingError)


def test_a_server_that_never_answers_is_told(monkeypatch):
    monkeypatch.setattr(client, "PROBE_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with pytest.raises(TrackingError, match="No MLflow tracking server answers"):
            connect()
    assert time.monotonic() - start < 10


def test_another_kind_of_server_is_told(monkeypatch):
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{other.server_port}")
        with pytest.raises(TrackingError, match="HTTP 501"):
            connect()
        other.shutdown()


def test_a_file_that_is_no_database_is_told(tmp_path, monkeypatch):
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"this is no sqlite database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with pytest.raises(TrackingError, match="not a database"):
        connect()


def test_an_unknown_address_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://somewhere")
    with pytest.raises(TrackingError, match="gopher"):
        connect()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("database is locked", TransientTrackingError),
        ("unable to open database file", TrackingError),
        ("database or disk is full", ResourceError),
    ],
)
def test_what_sqlite_reports_becomes_the_right_error(words, kind):
    with pytest.raises(kind) as caught, tracking_errors("logging"):
        raise OperationalError("INSERT", {}, Exception(words))
    assert type(caught.value) is kind
    assert len(str(caught.value).splitlines()) <= 2


def test_two_first_runs_at_once_share_one_database(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    fork = multiprocessing.get_context("fork")  # mlflow is imported already: seconds saved
    processes = [fork.Process(target=connect) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(connect().search_experiments()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_first_run_killed_in_the_middle_does_not_spoil_the_next(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=connect)
    process.start()
    half_made = tmp_path / "mlruns" / ".mlflow.db.new"
    while process.is_alive() and not (half_made.exists() and half_made.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert half_made.exists(), "the migration was over before it could be killed"
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
    assert len(connect().search_experiments()) == 1
    assert not half_made.exists()
