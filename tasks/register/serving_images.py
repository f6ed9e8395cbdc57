"""From the body of a request to the images in it; whatever is wrong is a ``Refusal``.

The JSON is that of MLflow's scoring server: ``dataframe_split``, ``dataframe_records``, ``inputs``
or ``instances``, images in base64. It is not read by MLflow's own functions, which do not say which
row is wrong, and build a table of all keys (or an array as wide as its longest string): a small
body could fill the memory.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
IMAGE_COLUMNS = ("image", "b64", 0)  # 0: a column without a name
URL_COLUMN = "url"
VALUES = 1000  # in JSON, for each image that a request may have

Rows = list[bytes | str]  # images' bytes, and addresses of images


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request that is not answered with predictions; ``str(refusal)`` is the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def bad_request(reason: str) -> Refusal:
    """Return the refusal of a request that is wrong."""
    return Refusal(HTTPStatus.BAD_REQUEST, reason)


def check_count(n: int, most: int) -> None:
    """Raise ``Refusal`` when a request has more images than one may have."""
    if n > most:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The request has {n} images; {most} is the most at once. Send them in parts.",
        )


def rows_of_json(body: bytes | bytearray, most: int) -> Rows:
    """Return the images of a JSON body in order: bytes, or a str for the address of one.

    Raises ``Refusal`` for what is no such JSON, for a row that is no base64 (it names the row), and
    for more than ``most`` rows or ``VALUES`` values for each of them.
    """
    _check_values(body, VALUES * most)
    column, values = _column(_content(body), most)
    if column == URL_COLUMN:
        return [_address(row, value) for row, value in enumerate(values)]
    if column not in IMAGE_COLUMNS:
        raise bad_request(
            f"The first column is {str(column)[:50]!r}: name it image (an image file in base64) "
            "or url. Paths are not read."
        )
    return [_decoded(row, value) for row, value in enumerate(values)]


def _check_values(body: bytes | bytearray, most: int) -> None:
    """Raise ``Refusal`` for JSON of too many values, before it is read.

    Three bytes can be a list, which takes 64 once it is read. All but one of the values have a
    comma before them or a bracket around them; base64 has neither, so nothing is refused for its
    images' sake.
    """
    n = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if n > most:
        raise Refusal(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The JSON has {n} commas and brackets; {most} is the most. Send images alone.",
        )


def _content(body: bytes | bytearray) -> tuple[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # also no UTF-8, and numbers without an end
        raise bad_request(f"The body is no JSON: {str(error)[:100]}.") from error
    named = [key for key in FORMATS if key in content] if isinstance(content, dict) else []
    if len(named) != 1:
        raise bad_request(f"The body must be a JSON object with one of {', '.join(FORMATS)}.")
    return named[0], content[named[0]]


def _column(content: tuple[str, Any], most: int) -> tuple[object, Sequence[object]]:
    """Return the name of the first column and its values; other columns are not looked at."""
    key, table = content
    if key == "dataframe_split":
        if not isinstance(table, dict) or not isinstance(table.get("data"), list):
            raise bad_request("dataframe_split must be an object with columns and data.")
        return _of_split(table, most)
    if isinstance(table, dict) and key == "inputs":
        return _of_columns(table, most)
    if isinstance(table, str) and key != "dataframe_records":
        return 0, [table]
    if not isinstance(table, list):
        raise bad_request(f"{key} must be a list.")
    check_count(len(table), most)
    if key == "dataframe_records" or (table and isinstance(table[0], dict)):
        return _of_records(key, table)
    return 0, table


def _of_split(table: dict[str, Any], most: int) -> tuple[object, Sequence[object]]:
    columns, rows = table.get("columns"), table["data"]
    check_count(len(rows), most)
    if columns is not None and not (isinstance(columns, list) and columns):
        raise bad_request("columns of dataframe_split must be a list of names.")
    name = columns[0] if columns else 0
    return name, [row[0] if isinstance(row, list) and row else row for row in rows]


def _of_columns(table: dict[str, Any], most: int) -> tuple[object, Sequence[object]]:
    if not table:
        raise bad_request("inputs has no column.")
    name, values = next(iter(table.items()))
    values = values if isinstance(values, list) else [values]
    check_count(len(values), most)
    return name, values


def _of_records(key: str, table: list[Any]) -> tuple[object, Sequence[object]]:
    wrong = next((row for row, record in enumerate(table) if not isinstance(record, dict)), None)
    if wrong is not None:
        raise bad_request(f"Row {wrong} of {key} is no object.")
    name = next(iter(table[0]), None) if table else 0
    return name, [record.get(name) for record in table]


def _address(row: int, value: object) -> str:
    if not isinstance(value, str):
        raise bad_request(f"row {row}: {type(value).__name__} is no address.")
    return value


def _decoded(row: int, value: object) -> bytes:
    if not isinstance(value, str):
        raise bad_request(f"row {row}: {type(value).__name__} is no image in base64.")
    try:
        # as MLflow: what is not of the alphabet is left out
        return binascii.a2b_base64(value if value.isascii() else value.encode())
    except ValueError as error:
        raise bad_request(f"row {row}: no base64: {str(error)[:100]}.") from error
