"""The points of the scale benchmark: what grows in each, and how its row is measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.scale_bench import BASE, GRAFT, Bench
from tests.benchmarks.scale_images import write_folders
from tests.benchmarks.scale_work import compare, nodes, rank, ray, single

Row = dict[str, Any]
CLASSES = 10  # of the points where images grow
NAMES = {1_000: "1k", 10_000: "10k", 30_000: "30k", 100_000: "100k"}
NAMES |= {1_000_000: "1M", 10_000_000: "10M", 10: "10", 100: "100"}


@dataclass(frozen=True)
class Point:
    """One measurement: a kind of work at one size."""

    group: str
    kind: str
    size: int  # images, classes, candidates, cells or nodes
    seconds: float  # about what it takes on two cores, the making of its images included
    measure: Callable[[Bench, int], Row]

    @property
    def name(self) -> str:
        """Return the name that ``--only`` takes."""
        kind = "classes" if self.group == "classes" else self.kind
        return f"{kind}-{NAMES.get(self.size, self.size)}"


def ordinary(bench: Bench, images: int) -> Row:
    """Measure the six rooms on so many training images in class folders."""
    sizes = {"train": images, "val": bench.held_out, "test": bench.held_out}
    return _in_folders(bench, f"ordinary-{images}", sizes, CLASSES)


def classes(bench: Bench, n: int) -> Row:
    """Measure the six rooms on the same number of images in ``n`` classes."""
    most = 200 if bench.quick else 20_000  # two of each class, the least there may be
    sizes = {"train": most, "val": bench.held_out, "test": bench.held_out}
    return _in_folders(bench, f"classes-{n}", sizes, n)


def _in_folders(bench: Bench, name: str, sizes: dict[str, int], n: int) -> Row:
    images = bench.data / name
    shutil.rmtree(images, ignore_errors=True)
    try:
        write_folders(images, sizes, n)
        with bench.scratch(name) as scratch:
            return bench.rooms(scratch, "data.kind=folder", f"data.path={images}")
    finally:
        shutil.rmtree(images, ignore_errors=True)


def shards(bench: Bench, images: int) -> Row:
    """Measure the indexing of shards, and the six rooms that stream from them."""
    name, plan = f"shards-{images}", bench.shards(CLASSES)
    data = ("data.kind=shards", f"data.path={plan.make(bench.data, images)}")
    with bench.scratch(name) as scratch:
        row: Row = {"index_seconds": None}  # of ten million: see ``repeat_index``
        if images <= plan.distinct:
            taken = bench.run(scratch, *GRAFT, "shards", BASE, *data, "--index")
            row = {"index_seconds": taken.seconds, "index_own_mib": taken.own_mib}
    with bench.scratch(name) as scratch:
        return {**bench.rooms(scratch, *data), **row}


def every_point() -> list[Point]:
    """Return the points in the order that they are measured in: the longest last."""
    images = [(1_000, 20), (10_000, 25), (30_000, 45), (100_000, 80)]
    streamed = [(1_000, 20), (10_000, 25), (100_000, 60), (1_000_000, 500), (10_000_000, 2_400)]
    grown = [(10, 35), (100, 35), (1_000, 40), (10_000, 50)]
    return [
        *(Point("images", "ordinary", n, seconds, ordinary) for n, seconds in images),
        *(Point("classes", "ordinary", n, seconds, classes) for n, seconds in grown),
        *(Point("backbones", "rank", n, 15 + 3 * n, rank) for n in (2, 4, 8)),
        Point("backbones", "cell", 1, 15, single),
        *(Point("backbones", "compare", n, 12 + 6 * n, compare) for n in (1, 2, 4, 8)),
        *(Point("machines", "ray", n, 150, ray) for n in (1, 2)),
        *(Point("machines", "nodes", n, 50, nodes) for n in (1, 2)),
        *(Point("images", "shards", n, seconds, shards) for n, seconds in streamed),
    ]


def quick_points() -> list[Point]:
    """Return small points of every kind, to try the benchmark with; their figures say nothing."""
    sizes = [(1_000, 20), (2_000, 20), (4_000, 20)]
    return [
        *(Point("images", "ordinary", n, seconds, ordinary) for n, seconds in sizes[:2]),
        *(Point("classes", "ordinary", n, 20, classes) for n in (10, 100)),
        *(Point("backbones", "rank", n, 20, rank) for n in (2, 4)),
        Point("backbones", "cell", 1, 15, single),
        *(Point("backbones", "compare", n, 20, compare) for n in (1, 2)),
        *(Point("machines", "ray", n, 60, ray) for n in (1, 2)),
        *(Point("machines", "nodes", n, 40, nodes) for n in (1, 2)),
        *(Point("images", "shards", n, seconds, shards) for n, seconds in sizes),
    ]
