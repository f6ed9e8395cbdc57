"""A streamed epoch against the pack of the same images, bit for bit, and what goes wrong on it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.config import DataConfig
from tasks.download.source import download
from tasks.errors import ConfigError, DataError
from tasks.finetune.device import use_threads
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.decode import decode_rgb
from tasks.preprocess.prepare import prepare
from tasks.preprocess.stream import StreamedImages, decoding_threads
from tasks.preprocess.stream_decode import Encoded, decoded
from tasks.preprocess.stream_order import Limits
from tasks.values import InputSpec, PackedSplit, PreparedDataset, StreamedSplit
from tests.tasks.shard_folders import (
    as_folder,
    indexed,
    prepared_shards,
    samples,
    shard_folder,
    write_shard,
)

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
Rows = Counter[tuple[bytes, int]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streamed(prepared: PreparedDataset, data: DataConfig, **limits: int) -> StreamedImages:
    assert isinstance(prepared.train, StreamedSplit)
    return StreamedImages(prepared.train, prepared.input, data, Limits(**limits))


def epoch(images: StreamedImages, size: int, processes: int = 1, seed: int = 0) -> list[list]:
    """Return the batches of each process."""
    order = images.order(size, processes, generator(seed))
    return [list(images.batches(order, own, size // processes, CPU)) for own in range(processes)]


def rows_of(batches: list) -> Rows:
    return Counter(
        (image.tobytes(), int(label))
        for images, labels in batches
        for image, label in zip(images.numpy(), labels, strict=True)
    )


def packed(split: PackedSplit) -> Rows:
    images = PackedImages(split)
    return rows_of([(torch.from_numpy(np.array(images.images_nhwc)), images.labels_n)])


@pytest.fixture
def shards(tmp_path: Path, spec: InputSpec) -> tuple[PreparedDataset, DataConfig]:
    """Return 61 training images of 32 px in four shards."""
    config = shard_folder(tmp_path / "shards", (20, 20, 20, 1))
    return prepared_shards(config, spec, tmp_path / "cache"), config


@pytest.mark.parametrize("growth", [0, 1], ids=["of one size", "of many sizes"])
def test_a_streamed_image_is_the_packed_one(growth, tmp_path, spec):
    contents = {f"train-{i:06}": samples(9, i, 28, growth) for i in range(3)}
    contents |= {"val-000000": samples(6, 7, 28, growth), "test-000000": samples(6, 8, 28, growth)}
    data, folder = indexed(tmp_path / "shards", contents), as_folder(tmp_path / "photos", contents)
    ours = prepared_shards(data, spec, tmp_path / "cache")
    raw = download(folder, tmp_path / "cache")
    theirs = prepare(folder, 0, raw, spec, tmp_path / "cache")
    assert isinstance(ours.train, StreamedSplit)
    assert ours.train.native == (growth == 0)
    assert rows_of(epoch(streamed(ours, data), 27)[0]) == packed(theirs.train)
    assert ours.train.counts == theirs.train.counts == (9, 9, 9)
    assert packed(ours.val) == packed(theirs.val)
    assert packed(ours.test) == packed(theirs.test)
    checks = {check.name: check.found for check in theirs.checks}
    assert {check.name: check.found for check in ours.checks} == checks


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_all_processes_have_equally_many_batches_and_no_image_twice(shards, processes):
    images = streamed(*shards)
    found = epoch(images, 20, processes)
    sizes = [[len(labels) for _, labels in batches] for batches in found]
    # 61: of one process all but the last one image, of two 30 each, of four 15
    assert sizes == [[20 // processes] * 3] * processes
    assert images.images_an_epoch(20, processes) == 60
    rows = Counter[tuple[bytes, int]]()
    for batches in found:
        rows += rows_of(batches)
    assert len(rows) == sum(rows.values()) == 60


def test_an_epoch_is_the_same_again_and_the_next_is_another(shards):
    images, draws = streamed(*shards), generator(3)
    orders = [images.order(61, 1, draws), images.order(61, 1, draws)]
    (one,), (other,) = (list(images.batches(order, 0, 61, CPU)) for order in orders)
    (again,) = images.batches(images.order(61, 1, generator(3)), 0, 61, CPU)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])
    assert rows_of([one]) == rows_of([other])


def test_the_first_images_are_the_same_in_every_process(shards):
    images = streamed(*shards)
    found = [list(images.first(25, 10, generator(0), CPU)) for _ in range(2)]
    assert [len(labels) for _, labels in found[0]] == [10, 10, 5]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*found, strict=True))
    whole = list(images.first(999, 20, generator(), CPU))  # no image dropped, no batch of one
    assert [len(labels) for _, labels in whole] == [20, 20, 21]
    assert len(rows_of(whole)) == 61
    assert [len(labels) for _, labels in images.first(1, 20, generator(), CPU)] == [1]
    assert [len(labels) for _, labels in images.first(3, 1, generator(), CPU)] == [1, 1, 1]


def test_more_processes_than_shards(shards):
    with pytest.raises(ConfigError, match=r"5 processes .* there are 4"):
        streamed(*shards).order(20, 5, generator())


def damaged(n: int, seed: int, bad: set[int]) -> list:
    """Return samples of which some are cut off behind their headers."""
    held = samples(n, seed)
    return [(k, image[:300] if i in bad else image, c) for i, (k, image, c) in enumerate(held)]


@pytest.fixture
def with_bad(tmp_path: Path):
    def make(bad: set[int], **data: object) -> DataConfig:
        contents = {f"train-{i:06}": damaged(20, i, bad) for i in range(3)}
        contents |= {"val-000000": samples(30, 9), "test-000000": samples(30, 10)}
        return indexed(tmp_path / "shards", contents, **data)

    return make


def test_a_bad_image_is_told_with_its_shard_and_key(with_bad, spec, tmp_path):
    data = with_bad({7})
    images = streamed(prepared_shards(data, spec, tmp_path / "cache"), data)
    told = r"train-00000\d\.tar: 00\d-00007 \(damaged: .*\n.*data\.on_bad_image=skip"
    with pytest.raises(DataError, match=told):
        epoch(images, 20)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_bad_images_are_left_out_and_the_batches_stay_as_many(with_bad, spec, tmp_path, processes):
    data = with_bad({3, 7, 11}, on_bad_image="skip")
    images = streamed(prepared_shards(data, spec, tmp_path / "cache"), data)
    order, left_out, rows = images.order(30, processes, generator()), 0, Rows()
    for own in range(processes):
        batches = list(images.batches(order, own, 30 // processes, CPU))
        assert [len(labels) for _, labels in batches] == [30 // processes] * 2
        rows += rows_of(batches)
        left_out += images.left_out
    assert left_out == 9
    assert sum(rows.values()) == 60
    assert len(rows) == 51  # all that are whole; of these some came twice
    assert max(rows.values()) == 2
    assert "train-00000" in images.example


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_an_epoch_that_is_gone_on_with_has_the_images_that_were_left(
    with_bad, spec, tmp_path, policy
):
    data = with_bad({3} if policy == "skip" else set(), on_bad_image=policy)
    images = streamed(prepared_shards(data, spec, tmp_path / "cache"), data)
    (whole,) = epoch(images, 8)
    for skip in (1, 5, len(whole)):
        left = list(images.batches(images.order(8, 1, generator()), 0, 8, CPU, skip))
        assert len(left) == len(whole) - skip
        for ours, theirs in zip(left, whole[skip:], strict=True):
            assert all(map(torch.equal, ours, theirs))


def test_only_bad_images(with_bad, spec, tmp_path):
    data = with_bad(set(range(1, 20)), on_bad_image="skip")
    images = streamed(prepared_shards(data, spec, tmp_path / "cache"), data)
    with pytest.raises(DataError, match="only 3 can be used"):
        epoch(images, 60)


def test_a_shard_that_was_changed_or_is_gone(shards, tmp_path):
    path = tmp_path / "shards" / "train-000001.tar"
    write_shard(path, samples(20, 77))
    with pytest.raises(DataError, match=r"train-000001\.tar has 20 images and sha256"):
        epoch(streamed(*shards), 20)
    path.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar is not there"):
        epoch(streamed(*shards), 20)


def some(images: StreamedImages, processes: int | str) -> list:
    """Return an epoch of so many processes, or the first images alone."""
    if processes == "first":
        return list(images.first(9, 9, generator(), CPU))
    return epoch(images, 12, int(processes))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, "first"])
def test_every_shard_is_checked_whoever_reads_how_much_of_it(shards, tmp_path, processes):
    images = streamed(*shards, images=1)
    for path in (tmp_path / "shards").glob("train-*.tar"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"x")  # behind all images
        with pytest.raises(DataError, match=rf"{path.name} .*\n.*changed after it was indexed"):
            some(images, processes)
        path.write_bytes(whole)


@pytest.mark.parametrize("processes", [1, "first"])
def test_shards_are_checked_though_images_are_replaced(with_bad, spec, tmp_path, processes):
    data = with_bad({3}, on_bad_image="skip")
    images = streamed(prepared_shards(data, spec, tmp_path / "cache"), data, images=1)
    path = tmp_path / "shards" / "train-000002.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="changed after it was indexed"):
        some(images, processes)


def test_for_the_first_images_no_further_shard_is_begun(shards, tmp_path):
    images = streamed(*shards, images=1, open=1)
    pieces = images.order(5, 1, generator()).parts[0]
    for piece in pieces[2:]:  # one is open, and one is read ahead
        (tmp_path / "shards" / f"train-{piece.shard:06}.tar").unlink()
    assert sum(len(labels) for _, labels in images.first(5, 5, generator(), CPU)) == 5


def test_an_epoch_ends_with_its_images_and_takes_no_more(shards):
    images = streamed(*shards)
    order = replace(images.order(60, 1, generator()), images=61)
    rows = list(images._rows(order, 0, 0))
    assert len(rows) == order.images == 61
    assert Counter((row.pixels.tobytes(), row.label) for row in rows) == rows_of(
        list(images.batches(order, 0, 61, CPU))
    )


@pytest.mark.parametrize("wanted", [1, 9, 20])
def test_no_image_is_taken_that_is_not_needed(wanted):
    left = iter([Encoded("s", key, 0, image) for key, image, _ in samples(20, 0)])
    rows = list(decoded(left, wanted, lambda pixels: pixels, 1))
    assert len(rows) == wanted
    assert len(list(left)) == 20 - wanted
    assert all(
        np.array_equal(row.pixels, decode_rgb(image))
        for row, (_, image, _) in zip(rows, samples(wanted, 0), strict=True)
    )


@pytest.mark.parametrize(
    ("threads", "processors", "processes", "decoding"),
    [(1, "8", "1", 1), (6, "8", "1", 6), (6, "2", "1", 2), (6, "8", "4", 2), (6, "2", "4", 1)],
)
def test_threads_decode_as_many_as_are_asked_for_and_there_are(
    threads, processors, processes, decoding, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", processors)  # joblib's own, for any limit
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    before = torch.get_num_threads()
    use_threads(threads)  # as training and ranking do
    try:
        with ThreadPoolExecutor(1) as reader:  # which asks, and not the thread that set it
            assert reader.submit(decoding_threads).result() == decoding
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no affinity")
def test_where_one_processor_is_open_one_thread_decodes():
    def pinned() -> int:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        return decoding_threads()

    before = torch.get_num_threads()
    use_threads(4)
    try:
        with ThreadPoolExecutor(1) as reader:
            assert reader.submit(pinned).result() == 1
    finally:
        torch.set_num_threads(before)


def test_leaving_early_leaves_no_thread_behind(shards):
    images, before = streamed(*shards), threading.active_count()
    batches = images.batches(images.order(5, 1, generator()), 0, 5, CPU)
    next(batches)
    assert threading.active_count() > before
    del batches
    assert threading.active_count() == before


_PEAKS = """
import sys
from pathlib import Path
import torch
from tasks.config import DataConfig
from tasks.preprocess.stream import StreamedImages
from tasks.preprocess.stream_order import Limits
from tasks.values import InputSpec
from tests.tasks.shard_folders import prepared_shards

def used():  # bytes that are no file's
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

torch.set_num_threads(1)
spec = InputSpec(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear")
epochs = []
for folder in map(Path, sys.argv[1:]):
    data = DataConfig(kind="shards", path=str(folder))
    prepared = prepared_shards(data, spec, folder / "cache")
    images = StreamedImages(prepared.train, spec, data, Limits(images=500))
    order = images.order(100, 1, torch.Generator().manual_seed(0))
    epochs.append((images, order))
for images, order in epochs:
    peak = n = 0
    for _, labels in images.batches(order, 0, 100, torch.device("cpu")):
        n, peak = n + len(labels), max(peak, used())
    print(n, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    folders, held = [str(tmp_path / str(n)) for n in (2_000, 20_000)], samples(200, 0, kind="BMP")
    for folder, shards in zip(folders, (10, 100), strict=True):
        same = dict.fromkeys((f"train-{i:06}" for i in range(shards)), held)
        indexed(Path(folder), same | {"val-0": samples(9, 8), "test-0": samples(9, 9)})
    command = [sys.executable, "-c", _PEAKS, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    (small, few), (large, many) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (small, large) == (2_000, 20_000)
    # 18,000 images more are 55 MB decoded, and 57 MB as files
    assert many - few < 20_000_000, (few, many)
