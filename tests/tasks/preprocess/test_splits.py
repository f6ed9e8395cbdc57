"""Splits: fractions, strata, groups, repeatability; scikit-learn as the yardstick."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from tasks.config import DataConfig
from tasks.errors import ConfigError, DataError
from tasks.index import ImageRecord
from tasks.preprocess.splits import assign_splits
from tasks.preprocess.stratify import largest_remainder

CLASSES = ("ant", "bee", "cat")


def settings(**given: object) -> DataConfig:
    return DataConfig.model_validate({"path": "images", **given})


def records_of(*counts: int, split: str = "", prefix: str = "") -> list[ImageRecord]:
    return [
        ImageRecord(f"{prefix}{CLASSES[k]}/{i}.jpg", k, split, "", f"{prefix}{k}-{i}")
        for k, n in enumerate(counts)
        for i in range(n)
    ]


def grouped(n: int, classes: int, seed: int) -> list[ImageRecord]:
    """Return images of ``n`` groups of 1 to 12 images, most but not all of one class."""
    rng = random.Random(seed)
    records = []
    for g in range(n):
        usual = g % classes
        for i in range(rng.randint(1, 12)):
            label = usual if rng.random() < 0.9 else rng.randrange(classes)
            records.append(ImageRecord(f"{g:03}-{i:02}", label, "", f"patient {g}", f"{g}/{i}"))
    return records


def test_every_class_is_cut_by_the_fractions() -> None:
    splits = assign_splits(records_of(100, 57, 10), CLASSES, settings(), seed=0)
    counts = {name: Counter(r.label for r in split) for name, split in splits.items()}
    assert counts["test"] == {0: 20, 1: 11, 2: 2}  # 57 * 0.2 = 11.4
    assert counts["val"] == {0: 10, 1: 6, 2: 1}  # 57 * 0.1 = 5.7
    assert counts["train"] == {0: 70, 1: 40, 2: 7}


def test_splits_are_disjoint_complete_and_sorted() -> None:
    records = records_of(30, 20, 11)
    splits = assign_splits(records, CLASSES, settings(), seed=4)
    assert sorted(chain(*splits.values())) == sorted(records)
    assert all(split == sorted(split) for split in splits.values())


def test_order_of_the_records_does_not_matter_and_the_seed_does() -> None:
    records = records_of(50, 40, 30)
    first = assign_splits(records, CLASSES, settings(), seed=1)
    random.Random(0).shuffle(records)
    assert assign_splits(records, CLASSES, settings(), seed=1) == first
    assert assign_splits(records, CLASSES, settings(), seed=2) != first


def test_split_of_a_seed_is_the_same_on_every_machine() -> None:
    splits = assign_splits(records_of(5, 5, 5), CLASSES, settings(), seed=0)
    chosen = [r.path for r in splits["val"] + splits["test"]]
    assert chosen == ["ant/4.jpg", "bee/3.jpg", "cat/3.jpg", "ant/0.jpg", "bee/0.jpg", "cat/0.jpg"]


def test_choice_is_uniform_over_the_images() -> None:
    """Over many seeds, each image is in the test set about as often as any other."""
    records = records_of(10, 10, 10)
    hits = Counter(
        record.path
        for seed in range(400)
        for record in assign_splits(records, CLASSES, settings(), seed)["test"]
    )
    expected = 400 * 0.2
    chi_squared = sum((hits[r.path] - expected) ** 2 / (expected * 0.8) for r in records)
    assert chi_squared < 55  # 99.9% point of chi-squared with 27 degrees of freedom


def test_class_counts_are_within_one_of_scikit_learns() -> None:
    records = records_of(103, 58, 21)
    labels = [r.label for r in records]
    ours = assign_splits(records, CLASSES, settings(val=None), seed=0)
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=0)
    _, test = next(splitter.split(labels, labels))
    theirs = Counter(labels[i] for i in test)
    counts = Counter(r.label for r in ours["test"])
    assert all(abs(counts[k] - theirs[k]) <= 1 for k in range(3))


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_strata_are_as_good_as_scikit_learns(seed: int) -> None:
    records = grouped(120, 3, seed)
    labels = np.array([r.label for r in records])
    splits = assign_splits(records, CLASSES, settings(), seed)
    places: dict[str, set[str]] = {}
    for name, split in splits.items():
        for record in split:
            places.setdefault(record.group, set()).add(name)
    assert all(len(names) == 1 for names in places.values())

    share = np.bincount([r.label for r in splits["test"]], minlength=3) / np.bincount(labels)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    groups = [r.group for r in records]
    theirs = [
        np.abs(np.bincount(labels[test], minlength=3) / np.bincount(labels) - 0.2).max()
        for _, test in folds.split(labels, labels, groups)
    ]
    assert np.abs(share - 0.2).max() <= max(max(theirs), 0.02)


def test_copies_of_an_image_are_never_torn_apart() -> None:
    records = [
        ImageRecord(f"{CLASSES[k]}/{i}-{copy}.jpg", k, "", "", f"{k}-{i}")
        for k in range(3)
        for i in range(12)
        for copy in range(1 + i % 3)
    ]
    splits = assign_splits(records, CLASSES, settings(), seed=0)
    digests = [{r.sha256 for r in split} for split in splits.values()]
    assert sum(map(len, digests)) == 36


def test_a_copy_joins_the_groups_it_is_in() -> None:
    records = records_of(9, 9, 9)
    linked = [
        ImageRecord("ant/x.jpg", 0, "", "one", "same"),
        ImageRecord("ant/y.jpg", 0, "", "two", "same"),
        ImageRecord("ant/z.jpg", 0, "", "two", "other"),
    ]
    for seed in range(20):
        splits = assign_splits(records + linked, CLASSES, settings(), seed)
        assert sum(bool(set(linked) & set(split)) for split in splits.values()) == 1


def test_three_images_of_a_class_give_one_to_each_split() -> None:
    splits = assign_splits(records_of(3, 3, 200), CLASSES, settings(), seed=0)
    for split in splits.values():
        assert Counter(r.label for r in split)[0] == 1


def test_the_last_groups_of_a_class_go_to_the_splits_that_are_without_it() -> None:
    """Test lacks more images than val does when the last one comes, but val has none at all."""
    records = [
        ImageRecord(f"ant/{i:02}.jpg", 0, "", f"patient {i if i >= 10 else 0}", f"ant-{i}")
        for i in range(12)
    ]
    splits = assign_splits(records + records_of(0, 12, 12), CLASSES, settings(), seed=0)
    counts = {name: sum(r.label == 0 for r in split) for name, split in splits.items()}
    assert counts == {"train": 10, "val": 1, "test": 1}


@pytest.mark.parametrize("sizes", [(9, 1, 1), (4, 3, 3)])  # of 10, train still lacks 3 after 4
def test_three_groups_of_a_class_give_one_to_each_split(sizes: tuple[int, ...]) -> None:
    records = records_of(30, 30, 0) + [
        ImageRecord(f"cat/{g}{i}.jpg", 2, "", f"g{g}", f"cat{g}{i}")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    for seed in range(10):
        splits = assign_splits(records, CLASSES, settings(), seed)
        assert all(any(r.label == 2 for r in split) for split in splits.values())


def test_a_class_with_too_few_images_is_named_with_what_it_needs() -> None:
    with pytest.raises(DataError) as caught:
        assign_splits(records_of(10, 2, 10), CLASSES, settings(), seed=0)
    assert str(caught.value) == (
        "Too few training images to split into train, val, test: each class needs 3 image(s), "
        "and 'bee' has 2.\n"
        "Add images, or declare the splits yourself (data.train, data.val, data.test)."
    )


def test_where_two_splits_are_cut_each_class_needs_two() -> None:
    test = records_of(3, 3, 3, split="test", prefix="test/")
    with pytest.raises(
        DataError, match=r"into train, val: each class needs 2 image\(s\), and 'cat'"
    ):
        assign_splits([*records_of(9, 2, 1), *test], CLASSES, settings(), seed=0)
    splits = assign_splits([*records_of(9, 2, 2), *test], CLASSES, settings(), seed=0)
    assert Counter(r.label for r in splits["val"]) == {0: 1, 1: 1, 2: 1}


def test_names_that_are_no_text_are_dealt_like_others() -> None:
    """A file's name may be any bytes: Python has those that are no UTF-8 as lone surrogates."""
    records = [r._replace(path=f"{r.path}\udcff") for r in records_of(9, 9, 9)]
    splits = assign_splits(records, CLASSES, settings(), seed=0)
    assert sorted(chain(*splits.values())) == sorted(records)


def test_a_class_with_too_few_groups_is_named() -> None:
    records = records_of(10, 0, 10) + [
        ImageRecord(f"bee/{i}.jpg", 1, "", f"hive {i % 2}", f"bee{i}") for i in range(20)
    ]
    with pytest.raises(DataError, match=r"stay together.*'bee' has 2"):
        assign_splits(records, CLASSES, settings(), seed=0)


def test_groups_that_cannot_be_dealt_out_are_refused() -> None:
    """Ants put a, b and c into different splits, bees put d beside c: b's has no cat."""
    groups = {"a": (0, 1, 2), "b": (0, 1), "c": (0, 2), "d": (1, 2)}
    records = [
        ImageRecord(f"{g}{label}", label, "", g, f"{g}{label}")
        for g, labels in groups.items()
        for label in labels
    ]
    with pytest.raises(DataError, match=r"leave \w+ without class '\w+'\.\nUse smaller groups"):
        assign_splits(records, CLASSES, settings(), seed=0)


def test_declared_splits_stay_as_they_are() -> None:
    records = (
        records_of(4, 4, 4, split="train", prefix="train/")
        + records_of(1, 2, 3, split="val", prefix="val/")
        + records_of(2, 2, 0, split="test", prefix="test/")
    )
    splits = assign_splits(records, CLASSES, settings(), seed=0)
    for name, split in splits.items():
        assert split == sorted(r for r in records if r.split == name)


def test_only_the_missing_split_is_cut_off_train() -> None:
    records = records_of(50, 50, 50, split="train", prefix="train/")
    test = records_of(5, 5, 5, split="test", prefix="test/")
    splits = assign_splits(records + test, CLASSES, settings(val_fraction=0.2), seed=0)
    assert splits["test"] == sorted(test)
    assert Counter(r.label for r in splits["val"]) == {0: 10, 1: 10, 2: 10}
    assert len(splits["train"]) == 120


def test_a_class_without_training_images_is_refused() -> None:
    records = [
        *records_of(5, 5, 0, split="train"),
        *records_of(2, 2, 2, split="val", prefix="v/"),
        *records_of(2, 2, 2, split="test", prefix="t/"),
    ]
    with pytest.raises(DataError, match="No training image of class 'cat'"):
        assign_splits(records, CLASSES, settings(), seed=0)


@pytest.mark.parametrize(("val", "found"), [(0.4, r"1, "), (0.5, r"1\.1, ")])
def test_fractions_that_leave_no_training_images_are_refused(val: float, found: str) -> None:
    fractions = settings(val_fraction=val, test_fraction=0.6)
    with pytest.raises(ConfigError, match=f"sum is {found}and must be below 1"):
        assign_splits(records_of(9, 9, 9), CLASSES, fractions, seed=0)


@pytest.mark.parametrize("n", range(3, 60))
def test_largest_remainder_keeps_the_sum_and_is_within_one(n: int) -> None:
    shares = [0.7, 0.1, 0.2]
    counts = largest_remainder(n, shares)
    assert sum(counts) == n
    assert min(counts) >= 1
    if n >= 10:
        assert all(abs(c - n * s) < 1 for c, s in zip(counts, shares, strict=True))
    assert largest_remainder(30, shares) == [21, 3, 6]


def test_largest_remainder_is_hamiltons_method_with_at_least_one_each() -> None:
    few = [[1, 1, 1], [2, 1, 1], [3, 1, 1], [4, 1, 1], [5, 1, 1], [5, 1, 2], [6, 1, 2]]
    assert [largest_remainder(n, [0.7, 0.1, 0.2]) for n in range(3, 10)] == few
    for n in range(10, 60):
        exact = [Fraction(n * tenths, 10) for tenths in (7, 1, 2)]
        counts = [int(each) for each in exact]
        order = sorted(range(3), key=lambda i: (exact[i] - counts[i], i), reverse=True)
        for i in order[: n - sum(counts)]:
            counts[i] += 1
        assert largest_remainder(n, [0.7, 0.1, 0.2]) == counts
