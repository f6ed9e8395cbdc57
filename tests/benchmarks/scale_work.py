"""Commands that do several pieces of work: rank and compare, and one job on several nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.scale_bench import BASE, GRAFT, Bench, row_of, seconds_of
from tests.benchmarks.scale_images import write_folders

Row = dict[str, Any]
CLASSES = 10
MORE_WORK = (  # where more processors should help: every weight trains, and there is more of it
    "strategy.kind=full",
    "model.architecture=graft_tiny",
    "model.weights=graft:tiny-cifar10",
    "training.batch_size=128",
)


def rank(bench: Bench, candidates: int) -> Row:
    """Measure ``graft rank`` on so many candidates, all of them the same network."""
    models = [
        {"architecture": bench.architecture, "weights": bench.weights(seed), "sha256": None}
        for seed in range(candidates)
    ]
    with bench.scratch(f"rank-{candidates}") as scratch:
        base = _base(bench, scratch)
        file = _yaml(scratch / "rank.yaml", {"candidates": models, "base": base})
        taken = bench.run(scratch, *GRAFT, "rank", str(file), "--json")
        found = json.loads(taken.output)["backbones"]
    return {**row_of(taken), "work_seconds": sum(each["seconds"] for each in found)}


def single(bench: Bench, cells: int) -> Row:
    """Measure the six rooms on what a cell of ``compare`` does: its work without Prefect."""
    with bench.scratch("cell") as scratch:
        row = bench.rooms(scratch, *_small(bench))
    work = seconds_of(row, "finetune") + seconds_of(row, "evaluate")
    return {**row, "work_seconds": cells * work}


def compare(bench: Bench, cells: int) -> Row:
    """Measure ``graft compare`` on a grid of so many seeds, one after another."""
    with bench.scratch(f"compare-{cells}") as scratch:
        file = _grid(bench, scratch, range(cells))
        taken = bench.run(scratch, *GRAFT, "compare", str(file), "--json")
        trained = _trained(json.loads(taken.output), cells)
    return {**row_of(taken), "training_seconds": trained}


def ray(bench: Bench, machines: int) -> Row:
    """Measure ``graft compare`` on a Ray cluster of nodes of one processor each."""
    cells = bench.ray_cells
    with bench.scratch(f"ray-{machines}") as scratch:
        runner = {"kind": "ray", "address": None, "cpus": 1.0, "gpus": 0.0}
        more = (*MORE_WORK, f"training.epochs={bench.machine_epochs}")
        file = _grid(bench, scratch, range(cells), more, runner=runner, parallel=machines)
        cluster = ("-m", "tests.benchmarks.scale_cluster", "ray", str(machines))
        taken = bench.run(scratch, *cluster, *GRAFT, "compare", str(file), "--json")
        trained = _trained(json.loads(taken.output.splitlines()[-1]), cells)
    row = row_of(taken)
    work = {"work_seconds": seconds_of(row, "command"), "training_seconds": trained}
    return {**row, **work, "cells": cells, "threads": 1}


def nodes(bench: Bench, machines: int) -> Row:
    """Measure a training that so many nodes of one thread each share."""
    with bench.scratch(f"nodes-{machines}") as scratch:
        more = (f"training.epochs={bench.machine_epochs}", "training.threads=1")
        given = (*_small(bench), *MORE_WORK, *more, f"training.nodes={machines}")
        job = ("-m", "tests.benchmarks.scale_job", BASE, *bench.overrides(scratch, *given))
        cluster = ("-m", "tests.benchmarks.scale_cluster", "nodes", str(machines))
        taken = bench.run(scratch, *cluster, *job)
        said = json.loads(taken.output)
    row = row_of(taken)
    work = {"work_seconds": seconds_of(row, "finetune"), "threads": 1}
    return {**row, **work, "images_per_second": said["images_per_second"]}


def _trained(answer: dict[str, Any], cells: int) -> float:
    """Return the training seconds of all cells; raises ``ValueError`` where one has none."""
    figures = [outcome["figures"] for outcome in answer["outcomes"]]
    if len(figures) != cells or None in figures:
        raise ValueError(f"of {cells} cells some failed: {answer['outcomes']}")
    return sum(each["seconds"] for each in figures)


def _small(bench: Bench) -> tuple[str, ...]:
    """Return the settings of the images that all of these work on, made if need be."""
    folder = bench.data / "small"
    if not folder.is_dir():
        half = folder.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        n = bench.small
        write_folders(half, {"train": n, "val": n // 4, "test": n // 4}, CLASSES)
        half.rename(folder)
    return ("data.kind=folder", f"data.path={folder}")


def _base(bench: Bench, scratch: Path, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return a whole run as the YAML of ``rank`` and ``compare`` has it."""
    from tasks.configfile import load_config

    overrides = bench.overrides(scratch, *_small(bench), *more)
    return load_config(Path(BASE), overrides).model_dump(mode="json")


def _grid(
    bench: Bench, scratch: Path, seeds: range, more: Sequence[str] = (), **settings: object
) -> Path:
    grid = {
        "name": "scale",
        "base": _base(bench, scratch, (*more, *(["training.threads=null"] if settings else []))),
        "datasets": {"generated": {}},
        "backbones": {"one": {}},
        "strategies": {"one": {}},
        "reference": "one",
        "seeds": list(seeds),
        **settings,
    }
    return _yaml(scratch / "compare.yaml", grid)


def _yaml(path: Path, content: object) -> Path:
    import yaml

    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
