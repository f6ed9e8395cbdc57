"""Equal files in two splits, torn groups, two labels: found, listed, and what drop leaves out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tasks.index import ImageRecord
from tasks.preprocess.findings import Finding, left
from tasks.preprocess.torn import conflicting_labels, exact_duplicates, group_leakage
from tasks.values import SplitName

CLASSES = ("ants", "bees")
Records = list[ImageRecord]


def record(path: str, sha: str, label: int | tuple[int, ...] = 0, group: str = "") -> ImageRecord:
    return ImageRecord(path, label, "", group, sha)


def splits_of(train: Records, val: Records, test: Records) -> dict[SplitName, Records]:
    return {"train": train, "val": val, "test": test}


def test_clean_splits_pass_copies_inside_a_split_included() -> None:
    splits = splits_of([record("a", "1"), record("b", "1")], [record("c", "2")], [record("d", "3")])
    assert exact_duplicates(splits, "fail").found == 0
    assert group_leakage(splits, "fail").found == 0
    assert conflicting_labels([*splits["train"], *splits["val"]], CLASSES, "fail").found == 0


def test_an_image_in_two_splits_is_found_with_both_names() -> None:
    splits = splits_of([record("train/a", "1")], [record("val/b", "2")], [record("test/c", "1")])
    found = exact_duplicates(splits, "drop")
    assert (found.found, found.text) == (1, "1 image(s) are in two splits")
    assert found.examples == ("train/a (train) = test/c (test)",)
    assert found.gone == {"train/a"}


def test_only_the_last_split_keeps_its_copies() -> None:
    train = [record("t1", "1"), record("t2", "1"), record("t3", "2"), record("t4", "3")]
    val, test = [record("v1", "1"), record("v2", "2"), record("v3", "4")], [record("x1", "1")]
    found = exact_duplicates(splits_of(train, val, test), "drop")
    assert found.examples == ("t1 (train) = v1 (val) = x1 (test)", "t3 (train) = v2 (val)")
    assert found.gone == {"t1", "t2", "v1", "t3"}


def test_a_group_in_two_splits_is_found_and_goes_whole() -> None:
    train = [record("a", "1", group="patient 7"), record("c", "3", group="patient 7")]
    splits = splits_of(train, [record("b", "2", group="patient 7"), record("d", "4")], [])
    found = group_leakage(splits, "drop")
    assert found.examples == ("group 'patient 7': a (train) and b (val)",)
    assert (found.unit, found.found, found.gone) == ("group", 1, {"a", "c"})


def test_an_image_with_two_labels_goes_with_every_copy() -> None:
    records = [record("a", "1"), record("b", "1", label=1), record("c", "1"), record("d", "2")]
    found = conflicting_labels(records, CLASSES, "drop")
    assert found.examples == ("a ('ants') = b ('bees')",)
    assert (found.found, found.gone) == (1, {"a", "b", "c"})


def test_the_same_image_with_other_sets_of_labels_is_found() -> None:
    a, b, c = record("a", "1", (0, 1)), record("b", "1", ()), record("c", "2", (0, 1))
    found = conflicting_labels([a, b, c], CLASSES, "warn")
    assert found.examples == ("a ('ants', 'bees') = b (none)",)
    assert conflicting_labels([a, c._replace(sha256="1")], CLASSES, "warn").found == 0


def test_the_first_twenty_are_listed_and_the_rest_counted() -> None:
    train = [record(f"train/{i:02}", str(i)) for i in range(23)]
    test = [record(f"test/{i:02}", str(i)) for i in range(23)]
    found = exact_duplicates(splits_of(train, [], test), "drop")
    assert (found.found, len(found.examples), len(found.gone)) == (23, 20, 23)
    assert found.said().endswith(" and 3 more")


def test_odd_names_can_be_printed() -> None:
    odd = b"train/\xff\n\x1b[31m.jpg".decode("utf-8", "surrogateescape")
    splits = splits_of([record(odd, "1", group="p\r7")], [], [record("b", "1", group="p\r7")])
    for found in (exact_duplicates(splits, "warn"), group_leakage(splits, "warn")):
        (warning,) = found.warnings()
        assert warning.encode("utf-8")
        assert warning.isprintable()
        assert r"\n\x1b[31m.jpg" in warning
    assert r"group 'p\r7'" in warning


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_in_two_splits_once_it_is_dropped(seed: int) -> None:
    """By brute force over all pairs, on records of few files and groups."""
    rng = np.random.default_rng(seed)
    splits = splits_of([], [], [])
    for i in range(60):
        group = str(rng.integers(0, 40))
        name = ("train", "val", "test")[rng.integers(0, 3)]
        splits[name].append(record(f"{name}/{i}", str(rng.integers(0, 50)), 0, group))
    exact = exact_duplicates(splits, "drop")
    groups = group_leakage({n: left(r, (exact,)) for n, r in splits.items()}, "drop")
    assert exact.gone
    assert groups.gone
    kept = {name: left(records, (exact, groups)) for name, records in splits.items()}
    assert kept["test"] == splits["test"]
    for one, other in combinations(kept.values(), 2):
        assert not {r.sha256 for r in one} & {r.sha256 for r in other}
        assert not {r.group for r in one} & {r.group for r in other}
    _least(splits, exact)


def _least(splits: dict[SplitName, Records], exact: Finding) -> None:
    """Nothing goes that is in no later split."""
    later = {"train": ("val", "test"), "val": ("test",), "test": ()}
    for name, records in splits.items():
        for each in records:
            again = any(r.sha256 == each.sha256 for n in later[name] for r in splits[n])
            assert (each.path in exact.gone) == again
