"""Which name means which split: what the user says, then what the names say."""

from __future__ import annotations

import pytest

from tasks.config import DataConfig
from tasks.download.splits import assign_splits, named_splits, split_by_name
from tasks.errors import DataError


def data(**given: str) -> DataConfig:
    return DataConfig.model_validate({"path": "images", **given})


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "training", "TRAIN", " Training\n")),
        *((name, "val") for name in ("val", "valid", "validation", "Valid")),
        *((name, "test") for name in ("test", "testing", "TESTING")),
        *((name, None) for name in ("", "trains", "tes", "dev", "train val")),
    ],
)
def test_names_of_splits_whatever_their_case(name: str, split: str | None):
    assert split_by_name(name) == split


def test_what_the_user_names_is_that_split_and_found_for_no_other():
    assert named_splits(data()) == {}
    given = data(train="A", test="val")
    assert named_splits(given) == {"A": "train", "val": "test"}
    present = ["A", "val", "train", "other", "validation"]
    # A is the training split, so that the folder train is none; nor is val that of validation
    assert assign_splits(given, present, "It") == {"A": "train", "val": "test", "validation": "val"}


def test_names_are_found_and_others_left():
    present = ["Train", "valid", "notes"]
    assert assign_splits(data(), present, "It") == {"Train": "train", "valid": "val"}
    assert assign_splits(data(), ["cat", "dog"], "It") == {}
    # one of them named: the other is no second one
    assert assign_splits(data(val="valid"), ["train", "val", "valid"], "It") == {
        "train": "train",
        "valid": "val",
    }


@pytest.mark.parametrize(
    ("given", "present", "message"),
    [
        (
            {"train": "a", "val": "b", "test": "a"},
            ["a", "b"],
            "data.train, data.val and data.test name a, b, a: one of them twice.\n"
            "Images of one split must not be in another.",
        ),
        (
            {"train": "a", "val": "b", "test": "c"},
            ["d", "b"],
            "It has no train=a, test=c.\nThere are: b, d.",
        ),
        (
            {},
            ["valid", "train", "val"],
            "It has val, valid, all for val.\nName the one in data.val.",
        ),
        (
            {},
            ["test", "training", "TRAIN"],
            "It has TRAIN, training, all for train.\nName the one in data.train.",
        ),
        (
            {"val": "b"},
            ["test", "b"],
            "It has b, test and nothing to train on.\nName the training images in data.train.",
        ),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, str], present: list[str], message: str):
    with pytest.raises(DataError) as caught:
        assign_splits(data(**given), present, "It")
    assert str(caught.value) == message
