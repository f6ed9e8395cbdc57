"""Leaks: found, listed, and refused or reported by policy."""

from __future__ import annotations

import pytest

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.index import ImageRecord
from tasks.preprocess.leaks import check_leaks
from tasks.values import SplitName

CLASSES = ("ants", "bees")
FAIL = DataConfig(path="x")
WARN = DataConfig(path="x", on_leak="warn")


def record(path: str, sha: str, label: int = 0, group: str = "") -> ImageRecord:
    return ImageRecord(path, label, "", group, sha)


def splits_of(
    train: list[ImageRecord], val: list[ImageRecord], test: list[ImageRecord]
) -> dict[SplitName, list[ImageRecord]]:
    return {"train": train, "val": val, "test": test}


def test_clean_splits_pass_copies_inside_a_split_included() -> None:
    splits = splits_of([record("a", "1"), record("b", "1")], [record("c", "2")], [record("d", "3")])
    assert check_leaks(splits, CLASSES, FAIL) == ()


def test_an_image_in_two_splits_is_refused_with_both_names() -> None:
    splits = splits_of([record("train/a", "1")], [record("val/b", "2")], [record("test/c", "1")])
    with pytest.raises(DataError) as caught:
        check_leaks(splits, CLASSES, FAIL)
    head, listed = str(caught.value).split("\n")
    assert head.startswith("1 leak(s)")
    assert "data.on_leak=warn" in head
    assert listed == "same image: train/a (train) = test/c (test)"
    assert check_leaks(splits, CLASSES, WARN) == (f"1 leak(s): {listed}",)


def test_a_group_in_two_splits_is_a_leak() -> None:
    splits = splits_of(
        [record("a", "1", group="patient 7")], [record("b", "2", group="patient 7")], []
    )
    warnings = check_leaks(splits, CLASSES, WARN)
    assert warnings == ("1 leak(s): group 'patient 7': a (train) and b (val)",)
    with pytest.raises(DataError, match="patient 7"):
        check_leaks(splits, CLASSES, FAIL)


def test_an_image_with_two_labels_is_listed_under_either_policy() -> None:
    splits = splits_of([record("a", "1"), record("b", "1", label=1)], [], [])
    warnings = check_leaks(splits, CLASSES, WARN)
    assert warnings == ("1 leak(s): two labels: a ('ants') = b ('bees')",)
    with pytest.raises(DataError, match="two labels"):
        check_leaks(splits, CLASSES, FAIL)


def test_the_first_twenty_are_listed_and_the_rest_counted() -> None:
    train = [record(f"train/{i:02}", str(i)) for i in range(23)]
    test = [record(f"test/{i:02}", str(i)) for i in range(23)]
    (warning,) = check_leaks(splits_of(train, [], test), CLASSES, WARN)
    assert warning.count("same image") == 20
    assert warning.endswith(" and 3 more")
    with pytest.raises(DataError, match=r"23 leak\(s\)") as caught:
        check_leaks(splits_of(train, [], test), CLASSES, FAIL)
    assert str(caught.value).count("\n") == 1


def test_odd_names_can_be_printed() -> None:
    odd = b"train/\xff\n\x1b[31m.jpg".decode("utf-8", "surrogateescape")
    group = "patient\r7"
    splits = splits_of([record(odd, "1", group=group)], [], [record("b", "1", group=group)])
    (warning,) = check_leaks(splits, CLASSES, WARN)
    assert warning.encode("utf-8")
    assert warning.isprintable()
    assert r"\n\x1b[31m.jpg" in warning
    assert r"group 'patient\r7'" in warning


def test_the_same_image_with_other_labels_is_listed() -> None:
    a, b, c = (
        ImageRecord(name, labels, "", "", sha)
        for name, labels, sha in (("a", (0, 1), "1"), ("b", (), "1"), ("c", (0, 1), "2"))
    )
    warnings = check_leaks(splits_of([a, b, c], [], []), CLASSES, WARN)
    assert warnings == ("1 leak(s): two labels: a ('ants', 'bees') = b (none)",)
    assert check_leaks(splits_of([a, c._replace(sha256="1")], [], []), CLASSES, WARN) == ()
