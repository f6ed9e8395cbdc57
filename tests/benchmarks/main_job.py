"""The main job's figures: against the reference loop, over its own bare work, and run again.

Run as ``uv run python -m tests.benchmarks.main_job [--epochs N] [--crop PX]`` from the repository's
root with ../shared beside it. Everything is measured in this one call, one after another, on an
otherwise idle machine; the tables printed are those of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import Cost, machine, measure

REPOSITORY = Path(__file__).resolve().parents[2]
GRAFT = Path(sys.executable).with_name("graft")
SQUEEZENET, DIGITS = "configs/squeezenet_cifar10.yaml", "configs/digits.yaml"
REFERENCE_RECIPE = (
    "training.batch_size=100",
    "training.optimizer=sgd",
    "training.learning_rate=0.001",
    "training.momentum=0.9",
    "training.weight_decay=0.0",
    "training.schedule=constant",
    "training.augment=none",
    "training.choose=last",
    "strategy.kind=full",
    "strategy.frozen_stages=0",
)


class Bench:
    """One folder for everything that the measured commands write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def graft(self, store: str, run: str, config: str, *overrides: str) -> tuple[Cost, dict]:
        """Run the whole main job with stores and caches of the name ``store``."""
        home = self.folder / store
        cost = measure(
            [str(GRAFT), "run", config, *overrides, f"output.folder={home}/runs/{run}", "--json"],
            REPOSITORY,
            MLFLOW_TRACKING_URI=f"sqlite:///{home}/mlflow.db",
            GRAFT_CACHE=str(home / "cache"),
            PREFECT_HOME=str(home / "prefect"),
        )
        return cost, json.loads(cost.output)

    def core(self, kind: str, store: str, run: str, config: str, *overrides: str):
        """Run the same work without Prefect; ``bare`` is without MLflow as well."""
        home = self.folder / store
        module = [sys.executable, "-m", "tests.benchmarks.core_job", kind, config, *overrides]
        cost = measure(
            [*module, f"output.folder={home}/runs/{run}"],
            REPOSITORY,
            MLFLOW_TRACKING_URI=f"sqlite:///{home}/mlflow.db",
            GRAFT_CACHE=str(home / "cache"),
        )
        answer = json.loads(cost.output)
        assert answer["modules"] == ([] if kind == "bare" else ["mlflow"])
        return cost, answer

    def reference(self, answer: dict, epochs: int, weights: Path) -> tuple[Cost, dict]:
        """Run the plain loop on the very images of graft's splits."""
        spec = {
            **answer["input"],
            **{name: answer[name] for name in ("root", "train", "val", "test")},
            "weights": str(weights),
            "classes": 10,
            "epochs": epochs,
            "learning_rate": 0.001,
            "workers": len(os.sched_getaffinity(0)),
            "seed": 0,
        }
        path = self.folder / "reference.json"
        path.write_text(json.dumps(spec))
        module = [sys.executable, "-m", "tests.benchmarks.reference_loop", str(path)]
        cost = measure(module, REPOSITORY)
        return cost, json.loads(cost.output)


def against_reference(bench: Bench, epochs: int, crop: int) -> list[str]:
    """Compare the whole of ``graft run`` with the plain loop: same images, weights, epochs."""
    size = (f"preprocess.resize={crop}", f"preprocess.crop={crop}", f"training.epochs={epochs}")
    # only where the images and their splits are; what is trained here is thrown away
    probe = (*size, "training.epochs=1", "strategy.kind=linear_probe")
    _, located = bench.core("bare", "located", "run", SQUEEZENET, *probe)
    weights = REPOSITORY.parent / "shared/weights/squeezenet1_0-imagenet.safetensors"
    plain, plain_answer = bench.reference(located, epochs, weights)
    rows = [("reference loop", plain, plain_answer["test_accuracy"])]
    for precision in ("float32", "bfloat16"):
        setting = f"training.precision={precision}"
        cost, answer = bench.graft(
            f"against-{precision}", "first", SQUEEZENET, *REFERENCE_RECIPE, *size, setting
        )
        rows.append((f"graft run, {precision}", cost, answer["report"]["accuracy"]))
    lines = [
        f"cifar10-small, SqueezeNet, {crop} px, {epochs} epochs, batch 100, SGD 0.001/0.9; whole",
        "command, from an empty cache, registration included:",
        "",
        "| | wall s | ratio | CPU s | ratio | peak MiB | test accuracy |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, cost, accuracy in rows:
        wall = f"{cost.wall_seconds:.1f} | {plain.wall_seconds / cost.wall_seconds:.2f}x"
        cpu = f"{cost.cpu_seconds:.1f} | {plain.cpu_seconds / cost.cpu_seconds:.2f}x"
        lines.append(f"| {name} | {wall} | {cpu} | {cost.peak_mib:.0f} | {accuracy:.2%} |")
    return lines


def overhead(bench: Bench, repeats: int = 3) -> list[str]:
    """Compare ``graft run`` on digits with the same work without Prefect, and without MLflow."""
    lines = [
        f"digits, wall seconds; a store's first run, and the median of {repeats} later ones:",
        "",
        "| | first | later |",
        "| --- | ---: | ---: |",
    ]
    walls: dict[str, list[float]] = {"bare": [], "tracked": [], "whole": []}
    for i in range(repeats + 1):
        for kind in ("bare", "tracked"):
            walls[kind].append(bench.core(kind, kind, str(i), DIGITS)[0].wall_seconds)
        walls["whole"].append(bench.graft("whole", str(i), DIGITS)[0].wall_seconds)
    first = {kind: seconds[0] for kind, seconds in walls.items()}
    later = {kind: median(seconds[1:]) for kind, seconds in walls.items()}
    for name, kind in (
        ("the work alone: imports, data, training, evaluation", "bare"),
        ("with MLflow: tracked, registered, promotion decided", "tracked"),
        ("graft run: the same as a Prefect flow", "whole"),
    ):
        lines.append(f"| {name} | {first[kind]:.1f} | {later[kind]:.1f} |")
    for name, less, more in (
        ("tracking", "bare", "tracked"),
        ("orchestration", "tracked", "whole"),
    ):
        shares = (
            f"{w[more] - w[less]:.1f} ({w[more] / w['whole'] - w[less] / w['whole']:.0%})"
            for w in (first, later)
        )
        lines.append(f"| {name} adds (share of graft run) | {' | '.join(shares)} |")
    return lines


def again(bench: Bench) -> list[str]:
    """Run cifar10-small twice, unchanged, and list how long each task took."""
    setting = ("training.epochs=1", "strategy.kind=linear_probe", "strategy.frozen_stages=0")
    times = []
    for run in ("first", "second"):
        cost, _ = bench.graft("again", run, SQUEEZENET, *setting)
        times.append((cost, task_runs(bench.folder / "again" / "prefect" / "prefect.db", run)))
    lines = [
        "cifar10-small, linear probe of one epoch, run twice:",
        "",
        "| task | first run s | state | second run s | state |",
        "| --- | ---: | --- | ---: | --- |",
    ]
    for first, second in zip(times[0][1], times[1][1], strict=True):
        lines.append(
            f"| {first[0]} | {first[1]:.2f} | {first[2]} | {second[1]:.2f} | {second[2]} |"
        )
    wall = [cost.wall_seconds for cost, _ in times]
    return [*lines, f"| whole command | {wall[0]:.1f} | | {wall[1]:.1f} | |"]


def task_runs(database: Path, run: str) -> list[tuple[str, float, str]]:
    """Read name, seconds and state of the last flow run's tasks from Prefect's own database."""
    import sqlite3

    query = (
        "select name, (julianday(coalesce(end_time, start_time)) - julianday(start_time)) * 86400,"
        " state_name from task_run where flow_run_id = (select id from flow_run order by"
        " created desc limit 1) order by expected_start_time"
    )
    with sqlite3.connect(database) as connection:
        rows = connection.execute(query).fetchall()
    assert rows, f"Prefect has no task runs of the {run} run"
    return [(name, seconds or 0.0, state) for name, seconds, state in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--crop", type=int, default=224)
    given = parser.parse_args()
    print(f"Measured on {date.today():%Y-%m-%d}: {machine()}")
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as name:
        bench = Bench(Path(name))
        for title, lines in (
            ("Orchestration and tracking", lambda: overhead(bench)),
            ("A second, unchanged run", lambda: again(bench)),
            (
                "Against the reference loop",
                lambda: against_reference(bench, given.epochs, given.crop),
            ),
        ):
            print("\n".join(["", f"## {title}", "", *lines()]), flush=True)


if __name__ == "__main__":
    main()
