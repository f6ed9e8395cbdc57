"""Any images, groups and fractions: splits that are disjoint, whole, fair and repeatable."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tasks.artifacts import sha256_bytes
from tasks.config import DataConfig
from tasks.errors import ConfigError, DataError, GraftError
from tasks.index import ImageRecord
from tasks.preprocess.splits import assign_splits

CLASSES = ("a", "b", "c")


def record(place: int, label: int, split: str, group: str, content: int | None) -> ImageRecord:
    digest = sha256_bytes(
        f"{'copy' if content is not None else 'image'} {content or place}".encode()
    )
    return ImageRecord(f"{CLASSES[label]}/{place}.png", label, split, group, digest)


def images(groups: st.SearchStrategy[str], copies: st.SearchStrategy[int | None], splits=("",)):
    one = st.tuples(st.integers(0, len(CLASSES) - 1), st.sampled_from(splits), groups, copies)
    return st.lists(one, min_size=1, max_size=80).map(
        lambda rows: [record(place, *row) for place, row in enumerate(rows)]
    )


alone = images(st.just(""), st.none())
grouped = images(
    st.sampled_from(["", "", *(f"g{i}" for i in range(12))]),
    st.none() | st.none() | st.integers(1, 5),
)
declared = images(st.sampled_from(["", "g", "h"]), st.none(), ("", "train", "val", "test"))
fractions = st.floats(0.01, 0.6)
seeds = st.integers(0, 2**31 - 1)


def refused(error: GraftError, left_out: float) -> None:
    assert len(str(error).split("\n")) <= 2
    assert isinstance(error, DataError) or left_out >= 1


def split(records, val: float, test: float, seed: int):
    config = DataConfig(kind="digits", val_fraction=val, test_fraction=test)
    try:
        return assign_splits(records, CLASSES, config, seed)
    except (ConfigError, DataError) as error:
        refused(error, val + test)
        return None


@given(records=alone | grouped | declared, val=fractions, test=fractions, seed=seeds)
def test_every_image_is_in_one_split_and_its_order_is_no_matter(records, val, test, seed):
    found = split(records, val, test, seed)
    assert split(records[::-1], val, test, seed) == found
    assert split(sorted(records, key=lambda r: r.sha256), val, test, seed) == found
    if found is None:
        return
    assert sorted(r.path for each in found.values() for r in each) == sorted(
        r.path for r in records
    )
    for name, each in found.items():
        assert [r.path for r in each] == sorted(r.path for r in each)
        # what is missing is split off the training images, declared as such or not
        assert all(r.split in ("", "train", name) for r in each)


@given(records=grouped, val=fractions, test=fractions, seed=seeds)
def test_no_group_and_no_copy_is_torn_and_no_class_is_lost(records, val, test, seed):
    found = split(records, val, test, seed)
    if found is None:
        return
    places = defaultdict(set)
    for name, each in found.items():
        for one in each:
            places["sha256", one.sha256].add(name)
            if one.group:
                places["group", one.group].add(name)
    assert all(len(names) == 1 for names in places.values())
    present = {r.label for r in records}
    assert all({r.label for r in each} == present for each in found.values())


@given(records=alone, val=fractions, test=fractions, seed=seeds)
def test_of_images_alone_every_class_is_cut_by_the_fractions(records, val, test, seed):
    found = split(records, val, test, seed)
    counts = Counter(r.label for r in records)
    if found is None:
        few = min(counts[label] for label in range(len(CLASSES))) < 3
        assert few or val + test >= 1
        return
    shares = {"train": 1 - val - test, "val": val, "test": test}
    for label, n in counts.items():
        for name, share in shares.items():
            got = sum(r.label == label for r in found[name])
            assert got >= 1
            if all(other * n >= 1 for other in shares.values()):
                assert abs(got - share * n) < 1 + 1e-6
            else:  # a split that would get none gets one, from those that have most
                assert got <= max(1, share * n + 1)
