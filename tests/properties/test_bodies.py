"""Any body of a request to ``graft serve``: images, or a refusal that is the client's to mend."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from tasks.register.serving_app import refusal_of
from tasks.register.serving_body import JSON, MULTIPART, Body, rows_of
from tasks.register.serving_images import FORMATS, IMAGE_COLUMNS, URL_COLUMN

MOST = 4  # images in a request
IMAGE = b"\x89PNG\r\n\x1a\n"
HEADERS = [(b"content-type", b"multipart/form-data; boundary=b")]

words = st.sampled_from(["image", "url", "", "0", "a", "../x", "https://a/b", "\x1b[31m", "\ud800"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5)
anything = st.recursive(
    plain | st.binary(max_size=9).map(lambda content: base64.b64encode(content).decode()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words | st.sampled_from(["columns", "data", *FORMATS]), inner, max_size=3)
    ),
    max_leaves=8,
)
tables = st.fixed_dictionaries({"data": anything}, optional={"columns": anything})
bodies = (
    anything
    | st.dictionaries(st.sampled_from([*FORMATS, "params"]), anything | tables, max_size=2)
    | st.builds(lambda key, rows: {key: rows}, st.sampled_from(FORMATS), st.lists(anything))
)


def the_clients_fault(error: Exception) -> None:
    refusal = refusal_of(error)
    assert 400 <= refusal.status < 500
    assert str(refusal).strip()
    assert len(str(refusal)) < 400


def rows_or_refusal(kind: str, content: bytes) -> None:
    scope = {"type": "http", "headers": HEADERS, "method": "POST", "path": "/", "app": None}
    try:
        rows = rows_of(Body(kind, content, scope), MOST)
    except Exception as error:  # what the server would answer is looked at
        the_clients_fault(error)
        return
    assert len(rows) <= MOST
    assert all(isinstance(row, bytes | str) for row in rows)


@given(body=bodies, encoding=st.sampled_from(["utf-8", "utf-16", "utf-32-le"]))
def test_any_json(body: object, encoding: str):
    rows_or_refusal(JSON, json.dumps(body).encode(encoding))


@given(content=st.binary(max_size=60) | st.text('{}[]",:0 \\u', max_size=30).map(str.encode))
def test_any_bytes_as_json(content: bytes):
    rows_or_refusal(JSON, content)


@given(
    images=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=MOST),
    column=st.sampled_from([name for name in IMAGE_COLUMNS if name]),
)
def test_the_images_that_were_sent_come_back(images: list[bytes], column: str):
    sent = [base64.b64encode(image).decode() for image in images]
    for body in (
        {"dataframe_split": {"columns": [column], "data": [[row] for row in sent]}},
        {"dataframe_records": [{column: row} for row in sent]},
        {"inputs": {column: sent}},
        {"inputs": sent},
        {"instances": sent},
    ):
        assert rows_of(Body(JSON, json.dumps(body).encode(), {}), MOST) == images
    body = {"dataframe_records": [{URL_COLUMN: f"https://a/{n}"} for n in range(len(images))]}
    assert all(isinstance(r, str) for r in rows_of(Body(JSON, json.dumps(body).encode(), {}), MOST))


parts = st.lists(
    st.sampled_from(
        [
            b"--b",
            b"\r\n",
            b"\n",
            b"--b--",
            b"\r\n\r\n",
            b'Content-Disposition: form-data; name="a"',
            b'Content-Disposition: form-data; name="a"; filename="../../x.png"',
            b"Content-Type: image/png",
            IMAGE,
        ]
    )
    | st.binary(max_size=9),
    max_size=14,
).map(b"".join)


@given(content=parts)
def test_any_form(content: bytes):
    rows_or_refusal(MULTIPART, content)
