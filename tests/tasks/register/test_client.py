from __future__ import annotations

import http.server
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError

from tasks.errors import ResourceError, TrackingError, TransientTrackingError
from tasks.register import client
from tasks.register.client import connect, tracking_errors, tracking_uri
from tasks.register.tracking import open_run


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
    assert isinstance(caught.value, TransientTrackingError)  # register_model knocks again


def test_a_run_does_not_wait_for_a_server_that_is_not_there(monkeypatch, strong):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv(client.URI, f"http://127.0.0.1:{probe.getsockname()[1]}")
    start = time.monotonic()
    with pytest.raises(TrackingError, match="No MLflow tracking server"), open_run(strong.config):
        pass
    assert time.monotonic() - start < 10


def test_a_server_that_never_answers_is_told(monkeypatch):
    monkeypatch.setattr(client, "PROBE_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        start = time.monotonic()
        with pytest.raises(TrackingError, match="No MLflow tracking server answers"):
            connect()
    assert time.monotonic() - start < 10


@pytest.fixture
def answering(monkeypatch) -> Iterator[Callable[[int], str]]:
    """Make servers that answer every request with one status and no JSON; return the address."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ExitStack() as running:

        def start(status: int) -> str:
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    self.rfile.read(int(self.headers["Content-Length"]))
                    self.send_error(status)

                def log_message(self, *_: object) -> None: ...

            server = running.enter_context(
                http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            )
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            running.callback(server.shutdown)
            uri = f"http://127.0.0.1:{server.server_port}"
            monkeypatch.setenv(client.URI, uri)
            return uri

        yield start


STATUS = [
    *((status, TrackingError) for status in (400, 401, 403, 404, 413, 500, 501)),
    *((status, TransientTrackingError) for status in (429, 502, 503, 504)),
]


@pytest.mark.parametrize(("status", "kind"), STATUS)
def test_only_a_status_that_may_pass_is_tried_again(answering, status, kind):
    uri = answering(status)
    with pytest.raises(TrackingError, match=f"HTTP {status}") as caught:
        connect()
    assert type(caught.value) is kind
    with pytest.raises(TrackingError) as caught, tracking_errors("opening"):
        MlflowClient(uri).create_run("0")
    assert type(caught.value) is kind, caught.value
    assert len(str(caught.value).splitlines()) == 2


def test_a_connection_that_is_refused_is_tried_again_and_a_wrong_certificate_is_not(
    answering, monkeypatch
):
    uri = answering(200)
    wrong = uri.replace("http:", "https:")
    with pytest.raises(TrackingError) as caught, tracking_errors("opening"):
        MlflowClient(wrong).create_run("0")
    assert type(caught.value) is TrackingError, caught.value
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(TransientTrackingError), tracking_errors("opening"):
            MlflowClient(f"http://127.0.0.1:{probe.getsockname()[1]}").create_run("0")


@pytest.mark.parametrize("before", [None, "", "sqlite:///other.db"])
def test_the_store_is_named_for_a_block_and_no_longer(tmp_path, monkeypatch, before):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(client.URI, raising=False)
    if before is not None:
        monkeypatch.setenv(client.URI, before)
    with suppress(ValueError), client.named_store(), client.named_store():
        assert os.environ[client.URI] == (before or f"sqlite:///{tmp_path}/mlruns/mlflow.db")
        raise ValueError("within")
    assert os.environ.get(client.URI) == before


def test_a_thread_does_not_take_the_name_from_under_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(client.URI, raising=False)
    missing = []

    def use() -> None:
        for _ in range(20):
            with client.named_store():
                time.sleep(0.001)
                missing.append(client.URI not in os.environ)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(missing) == 80
    assert not any(missing)


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


def connect_and_end() -> None:
    connect()
    os._exit(0)  # where flows ran before, Prefect's exit handlers are there, and fail after a fork


def test_two_first_runs_at_once_share_one_database(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    fork = multiprocessing.get_context("fork")  # mlflow is imported already: seconds saved
    processes = [fork.Process(target=connect_and_end) for _ in range(2)]
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
