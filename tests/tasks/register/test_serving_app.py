"""``graft serve`` as a process of its own, against MLflow's scoring server and under load."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.version import VERSION
from PIL import Image

CLIENTS = 32
SWAPS = 4
MOST_IMAGES = 5
BOUNDARY = "boundary-of-the-test"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, object]:
        return json.loads(self.body)

    @property
    def labels(self) -> list[str]:
        return [row["label"] for row in self.data["predictions"]]


@dataclass
class Service:
    port: int
    client: MlflowClient
    process: subprocess.Popen[str]
    publish: Callable[[object], int]
    log: Path

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            return ask(connection, method, path, body, headers)
        finally:
            connection.close()

    def post(self, body: object, kind: str = "application/json") -> Reply:
        return self.ask("POST", "/invocations", body, **{"Content-Type": kind})

    def promote(self, version: int) -> None:
        self.client.set_registered_model_alias("tiny", "champion", version)

    def wait_for(self, condition: Callable[[dict[str, object]], bool]) -> dict[str, object]:
        deadline = time.monotonic() + 60
        while not condition(health := self.ask("GET", "/health").data):
            assert time.monotonic() < deadline, health
            time.sleep(0.05)
        return health


def ask(connection, method: str, path: str, body: object, headers: dict[str, str]) -> Reply:
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def png(seed: int, height: int = 30, width: int = 40) -> bytes:
    """Return noise of 30 x 40 px at the top left, and black beside it."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    pixels[:30, :40] = noise
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def form(*contents: bytes) -> bytes:
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="image"; filename="%d.png"\r\n\r\n%s\r\n'
        % (BOUNDARY.encode(), number, content)
        for number, content in enumerate(contents)
    ]
    return b"".join([*parts, b"--%s--\r\n" % BOUNDARY.encode()])


IMAGES = [png(seed) for seed in range(4)]
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def service(tiny_models, publish, empty_store, tmp_path_factory) -> Iterator[Service]:
    """Serve ``tiny``, whose version 1 says blue and version 2 red; version 1 is champion."""
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("GRAFT_CACHE", str(folder / "cache"))
        for model in tiny_models:
            publish(client, "tiny", model)
        client.set_registered_model_alias("tiny", "champion", "1")
        command = [*(sys.executable, "-m", "flows.cli", "serve", "tiny", "--json", "--port", "0")]
        command += ["--poll", "0.1", "--max-mib", "1", "--max-images", str(MOST_IMAGES)]
        command += ["--max-megapixels", "1"]
        command += ["--allow-url", "localhost"]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                ready = json.loads(process.stdout.readline())
                assert (ready.get("model"), ready.get("version")) == ("tiny", 1), ready
                port = int(ready["address"].rpartition(":")[2])
                yield Service(
                    port,
                    client,
                    process,
                    lambda model: publish(client, "tiny", model),
                    folder / "log",
                )
            finally:
                process.kill()


@pytest.fixture(scope="module")
def oracle(tiny_models) -> Iterator[TestClient]:
    """Return MLflow's own scoring application on version 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # init sets it; taken back after
        model = mlflow.pyfunc.load_model(str(tiny_models[0].folder))
        yield TestClient(scoring_server.init(model))


def split(*contents: bytes, **more: object) -> dict[str, object]:
    return {"dataframe_split": {"columns": ["image"], "data": [[b64(c)] for c in contents]} | more}


BODIES = {
    "split": split(*IMAGES),
    "split with an index": split(*IMAGES, index=[4, 3, 2, 1]),
    "split with params": split(*IMAGES) | {"params": {"a": 1}},
    "split without columns": {"dataframe_split": {"data": [[b64(c)] for c in IMAGES]}},
    "one image": split(IMAGES[0]),
    "records": {"dataframe_records": [{"image": b64(c)} for c in IMAGES]},
    "records with another column": {"dataframe_records": [{"image": b64(IMAGES[0]), "id": 7}]},
    "base64 in lines": {
        "dataframe_records": [{"image": base64.encodebytes(IMAGES[0]).decode()}],
    },
    "no image": split(),
}


@pytest.mark.parametrize("case", BODIES)
def test_replies_are_those_of_mlflow_models_serve(service, oracle, case):
    theirs = oracle.post("/invocations", json=BODIES[case])
    assert theirs.status_code == 200, theirs.text
    ours = service.post(BODIES[case])
    assert ours.status == 200, ours.body
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert ours.data.pop("version") == 1
    assert ours.data["predictions"] == theirs.json()["predictions"]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"path": "/etc/hostname"}]},
        {"dataframe_records": [{"picture": b64(IMAGES[0])}]},
        {"dataframe_records": [{"image": None}]},
        {"dataframe_records": {"image": b64(IMAGES[0])}},
        {"dataframe_split": {"columns": ["image"]}},
        {"dataframe_split": 3},
        {"inputs": 3},
        split(IMAGES[0], b"text"),
        split() | {"dataframe_records": []},
        {},
        [],
        b"{",
        b"\xff",
    ],
)
def test_what_mlflow_refuses_is_refused(service, oracle, body):
    content = body if isinstance(body, bytes) else json.dumps(body)
    theirs = oracle.post(
        "/invocations", content=content, headers={"Content-Type": "application/json"}
    )
    assert theirs.status_code == 400
    reply = service.post(body)
    assert reply.status == 400
    assert reply.data.keys() == {"error_code", "message"} <= theirs.json().keys()


def test_mlflows_client_works_unchanged(service):
    client = ScoringServerClient("127.0.0.1", service.port)
    client.wait_server_ready()
    assert client.get_version() == VERSION
    predictions = client.invoke(pd.DataFrame({"image": [b64(c) for c in IMAGES]}))
    frame = predictions.get_predictions()
    assert list(frame["label"]) == ["blue"] * len(IMAGES)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FORM, form(*IMAGES)),
        ("application/json; charset=UTF-8", split(*IMAGES)),
        ("application/json", {"inputs": [b64(c) for c in IMAGES]}),
        ("application/json", {"inputs": {"image": [b64(c) for c in IMAGES]}}),
        ("application/json", {"instances": [b64(c) for c in IMAGES]}),
        ("application/json", {"instances": [{"b64": b64(c)} for c in IMAGES]}),
    ],
)
def test_every_way_to_send_images_gives_the_same(service, kind, body):
    reply = service.post(body, kind)
    assert reply.status == 200, reply.body
    assert reply.data == service.post(split(*IMAGES)).data
    assert reply.headers["x-graft-version"] == "1"


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream"])
def test_an_image_is_sent_as_its_bytes(service, kind):
    reply = service.post(IMAGES[0], kind)
    assert reply.status == 200, reply.body
    assert reply.data == service.post(split(IMAGES[0])).data


def test_health_tells_what_is_served(service):
    ping, version, health = (service.ask("GET", f"/{p}") for p in ("ping", "version", "health"))
    assert (ping.status, ping.body, version.body) == (200, b"\n", VERSION.encode())
    assert {reply.headers["x-graft-version"] for reply in (ping, version, health)} == {"1"}
    since = health.data.pop("since")
    assert pd.Timestamp(since) <= pd.Timestamp.now(tz="UTC")
    told = {key: value for key, value in health.data.items() if key != "since"}
    assert told == {
        "status": "ok",
        "model": "tiny",
        "version": 1,
        "uri": "models:/tiny@champion",
        "problem": None,
    }


JSON = "application/json"
BAD = IMAGES[1][:60]
REFUSED: dict[str, tuple[int, str, object, str]] = {
    # name: status, content type, body, words of the reason
    "text for an image": (400, "image/png", b"text", "row 0: not an image"),
    "nothing at all": (400, "image/png", b"", "row 0: zero bytes"),
    "a file that is torn": (400, FORM, form(IMAGES[0], BAD, IMAGES[2]), "1 of 3 images"),
    "a row that is torn": (400, JSON, split(IMAGES[0], BAD), "row 1: "),
    "a row that is no base64": (
        400,
        JSON,
        {"dataframe_records": [{"image": b64(IMAGES[0])}, {"image": "A"}]},
        "row 1: no base64",
    ),
    "half a character": (400, JSON, b'{"inputs": ["\\ud800"]}', "row 0: no base64"),
    "a row that is a list": (400, JSON, {"inputs": [b64(IMAGES[0]), ["x"]]}, "row 1: list"),
    "a row without the column": (
        400,
        JSON,
        {"dataframe_records": [{"image": b64(IMAGES[0])}, {"other": 1}]},
        "row 1: NoneType",
    ),
    "a record that is none": (400, JSON, {"dataframe_records": [{"image": ""}, 3]}, "Row 1"),
    "a path": (400, JSON, {"inputs": {"path": ["/etc/hostname"]}}, "Paths are not read"),
    "no column": (400, JSON, {"inputs": {}}, "no column"),
    "columns that are none": (
        400,
        JSON,
        {"dataframe_split": {"columns": "image", "data": []}},
        "columns",
    ),
    "brackets without end": (413, JSON, b"[" * 200_000, "200000 commas and brackets; 5000 is"),
    "brackets in brackets": (400, JSON, b"[" * 4999, "no JSON"),
    "a number without end": (400, JSON, b'{"inputs": ' + b"9" * 9000 + b"}", "no JSON"),
    "a form without files": (400, FORM, form(), "no file"),
    "a form that is none": (400, FORM, b"text", ""),
    "a form without a boundary": (400, "multipart/form-data", form(*IMAGES), "boundary"),
    "a host that is not allowed": (
        400,
        JSON,
        {"dataframe_records": [{"url": "https://example.org/a.png"}]},
        "row 0: the host example.org is not allowed",
    ),
    "a host inside": (
        400,
        JSON,
        {"inputs": {"url": ["https://localhost/a.png"]}},
        "row 0: localhost is not on the public internet",
    ),
    "an address that is none": (400, JSON, {"inputs": {"url": [7]}}, "row 0: int is no address"),
    "too many rows": (413, JSON, split(*IMAGES, *IMAGES), "8 images; 5 is the most"),
    "too many files": (413, FORM, form(*IMAGES, *IMAGES), "8 images; 5 is the most"),
    "too many records": (413, JSON, {"dataframe_records": [{}] * 6}, "6 images"),
    "too many inputs": (413, JSON, {"inputs": {"image": [""] * 6}}, "6 images"),
    "too many pixels": (413, "image/png", png(0, 1000, 1100), "row 0: over 1 megapixels"),
    "too many pixels in a form": (
        413,
        FORM,
        form(IMAGES[0], png(0, 1000, 1100)),
        "row 1: over 1 megapixels",
    ),
    "too many pixels in all": (
        413,
        JSON,
        split(*[png(0, 1000, 1000)] * 5),
        "5 megapixels in all; 4 is the most at once",
    ),
    "too large": (413, "image/png", bytes(3 << 20), "larger than 1 MiB"),
    "a table as text": (415, "text/csv", b"image\nx\n", "Content-Type"),
    "another alphabet": (415, f"{JSON}; charset=latin-1", split(IMAGES[0]), "UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_is_refused_with_the_reason(service, case):
    status, kind, body, words = REFUSED[case]
    reply = service.post(body, kind)
    assert reply.status == status, reply.body
    assert words in reply.data["message"]
    assert reply.data["error_code"] == "BAD_REQUEST"
    assert reply.headers["x-graft-version"] == "1"
    assert len(reply.body) < 700
    assert b"Traceback" not in reply.body


def test_other_requests_are_refused(service):
    assert service.ask("GET", "/nowhere").status == 404
    assert service.ask("GET", "/docs").status == 404
    assert service.ask("GET", "/invocations").status == 405
    assert service.ask("POST", "/invocations", IMAGES[0]).status == 415  # of no kind
    zipped = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    assert service.ask("POST", "/invocations", IMAGES[0], **zipped).status == 415
    waits = {"Content-Type": "image/png", "Expect": "100-continue", "Content-Length": "9999999"}
    assert service.ask("POST", "/invocations", None, **waits).status == 413


def test_a_body_without_a_length_is_cut_off(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    pieces = (bytes(1 << 16) for _ in range(40))
    connection.request("POST", "/invocations", pieces, {"Content-Type": "image/png"})
    assert connection.getresponse().status == 413
    connection.close()


@dataclass
class Load:
    """Clients that ask without a pause, each in its own way, and what they were told."""

    port: int
    replies: list[tuple[float, Reply]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _clients: list[threading.Thread] = field(default_factory=list)

    WAYS = (
        ("image/png", lambda: IMAGES[0]),
        (JSON, lambda: split(*IMAGES[:3])),
        (FORM, lambda: form(*IMAGES[:2])),
        ("image/png", lambda: b"not an image"),
    )

    def __enter__(self) -> Load:
        for number in range(CLIENTS):
            self._clients.append(threading.Thread(target=self._client, args=(number,)))
            self._clients[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join(60)

    def _client(self, number: int) -> None:
        kind, body = self.WAYS[number % len(self.WAYS)]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            while not self._over.is_set():
                begun = time.monotonic()
                reply = ask(connection, "POST", "/invocations", body(), {"Content-Type": kind})
                self.replies.append((begun, reply))
                if number >= CLIENTS // 2:  # the others keep their connection
                    connection.close()
        except BaseException as error:
            self.failures.append(error)


def test_a_new_champion_is_taken_without_dropping_a_request(service):
    labels = {1: "blue", 2: "red"}
    served: list[tuple[float, float, int]] = []  # from when to when which version alone
    with Load(service.port) as load:
        for number in range(SWAPS):
            version = 2 - number % 2
            service.promote(version)
            service.wait_for(lambda health, wanted=version: health["version"] == wanted)
            begun = time.monotonic()
            time.sleep(0.3)
            served.append((begun, time.monotonic(), version))
    assert not load.failures
    wrong = [reply for _, reply in load.replies if reply.status == 400]
    right = [(begun, reply) for begun, reply in load.replies if reply.status == 200]
    assert len(wrong) + len(right) == len(load.replies)
    assert all("row 0: not an image" in reply.data["message"] for reply in wrong)
    assert len(right) > 2 * CLIENTS
    for begun, reply in right:
        version = reply.data["version"]
        assert reply.headers["x-graft-version"] == str(version)
        assert set(reply.labels) == {labels[version]}
        for first, last, alone in served:
            if first <= begun < last:
                # what begins in the last moment may end after the next move of the alias
                assert version == alone or begun > last - 0.1
    assert Counter(reply.data["version"] for _, reply in right).keys() == {1, 2}


@pytest.fixture
def damaged(tiny_models, tmp_path) -> Callable[[str], object]:
    """Return what makes a version whose weights are changed, or missing."""

    def make(how: str) -> object:
        model = tiny_models[1]
        copy = tmp_path / how
        shutil.copytree(model.folder, copy)
        weights = copy / "artifacts" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        weights.unlink()
        if how == "changed":
            content[-5] ^= 1
            weights.write_bytes(content)
        return type(model)(copy, model.spec, model.label)

    return make


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_version_that_is_not_whole_is_not_taken(service, damaged, tmp_path_factory, how):
    for known in (2, 1):  # version 2's weights, which are the same, are in the cache
        service.promote(known)
        service.wait_for(lambda health, wanted=known: health["version"] == wanted)
    version = service.publish(damaged(how))
    service.promote(version)
    health = service.wait_for(lambda health: health["problem"] is not None)
    assert (health["status"], health["version"]) == ("ok", 1)
    assert health["problem"].startswith("version 1 goes on: ")
    assert "model.safetensors" in health["problem"]
    assert health["problem"] in service.log.read_text()
    assert "Traceback" not in service.log.read_text()
    assert service.post(split(IMAGES[0])).labels == ["blue"]
    service.promote(2)
    assert service.wait_for(lambda health: health["version"] == 2)["problem"] is None
    service.promote(1)
    service.wait_for(lambda health: health["version"] == 1)


def test_an_alias_that_is_gone_leaves_the_version_at_work(service):
    service.client.delete_registered_model_alias("tiny", "champion")
    health = service.wait_for(lambda health: health["problem"] is not None)
    assert "There is no models:/tiny@champion" in health["problem"]
    assert service.post(IMAGES[0], "image/png").labels == ["blue"]
    service.promote(1)
    service.wait_for(lambda health: health["problem"] is None)


def test_sigterm_lets_what_is_under_way_end(service):
    """The last test here: the server is gone after it."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(len(IMAGES[0])))
    connection.endheaders(IMAGES[0][:100])
    time.sleep(0.3)
    begun = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert service.process.poll() is None
    connection.send(IMAGES[0][100:])
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["predictions"][0]["label"] == "blue"
    assert service.process.wait(30) == 143
    assert time.monotonic() - begun < 10
    assert "Traceback" not in service.log.read_text()
