"""Serve a registered model over HTTP, and its next version as soon as it is champion."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tasks.errors import ConfigError
from tasks.register.serving_app import Service, make_app
from tasks.register.serving_body import Limits
from tasks.register.serving_champion import Champion, uri_of
from tasks.register.serving_http import TimedProtocol
from tasks.register.serving_urls import UrlReader

STOP_SECONDS = 8  # for requests under way
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep theirs, which else send into a closing one


@dataclass(frozen=True)
class ServeSettings:
    """What ``graft serve`` is given."""

    named: str  # NAME, models:/NAME@ALIAS or models:/NAME/VERSION
    cache: Path
    host: str = "127.0.0.1"
    port: int = 5002  # 0: any free one
    limits: Limits = field(default_factory=Limits)
    poll: float = 5.0  # seconds between looks at the alias
    allowed_hosts: tuple[str, ...] = ()  # that images may be fetched from


@dataclass(frozen=True)
class Ready:
    """What is served, and where."""

    address: str
    model: str
    version: int


def serve(settings: ServeSettings, ready: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, and call ``ready`` once requests are answered.

    Requests under way are finished first, within ``STOP_SECONDS``; then the signal has the effect
    that it had before the call. Raises ``ConfigError`` for a port that is taken, ``TrackingError``
    where there is no champion, and as ``tasks.register.registry.fetch``.
    """
    urls = UrlReader(settings.allowed_hosts) if settings.allowed_hosts else None
    with listening(settings.host, settings.port) as listener:
        champion = Champion(uri_of(settings.named), settings.cache)
        champion.watch(settings.poll)
        app = make_app(Service(champion, settings.limits, urls))
        served = champion.current
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        shown = Ready(f"http://{host}:{port}", served.name, served.version)
        _Server(_server_config(app), lambda: ready(shown)).run([listener])


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises ``ConfigError`` where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"Port {port} of {host} cannot be had: {error.strerror}.\n"
            "Name another, for example --port 5003, or another --host."
        ) from error
    # asyncio does so for sockets that it makes; without it a reply waits 40 ms for the last one's
    # acknowledgement, and what is accepted inherits it
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _server_config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
