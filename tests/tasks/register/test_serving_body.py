"""What the body of a request may be, and the images that come out of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable

import pytest
from fastapi import Request

from tasks.register import serving_body
from tasks.register.serving_body import BYTES, JSON, MIB, MULTIPART, Body, Limits, body_of, rows_of
from tasks.register.serving_images import Refusal

FORM = f"{MULTIPART}; boundary=b"
FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nnot looked at\r\n'


def scope_of(**headers: str) -> dict[str, object]:
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": "http", "headers": named}


def taken(pieces: Iterable[bytes], **headers: str) -> tuple[Body | Refusal, int, int]:
    """Return what comes of a body, how many pieces were asked for, and how much of it was held."""
    asked, held, left = itertools.count(), [0], iter(pieces)

    async def receive() -> dict[str, object]:
        next(asked)
        piece = next(left, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    request = Request(scope_of(**headers), receive)
    try:
        got = asyncio.run(body_of(request, Limits(mib=1), held.append))
    except Refusal as refusal:
        return refusal, next(asked), sum(held)
    return got, next(asked), sum(held)


@pytest.mark.parametrize("kind", [JSON, f"{JSON}; charset=UTF-8", FORM, BYTES, "image/webp"])
def test_a_body_of_a_known_kind_is_read_whole(kind):
    body, asked, held = taken([b"ab", b"cd"], content_type=kind)
    assert isinstance(body, Body)
    assert (body.kind, body.content) == (kind.partition(";")[0], b"abcd")
    assert (asked, held) == (3, 4)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "Content-Type must be one of application/json, image"),
        ({"content_type": "text/csv"}, "Content-Type must be one of"),
        ({"content_type": f"{JSON}; charset=latin-1"}, "must be UTF-8"),
        ({"content_type": "image/png", "content_encoding": "gzip"}, "and plain"),
    ],
)
def test_a_body_of_another_kind_is_refused_unread(headers, words):
    refusal, asked, _ = taken([b"abcd"], **headers)
    assert isinstance(refusal, Refusal)
    assert words in str(refusal)
    assert (refusal.status, asked) == (415, 0)


MANY = 5 * MIB


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, 4),  # read on until over 3 MiB are thrown away
        ({"content_length": str(2 * MIB)}, 4),
        ({"content_length": str(MANY)}, 0),  # more than is worth to throw away
        ({"content_length": str(2 * MIB), "expect": "100-continue"}, 0),
    ],
)
def test_a_body_that_is_too_large_is_held_to_the_limit_and_read_on_for_a_while(
    monkeypatch, headers, asked
):
    monkeypatch.setattr(serving_body, "DISCARDED", 3 * MIB)
    pieces = (bytes(MIB) for _ in range(MANY // MIB))
    refusal, times, held = taken(pieces, content_type="image/png", **headers)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, times) == (413, asked)
    assert str(refusal) == "The request is larger than 1 MiB. Send its images in parts."
    assert held == (MIB if asked else 0)


def form(*parts: bytes) -> Body:
    return Body(MULTIPART, b"".join([*parts, b"--b--\r\n"]), scope_of(content_type=FORM))


def test_the_files_of_a_form_are_its_rows_and_its_fields_are_not():
    body = form(FILE % b"one", FIELD, FILE % b"two")
    assert rows_of(body, 2) == [b"one", b"two"]
    assert rows_of(Body("image/png", bytearray(b"one"), {}), 2) == [b"one"]
    assert rows_of(Body(JSON, b'{"inputs": ["b25l"]}', {}), 2) == [b"one"]


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ([FILE % b"one"] * 3, 413, "3 images; 2 is the most"),
        ([FIELD], 400, "The form holds no file"),
    ],
)
def test_a_form_of_too_many_files_or_none_is_refused(parts, status, words):
    with pytest.raises(Refusal, match=words) as caught:
        rows_of(form(*parts), 2)
    assert caught.value.status == status
