"""Packs: the rows are the views, the size rule, and what counts as a whole pack."""

from __future__ import annotations

import io
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.config import DataConfig
from tasks.errors import DataError, ResourceError
from tasks.index import read_index
from tasks.preprocess.decode import decode_rgb
from tasks.preprocess.layouts import common_size
from tasks.preprocess.pack import load_prepared
from tasks.preprocess.prepare import prepare
from tasks.preprocess.views import shrink
from tasks.values import InputSpec, PackedSplit, RawDataset

CONFIG = DataConfig(path="images")
MakeRaw = Callable[..., RawDataset]


def rows_of(split: PackedSplit) -> np.ndarray:
    rows = np.fromfile(split.images, dtype=np.uint8)
    return rows.reshape(split.n, split.height, split.width, 3)


def png(height: int, width: int, seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(file, "PNG")
    return file.getvalue()


def same_size(height: int, width: int) -> dict[str, bytes]:
    return {
        f"{name}/{i}.png": png(height, width, 50 * k + i)
        for k, name in enumerate(("cats", "dogs"))
        for i in range(8)
    }


def test_rows_are_the_shrunken_images_exactly(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw = make_raw(photographs)
    prepared = prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    for split, side in ((prepared.train, 36), (prepared.val, 32), (prepared.test, 32)):
        assert (split.height, split.width) == (side, side)
        records = read_index(split.index)
        assert [r.label for r in records] == np.load(split.labels).tolist()
        assert split.counts == tuple(np.bincount(np.load(split.labels), minlength=2))
        assert all(r.split == split.name for r in records)
        for record, row in zip(records, rows_of(split), strict=True):
            image_chw = torch.from_numpy(decode_rgb(raw.root / record.path)).permute(2, 0, 1)
            assert np.array_equal(row, shrink(image_chw, spec, side).permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 30), (36, 36), (12, 100)])
def test_small_images_of_one_size_are_packed_as_they_are(
    make_raw: MakeRaw, spec: InputSpec, tmp_path: Path, height: int, width: int
) -> None:
    raw = make_raw(same_size(height, width))
    prepared = prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    for split in (prepared.train, prepared.val, prepared.test):
        assert (split.height, split.width) == (height, width)
        for record, row in zip(read_index(split.index), rows_of(split), strict=True):
            assert np.array_equal(row, decode_rgb(raw.root / record.path))


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (37, 36),  # more pixels than the square
        (32, 32),  # would be taken for finished views, but the preset enlarges to 36 first
    ],
)
def test_other_images_of_one_size_are_packed_as_squares(
    make_raw: MakeRaw, spec: InputSpec, tmp_path: Path, height: int, width: int
) -> None:
    prepared = prepare(CONFIG, 0, make_raw(same_size(height, width)), spec, tmp_path / "cache")
    assert (prepared.train.height, prepared.val.height) == (36, 32)


def test_images_at_the_networks_own_size_stay_as_they_are(
    make_raw: MakeRaw, spec: InputSpec, tmp_path: Path
) -> None:
    own = spec.model_copy(update={"resize": 32})
    prepared = prepare(CONFIG, 0, make_raw(same_size(32, 32)), own, tmp_path / "cache")
    assert (prepared.train.height, prepared.val.height) == (32, 32)


def test_common_size_skips_unreadable_files_and_sees_rotation(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20, 30, 0))
    (tmp_path / "b.png").write_bytes(b"")
    assert common_size([tmp_path / "a.png", tmp_path / "b.png"]) == (20, 30)
    (tmp_path / "c.png").write_bytes(png(30, 20, 0))
    assert common_size([tmp_path / "a.png", tmp_path / "c.png"]) is None
    assert common_size([tmp_path / "b.png"]) is None


def test_a_damaged_pack_is_not_loaded_and_made_anew(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw, cache = make_raw(photographs), tmp_path / "cache"
    prepared = prepare(CONFIG, 0, raw, spec, cache)
    assert load_prepared(prepared.folder) == prepared

    def cut(name: str) -> None:
        path = prepared.folder / name
        path.write_bytes(path.read_bytes()[:-7])

    damages: list[Callable[[], None]] = [
        lambda: cut("train.u8"),
        lambda: cut("test.labels.npy"),
        lambda: cut("prepared.json"),
        lambda: (prepared.folder / "val.index.csv").unlink(),
        lambda: (prepared.folder / "prepared.json").unlink(),
    ]
    for damage in damages:
        damage()
        assert load_prepared(prepared.folder) is None
        assert prepare(CONFIG, 0, raw, spec, cache) == prepared


def test_a_pack_can_be_moved(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    prepared = prepare(CONFIG, 0, make_raw(photographs), spec, tmp_path / "cache")
    shutil.move(prepared.folder, tmp_path / "moved")
    moved = load_prepared(tmp_path / "moved")
    assert moved is not None
    assert moved.train.images == tmp_path / "moved" / "train.u8"
    assert moved.digest == prepared.digest


def test_digest_follows_pixels_and_labels(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    first = prepare(CONFIG, 0, make_raw(photographs), spec, tmp_path / "one")
    again = prepare(CONFIG, 0, make_raw(photographs), spec, tmp_path / "two")
    assert (first.digest, first.train.digest) == (again.digest, again.train.digest)
    changed = photographs | {path: png(41, 59, 999) for path in list(photographs)[:1]}
    other = prepare(CONFIG, 0, make_raw(changed), spec, tmp_path / "three")
    assert other.digest != first.digest


def test_a_file_that_changed_after_it_was_indexed_is_refused(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw = make_raw(photographs)
    path = raw.root / "cats/03.png"
    path.write_bytes(png(50, 51, 1))
    with pytest.raises(DataError, match=r"cats/03\.png changed"):
        prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match=r"Cannot read cats/03\.png: No such file"):
        prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.u8"))


def test_too_little_space_is_told_before_anything_is_written(
    make_raw: MakeRaw,
    photographs: dict[str, bytes],
    spec: InputSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match=r"need 0\.00 GB") as caught:
        prepare(CONFIG, 0, make_raw(photographs), spec, tmp_path / "cache")
    assert str(caught.value).count("\n") == 1
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_disk_that_fills_up_while_packing_leaves_nothing(
    make_raw: MakeRaw, photographs: dict[str, bytes], spec: InputSpec, tmp_path: Path
) -> None:
    raw = make_raw(photographs)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the kernel's own refusal
    try:
        with pytest.raises(ResourceError, match="disk is full"):
            prepare(CONFIG, 0, raw, spec, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
