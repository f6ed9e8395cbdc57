"""Every check under every policy, from files on disk to what is packed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.evaluationconfig import ChecksConfig
from tasks.index import digest_records, read_index, write_index
from tasks.measures import DataCheck
from tasks.preprocess.pack import load_prepared
from tasks.preprocess.prepare import prepare
from tasks.values import InputSpec, PreparedDataset, RawDataset

MakeRaw = Callable[..., RawDataset]
Files = dict[str, bytes]
CHECKS = (
    *("exact_duplicates", "near_duplicates", "conflicting_labels"),
    *("group_leakage", "class_drift", "tiny_classes"),
)
CALM = ChecksConfig(tiny_class=1)


def picture(seed: int) -> Image.Image:
    """Return a picture with no likeness to those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((60, 48), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def declared(**counts: tuple[int, ...]) -> Files:
    """Return so many different pictures of cats, dogs, emus, … in each split."""
    files: Files = {}
    for split, row in counts.items():
        for name, n in zip(("cats", "dogs", "emus"), row, strict=False):
            files |= {
                f"{split}/{name}/{i:03}.png": encoded(picture(len(files) + i)) for i in range(n)
            }
    return files


CLEAN = declared(train=(6, 6), val=(3, 3), test=(3, 3))


class Case(NamedTuple):
    """Data with one fault, and what must come of it."""

    files: Files
    groups: dict[str, str]
    found: int
    gone: set[str]  # left out under drop
    example: str


def cases() -> dict[str, Case]:
    copy = {
        "val/dogs/copy.png": CLEAN["train/dogs/002.png"],
        "test/dogs/copy.png": CLEAN["train/dogs/002.png"],
        "val/dogs/copy2.png": CLEAN["test/dogs/001.png"],
    }
    near = {
        "val/cats/near.jpg": encoded(
            Image.open(io.BytesIO(CLEAN["train/cats/001.png"])), "JPEG", quality=60
        ),
        "test/cats/near.png": encoded(
            Image.open(io.BytesIO(CLEAN["val/dogs/002.png"])).resize((54, 43))
        ),
    }
    other = {"train/dogs/other.png": CLEAN["train/cats/004.png"]}
    groups = {"train/cats/003.png": "p1", "train/dogs/001.png": "p1", "test/dogs/000.png": "p1"}
    groups |= {"val/cats/000.png": "p2", "test/cats/000.png": "p2", "train/cats/000.png": "p3"}
    tiny = declared(train=(6, 6, 2), val=(3, 3, 1), test=(3, 3, 2))
    return {
        "exact_duplicates": Case(
            CLEAN | copy,
            {},
            2,
            {"train/dogs/002.png", "val/dogs/copy.png", "val/dogs/copy2.png"},
            "train/dogs/002.png (train) = val/dogs/copy.png (val) = test/dogs/copy.png (test)",
        ),
        "near_duplicates": Case(
            CLEAN | near,
            {},
            2,
            {"train/cats/001.png", "val/dogs/002.png"},
            "val/dogs/002.png (val, 'dogs') ~ test/cats/near.png (test, 'cats')",
        ),
        "conflicting_labels": Case(
            CLEAN | other,
            {},
            1,
            {"train/cats/004.png", "train/dogs/other.png"},
            "train/cats/004.png ('cats') = train/dogs/other.png ('dogs')",
        ),
        "group_leakage": Case(
            CLEAN,
            groups,
            2,
            {"train/cats/003.png", "train/dogs/001.png", "val/cats/000.png"},
            "group 'p1': train/cats/003.png (train) and test/dogs/000.png (test)",
        ),
        "tiny_classes": Case(
            tiny, {}, 1, {path for path in tiny if "/emus/" in path}, "'emus' has 2"
        ),
    }


@pytest.fixture
def make(make_raw: MakeRaw, spec: InputSpec, tmp_path: Path):
    def make(files: Files, groups: dict[str, str] | None = None, **checks: object):
        config = DataConfig(path="images", checks=CALM.model_copy(update=checks))
        return prepare(config, 0, make_raw(files, groups), spec, tmp_path / "cache")

    return make


def row_of(prepared: PreparedDataset, name: str) -> DataCheck:
    (row,) = (row for row in prepared.checks if row.name == name)
    return row


def packed(prepared: PreparedDataset) -> dict[str, set[str]]:
    splits = (prepared.train, prepared.val, prepared.test)
    return {split.name: {record.path for record in read_index(split.index)} for split in splits}


def least(name: str) -> dict[str, int]:
    return {"tiny_class": 3} if name == "tiny_classes" else {}


def test_clean_data_has_a_row_for_every_check_and_nothing_to_say(make) -> None:
    prepared = make(CLEAN)
    assert tuple(row.name for row in prepared.checks) == CHECKS
    assert {(row.status, row.found, row.dropped) for row in prepared.checks} == {("ok", 0, 0)}
    assert row_of(prepared, "class_drift").p_value == pytest.approx(1)
    assert row_of(prepared, "class_drift").statistic == 0
    assert prepared.warnings == ()
    assert set.union(*packed(prepared).values()) == CLEAN.keys()


@pytest.mark.parametrize("name", cases())
def test_fail_refuses_and_leaves_nothing(name: str, make, tmp_path: Path) -> None:
    case = cases()[name]
    with pytest.raises(DataError) as caught:
        make(case.files, case.groups, **{name: "fail"}, **least(name))
    what, hint = str(caught.value).split("\n")
    assert what.startswith(f"{name}: {case.found} ")
    assert case.example in what
    assert hint == f"Mend the data, or set data.checks.{name}=warn (or drop)."
    assert caught.value.exit_code == 3
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", cases())
def test_warn_keeps_every_image_and_says_so(name: str, make) -> None:
    case = cases()[name]
    prepared = make(case.files, case.groups, **{name: "warn"}, **least(name))
    row = row_of(prepared, name)
    assert (row.policy, row.status, row.found, row.dropped) == ("warn", "warned", case.found, 0)
    assert row.examples[0] == case.example
    assert set.union(*packed(prepared).values()) == case.files.keys()
    text = "Class 'emus' has only 2 training image(s)." if "tiny" in name else case.example
    assert text in prepared.warnings[0]


@pytest.mark.parametrize("name", cases())
def test_drop_is_as_if_the_images_had_never_been_there(name: str, make, make_raw) -> None:
    case = cases()[name]
    prepared = make(case.files, case.groups, **{name: "drop"}, **least(name))
    row = row_of(prepared, name)
    assert (row.status, row.found, row.dropped) == ("dropped", case.found, len(case.gone))
    assert f"data.checks.{name}=drop left out {len(case.gone)} image(s): " in prepared.warnings[0]
    kept = {path: case.files[path] for path in case.files if path not in case.gone}
    clean = make(kept, case.groups, **{name: "fail"}, **least(name))
    assert prepared.classes == clean.classes == ("cats", "dogs")
    assert packed(prepared) == packed(clean)
    for one, other in zip(splits(prepared), splits(clean), strict=True):
        assert (one.digest, one.counts, one.n) == (other.digest, other.counts, other.n)
        assert one.images.read_bytes() == other.images.read_bytes()
        assert np.array_equal(np.load(one.labels), np.load(other.labels))
    assert prepared.digest == clean.digest
    assert {row.status for row in clean.checks} == {"ok"}


def splits(prepared: PreparedDataset):
    return prepared.train, prepared.val, prepared.test


@pytest.mark.parametrize("name", cases())
def test_a_cached_pack_tells_the_same(name: str, make, monkeypatch) -> None:
    case = cases()[name]
    first = make(case.files, case.groups, **{name: "drop"}, **least(name))
    monkeypatch.setattr("tasks.preprocess.prepare._make", None)
    again = make(case.files, case.groups, **{name: "drop"}, **least(name))
    assert again == first
    assert load_prepared(first.folder).checks == first.checks
    assert PreparedDataset.model_validate_json(first.model_dump_json()) == first


def test_drift_fails_or_is_warned_of(make) -> None:
    files = declared(train=(40, 10), val=(3, 3), test=(5, 30))
    row = row_of(make(files), "class_drift")
    assert (row.status, row.policy, row.found) == ("warned", "warn", 1)
    assert row.p_value < 0.001
    assert row.statistic == pytest.approx(0.8 - 1 / 7)
    with pytest.raises(DataError, match=r"class_drift: The shares .*'cats' is 80\.0% of train"):
        make(files, class_drift="fail")
    assert row_of(make(files, drift_alpha=1e-12), "class_drift").status == "ok"


def test_near_duplicates_that_are_not_looked_for_have_no_row(make, monkeypatch) -> None:
    monkeypatch.setattr("tasks.preprocess.pack.perceptual_hash", None)  # not even asked
    prepared = make(CLEAN, near_duplicates="off")
    assert [row.name for row in prepared.checks] == [n for n in CHECKS if n != "near_duplicates"]


def test_all_that_fails_is_in_one_message(make) -> None:
    all_cases = cases()
    names = ("exact_duplicates", "near_duplicates", "conflicting_labels", "tiny_classes")
    files = {path: content for name in names for path, content in all_cases[name].files.items()}
    policies = dict.fromkeys(names, "fail")
    with pytest.raises(DataError) as caught:
        make(files, all_cases["group_leakage"].groups, **policies, tiny_class=3)
    first, hint = str(caught.value).split("\n")
    names = ("exact_duplicates", "near_duplicates", "conflicting_labels", "group_leakage")
    found = zip((*names, "tiny_classes"), (2, 2, 2, 2, 1), strict=True)
    for line, (name, n) in zip(first.split("; "), found, strict=True):
        assert line.startswith(f"{name}: {n} ")
    assert hint.startswith("graft check --json lists examples of each. Mend the data, or set ")
    assert hint.count("data.checks.") == 5


def test_what_fails_of_the_files_is_told_before_any_is_decoded(make, monkeypatch) -> None:
    monkeypatch.setattr("tasks.preprocess.prepare._decode", None)
    case = cases()["exact_duplicates"]
    with pytest.raises(DataError, match=r"exact_duplicates: 2 ") as caught:
        make(case.files, tiny_classes="fail", tiny_class=100)
    assert "tiny_classes: 2 class(es) have fewer than 100" in str(caught.value)


def test_what_drop_leaves_is_split_as_if_it_were_all(make, photographs: Files) -> None:
    """The source declares a test alone: val is split off what is left of the training images."""
    files = {f"train/{path}": content for path, content in photographs.items()}
    files |= {f"test/{path}": photographs[path] for path in list(photographs)[::4]}
    prepared = make(files, exact_duplicates="drop")
    kept = {p: c for p, c in files.items() if p[:5] != "train" or f"test{p[5:]}" not in files}
    assert packed(prepared) == packed(make(kept))
    assert row_of(prepared, "exact_duplicates").dropped == len(files) - len(kept) == 6


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_split_that_drop_would_empty_is_refused(split: str, make) -> None:
    files = CLEAN | {p.replace(split, "test", 1): c for p, c in CLEAN.items() if p[:3] == split[:3]}
    with pytest.raises(DataError, match=rf"exact_duplicates=drop leaves no image in {split}"):
        make(files, exact_duplicates="drop")


def test_a_class_that_drop_of_near_copies_would_empty_is_refused(make, tmp_path: Path) -> None:
    files = CLEAN | {
        f"test/cats/copy{i}.jpg": encoded(
            Image.open(io.BytesIO(CLEAN[f"train/cats/{i:03}.png"])), "JPEG", quality=60
        )
        for i in range(6)
    }
    with pytest.raises(DataError, match=r"near_duplicates=drop leaves no training image of .*cats"):
        make(files, near_duplicates="drop", tiny_classes="warn")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_class_too_small_to_be_split_is_dropped_not_refused(make, photographs: Files) -> None:
    alone = photographs | {"emus/1.png": encoded(picture(900))}
    with pytest.raises(DataError, match="Too few training images"):
        make(alone, tiny_class=3)
    prepared = make(alone, tiny_class=3, tiny_classes="drop")
    assert prepared.classes == ("cats", "dogs")
    row = row_of(prepared, "tiny_classes")
    assert (row.found, row.dropped, row.examples) == (1, 1, ("'emus' has 1",))
    with pytest.raises(DataError, match="leaves no class"):
        make(photographs, tiny_class=100, tiny_classes="drop")


def test_labels_are_numbered_anew_where_the_first_class_goes(make) -> None:
    files = declared(train=(2, 6, 6), val=(1, 3, 3), test=(1, 3, 3))
    prepared = make(files, tiny_class=3, tiny_classes="drop")
    assert prepared.classes == ("dogs", "emus")
    for split in splits(prepared):
        names = [record.path.split("/")[1] for record in read_index(split.index)]
        assert [prepared.classes[label] for label in np.load(split.labels)] == names
        assert len(split.counts) == 2


def test_of_several_labels_a_tiny_one_goes_and_its_images_stay(
    make_raw: MakeRaw, spec: InputSpec, tmp_path: Path
) -> None:
    raw = make_raw(declared(train=(6, 6), val=(3, 3), test=(3, 3)))
    tiny = {"train/cats/000.png": (0, 1), "train/dogs/000.png": (1,), "test/dogs/000.png": (1, 2)}
    records = [
        record._replace(label=tiny.get(record.path, (2 * record.labels[0],)))
        for record in read_index(raw.index)
    ]
    write_index(raw.index, records)
    classes = ("cats", "birds", "dogs")
    changes = {"classes": classes, "multi_label": True, "digest": digest_records(classes, records)}
    checks = ChecksConfig(tiny_class=3, tiny_classes="drop")
    config = DataConfig(kind="manifest", path="x", multi_label=True, checks=checks)
    prepared = prepare(config, 0, raw.model_copy(update=changes), spec, tmp_path / "cache")
    assert prepared.classes == ("cats", "dogs")
    row = row_of(prepared, "tiny_classes")
    assert (row.status, row.found, row.dropped) == ("dropped", 1, 0)
    labels = {r.path: r.labels for r in read_index(prepared.train.index)}
    assert labels["train/cats/000.png"] == (0,)
    assert labels["train/dogs/000.png"] == ()
    assert np.load(prepared.test.labels).sum(axis=0).tolist() == [3, 3]
    assert "whose images stay without that label" in prepared.warnings[-1]
