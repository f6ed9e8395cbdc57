"""The body of a request, within its limits, and the images in it by its content type."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.types import Message, Scope

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
    megapixels: int = 50  # of an image

    @property
    def bytes(self) -> int:
        """Return the size of the largest body."""
        return self.mib * MIB


@dataclass(frozen=True)
class Body:
    """A body, and what it says that it is."""

    kind: str
    content: bytes | bytearray
    scope: Scope


class Memory:
    """Counts the bytes of all bodies that are held, and refuses what would be too many.

    Requests whose body does not come hold nothing, and so keep nobody out.
    """

    def __init__(self, most: int) -> None:
        """Take how many bytes may be held."""
        self._most = most
        self._held = 0

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """Give what takes bytes, for a request; they are given back at the end of the block."""
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if self._held + size > self._most:
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too much at once. Try again.")
            self._held += size
            mine += size

        try:
            yield take
        finally:
            self._held -= mine


async def body_of(request: Request, limits: Limits, take: Callable[[int], None]) -> Body:
    """Return the body of a request; ``take`` is told of every piece of it.

    Raises ``Refusal`` for a body that is too large, comes too slowly, or is not of a known kind.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    name = kind.decode("latin-1")
    _check_kind(request, name, options.get(b"charset", b"utf-8"))
    async with in_time("The body"):
        return Body(name, await _read(request, limits, take), request.scope)


def rows_of(body: Body, most: int) -> Rows:
    """Return the images of a body: bytes, or a str for the address of one.

    Raises ``Refusal`` for what is wrong with it, as ``rows_of_json``. It can take seconds, and so
    is no work for the thread that answers.
    """
    if body.kind == JSON:
        return rows_of_json(body.content, most)
    if body.kind == MULTIPART:
        return asyncio.run(_files(body, most))
    return [bytes(body.content)]


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


async def _read(request: Request, limits: Limits, take: Callable[[int], None]) -> bytearray:
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
                    take(len(piece))
                    body += piece
                elif size > DISCARDED:
                    break
    if max(size, promised) > limits.bytes:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The request is larger than {limits.mib} MiB. Send its images in parts.",
        )
    return body


async def _files(body: Body, most: int) -> Rows:
    """Return the files of a form in their order; its other fields are not looked at."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body.content, "more_body": False}

    async with Request(body.scope, replay).form() as form:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        check_count(len(files), most)
        if not files:
            raise bad_request("The form holds no file.")
        return [await file.read() for file in files]
