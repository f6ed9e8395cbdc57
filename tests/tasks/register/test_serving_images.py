"""What reading JSON may cost, and that base64 is read as MLflow reads it."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest

from tasks.register.serving_images import VALUES, Refusal, rows_of_json

SIZE = 1 << 20


@pytest.mark.parametrize("unit", [b"[]", b"{}", b'{"":1}', b"1e9", b'""', b"null"])
def test_json_of_many_values_is_refused_before_it_takes_memory(unit):
    body = b'{"inputs": [' + b",".join([unit] * (SIZE // (len(unit) + 1))) + b"]}"
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="commas and brackets; 64000 is the most") as caught:
            rows_of_json(body, 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < SIZE / 10


def test_images_of_any_size_and_some_columns_beside_them_are_read():
    content = bytes(range(256)) * 4096
    row = [base64.b64encode(content).decode(), *range(VALUES - 20)]
    split = {"columns": ["image", *map(str, range(VALUES - 20))], "data": [row] * 4}
    body = bytearray(json.dumps({"dataframe_split": split}).encode())
    assert rows_of_json(body, 6) == [content] * 4


@pytest.mark.parametrize(
    "value", ["", "AAAA", "AA==", "A A\nA=A", "AA==BB", "\u00e9AAAA", "?", "=="]
)
def test_base64_is_read_as_mlflow_reads_it(value):
    body = json.dumps({"inputs": [value]}, ensure_ascii=False).encode()
    assert rows_of_json(body, 1) == [base64.decodebytes(value.encode())]


ONE = base64.b64encode(b"one").decode()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"inputs": ONE}, [b"one"]),
        ({"inputs": {"image": ONE}}, [b"one"]),
        ({"instances": [{"b64": ONE, "id": 3}, {"b64": ONE}]}, [b"one"] * 2),
        (
            {"dataframe_split": {"columns": ["url", "id"], "data": [["https://a/b", 3]]}},
            ["https://a/b"],
        ),
        ({"dataframe_split": {"data": [ONE]}}, [b"one"]),
        ({"dataframe_records": []}, []),
    ],
)
def test_every_form_of_json_gives_its_rows(content, rows):
    assert rows_of_json(json.dumps(content).encode(), 2) == rows


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({"inputs": [ONE] * 3}, 413, "The request has 3 images; 2 is the most at once"),
        ({"dataframe_records": [{"path": "/a"}]}, 400, "The first column is 'path': name it image"),
        ({"dataframe_split": {"columns": ["image"]}}, 400, "must be an object with columns and"),
        ({"dataframe_split": {"columns": [], "data": []}}, 400, "columns of dataframe_split must"),
        ({"dataframe_records": ONE}, 400, "dataframe_records must be a list"),
        ({"instances": {"image": ONE}}, 400, "instances must be a list"),
        ({"instances": [{"b64": ONE}, 3]}, 400, "Row 1 of instances is no object"),
        ({"inputs": {}}, 400, "inputs has no column"),
        ({"inputs": {"url": [7]}}, 400, "row 0: int is no address"),
        ({"inputs": [ONE, None]}, 400, "row 1: NoneType is no image in base64"),
        ({"inputs": [ONE, "A"]}, 400, "row 1: no base64: "),
        ({"inputs": [], "instances": []}, 400, "must be a JSON object with one of dataframe_split"),
        ([], 400, "must be a JSON object with one of dataframe_split"),
    ],
)
def test_json_that_is_wrong_is_refused_with_the_reason(content, status, words):
    with pytest.raises(Refusal, match=words) as caught:
        rows_of_json(json.dumps(content).encode(), 2)
    assert caught.value.status == status


def test_what_is_no_json_is_refused():
    for body in (b"{", b"\xff", b"[" * 1500):
        with pytest.raises(Refusal, match="The body is no JSON") as caught:
            rows_of_json(body, 2)
        assert caught.value.status == 400
