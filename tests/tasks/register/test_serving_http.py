"""Connections that send nothing, or half a request, to a real server."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from tasks.register import serving_http
from tasks.register.serving import _server_config, listening

SOON = 0.4
HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
LARGE = 64 << 20  # more than the kernel takes over for a client


@pytest.fixture
def address(monkeypatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(serving_http, "HEAD_SECONDS", SOON)
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE))

    config = _server_config(app)
    config.timeout_keep_alive = 1
    server = uvicorn.Server(config)
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join(30)


def closed_after(connection: socket.socket) -> float:
    """Return the seconds until the server closes a connection."""
    connection.settimeout(5)
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return time.monotonic() - begun


@pytest.mark.parametrize("sent", [b"", b"P", HEAD])
def test_a_connection_that_brings_no_whole_head_is_closed(address, sent):
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        assert closed_after(connection) < SOON + 2


def test_bytes_now_and_then_do_not_keep_it(address):
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < begun + 5:
                connection.sendall(b"a: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() < begun + SOON + 2


def test_the_second_request_has_its_time_too_and_a_body_has_more(address):
    with socket.create_connection(address) as connection:
        connection.sendall(HEAD + b"Content-Length: 4\r\n\r\nab")
        time.sleep(2 * SOON)  # a body has the time that the application gives it
        connection.sendall(b"cd")
        reply = b""
        while not reply.endswith(b"abcd"):
            reply += connection.recv(1 << 16)
        time.sleep(SOON / 2)
        connection.sendall(HEAD)
        assert closed_after(connection) < SOON + 2


def test_a_connection_in_use_is_kept(address):
    connection = http.client.HTTPConnection(*address, timeout=10)
    connection.connect()
    first = connection.sock
    for _ in range(6):
        connection.request("POST", "/echo", b"abc")
        assert connection.getresponse().read() == b"abc"
        time.sleep(SOON / 2)
    assert connection.sock is first
    connection.close()


def test_a_reply_that_nobody_takes_is_given_up(address):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1 + 2 * SOON)  # the time of an idle connection
        connection.settimeout(5)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 20):
                received += len(piece)
        assert received < LARGE
