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
