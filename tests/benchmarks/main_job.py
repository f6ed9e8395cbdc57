"""The main job's figures: over its own bare work, and run again; peers.py has those of others.

Run as ``uv run python -m tests.benchmarks.main_job`` from the repository's
root with ../shared beside it. Everything is measured in this one call, one after another, on an
otherwise idle machine; the tables printed are those of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import Cost, machine, measure

REPOSITORY = Path(__file__).resolve().parents[2]
GRAFT = Path(sys.executable).with_name("graft")
SQUEEZENET, DIGITS = "configs/squeezenet_cifar10.yaml", "configs/digits.yaml"


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
    print(f"Measured on {date.today():%Y-%m-%d}: {machine()}")
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as name:
        bench = Bench(Path(name))
        for title, lines in (
            ("Orchestration and tracking", lambda: overhead(bench)),
            ("A second, unchanged run", lambda: again(bench)),
        ):
            print("\n".join(["", f"## {title}", "", *lines()]), flush=True)


if __name__ == "__main__":
    main()
