"""What measures the peers: its scorer, its clock and its memory, and when it stops them."""

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
from torch import nn


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
