"""The routes of ``graft serve``: MLflow's scoring protocol, and the version in every reply."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import torch
from fastapi import FastAPI, Request, Response
from mlflow.exceptions import HTTP_STATUS_TO_ERROR_CODE
from mlflow.pyfunc.scoring_server import predictions_to_json
from mlflow.version import VERSION
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tasks.errors import DataError, ResourceError
from tasks.register.serving_body import JSON, Limits, Memory, body_of, in_time, rows_of
from tasks.register.serving_champion import Champion
from tasks.register.serving_decoders import Decoders
from tasks.register.serving_images import Refusal, Rows, bad_request
from tasks.register.serving_urls import NotFetched, UrlReader
from tasks.register.serving_worker import Worker

if TYPE_CHECKING:
    import pandas as pd

VERSION_HEADER = "X-Graft-Version"
MOST_UNDER_WAY = 128  # requests whose body has come
BODIES = 32  # of the largest, in memory at once
PARSERS = 2  # bodies taken apart at once
FETCHERS = 8  # images by address at once

log = logging.getLogger(__name__)


class Service:
    """What the routes share: the champion, the limits, and who decodes and classifies."""

    def __init__(self, champion: Champion, limits: Limits, urls: UrlReader | None) -> None:
        """Take ``urls`` to read images by address; without it none is read."""
        self._champion = champion
        self._limits = limits
        self._urls = urls
        self._worker = Worker()
        self._memory = Memory(BODIES * limits.bytes)
        self._parsers = ThreadPoolExecutor(PARSERS, "parse")
        self._decoders = Decoders(limits.megapixels)
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetch")
        self._under_way = 0

    async def ping(self) -> Response:
        """Say that the server is there, as MLflow's does."""
        return self._reply("\n")

    async def health(self) -> Response:
        """Say what is served since when, and why no newer version is."""
        served = self._champion.current
        state = {
            "status": "ok",
            "model": served.name,
            "version": served.version,
            "since": served.since.isoformat(timespec="seconds"),
            "uri": self._champion.uri,
            "problem": self._champion.problem,
        }
        return self._reply(json.dumps(state))

    async def version(self) -> Response:
        """Say the version of MLflow, whose protocol this is."""
        return self._reply(VERSION)

    async def invocations(self, request: Request) -> Response:
        """Classify the images of a request; a reason is all that a wrong one gets."""
        try:
            with self._memory.room() as take:
                return await self._predictions(request, take)
        except asyncio.CancelledError:  # the server stops, and has waited for as long as it may
            return self.refused(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The server is stopping."))
        except Exception as error:  # no fault may reach a client as a traceback
            return self.refused(refusal_of(error))

    async def _predictions(self, request: Request, take: Callable[[int], None]) -> Response:
        body = await body_of(request, self._limits, take)
        with self._place():
            loop = asyncio.get_running_loop()
            rows = await loop.run_in_executor(self._parsers, rows_of, body, self._limits.images)
            del body  # the images that came out of it are as large
            async with in_time("The images"):
                images = await self._fetched(rows, take)
            served = self._champion.current  # to the end of this request
            pixels_nhwc = await self._decoders.decoded(served.classifier, images)
            frame = await asyncio.wrap_future(self._worker.submit(served.classifier, pixels_nhwc))
            text = await asyncio.to_thread(_as_json, frame, served.version)
            return self._reply(text, version=served.version)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count a request for the time of the block; raises ``Refusal`` where many are at work."""
        if self._under_way >= MOST_UNDER_WAY:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests at once. Try again.")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def _fetched(self, rows: Rows, take: Callable[[int], None]) -> list[bytes]:
        """Return images, those that are addresses fetched one after another."""
        images, left = [], self._limits.bytes
        for row, image in enumerate(rows):
            if isinstance(image, str):
                image = await asyncio.get_running_loop().run_in_executor(
                    self._fetchers, self._fetch, row, image, left
                )
                left -= len(image)
                take(len(image))
            images.append(image)
        return images

    def _fetch(self, row: int, address: str, most: int) -> bytes:
        if self._urls is None:
            raise bad_request("Images by url are not read here: graft serve --allow-url HOST.")
        try:
            return self._urls.read(address, most)
        except NotFetched as error:
            raise bad_request(f"row {row}: {error}.") from error

    def refused(self, refusal: Refusal) -> Response:
        """Return the reply to a request that is refused, in the form of MLflow's errors."""
        # MLflow knows no word for 405, 408, 413 and 415
        code = HTTP_STATUS_TO_ERROR_CODE.get(refusal.status, "BAD_REQUEST")
        text = json.dumps({"error_code": code, "message": str(refusal)})
        return self._reply(text, refusal.status)

    def _reply(
        self, text: str, status: HTTPStatus = HTTPStatus.OK, version: int | None = None
    ) -> Response:
        said = self._champion.current.version if version is None else version
        return Response(text, status, {VERSION_HEADER: str(said)}, JSON)


def _as_json(frame: pd.DataFrame, version: int) -> str:
    text = io.StringIO()
    predictions_to_json(frame, text, {"version": version})
    return text.getvalue()


def refusal_of(error: Exception) -> Refusal:
    """Return what a client is told about ``error``; what is the server's fault is logged."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, DataError):
        return bad_request(str(error))
    if isinstance(error, HTTPException):
        return Refusal(HTTPStatus(error.status_code), str(error.detail))
    if isinstance(error, ClientDisconnect):
        return bad_request("The connection broke off.")
    log.exception("a request failed: %s: %s", type(error).__name__, error, exc_info=error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError | ResourceError):
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Memory ran out. Send fewer images at once.")
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "A fault of the server; its log says which.")


def make_app(service: Service) -> FastAPI:
    """Return the application: /invocations, /ping, /health and /version, and nothing else."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    async def unknown(request: Request, error: Exception) -> Response:
        return service.refused(refusal_of(error))

    app.add_exception_handler(HTTPException, unknown)
    app.add_api_route("/invocations", service.invocations, methods=["POST"])
    app.add_api_route("/ping", service.ping)
    app.add_api_route("/health", service.health)
    app.add_api_route("/version", service.version)
    return app
