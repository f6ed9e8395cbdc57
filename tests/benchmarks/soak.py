"""Many small runs, one after the other: do memory, file handles, threads and disk stay flat?

    python tests/benchmarks/soak.py --runs 200 --processes 5

Runs ``graft run`` as often as it is told in this process, with a check, a prediction and a run that
fails in between, then a few times in processes of their own; prints a line a round and what grew,
and ends with 1 where anything did. All of it is in a folder for temporary files.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from tasks.memory import return_fragments

WARM = 0.3  # share of the rounds in which caches of libraries may fill
# what may be left over from one round to the next, in the mean over the rounds after the warm ones
MOST_MEMORY = 0.35  # MiB a round
MOST_HANDLES = 0.05  # a round
MOST_THREADS = 0.05

Call = Callable[[list[str]], int]


class Measured(NamedTuple):
    """What a process holds after a round."""

    memory: float  # MiB resident
    handles: int
    threads: int
    temporary: frozenset[str]  # names in the folder for temporary files
    cache: int  # bytes
    left: frozenset[str]  # hidden or half-made files among the run folders


def measure(folder: Path, temporary: Path) -> Measured:
    """Measure this process, and what lies in the folders that it writes to.

    What the C library keeps of memory that was given back is returned first (glibc's malloc_trim):
    it is no leak, and moves by megabytes a round.
    """
    gc.collect()
    return_fragments()
    process = psutil.Process()
    return Measured(
        process.memory_info().rss / (1 << 20),
        process.num_fds(),
        process.num_threads(),
        frozenset(path.name for path in temporary.iterdir()),
        sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file()),
        frozenset(str(path) for path in (folder / "mlruns" / "runs").rglob(".*")),
    )


def one_round(call: Call) -> None:
    """Run, check, predict, and fail, as a long-lived worker does; raises where one surprises."""
    expected = {
        ("run", "good.yaml"): 0,
        ("check", "good.yaml"): 0,
        ("predict", "photos/red/0.png", "--model", "models:/small/1"): 0,
        ("run", "good.yaml", "data.path=nowhere"): 3,
        ("run", "good.yaml", "training.learning_rate=1e30", "training.epochs=3"): 5,
    }
    for arguments, code in expected.items():
        found = call(list(arguments))
        if found != code:
            raise SystemExit(f"graft {' '.join(arguments)} ended with {found}, not {code}")


def growth(rounds: list[Measured]) -> list[str]:
    """Return what grew from round to round, in words; nothing where all stayed flat."""
    kept = rounds[int(WARM * len(rounds)) :]
    first, last = kept[0], kept[-1]
    limits = {"memory": MOST_MEMORY, "handles": MOST_HANDLES, "threads": MOST_THREADS}
    found = []
    for name, most in limits.items():
        values = [getattr(each, name) for each in kept]
        slope = np.polyfit(range(len(kept)), values, 1)[0] if len(kept) > 1 else 0.0
        if slope > most:
            found.append(f"{name} by {slope:.3f} a round, over {most}")
    if last.temporary - first.temporary:
        found.append(f"temporary files: {sorted(last.temporary - first.temporary)[:5]}")
    if last.cache > first.cache:
        found.append(f"cache from {first.cache:,} to {last.cache:,} bytes")
    if last.left:
        found.append(f"half-made files: {sorted(last.left)[:5]}")
    return found


def silent(arguments: list[str]) -> int:
    """Call graft in this process, its lines kept away."""
    from flows.cli import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(arguments)


def apart(arguments: list[str]) -> int:
    """Call graft in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], capture_output=True, check=False
    ).returncode


def soak(folder: Path, temporary: Path, rounds: int, processes: int) -> list[str]:
    """Run the rounds in ``folder``, print a line each, and return what grew."""
    measured = []
    for number in range(rounds):
        start = time.monotonic()
        one_round(silent)
        measured.append(measure(folder, temporary))
        now = measured[-1]
        print(
            f"round {number + 1:3}  {time.monotonic() - start:5.1f} s  {now.memory:7.1f} MiB  "
            f"{now.handles} handles  {now.threads} threads  {now.cache:,} bytes of cache",
            flush=True,
        )
    found = growth(measured) if measured else []
    before = measure(folder, temporary)
    for _ in range(processes):
        one_round(apart)
    after = measure(folder, temporary)
    left = sorted(after.temporary - before.temporary)
    return found + ([f"temporary files of processes: {left[:5]}"] if left else [])


def main() -> int:
    """Read the command line; return 1 where anything grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="runs that succeed, two a round fail")
    parser.add_argument("--processes", type=int, default=3, help="rounds in fresh processes")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    with tempfile.TemporaryDirectory(prefix="graft-soak-", ignore_cleanup_errors=True) as name:
        folder, temporary = Path(name) / "work", Path(name) / "temporary"
        folder.mkdir()
        temporary.mkdir()
        os.environ |= {"GRAFT_CACHE": str(folder / "cache"), "TMPDIR": str(temporary)}
        os.environ["PREFECT_HOME"] = str(Path(name) / "prefect")
        os.environ["PYTHONPATH"] = sys.path[0]
        for variable in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH", "MLFLOW_TRACKING_URI"):
            os.environ.pop(variable, None)
        tempfile.tempdir = None  # so that TMPDIR is read anew
        os.chdir(folder)
        from tasks.configfile import dump_config
        from tests.flows.conftest import save_images, small_config

        save_images(Path("photos"))
        Path("good.yaml").write_text(dump_config(small_config()))
        found = soak(folder, temporary, given.runs, given.processes)
    print("\n".join(f"GREW: {each}" for each in found) or "all stayed flat")
    return 1 if found else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # as graft does: taking the interpreter apart says nothing more
