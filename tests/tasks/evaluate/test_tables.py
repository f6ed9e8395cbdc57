"""Words of users in tables: shown as they are, and nothing that a reader would act on."""

from __future__ import annotations

import csv

import pandas as pd

from tasks.evaluate.tables import csv_for_people, markdown_cells

HOSTILE = "![](https://example.org/p.png) <b>[x](javascript:alert)</b> | `code` $x$"


def test_cells_that_are_read_as_markdown_hold_none():
    rows = ({"name": name, "n": 3, "f1": None} for name in (HOSTILE, "ordinary_name, 97.5%"))
    hostile, ordinary = markdown_cells(rows)
    assert not set("[]<>|`$") & set(hostile["name"])
    assert (hostile["n"], hostile["f1"]) == (3, None)
    assert ordinary["name"] == "ordinary_name, 97.5%"


def test_no_cell_and_no_heading_of_a_table_for_people_is_a_formula():
    table = pd.DataFrame({"=1+1": ["=2+2", "fine"], "accuracy": [-0.5, 0.25]})
    assert list(csv.reader(csv_for_people(table).decode().splitlines())) == [
        ["'=1+1", "accuracy"],
        ["'=2+2", "-0.5"],
        ["fine", "0.25"],
    ]
