"""What is said of thousands of classes is a line, not thousands of them."""

from __future__ import annotations

import pytest

from tasks.config import DataConfig
from tasks.index import ImageRecord
from tasks.preprocess.tiny import TinyClass, tiny_finding
from tasks.preprocess.verdict import absent_classes
from tasks.words import SHOWN

MANY = 2000


@pytest.mark.parametrize(("n", "lines"), [(1, 1), (SHOWN, SHOWN), (SHOWN + 1, 1), (MANY, 1)])
def test_tiny_classes(n: int, lines: int):
    found = [TinyClass(label, f"class {label}", 3) for label in range(n)]
    warnings = tiny_finding(found, (), DataConfig(kind="digits"), 10).warnings()
    assert len(warnings) == lines
    assert "class 0" in warnings[0]
    if n > SHOWN:
        assert f"{n:,} class(es)" in warnings[0]
        assert f"{n - SHOWN:,} more" in warnings[0]
        assert f"class {SHOWN}'" not in warnings[0]


@pytest.mark.parametrize(("n", "lines"), [(1, 1), (SHOWN, SHOWN), (SHOWN + 1, 1), (MANY, 1)])
def test_classes_that_a_split_has_not(n: int, lines: int):
    classes = tuple(f"class {label:04}" for label in range(n + 1))
    every = [ImageRecord(f"{label}.png", label, "", "", 64 * "a") for label in range(n + 1)]
    found = absent_classes({"train": every, "val": every, "test": every[:1]}, classes)
    assert len(found) == lines
    assert all(line.startswith("No test image of ") for line in found)
    assert "class 0001" in found[0]
    if n > SHOWN:
        assert f"{n - SHOWN:,} more" in found[0]
