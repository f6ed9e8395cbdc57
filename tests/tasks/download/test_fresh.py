"""New images are found in folders, manifests and archives, and little is asked of them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.download.fresh import Labels, find_fresh
from tasks.errors import DataError
from tasks.monitorconfig import LabelledImagesConfig, NewImagesConfig

LABELS = Labels(("cat", "dog", "owl"))


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of six images at three depths, with other files."""
    root = tmp_path / "photos"
    for number, name in enumerate(
        ["a.png", "cat/b.png", "cat/c.PNG", "dog/x/d.png", "dog/e.png", ".hidden/f.png"]
    ):
        save(root / name, 10 * number)
    (root / "notes.txt").write_text("no image")
    return root


def found(fresh) -> list[tuple[str, int | tuple[int, ...]]]:
    return [(record.path, record.label) for record in fresh.records]


def test_every_image_at_any_depth_is_taken_and_has_no_label(photos: Path, tmp_path: Path):
    fresh = find_fresh(NewImagesConfig(path=str(photos)), 0, tmp_path / "cache")
    names = ["a.png", "cat/b.png", "cat/c.PNG", "dog/e.png", "dog/x/d.png"]
    assert found(fresh) == [(name, 0) for name in names]
    assert (fresh.found, fresh.copies) == (5, 0)


def test_the_first_folder_is_the_label_and_a_class_may_be_missing(photos: Path, tmp_path: Path):
    fresh = find_fresh(LabelledImagesConfig(path=str(photos)), 0, tmp_path, LABELS)
    assert found(fresh) == [
        ("cat/b.png", 0),
        ("cat/c.PNG", 0),
        ("dog/e.png", 1),
        ("dog/x/d.png", 1),
    ]


def test_labels_that_the_model_does_not_know_are_named(photos: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"does not know: dog\.\nIt knows: cat, cow"):
        find_fresh(LabelledImagesConfig(path=str(photos)), 0, tmp_path, Labels(("cat", "cow")))


def test_an_archive_is_as_its_folder(photos: Path, tmp_path: Path):
    shutil.make_archive(str(tmp_path / "photos"), "zip", photos.parent, "photos")
    config = LabelledImagesConfig(path=str(tmp_path / "photos.zip"))
    folder = find_fresh(LabelledImagesConfig(path=str(photos)), 0, tmp_path, LABELS)
    archive = find_fresh(config, 0, tmp_path / "cache", LABELS)
    assert archive.records == folder.records


def test_at_most_so_many_are_drawn_by_the_seed(tmp_path: Path):
    for number in range(60):
        save(tmp_path / "many" / f"{number}.png", number)
    config = NewImagesConfig(path=str(tmp_path / "many"), at_most=20)
    first, again, other = (find_fresh(config, seed, tmp_path) for seed in (0, 0, 1))
    assert first.records == again.records != other.records
    assert (len(first.records), first.found) == (20, 60)


def test_a_file_counts_once_however_many_copies_there_are(tmp_path: Path):
    for name, value in (("1.png", 1), ("2.png", 1), ("3.png", 2)):
        save(tmp_path / "new" / name, value)
    fresh = find_fresh(NewImagesConfig(path=str(tmp_path / "new")), 0, tmp_path)
    assert [record.path for record in fresh.records] == ["1.png", "3.png"]
    assert fresh.copies == 1


def manifest(photos: Path, **columns: list) -> str:
    names = ["a.png", "cat/b.png", "dog/e.png"]
    pd.DataFrame({"file": names, **columns}).to_csv(photos / "new.csv", index=False)
    return str(photos / "new.csv")


def test_a_manifest_without_labels_will_do_and_its_splits_are_no_matter(photos, tmp_path: Path):
    path = manifest(photos, split=["march", "april", "test"])
    config = NewImagesConfig(kind="manifest", path=path, path_column="file")
    fresh = find_fresh(config, 0, tmp_path)
    assert found(fresh) == [("a.png", 0), ("cat/b.png", 0), ("dog/e.png", 0)]


def test_a_manifests_labels_are_read_one_or_several(photos: Path, tmp_path: Path):
    path = manifest(photos, is_a=["owl", "cat", "dog"], has=["owl;cat", "", "dog"])
    config = LabelledImagesConfig(
        kind="manifest", path=path, path_column="file", label_column="is_a"
    )
    assert found(find_fresh(config, 0, tmp_path, LABELS)) == [
        ("a.png", 2),
        ("cat/b.png", 0),
        ("dog/e.png", 1),
    ]
    several = config.model_copy(update={"label_column": "has"})
    labels = Labels(LABELS.classes, multi_label=True, separator=";")
    assert [label for _, label in found(find_fresh(several, 0, tmp_path, labels))] == [
        (0, 2),
        (),
        (1,),
    ]


def test_folders_cannot_hold_several_labels(photos: Path, tmp_path: Path):
    labels = Labels(LABELS.classes, multi_label=True)
    with pytest.raises(DataError, match=r"images\.kind=manifest"):
        find_fresh(LabelledImagesConfig(path=str(photos)), 0, tmp_path, labels)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_source_without_images_says_what_it_has(tmp_path: Path, labels):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"holds no image \(found: notes.txt\)"):
        find_fresh(LabelledImagesConfig(path=str(tmp_path / "new")), 0, tmp_path, labels)


def test_a_damaged_archive_and_a_missing_folder_are_data_errors(tmp_path: Path):
    (tmp_path / "new.zip").write_bytes(b"PK\x03\x04 and no more")
    for path in ("new.zip", "nowhere"):
        with pytest.raises(DataError):
            find_fresh(NewImagesConfig(path=str(tmp_path / path)), 0, tmp_path)
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../evil.png", b"x")
    with pytest.raises(DataError, match="leads out"):
        find_fresh(NewImagesConfig(path=str(tmp_path / "out.zip")), 0, tmp_path)
