from __future__ import annotations

import base64
import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.register.promote import register
from tasks.register.serving import Ready, ServeSettings, serve
from tasks.register.tracking import open_run


def post(port: int, body: object) -> tuple[int, str]:
    """Return the status and text of an answer of /invocations."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture
def service(server, port, store, strong) -> int:
    """Register a champion, serve it with ``mlflow models serve``, and return the port."""
    with open_run(strong.config) as tracker:
        register(
            strong.config, strong.raw, strong.prepared, strong.model, strong.report, tracker.run_id
        )
    server(
        [
            "mlflow",
            "models",
            "serve",
            "--model-uri=models:/colours@champion",
            "--env-manager=local",
            "--host=127.0.0.1",
            f"--port={port}",
        ],
        f"http://127.0.0.1:{port}/ping",
    )
    return port


def test_the_champion_is_served_over_http(service, strong):
    stored = pd.read_parquet(strong.report.predictions)
    names = [f"p_{name}" for name in strong.model.classes]
    contents = [(strong.raw.root / path).read_bytes() for path in stored["path"][:5]]

    for n in (1, 5):
        split = {"columns": ["image"], "data": [[encoded(c)] for c in contents[:n]]}
        status, text = post(service, {"dataframe_split": split})
        assert status == 200, text
        rows = pd.DataFrame(json.loads(text)["predictions"])
        assert list(rows["label"]) == list(stored["prediction"][:n])
        np.testing.assert_allclose(rows[names], stored[names][:n], atol=1e-5)

    records = [{"image": encoded(contents[0])}, {"image": encoded(contents[1][:60])}]
    status, text = post(service, {"dataframe_records": records})
    assert status == 400
    assert "1 of 2 images cannot be read: row 1: " in json.loads(text)["message"]

    for body in (
        {"dataframe_records": [{"path": str(strong.raw.root / stored["path"][0])}]},
        {"instances": [{"path": str(strong.raw.root / stored["path"][0])}]},
        {"inputs": [str(Path("/etc/hostname"))]},
    ):
        status, text = post(service, body)
        assert status == 400, (body, text)
        assert "label" not in text


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """Return the SIGTERMs that came, which end nothing meanwhile."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_serve_is_ready_once_it_answers_and_hands_the_signal_on(
    store, tiny_models, publish, tmp_path, signals
):
    publish(store, "tiny", tiny_models[0])
    store.set_registered_model_alias("tiny", "champion", "1")
    told: list[Ready] = []
    answers: list[dict[str, object]] = []

    def ask(ready: Ready) -> None:
        told.append(ready)
        threading.Thread(target=look_and_stop, args=(ready.address,)).start()

    def look_and_stop(address: str) -> None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
                answers.append(json.load(answer))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    serve(ServeSettings("tiny", tmp_path / "cache", port=0, poll=86400), ask)
    assert signals == [signal.SIGTERM]
    assert [(ready.model, ready.version) for ready in told] == [("tiny", 1)]
    assert [(a["model"], a["version"], a["uri"]) for a in answers] == [
        ("tiny", 1, "models:/tiny@champion")
    ]
