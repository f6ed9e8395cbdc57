"""What a client is told when the fault is not his."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import socket
import time

import pytest
import torch
from fastapi import Request
from fastapi.testclient import TestClient
from mlflow.version import VERSION
from PIL import Image

from tasks.register import serving_app, serving_body
from tasks.register.serving import listening
from tasks.register.serving_app import Service, make_app
from tasks.register.serving_body import MIB, Limits, Memory, body_of
from tasks.register.serving_champion import Champion
from tasks.register.serving_images import Refusal
from tasks.register.serving_urls import NotFetched


@pytest.fixture
def champion(store, tiny_models, publish, tmp_path) -> Champion:
    publish(store, "tiny", tiny_models[0])
    return Champion("models:/tiny/1", tmp_path / "cache")


@pytest.fixture
def client(champion) -> TestClient:
    return TestClient(make_app(Service(champion, Limits(), None)))


def post(client: TestClient, content: bytes):
    return client.post("/invocations", content=content, headers={"Content-Type": "image/png"})


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (RuntimeError("secret of the house"), 500, "its log says"),
        (MemoryError(), 503, "Memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory"), 503, "Memory ran out"),
    ],
)
def test_a_fault_of_the_server_is_logged_and_said_in_short(
    client, champion, image, monkeypatch, caplog, fault, status, words
):
    def fail(_: object) -> None:
        raise fault

    assert post(client, image).status_code == 200
    monkeypatch.setattr(champion.current.classifier, "classify", fail)
    with caplog.at_level(logging.ERROR):
        reply = post(client, image)
    assert reply.status_code == status
    assert words in reply.json()["message"]
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    assert str(fault) in caplog.text
    monkeypatch.undo()
    assert post(client, image).status_code == 200


def test_more_requests_than_memory_could_hold_are_put_off(client, image, monkeypatch):
    monkeypatch.setattr(serving_app, "MOST_UNDER_WAY", 0)
    reply = post(client, image)
    assert (reply.status_code, reply.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    monkeypatch.undo()
    assert post(client, image).status_code == 200


def test_bodies_that_come_slowly_keep_nobody_out_until_they_fill_the_memory():
    memory, limits = Memory(3 * MIB), Limits(mib=1)
    headers = [(b"content-type", b"image/png")]

    async def body(size: int, rest: asyncio.Event, come: asyncio.Event) -> int:
        pieces = iter([bytes(size), bytes(MIB - size)])

        async def receive() -> dict[str, object]:
            piece = next(pieces)
            if len(piece) == MIB - size:
                come.set()
                await rest.wait()
            return {"type": "http.request", "body": piece, "more_body": len(piece) == size}

        scope = {"type": "http", "headers": headers}
        with memory.room() as take:
            return len((await body_of(Request(scope, receive), limits, take)).content)

    async def scene() -> None:
        rest, come = asyncio.Event(), asyncio.Event()
        slow = [asyncio.create_task(body(8, rest, come)) for _ in range(200)]
        await come.wait()
        come.clear()
        half = [asyncio.create_task(body(MIB // 2 + 1, rest, come)) for _ in range(6)]
        await come.wait()
        await asyncio.sleep(0)
        refused = [task for task in half if task.done()]
        assert len(refused) == 1
        with pytest.raises(Refusal, match="Too much at once") as caught:
            refused[0].result()
        assert caught.value.status == 503
        rest.set()
        sizes = await asyncio.gather(*slow, *half, return_exceptions=True)
        assert sizes.count(MIB) >= 2
        assert await body(8, rest, come) == MIB  # all is given back

    asyncio.run(scene())


def test_addresses_are_not_read_where_no_host_is_allowed(client):
    records = [{"url": "https://example.org/a.png"}]
    reply = client.post("/invocations", json={"dataframe_records": records})
    assert reply.status_code == 400
    assert "--allow-url" in reply.json()["message"]


class Shelf:
    """Has what addresses name, where a ``UrlReader`` would ask a host."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.allowed: list[int] = []

    def read(self, address: str, most: int) -> bytes:
        self.allowed.append(most)
        if address not in self.files:
            raise NotFetched(f"{address} is not here")
        return self.files[address]


def test_images_by_address_are_classified_as_sent_ones_and_share_the_limit(champion, image):
    shelf, limits = Shelf({"https://a/b.png": image}), Limits(mib=1)
    client = TestClient(make_app(Service(champion, limits, shelf)))
    replies = [
        client.post("/invocations", json={"inputs": {name: [value] * 2}})
        for name, value in (
            ("url", "https://a/b.png"),
            ("image", base64.b64encode(image).decode()),
        )
    ]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()
    assert shelf.allowed == [limits.bytes, limits.bytes - len(image)]
    reply = client.post(
        "/invocations", json={"inputs": {"url": ["https://a/b.png", "https://a/c"]}}
    )
    assert reply.status_code == 400
    assert reply.json()["message"] == "row 1: https://a/c is not here."


def test_what_is_served_is_told_and_nothing_else_is_there(client, champion):
    replies = {path: client.get(path) for path in ("/ping", "/version", "/health", "/nowhere")}
    assert (replies["/ping"].text, replies["/version"].text) == ("\n", VERSION)
    assert replies["/health"].json() == {
        "status": "ok",
        "model": "tiny",
        "version": 1,
        "since": champion.current.since.isoformat(timespec="seconds"),
        "uri": "models:/tiny/1",
        "problem": None,
    }
    assert [reply.status_code for reply in replies.values()] == [200, 200, 200, 404]
    assert replies["/nowhere"].json() == {
        "error_code": "ENDPOINT_NOT_FOUND",
        "message": "Not Found",
    }
    assert {reply.headers["x-graft-version"] for reply in replies.values()} == {"1"}
    reply = post(client, b"text")
    assert (reply.status_code, reply.json()["error_code"]) == (400, "BAD_REQUEST")
    assert "row 0: not an image" in reply.json()["message"]


def test_a_request_that_breaks_off_or_outlasts_the_server_has_its_reply(champion):
    service = Service(champion, Limits(), None)
    scope = {"type": "http", "headers": [(b"content-type", b"image/png")]}

    async def gone() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def scene() -> list[tuple[int, str]]:
        waits = asyncio.Event()

        async def never() -> dict[str, object]:
            waits.set()
            await asyncio.sleep(60)
            return {}

        broken = await service.invocations(Request(scope, gone))
        task = asyncio.create_task(service.invocations(Request(scope, never)))
        await waits.wait()
        task.cancel()
        replies = (broken, await task)
        return [(reply.status_code, json.loads(reply.body)["message"]) for reply in replies]

    assert asyncio.run(scene()) == [
        (400, "The connection broke off."),
        (503, "The server is stopping."),
    ]


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(serving_body, "SECONDS", 0.1)

    async def never() -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    scope = {"type": "http", "headers": [(b"content-type", b"image/png")]}
    begun = time.monotonic()
    with pytest.raises(Refusal, match=r"within 0\.1 s") as caught:
        asyncio.run(body_of(Request(scope, never), Limits(), lambda _: None))
    assert caught.value.status == 408
    assert time.monotonic() - begun < 5


def test_a_reply_is_sent_at_once():
    """A small second packet must not wait for the first one's acknowledgement (Nagle)."""
    with (
        listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
