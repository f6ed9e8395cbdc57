"""The body of a request, within its limits, and the images in it by its content type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.types import Message

from tasks.register.serving_images import Refusal, Rows, bad_request, check_count, rows_of_json

JSON, MULTIPART, BYTES = "application/json", "multipart/form-data", "application/octet-stream"
KINDS = f"{JSON}, image/*, {BYTES}, {MULTIPART}"
MIB = 1 << 20
SECONDS = 60.0  # longest time for a body, or what it names, to come; MLflow's for a request
DISCARDED = 64 * MIB  # of a body that is too large; one cut off before sees no reply


@dataclass(frozen=True)
class Limits:
    """What one request may hold."""

    mib: int = 16
    images: int = 64

    @property
    def bytes(self) -> int:
        """Return the size of the largest body."""
        return self.mib * MIB


async def rows_of(request: Request, limits: Limits) -> Rows:
    """Return the images of a request: bytes, or a str for the address of one.

    Raises ``Refusal`` for a body that is too large, has too many images, comes too slowly, or is
    not of a known kind.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    name = kind.decode("latin-1")
    _check_kind(request, name, options.get(b"charset", b"utf-8"))
    async with in_time("The body"):
        body = await _read(request, limits)
    if name == JSON:
        return await asyncio.to_thread(rows_of_json, body, limits.images)
    if name == MULTIPART:
        return await _files(request, body, limits.images)
    return [body]


def _check_kind(request: Request, kind: str, charset: bytes) -> None:
    if kind not in (JSON, MULTIPART, BYTES) and not kind.startswith("image/"):
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type must be one of {KINDS}.")
    coding = request.headers.get("content-encoding", "identity")
    if charset.lower() != b"utf-8" or coding != "identity":
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be UTF-8 where it is text, and plain."
        )


@asynccontextmanager
async def in_time(what: str) -> AsyncIterator[None]:
    """Raise ``Refusal`` when the block has not ended after ``SECONDS``."""
    try:
        async with asyncio.timeout(SECONDS):
            yield
    except TimeoutError as error:
        raise Refusal(
            HTTPStatus.REQUEST_TIMEOUT, f"{what} did not come within {SECONDS:g} s."
        ) from error


async def _read(request: Request, limits: Limits) -> bytes:
    """Read the body; what is too large is read on for a while, so that the reply is seen."""
    declared = request.headers.get("content-length", "")
    promised = int(declared) if declared.isdecimal() else 0
    waits = "expect" in request.headers  # has sent nothing yet, and need not
    body, size = bytearray(), 0
    if promised <= limits.bytes or not (waits or promised > DISCARDED):
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size <= limits.bytes:
                    body += piece
                elif size > DISCARDED:
                    break
    if max(size, promised) > limits.bytes:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The request is larger than {limits.mib} MiB. Send its images in parts.",
        )
    return bytes(body)


async def _files(request: Request, body: bytes, most: int) -> Rows:
    """Return the files of a form in their order; its other fields are not looked at."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, replay).form() as form:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        check_count(len(files), most)
        if not files:
            raise bad_request("The form holds no file.")
        return [await file.read() for file in files]
