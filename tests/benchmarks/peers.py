"""The same work through the other ways to do it, one after another: time, memory, lines.

Run as ``uv run --no-dev --all-extras --group peers python -m tests.benchmarks.peers`` from the
repository's root with ../shared beside it, on an otherwise idle machine. Packages are compiled to
bytecode first, as they are on a machine on which they ran before. Every peer fine-tunes SqueezeNet
with ImageNet weights on the same images, by the recipe of its own documentation (cited in
``peer_jobs/``), as one process, its worker processes as many as ``--threads``. The target is the
test accuracy that the reference loop ends with, or ``--target``, to be set before anything is
measured; a peer's time to it is that of the first epoch whose test accuracy is no less. A peer
stops there, after its epochs, or after one and a half times the reference loop's whole time. The
clock starts with the process and stands still while the test images are scored.

Rows are kept in ``--output`` as they come: ``--only`` runs some of them anew, and shows all.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
import sysconfig
import tempfile
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.measure import machine
from tests.benchmarks.peer_images import DATASETS, QUICK_EPOCHS, QUICK_SIZE, unpack
from tests.benchmarks.peer_runs import PEERS, Bench, Row
from tests.benchmarks.peer_watch import REPOSITORY, PeerError

REFERENCE = "reference loop"
CAP = 1.5  # times the reference loop's whole time
GRAFT = {  # row: (how it is run, which cache it finds)
    "graft": ("graft", "graft"),
    "graft, once more": ("graft", "graft"),  # packs and features are there
    "graft run": ("graft_command", "graft_run"),
    "graft run, once more": ("graft_command", "graft_run"),
}
ROWS = [REFERENCE, *GRAFT, *(name for name in PEERS if name != REFERENCE)]
VERSIONS = ("torchvision", "timm", "fastai", "transformers", "accelerate", "lightning")
WEIGHTS = "weights/squeezenet1_0-imagenet.safetensors"


class Results:
    """The rows so far, in a file; a row counts only beside others of the same settings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all = json.loads(path.read_text()) if path.is_file() else {}

    def begin(self, name: str, settings: dict[str, object]) -> None:
        """Keep the rows of a data set that were measured with the same settings, if any."""
        there = self._all.get(name, {}).get("settings", settings)
        if there != settings:
            print(f"{name}: rows in {self._path} with {there} give way", flush=True)
        if there != settings or name not in self._all:
            self._all[name] = {"settings": settings, "rows": {}}

    def add(self, name: str, row: Row) -> None:
        """Add or replace a row and write the file."""
        self._all[name]["rows"][row.peer] = asdict(row)
        self._write()

    def say(self, text: str) -> None:
        """Write down the machine, the versions and the day of the last rows."""
        self._all["measured"] = text
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._all, indent=1))

    def rows(self, name: str) -> dict[str, Row]:
        """Return the rows in the order of the table."""
        rows = self._all[name]["rows"]
        return {peer: Row(**rows[peer]) for peer in ROWS if peer in rows}


def table(rows: dict[str, Row], settings: dict[str, object]) -> list[str]:
    """Return the table of one data set as lines of Markdown."""
    base = rows.get(REFERENCE)
    head = (
        "| | s to target | reference's time over it | test accuracy | s in all | images/s | CPU s "
        "| peak MiB | lines |"
    )
    lines = [", ".join(f"{key} {value}" for key, value in settings.items()), "", head]
    lines.append("| --- |" + " ---: |" * 8)
    for row in rows.values():
        reached = "not reached" if row.seconds_to_target is None else f"{row.seconds_to_target:.1f}"
        times = "" if base is None else _times(base, row)
        lines.append(
            f"| {row.peer} | {reached} | {times} | {row.accuracy:.2%} | {row.seconds:.1f} | "
            f"{row.images_per_second:.1f} | {row.cpu_seconds:.1f} | {row.peak_mib:.0f} | "
            f"{row.lines} |"
        )
    return lines


def _times(base: Row, row: Row) -> str:
    if row.seconds_to_target is None:
        return ""
    if base.seconds_to_target is None:  # it would have taken more than all of its time
        return f"> {base.seconds / row.seconds_to_target:.2f}x"
    return f"{base.seconds_to_target / row.seconds_to_target:.2f}x"


def measure(
    bench: Bench, results: Results, only: list[str], given_target: float | None
) -> list[str]:
    """Run the rows that are asked for; return the names of those that failed."""
    failed = []
    for name in (row for row in ROWS if row in only):
        base = results.rows(bench.name).get(REFERENCE)
        if base is None and name != REFERENCE:
            sys.exit("There is no target: measure the reference loop first, or with the others.")
        try:
            if name == REFERENCE:  # to its last epoch
                row = bench.peer(name, given_target, None, stops=False)
            elif name in GRAFT:
                how, store = GRAFT[name]
                row = getattr(bench, how)(name, given_target or base.accuracy, store)
            else:
                row = bench.peer(name, given_target or base.accuracy, CAP * base.seconds)
        except PeerError as error:
            failed.append(name)
            print(f"{bench.name}: {name} failed: {error}", file=sys.stderr, flush=True)
            continue
        results.add(bench.name, row)
        print(f"{bench.name}: {name}: {row.seconds:.1f} s, {row.accuracy:.2%}", flush=True)
    return failed


def versions() -> str:
    """Return the versions of those packages that are installed."""
    found = []
    for name in VERSIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS)[:2])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW")
    parser.add_argument("--epochs", type=int, help="in place of each data set's own number")
    parser.add_argument("--size", type=int, help="px, in place of each data set's own")
    parser.add_argument("--target", type=float, help="test accuracy, 0 to 1")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--graft", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "mlruns" / "peers.json")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--quick", action="store_true", help="a few images, small, two epochs")
    return parser.parse_args(arguments)


def compare(name: str, given: argparse.Namespace, results: Results) -> list[str]:
    """Run a data set's rows and print its table; return the names of those that failed."""
    dataset = DATASETS[name]
    epochs = given.epochs or (QUICK_EPOCHS if given.quick else dataset.epochs)
    size = given.size or (QUICK_SIZE if given.quick else dataset.crop)
    dataset = replace(dataset.sized(size), epochs=epochs)
    settings = {"px": size, "epochs": epochs, "threads": given.threads}
    settings |= {"target": given.target or "the reference loop's", "quick": given.quick}
    results.begin(name, settings)
    with tempfile.TemporaryDirectory(prefix="graft-peers-") as folder:
        archive = given.shared / "data" / dataset.archive
        bench = Bench(
            name=name,
            dataset=dataset,
            images=unpack(dataset, archive, Path(folder), given.quick),
            weights=given.shared.resolve() / WEIGHTS,
            folder=Path(folder),
            threads=given.threads,
            most_epochs=epochs if given.quick or given.epochs else None,
            overrides=tuple(given.graft),
        )
        failed = measure(bench, results, given.only, given.target)
    print("\n".join(["", f"## {name}", "", *table(results.rows(name), settings), ""]), flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    results = Results(given.output)
    if not given.quick:
        compileall.compile_dir(sysconfig.get_path("purelib"), quiet=2, workers=0)
    failed = [row for name in given.datasets for row in compare(name, given, results)]
    today = f"Measured on {date.today():%Y-%m-%d}: {machine()}, {versions()}"
    results.say(today)
    print(today)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
