"""The peers' benchmark: what it counts and times, and that it runs where no peer is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

ROWS = ("reference loop", "PyTorch tutorial", "torchvision recipe", "graft")


def quick(repository: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks.peers", "--quick", "--threads", "1"]
    return subprocess.run(
        [*command, "--datasets", "hymenoptera", "--output", str(output), *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
    )


def test_a_quick_run_measures_every_row(shared: Path, repository: Path, tmp_path: Path):
    output = tmp_path / "peers.json"
    done = quick(repository, output, "--only", *ROWS)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["hymenoptera"]["rows"]
    assert set(rows) == set(ROWS)
    for name, row in rows.items():
        assert f"| {name} |" in done.stdout
        assert 0 < row["seconds"] < 600
        assert row["cpu_seconds"] > 0
        assert row["peak_mib"] > 100
        assert row["curve"][-1]["images"] % 40 == 0  # two classes of QUICK images
        assert [line["epoch"] for line in row["curve"]] == [*range(1, len(row["curve"]) + 1)]
    reference = rows["reference loop"]
    assert len(reference["curve"]) == 2
    assert reference["seconds_to_target"] <= reference["seconds"]
    assert rows["graft"]["lines"] < min(rows[name]["lines"] for name in ROWS[:-1])


def test_without_the_reference_there_is_no_target(shared: Path, repository: Path, tmp_path: Path):
    done = quick(repository, tmp_path / "peers.json", "--only", "graft")
    assert done.returncode == 1
    assert "measure the reference loop first" in done.stderr


def test_the_time_to_a_target_is_the_first_epoch_that_reaches_it(bench: SimpleNamespace):
    curve = [{"seconds": s, "accuracy": a} for s, a in ((1.0, 0.3), (2.0, 0.6), (3.0, 0.5))]
    assert bench.runs.seconds_to(0.5, curve) == 2.0
    assert bench.runs.seconds_to(0.6, curve) == 2.0
    assert bench.runs.seconds_to(0.7, curve) is None


def test_only_what_the_user_writes_is_counted(bench: SimpleNamespace, tmp_path: Path):
    job, config = tmp_path / "job.py", tmp_path / "config.yaml"
    job.write_text(
        "import torch\n# user code\nx = 1\n\n# why\ny = 2\nf(x)  # instrument\n"
        "# end of user code\nz = 3\n    # user code\n    w = 4\n"
    )
    config.write_text("# a comment\ndata:\n  path: images  # where\n\nseed: 1\n")
    assert bench.runs.user_lines(job) == 3
    assert bench.runs.user_lines(config) == 3


def test_every_peer_marks_what_its_user_writes(bench: SimpleNamespace):
    for module in bench.runs.PEERS.values():
        text = (bench.runs.JOBS / f"{module}.py").read_text()
        assert text.count("# user code") == text.count("# end of user code") > 0
        assert text.count("# instrument") == 1
        assert bench.runs.user_lines(bench.runs.JOBS / f"{module}.py") > 10


def test_validation_is_split_off_by_class(bench: SimpleNamespace):
    found = {
        ("train", "ants"): [f"a{i}" for i in range(20)],
        ("train", "bees"): [f"b{i}" for i in range(50)],
        ("test", "ants"): ["t0", "t1"],
    }
    parts = bench.images.split_off(found, 0.1)
    assert {key: len(names) for key, names in parts.items()} == {
        ("val", "ants"): 2,
        ("train", "ants"): 18,
        ("val", "bees"): 5,
        ("train", "bees"): 45,
        ("test", "ants"): 2,
    }
    for label in ("ants", "bees"):
        together = parts["train", label] + parts["val", label]
        assert sorted(together) == sorted(found["train", label])
    assert parts == bench.images.split_off(found, 0.1)
