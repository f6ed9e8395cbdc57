"""The tables of docs/scale.md, made of the benchmark's rows and put between the page's markers.

A marker is ``<!-- scale:NAME -->``; what follows up to ``<!-- end -->`` is written by ``render``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks.scale_bench import seconds_of
from tests.benchmarks.scale_fit import Line, fit
from tests.benchmarks.scale_watch import MIB

Row = dict[str, Any]
SPARE_MIB = 8 * 1024
NOTHING = "Not measured yet."
STAGES = ("download", "preprocess", "pretrained", "finetune", "evaluate", "register")
BLOCK = re.compile(r"(<!-- scale:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(page: str, results: dict[str, Any]) -> str:
    """Return ``page`` with every block filled from ``results``; raises ``KeyError`` for another."""

    def filled(found: re.Match[str]) -> str:
        lines = BLOCKS[found[2]](results)
        return "\n".join([found[1], *lines, "", found[3]])

    return BLOCK.sub(filled, page)


def machine(results: dict[str, Any]) -> list[str]:
    """Say where and when the rows were measured."""
    days = sorted({row["measured"] for row in results["points"].values()})
    if not days:
        return [NOTHING]
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    settings = ", ".join(f"{name} {value}" for name, value in results["settings"].items())
    return [f"Measured {when}: {results['machine']}. {settings}."]


def images(kind: str) -> Callable[[dict[str, Any]], list[str]]:
    """Return what writes the table of the six rooms at growing numbers of images."""

    def lines(results: dict[str, Any]) -> list[str]:
        rows = _rows(results, "images", kind)
        if not rows:
            return [NOTHING]
        first = ["index s"] if kind == "shards" else []
        head = ["images", *first, *(f"{stage} s" for stage in STAGES), "images/s trained"]
        head += ["whole s", "CPU s", "own MiB", "resident MiB", "cache MB", "accuracy"]
        cells = [
            [
                f"{row['size']:,}",
                *([_seconds(row["index_seconds"])] if first else []),
                *_stages(row),
                f"{row['images_per_second']:,.0f}",
                *_cost(row),
                f"{row['cache_bytes'] / 1e6:,.1f}",
                f"{row['accuracy']:.1%}",
            ]
            for row in rows
        ]
        said = _slopes(rows, "image", ("preprocess", "finetune"))
        return [*_table(head, cells), *said, *_disk(rows), *_turn(rows)]

    return lines


def _disk(rows: list[Row]) -> list[str]:
    """Say how the cache grows."""
    if len(rows) < 2:
        return []
    line = fit([row["size"] for row in rows], [row["cache_bytes"] for row in rows])
    return [f"- cache: {line.intercept / 1e6:,.1f} MB and {_slope(line, 1)} bytes an image"]


def _turn(rows: list[Row]) -> list[str]:
    """Say where the line of own memory reaches what a machine can spare, if it rises for sure."""
    if len(rows) < 3:
        return []
    line = fit([row["size"] for row in rows], [row["own_mib"] for row in rows])
    if line.slope <= (line.slope_margin or 0):
        return ["- own memory: no growth with images that can be told from chance"]
    images = (SPARE_MIB - line.intercept) / line.slope / 1e6
    return [f"- own memory: {SPARE_MIB / 1024:.0f} GiB would be reached at {images:,.0f} M images"]


def classes(results: dict[str, Any]) -> list[str]:
    """Return the table of the six rooms at growing numbers of classes."""
    rows = _rows(results, "classes", "ordinary")
    if not rows:
        return [NOTHING]
    head = ["classes", *(f"{stage} s" for stage in STAGES), "whole s", "CPU s", "own MiB"]
    head += ["resident MiB", "report page MB", "run folder MB"]
    cells = [
        [
            f"{row['size']:,}",
            *_stages(row),
            *_cost(row),
            f"{row['page_bytes'] / 1e6:,.2f}",
            f"{row['folder_bytes'] / 1e6:,.1f}",
        ]
        for row in rows
    ]
    return [*_table(head, cells), *_slopes(rows, "class", ("evaluate", "register"))]


def several(kind: str, unit: str) -> Callable[[dict[str, Any]], list[str]]:
    """Return what writes the table of a command over growing numbers of pieces of work."""

    def lines(results: dict[str, Any]) -> list[str]:
        rows = _rows(results, "backbones", kind)
        alone = _rows(results, "backbones", "cell")
        if kind == "compare":  # its own report has the seconds of training, not of evaluating
            rows = [
                {**r, "work_seconds": r["size"] * alone[0]["work_seconds"]} for r in rows if alone
            ]
        if not rows:
            return [NOTHING]
        head = [f"{unit}s", "of it the work itself s", "whole s", "CPU s", "own MiB"]
        head += ["resident MiB"]
        cells = [[f"{row['size']}", _seconds(row["work_seconds"]), *_cost(row)] for row in rows]
        return [*_table(head, cells), *_each(rows, unit)]

    return lines


def machines(kind: str) -> Callable[[dict[str, Any]], list[str]]:
    """Return what writes the table of one job on one and on two nodes."""

    def lines(results: dict[str, Any]) -> list[str]:
        rows = _rows(results, "machines", kind)
        if not rows:
            return [NOTHING]
        head = ["nodes", "threads each", "work s", "times one node's pace", "whole s", "CPU s"]
        head += ["own MiB", "resident MiB"]
        one = next((row["work_seconds"] for row in rows if row["size"] == 1), None)
        cells = [
            [
                f"{row['size']}",
                f"{row['threads']}",
                _seconds(row["work_seconds"]),
                "" if one is None else f"{one / row['work_seconds']:.2f}",
                *_cost(row),
            ]
            for row in rows
        ]
        return _table(head, cells)

    return lines


BLOCKS = {
    "machine": machine,
    "ordinary": images("ordinary"),
    "shards": images("shards"),
    "classes": classes,
    "rank": several("rank", "candidate"),
    "compare": several("compare", "cell"),
    "ray": machines("ray"),
    "nodes": machines("nodes"),
}


def _rows(results: dict[str, Any], group: str, kind: str) -> list[Row]:
    rows = (
        row for row in results["points"].values() if (row["group"], row["kind"]) == (group, kind)
    )
    return sorted(rows, key=lambda row: row["size"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---:"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _stages(row: Row) -> list[str]:
    return [_seconds(seconds_of(row, stage)) for stage in STAGES]


def _cost(row: Row) -> list[str]:
    whole, cpu = _seconds(row["seconds"]), _seconds(row["cpu_seconds"])
    return [whole, cpu, f"{row['own_mib']:,.0f}", f"{row['resident_mib']:,.0f}"]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f}"


def _slopes(rows: list[Row], unit: str, stages: Sequence[str]) -> list[str]:
    """Say how memory and the longest rooms grow, each as a line of the list."""
    if len(rows) < 2:
        return []
    sizes = [row["size"] for row in rows]
    said = ["", f"Straight lines through these {len(rows)} points, with 95% intervals:", ""]
    for what, key in (("own memory", "own_mib"), ("resident memory", "resident_mib")):
        line = fit(sizes, [row[key] * MIB for row in rows])
        whole = line.slope * (sizes[-1] - sizes[0]) / MIB
        said.append(
            f"- {what}: {line.intercept / MIB:,.0f} MiB and {_slope(line, 1)} bytes {_a(unit)}: "
            f"{whole:+,.0f} MiB from {sizes[0]:,} to {sizes[-1]:,}"
        )
    for stage in dict.fromkeys((*stages, "register")):
        peaks = [_own(row, stage) for row in rows]
        if None in peaks:  # too short to be sampled
            continue
        line = fit(sizes, [peak * MIB for peak in peaks])
        said.append(f"- own memory up to the end of {stage}: {_slope(line, 1)} bytes {_a(unit)}")
    for stage in stages:
        line = fit(sizes, [seconds_of(row, stage) for row in rows])
        said.append(
            f"- {stage}: {line.intercept:,.1f} s and {_slope(line, 1e6)} microseconds {_a(unit)}"
        )
    return said


def _each(rows: list[Row], unit: str) -> list[str]:
    """Say what one more piece of work takes, and what of that is around it."""
    if len(rows) < 2:
        return []
    sizes = [row["size"] for row in rows]
    whole = fit(sizes, [row["seconds"] for row in rows])
    around = fit(sizes, [row["seconds"] - row["work_seconds"] for row in rows])
    a = _a(unit)
    return [
        "",
        f"Straight lines through these {len(rows)} points, with 95% intervals:",
        "",
        f"- whole: {whole.intercept:,.1f} s and {_slope(whole, 1)} s {a}",
        f"- but for the work itself: {around.intercept:,.1f} s and {_slope(around, 1)} s {a}",
    ]


def _own(row: Row, name: str) -> float | None:
    """Return the peak of own memory from the start to the end of a stage; None if unknown."""
    peaks: list[float | None] = []
    for stage in row["stages"]:
        peaks.append(stage["own_mib"])
        if stage["name"] == name:
            break
    return None if peaks[-1] is None else max(peak for peak in peaks if peak is not None)


def _slope(line: Line, times: float) -> str:
    value = f"{line.slope * times:,.2f}"
    if line.slope_margin is None:
        return f"{value} (of two points, no interval)"
    return f"{value} ± {line.slope_margin * times:,.2f}"


def _a(unit: str) -> str:
    return f"an {unit}" if unit[0] in "aeiou" else f"a {unit}"
