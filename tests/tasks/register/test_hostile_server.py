"""What a tracking server that somebody else rules can make of who reads a version: nothing.

The server is ours, for no real one lies; the client is MLflow's, and graft's on top of it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from tasks.artifacts import sha256_bytes
from tasks.errors import GraftError
from tasks.register.classifier import ModelSpec
from tasks.register.client import connect
from tasks.register.differences import compare_versions
from tasks.register.files import SPEC_FILE
from tasks.register.hosts import PORTS, PROXIED, VARIABLE
from tasks.register.oldversions import Known, _remove_files
from tasks.register.registry import fetch


class Liar(ThreadingHTTPServer):
    """Says of any version that its files lie where it pleases, and keeps who asked for what."""

    source = "mlflow-artifacts:/m"
    listed = "model"
    digest = "../../victim"
    tags: Mapping[str, str] = MappingProxyType({"graft.sha256": digest})
    asked: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> Any:
        if "get-download-uri" in path:
            return {"artifact_uri": self.source}
        if "model-versions/" in path:
            tags = [{"key": key, "value": value} for key, value in self.tags.items()]
            version = {"name": "m", "version": "1", "status": "READY", "source": self.source}
            return {"model_version": {**version, "run_id": "r", "tags": tags}}
        if "runs/get" in path:
            return {"run": {"info": {"run_id": "r", "artifact_uri": self.source}, "data": {}}}
        if "logged-models/" in path:
            return {"model": {"info": {"model_id": "m-1", "artifact_uri": self.source}}}
        if "/mlflow-artifacts/artifacts?" in path:
            return {"files": [{"path": self.listed, "is_dir": False, "file_size": 4}]}
        return {}


class Handler(BaseHTTPRequestHandler):
    server: Liar

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = json.dumps(self.server.answer(self.path)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    with Liar(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        _artifact_repos_cache.clear()  # MLflow's, by the run's name, which is the same in each test
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        yield server
        server.shutdown()


def refused(cache: Path) -> str:
    with pytest.raises(GraftError) as caught:
        fetch("models:/m/1", cache)
    assert str(caught.value).count("\n") <= 1
    return str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["../../victim", "a/../../../victim", "..%2f..%2fvictim", "%252e%252e/%252e%252e/victim"],
)
def test_no_file_is_written_outside_of_the_cache(path: str, liar: Liar, tmp_path: Path):
    liar.listed = path
    assert "Invalid path" in refused(tmp_path / "a" / "cache")
    assert list(tmp_path.rglob("*victim*")) == []


def test_an_absolute_path_is_not_written(liar: Liar, tmp_path: Path):
    liar.listed = str(tmp_path / "victim")
    refused(tmp_path / "cache")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("scheme", [*PORTS, PROXIED])
def test_no_host_is_asked_that_the_registry_names(
    scheme: str, liar: Liar, internal: Liar, tmp_path: Path
):
    liar.source = f"{scheme}://user:pass@127.0.0.1:{internal.server_port}/latest/meta-data"
    words = refused(tmp_path)
    assert internal.asked == []
    assert (
        f"said to be at {scheme}://127.0.0.1:{internal.server_port}, not at the tracking" in words
    )


@pytest.mark.parametrize("source", ["runs:/r/model", "models:/other/1", "models:/m-1"])
def test_no_address_is_followed_that_the_registry_would_name_later(
    source: str, liar: Liar, tmp_path: Path
):
    liar.source = source
    assert f"said to be at {source.partition('/')[0]}//, not at" in refused(tmp_path)
    assert not any("runs/get" in path or "logged-models" in path for path in liar.asked)


@pytest.fixture
def internal() -> Iterator[Liar]:
    """Listen on another port, where nothing is to be asked and no login sent."""
    with Liar(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


# what graft does with the files of runs and logged models, whose places the server tells as well
ACTS: dict[str, Callable[[MlflowClient, Path], object]] = {
    "list": lambda client, _: client.list_artifacts("r"),
    "download": lambda client, folder: client.download_artifacts("r", "report.json", str(folder)),
    "upload": lambda client, _: client.log_text("r", "mine", "config.yaml"),
    "size": lambda client, _: client.list_logged_model_artifacts("m-1"),
    "diff": lambda *_: compare_versions("m", "1", "1"),
    "remove": lambda client, _: _remove_files(client, KNOWN, ()),
}
KNOWN = Known("m", 1, datetime.now(UTC), model_id="m-1")


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("scheme", ["http", PROXIED])
def test_no_host_is_asked_that_a_run_or_a_logged_model_names(
    scheme: str, act: str, liar: Liar, internal: Liar, tmp_path: Path, caplog
):
    liar.source = f"{scheme}://127.0.0.1:{internal.server_port}/m-1"
    said = ""
    try:
        ACTS[act](connect(create=False), tmp_path)
    except GraftError as error:
        said = str(error)
    assert internal.asked == []
    assert f"{scheme}://127.0.0.1:{internal.server_port}, not at" in said + caplog.text


def test_files_of_another_host_are_had_where_the_reader_allows_it(
    liar: Liar, internal: Liar, monkeypatch: pytest.MonkeyPatch
):
    liar.source = f"http://127.0.0.1:{internal.server_port}"
    monkeypatch.setenv(VARIABLE, f"127.0.0.1:{internal.server_port}")
    connect(create=False).log_text("r", "mine", "config.yaml")
    assert internal.asked == ["/config.yaml"]


def test_no_folder_is_removed_but_the_models_own(liar: Liar, tmp_path: Path):
    own, victim = tmp_path / "m-1", tmp_path / "victim"
    for folder in (own, victim):
        folder.mkdir()
    for place in (f"{own}/../victim", f"{own}/%2e%2e/victim", str(victim), str(own)):
        liar.source = f"file://{place}"
        ACTS["remove"](connect(create=False), tmp_path)
        assert (victim.exists(), own.exists()) == (True, place != str(own))


def test_a_digest_that_is_a_path_removes_nothing(liar: Liar, tmp_path: Path, tiny_models):
    """The digest of the weights names their folder in the cache, and a damaged one is removed."""
    victim, files = tmp_path / "victim", tmp_path / "files" / "artifacts"
    victim.mkdir()
    files.mkdir(parents=True)
    spec = json.loads((tiny_models[0].folder / SPEC_FILE).read_text())
    assert ModelSpec.model_validate_json(json.dumps(spec))
    content = json.dumps({**spec, "sha256": liar.digest})
    (files / "spec.json").write_text(content)
    (files / "model.safetensors").write_text("")
    liar.source = (tmp_path / "files").as_uri()
    liar.tags = {"graft.spec_sha256": digest(content), "graft.sha256": digest("")}
    assert "no model description" in refused(tmp_path / "a" / "cache")
    assert victim.is_dir()


def digest(content: str) -> str:
    return sha256_bytes(content.encode())
