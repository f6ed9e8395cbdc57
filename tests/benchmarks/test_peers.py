"""The peers' benchmark: what it counts and times, and that it runs where no peer is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

ROWS = ("reference loop", "PyTorch tutorial", "torchvision recipe", "graft")


@pytest.fixture
def bench(repository: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the benchmark's modules, which are imported from the repository's root."""
    monkeypatch.syspath_prepend(str(repository))
    from tests.benchmarks import peer_images, peer_runs, peer_watch
    from tests.benchmarks.peer_jobs import instrument

    return SimpleNamespace(
        images=peer_images, runs=peer_runs, watch=peer_watch, instrument=instrument
    )


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


class Brightest(nn.Module):
    """Says which channel is brightest, slowly; right only in evaluation mode."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.frozen = nn.Linear(1, 1).eval()

    def forward(self, images):
        assert not self.frozen.training
        time.sleep(self.seconds)
        logits = images.mean((2, 3))
        return -logits if self.training else logits


def brightness_test(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (40, 3, 5, 5), dtype=np.uint8)
    labels = np.arange(40) % 3
    images[np.arange(40), labels] += 120
    labels[:10] = (labels[:10] + 1) % 3  # so many are labelled wrong
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)


def test_the_scorer_scores_in_evaluation_mode_and_leaves_modes_alone(
    bench: SimpleNamespace, tmp_path: Path
):
    brightness_test(tmp_path)
    network = Brightest(0.0)
    assert bench.instrument.accuracy(network, tmp_path) == 0.75
    assert network.training
    assert not network.frozen.training


def spec_of(bench: SimpleNamespace, folder: Path, **given: object):
    names = bench.instrument.Spec.__dataclass_fields__
    paths = {"test": folder, "scratch": folder, "lines": folder / "lines.jsonl"}
    values = dict.fromkeys(names) | {name: str(path) for name, path in paths.items()}
    return bench.instrument.Spec(**(values | {"started": time.monotonic()} | given))


def test_the_clock_stands_still_while_the_test_images_are_scored(
    bench: SimpleNamespace, tmp_path: Path
):
    brightness_test(tmp_path)
    after_epoch = bench.instrument.AfterEpoch(spec_of(bench, tmp_path))
    for epoch in (1, 2):
        after_epoch(Brightest(0.5), 10 * epoch)  # two batches: a second
    first, second = map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())
    assert (first["epoch"], first["images"], first["accuracy"]) == (1, 10, 0.75)
    assert (second["epoch"], second["images"]) == (2, 20)
    assert second["seconds"] - first["seconds"] < 0.5


SCORING = """
import json, sys
from tests.benchmarks.peer_jobs.instrument import AfterEpoch, Spec, peak_mib
import numpy as np
from torch import nn

class Large(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, images):
        np.ones(300 * 2**20, dtype=np.uint8)
        return images.mean((2, 3))

after_epoch, network = AfterEpoch(Spec(**json.loads(sys.argv[1]))), Large()
print(peak_mib())
after_epoch(network, 1)
held = np.ones(100 * 2**20, dtype=np.uint8)
after_epoch(network, 2)
"""


def test_what_scoring_takes_is_in_no_peak(bench: SimpleNamespace, repository: Path, tmp_path: Path):
    brightness_test(tmp_path)
    spec = json.dumps(asdict(spec_of(bench, tmp_path)))
    done = subprocess.run(  # of its own: what others did decides whether memory is returned
        [sys.executable, "-c", SCORING, spec], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, (tmp_path / "lines.jsonl").read_text().splitlines())
    assert first["peak_mib"] < float(done.stdout) + 50
    assert 50 < second["peak_mib"] - first["peak_mib"] < 200


TAKING = """
import sys, time
from pathlib import Path
scoring = Path(sys.argv[1])
here = bytearray(50 * 2**20)
time.sleep(1.2)
scoring.touch()
there = bytearray(300 * 2**20)
time.sleep(1.2)
del there
Path("/proc/self/clear_refs").write_text("5")
scoring.unlink()
"""


def test_samples_are_not_taken_while_a_peer_is_scored(bench: SimpleNamespace, tmp_path: Path):
    (tmp_path / "job.py").write_text(TAKING)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / bench.watch.SCORING)]
    cost = bench.watch.watch(command, tmp_path)
    assert 50 < cost.peak_mib < 150


@pytest.mark.parametrize(
    ("limit", "stops"),
    [
        ({"target": 0.75}, True),
        ({"target": 0.76}, False),
        ({"most_epochs": 1}, True),
        ({"most_epochs": 2}, False),
        ({"cap_seconds": 0.0}, True),
        ({"cap_seconds": 600.0}, False),
    ],
)
def test_a_peer_stops_at_its_limits(bench: SimpleNamespace, tmp_path: Path, limit, stops):
    brightness_test(tmp_path)
    after_epoch = bench.instrument.AfterEpoch(spec_of(bench, tmp_path, **limit))
    if stops:
        with pytest.raises(bench.instrument.Enough):
            after_epoch(Brightest(0.0), 1)
    else:
        after_epoch(Brightest(0.0), 1)


def test_without_a_gpu_the_gpu_benchmark_says_so(repository: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (8, "")
    assert "no GPU here" in done.stderr


GPU_BENCHMARK = """
import sys
for name in ("prefect", "mlflow", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "yaml",
             "captum", "jinja2", "timm"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
torch.compile = lambda model, **_: model  # which would take minutes
from tests.benchmarks import gpu
sys.exit(gpu.main(sys.argv[1:]))
"""


def test_the_gpu_benchmark_goes_through_with_torch_and_pydantic_alone(repository: Path):
    """On a CPU: its rows, not their figures."""
    given = "--device cpu --size 32 --batch 4 --batches 2 --matmul 32 --steps 1 --architectures"
    done = subprocess.run(
        [sys.executable, "-c", GPU_BENCHMARK, *given.split(), "squeezenet1_0"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| squ")]
    bare = ["bare, eager", "bare, compiled"]
    order = [*(f"{what}, in a fixed order" for what in bare), "graft", *bare]
    assert [row[1] for row in rows] == order
    assert all(float(row[2]) > 0 for row in rows)
    assert [row[3].endswith("%") for row in rows] == [row[1] == "graft" for row in rows]
    assert "2 batches an epoch, its start" in done.stderr
