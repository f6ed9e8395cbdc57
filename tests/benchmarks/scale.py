"""How graft's cost grows with images, classes, backbones and machines: docs/scale.md's figures.

Run as ``uv run --all-extras python -m tests.benchmarks.scale`` from the repository's root on an
otherwise idle machine, then ``… -m tests.benchmarks.scale --render``, which writes the tables into
docs/scale.md. Every point runs in processes of its own, one point after another, on generated
images; each row goes into ``--output`` as soon as it is measured. A later call goes on with the
points that have none: those of ``--only`` are measured anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import machine
from tests.benchmarks.peer_watch import REPOSITORY, PeerError
from tests.benchmarks.scale_bench import Bench
from tests.benchmarks.scale_points import Point, every_point, quick_points
from tests.benchmarks.scale_tables import render

PAGE = REPOSITORY / "docs" / "scale.md"
KEPT = Path(__file__).with_name("scale.json")  # the rows that the page shows


class Results:
    """The rows so far, in a file; they count only beside others of this machine and settings."""

    def __init__(self, path: Path, machine: str, settings: dict[str, Any]) -> None:
        self._path = path
        self._all = {"machine": machine, "settings": settings, "points": {}}
        there = json.loads(path.read_text()) if path.is_file() else self._all
        if any(there[key] != self._all[key] for key in ("machine", "settings")):
            print(f"{path}: rows of {there['machine']}, {there['settings']} give way", flush=True)
        else:
            self._all = there

    @property
    def points(self) -> dict[str, Any]:
        """Return the rows by their points' names."""
        points: dict[str, Any] = self._all["points"]
        return points

    def add(self, point: Point, row: dict[str, Any]) -> None:
        """Add or replace a row and write the file, whole or not at all."""
        self.points[point.name] = {
            "group": point.group,
            "kind": point.kind,
            "size": point.size,
            **row,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        half = self._path.with_suffix(".half")
        half.write_text(json.dumps(self._all, indent=1) + "\n")
        half.replace(self._path)


def wanted(points: list[Point], results: Results, only: list[str] | None) -> list[Point]:
    """Return the points of ``only``, or else those without a row; raises ``SystemExit``."""
    if only is None:
        return [point for point in points if point.name not in results.points]
    names = [point.name for point in points]
    unknown = [name for name in only if name not in names]
    if unknown:
        sys.exit(f"No point is called {', '.join(unknown)}. There are: {' '.join(names)}")
    return [point for point in points if point.name in only]


def measure(points: list[Point], bench: Bench, results: Results, budget: float) -> list[str]:
    """Measure the points that fit into ``budget`` seconds; return the names of those left out."""
    start, left = time.monotonic(), []
    for number, point in enumerate(points, start=1):
        taken = time.monotonic() - start
        if taken + point.seconds > budget:
            print(f"{point.name}: left out, it takes about {point.seconds:.0f} s", flush=True)
            left.append(point.name)
            continue
        rest = sum(each.seconds for each in points[number - 1 :])
        print(
            f"{number}/{len(points)}  {point.name}  {taken:.0f} s so far, about {rest:.0f} s left",
            flush=True,
        )
        try:
            row = point.measure(bench, point.size)
        except PeerError as error:
            print(f"{point.name}: failed: {error}", file=sys.stderr, flush=True)
            left.append(point.name)
            continue
        results.add(point, row)
        own = f"{row['own_mib']:,.0f} MiB own memory"
        print(f"    {time.monotonic() - start - taken:.0f} s, of it {row['seconds']:.1f} s; {own}")
    return left


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="POINT", help="measure these, anew")
    parser.add_argument("--budget", type=float, default=float("inf"), help="minutes")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="mlruns/scale, or scale-quick if --quick")
    parser.add_argument("--output", type=Path, help="the rows; rows.json in the folder")
    parser.add_argument("--quick", action="store_true", help="a few images, to try it all")
    parser.add_argument("--list", action="store_true", help="name the points and stop")
    parser.add_argument("--render", action="store_true", help="write the page, measure nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="where --render writes")
    given = parser.parse_args(arguments)
    if given.folder is None:  # the few images of --quick must not be found by the real points
        given.folder = REPOSITORY / "mlruns" / ("scale-quick" if given.quick else "scale")
    return given


def write_page(rows: Path, page: Path) -> None:
    """Fill the page's tables, and keep the rows beside the benchmark where it is graft's page."""
    results = json.loads(rows.read_text())
    page.write_text(render(page.read_text(), results))
    if page == PAGE:
        KEPT.write_text(json.dumps(results, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    rows = given.output or given.folder / "rows.json"
    points = quick_points() if given.quick else every_point()
    if given.list:
        print("\n".join(f"{point.name}  about {point.seconds:.0f} s" for point in points))
        return 0
    if given.render:
        write_page(rows, given.page)
        return 0
    bench = Bench(given.folder.resolve(), given.threads, given.quick)
    results = Results(rows, machine(), bench.settings)
    left = measure(wanted(points, results, given.only), bench, results, 60 * given.budget)
    if left:
        print(f"without a row: {' '.join(left)}", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
