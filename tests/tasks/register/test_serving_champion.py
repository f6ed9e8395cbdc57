from __future__ import annotations

import gc
import logging
import shutil
import threading
import weakref
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tasks.errors import TrackingError, TransientTrackingError
from tasks.register.client import PROBE
from tasks.register.serving_champion import Champion, uri_of


@pytest.fixture
def two(store, tiny_models, publish):
    """Versions 1 and 2 of tiny; the first is champion."""
    for model in tiny_models:
        publish(store, "tiny", model)
    store.set_registered_model_alias("tiny", "champion", "1")
    return store


def label(champion: Champion) -> str:
    classifier = champion.current.classifier
    image = Path(__file__).parents[3] / "docs" / "prefect_run.png"
    return str(classifier.predict([image])["label"][0])


def test_names_and_addresses():
    assert uri_of("digits") == "models:/digits@champion"
    assert uri_of("models:/digits/3") == "models:/digits/3"


def test_the_alias_is_followed_and_the_old_version_freed_with_its_last_request(two, tmp_path):
    champion = Champion(uri_of("tiny"), tmp_path / "cache")
    assert (champion.current.version, label(champion)) == (1, "blue")
    first = champion.current
    champion.look()
    assert champion.current is first

    two.set_registered_model_alias("tiny", "champion", "2")
    champion.look()
    assert (champion.current.version, label(champion)) == (2, "red")
    assert champion.current.since >= first.since
    assert first.classifier.spec.crop == 16  # whoever has it goes on with it
    kept = weakref.ref(first.classifier)
    del first
    gc.collect()
    assert kept() is None


def test_a_version_by_number_stays(two, tmp_path):
    champion = Champion("models:/tiny/2", tmp_path / "cache")
    two.set_registered_model_alias("tiny", "champion", "1")
    champion.look()
    assert champion.current.version == 2


@pytest.mark.parametrize("name", ["tiny", "nobody"])
def test_without_a_champion_it_is_said_how_to_get_one(two, tmp_path, name):
    two.delete_registered_model_alias("tiny", "champion")
    with pytest.raises(TrackingError, match="graft promote") as caught:
        Champion(uri_of(name), tmp_path / "cache")
    assert len(str(caught.value).splitlines()) == 2
    assert "tiny" in str(caught.value)


def test_a_damaged_version_is_tried_again_later(two, tiny_models, publish, tmp_path, caplog):
    champion = Champion(uri_of("tiny"), tmp_path / "cache")
    copy = tmp_path / "copy"
    shutil.copytree(tiny_models[1].folder, copy)
    weights = copy / "artifacts" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\0")
    model = type(tiny_models[1])(copy, tiny_models[1].spec, "red")
    publish(two, "tiny", model)
    two.set_registered_model_alias("tiny", "champion", "3")
    with caplog.at_level(logging.INFO):
        champion.look(1000)
        problem = champion.problem
        assert problem is not None
        assert "version 1 goes on" in problem
        assert "is not the file that was registered" in problem

        weights.write_bytes(whole)
        champion.look(1000)  # 1,000 seconds are not over
        assert (champion.current.version, champion.problem) == (1, problem)
        champion._failed = (3, 1, 0.0)
        champion.look()
    assert (champion.current.version, champion.problem) == (3, None)
    said = [record.getMessage() for record in caplog.records if "tasks" in record.name]
    assert said == [problem, "version 3 of tiny is served now"]


@pytest.fixture
def lost(two, tiny_models, publish, tmp_path) -> Callable[[str], None]:
    """Return what makes version 3, champion, of version 2's files; one of them is lost since."""

    def make(path: str) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(tiny_models[1].folder, copy)
        publish(two, "tiny", type(tiny_models[1])(copy, tiny_models[1].spec, "red"))
        two.set_registered_model_alias("tiny", "champion", "3")
        (copy / path).unlink()

    return make


@pytest.mark.parametrize("path", ["artifacts/model.safetensors", "artifacts/spec.json", "MLmodel"])
def test_what_the_registry_lost_is_not_taken_from_the_cache(two, lost, tmp_path, path):
    cache = tmp_path / "cache"
    whole = Champion("models:/tiny/2", cache)  # whose weights are those of version 3
    assert whole.current.version == 2
    champion = Champion(uri_of("tiny"), cache)
    lost(path)
    champion.look()
    assert (champion.current.version, label(champion)) == (1, "blue")
    assert champion.problem is not None
    assert "version 1 goes on" in champion.problem
    assert path in champion.problem
    with pytest.raises(TrackingError, match=path):
        Champion(uri_of("tiny"), cache)


def test_a_registry_that_does_not_answer_is_said_and_waited_for(two, tmp_path):
    champion = Champion(uri_of("tiny"), tmp_path / "cache")
    database = tmp_path / "mlruns" / "mlflow.db"
    two.set_registered_model_alias("tiny", "champion", "2")
    content = database.read_bytes()
    database.write_bytes(b"no database at all" * 1000)
    champion.look()
    assert champion.current.version == 1
    assert champion.problem is not None
    assert "MLflow failed while looking for models:/tiny@champion" in champion.problem
    database.write_bytes(content)
    champion.look()
    assert (champion.current.version, champion.problem) == (2, None)


def test_the_same_problem_is_logged_once(two, tmp_path, caplog):
    champion = Champion(uri_of("tiny"), tmp_path / "cache")
    two.delete_registered_model_alias("tiny", "champion")
    for _ in range(2):
        champion.look()
        assert champion.problem is not None
    said = [record.getMessage() for record in caplog.records if "tasks" in record.name]
    assert said == [champion.problem]


def test_the_watch_looks_again_and_again(two, tmp_path):
    looks: list[float] = []
    third = threading.Event()

    class Ended(Champion):
        def look(self, seconds: float = 0.0) -> None:
            super().look(seconds)
            looks.append(seconds)
            if len(looks) == 3:
                third.set()
                threading.Event().wait()  # to the end of this process: the thread never ends

    champion = Ended(uri_of("tiny"), tmp_path / "cache")
    two.set_registered_model_alias("tiny", "champion", "2")
    champion.watch(0.01)
    assert third.wait(30)
    assert looks == [0.01] * 3
    assert (champion.current.version, champion.problem) == (2, None)


class Busy(BaseHTTPRequestHandler):
    """A server that answers the first question and is not ready for any other."""

    def do_POST(self) -> None:
        self._answer(200 if self.path == PROBE else 503)

    def do_GET(self) -> None:
        self._answer(503)

    def _answer(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def test_a_registry_that_is_busy_is_not_taken_for_one_without_a_champion(monkeypatch, tmp_path):
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        try:
            with pytest.raises(TransientTrackingError, match="503") as caught:
                Champion(uri_of("tiny"), tmp_path / "cache")
        finally:
            server.shutdown()
    assert "graft promote" not in str(caught.value)
