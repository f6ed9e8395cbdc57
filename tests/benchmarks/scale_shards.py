"""Generated images in shards, and the same shards under further names for more of them.

Ten million images of their own would take long to write and a disk to hold. So at most so many are
drawn, and a folder that lists more has hard links to the same tars: a run opens, reads, hashes,
decodes and trains on each of them all the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tasks.download.shards import INDEX_FILE, in_order, index_digest, parse_index, prefixes_file
from tasks.splitvalues import Shard, ShardIndex
from tests.benchmarks.scale_images import class_name, jpegs

FEW = 4  # tars that are written before a second process has started
STREAMS = {"train": 0, "val": 1, "test": 2}

Task = tuple[Path, str, int, int, int]  # file, split, first image, images, classes


def write_tar(task: Task) -> None:
    """Write one tar of generated images as WebDataset does: KEY.jpg and KEY.cls."""
    from webdataset import TarWriter

    path, split, first, n, classes = task
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        writer = TarWriter(file, mtime=0, compress=False, encoder=False)
        for number, label, content in jpegs(first, n, classes, STREAMS[split]):
            name = class_name(label).encode()
            writer.write({"__key__": f"{number:09d}", "jpg": content, "cls": name})
        writer.close()
    half.rename(path)


@dataclass(frozen=True)
class Shards:
    """How generated images are put into shards."""

    held_out: int  # images of val and of test
    in_a_shard: int  # training images; AT_ONCE divides it
    distinct: int  # training images that are drawn at most
    classes: int

    def make(self, data: Path, images: int) -> Path:
        """Return a folder with shards of so many training images, made if need be, no index.

        That of more than ``distinct`` has an index, made of the one of ``distinct``, which must be
        there. Raises ``ValueError`` for a number that whole shards do not make.
        """
        folder = data / f"shards-{images}"
        if folder.is_dir():
            return folder
        half, pool = folder.with_suffix(".half"), data / "pool"
        shutil.rmtree(half, ignore_errors=True)
        if images < self.in_a_shard:
            self._write(half, images)
        elif images % self.in_a_shard:
            raise ValueError(f"{images} images are no whole shards of {self.in_a_shard}")
        else:
            self._write(pool, min(images, self.distinct))
            link_pool(pool, half, images // self.in_a_shard, self.distinct // self.in_a_shard)
        if images > self.distinct:
            repeat_index(data / f"shards-{self.distinct}", half)
        half.rename(folder)
        return folder

    def _write(self, folder: Path, images: int) -> None:
        write_pool(folder, images, self.held_out, self.classes, self.in_a_shard)


def write_pool(folder: Path, images: int, held_out: int, classes: int, in_a_shard: int) -> None:
    """Write train shards of ``images`` in all, and one of val and test each, two at a time.

    What is there already is left as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks: list[Task] = [
        (_tar(folder, "train", number), "train", first, min(in_a_shard, images - first), classes)
        for number, first in enumerate(range(0, images, in_a_shard))
    ]
    tasks += [(_tar(folder, name, 0), name, 0, held_out, classes) for name in ("val", "test")]
    missing = [task for task in tasks if not task[0].is_file()]
    if len(missing) <= FEW:
        for task in missing:
            write_tar(task)
        return
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        list(pool.map(write_tar, missing))


def link_pool(pool: Path, folder: Path, shards: int, distinct: int) -> None:
    """Make a folder of so many train shards, the pool's first again and again, and val and test."""
    folder.mkdir(parents=True)
    for number in range(shards):
        os.link(_tar(pool, "train", number % distinct), _tar(folder, "train", number))
    for name in ("val", "test"):
        os.link(_tar(pool, name, 0), _tar(folder, name, 0))


def repeat_index(indexed: Path, folder: Path) -> None:
    """Write the index of a folder from ``link_pool`` whose first shards ``indexed`` has indexed.

    It is what ``graft shards`` would write after reading every shard again, byte for byte.
    """
    known = parse_index((indexed / INDEX_FILE).read_bytes(), str(indexed))
    of_name = {shard.name: shard for shard in known.shards}
    trained = [shard for shard in known.shards if shard.split == "train"]
    names = sorted(path.name for path in folder.glob("train-*.tar"))
    again = [trained[n % len(trained)].model_copy(update={"name": x}) for n, x in enumerate(names)]
    times, rest = divmod(len(names), len(trained))
    if rest:
        raise ValueError(f"{len(names)} shards are no multiple of {len(trained)}")
    shards = in_order([*again, *(s for s in of_name.values() if s.split != "train")])
    _write_index(indexed, folder, known, shards, times)


def _write_index(
    indexed: Path, folder: Path, known: ShardIndex, shards: Sequence[Shard], times: int
) -> None:
    prefixes = {}
    for split in known.prefixes:
        content = (indexed / prefixes_file(split)).read_bytes()
        content *= times if split == "train" else 1
        (folder / prefixes_file(split)).write_bytes(content)
        prefixes[split] = hashlib.sha256(content).hexdigest()
    counts = {**known.counts, "train": tuple(times * n for n in known.counts["train"])}
    update = {
        "shards": tuple(shards),
        "counts": counts,
        "prefixes": prefixes,
        "digest": index_digest(known.classes, shards),
    }
    index = known.model_copy(update=update)
    (folder / INDEX_FILE).write_bytes(index.model_dump_json(indent=1).encode())


def _tar(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:06d}.tar"
