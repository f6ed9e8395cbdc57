"""Where the scale benchmark keeps its data, and how one of its points runs.

The network is timm's test_resnet with random weights from a file, of which the head alone trains
(``linear_probe``, features not cached, so that each image goes through the network in training):
light enough that reading and bookkeeping, which this benchmark is about, are not hidden behind it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tests.benchmarks.scale_shards import Shards
from tests.benchmarks.scale_watch import Taken, watch_stages

BASE = "configs/digits.yaml"
GRAFT = ("-m", "flows.cli")
ARCHITECTURE = "timm:test_resnet"
RECIPE = (
    "strategy.kind=linear_probe",
    "training.feature_cache=off",
    "training.epochs=1",
    "training.batch_size=256",
    "data.checks.near_duplicates=warn",  # as photographs have it; digits.yaml turns it off
)

HURRIED = ("evaluation.bootstrap=0", "evaluation.explained_images=0", "evaluation.latency_runs=0")


@dataclass(frozen=True)
class Bench:
    """The folders of a benchmark, and how many images validation and test have at every point."""

    folder: Path
    threads: int
    quick: bool = False

    @property
    def architecture(self) -> str:
        """Return the network; the quick one needs no timm, which takes seconds to import."""
        return "graft_tiny" if self.quick else ARCHITECTURE

    @property
    def settings(self) -> dict[str, Any]:
        """Return what all rows have in common."""
        found = {"threads": self.threads, "validation and test images": self.held_out}
        return found | ({"quick": True} if self.quick else {})

    @property
    def held_out(self) -> int:
        """Return how many images validation and test have each, where images grow."""
        return 200 if self.quick else 2_000

    @property
    def small(self) -> int:
        """Return the training images of rank, compare and the machines."""
        return 400 if self.quick else 4_000

    def shards(self, classes: int) -> Shards:
        """Return how images are put into shards."""
        in_a_shard, distinct = (1_000, 2_000) if self.quick else (10_000, 1_000_000)
        return Shards(self.held_out, in_a_shard, distinct, classes)

    @property
    def ray_cells(self) -> int:
        """Return the cells of the grid that a Ray cluster carries out."""
        return 2 if self.quick else 4

    @property
    def machine_epochs(self) -> int:
        """Return the epochs on several machines: more than it takes to start their processes."""
        return 1 if self.quick else 6

    @property
    def data(self) -> Path:
        """Return the folder of generated images, which later points find again."""
        return self.folder / "data"

    def weights(self, seed: int = 0) -> str:
        """Return the file of random weights, made if it is not there; quick: those of graft."""
        if self.quick:
            return "graft:tiny-cifar10"
        path = self.data / f"weights-{seed}.safetensors"
        if not path.is_file():
            self._write_weights(path, seed)
        return str(path)

    def _write_weights(self, path: Path, seed: int) -> None:
        import timm
        import torch
        from safetensors.torch import save_file

        torch.manual_seed(seed)
        network = timm.create_model(ARCHITECTURE.removeprefix("timm:"), pretrained=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), path)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give a point an empty folder, for all that its process writes; it is removed."""
        folder = self.folder / "work" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def overrides(self, scratch: Path, *more: str) -> tuple[str, ...]:
        """Return what is set over ``BASE`` for every point, then ``more``."""
        return (
            *RECIPE,
            f"model.architecture={self.architecture}",
            f"model.weights={self.weights()}",
            f"training.threads={self.threads}",
            f"output.folder={scratch / 'run'}",
            f"output.cache={scratch / 'cache'}",
            *(HURRIED if self.quick else ()),
            *more,
        )

    def run(self, scratch: Path, *command: str) -> Taken:
        """Run a Python command with stores of its own in ``scratch``."""
        return watch_stages(
            [sys.executable, *command],
            scratch,
            OMP_NUM_THREADS=str(self.threads),
            MLFLOW_TRACKING_URI=f"sqlite:///{scratch}/mlflow.db",
            PREFECT_HOME=str(scratch / "prefect"),
            GRAFT_CACHE=str(scratch / "cache"),
        )

    def rooms(self, scratch: Path, *more: str) -> dict[str, Any]:
        """Run the six rooms in a process of their own and return the point's row."""
        overrides = self.overrides(scratch, *more)
        taken = self.run(scratch, "-m", "tests.benchmarks.scale_job", BASE, *overrides)
        return {
            **row_of(taken),
            **json.loads(taken.output),
            "cache_bytes": written(scratch / "cache"),
        }


def row_of(taken: Taken) -> dict[str, Any]:
    """Return what was taken as a row of the results, without the process's own output."""
    row = asdict(taken)
    del row["output"]
    return {**row, "measured": f"{date.today():%Y-%m-%d}"}


def seconds_of(row: dict[str, Any], stage: str) -> float:
    """Return how long a stage of the row took."""
    seconds: float = next(s["seconds"] for s in row["stages"] if s["name"] == stage)
    return seconds


def written(folder: Path) -> int:
    """Return the bytes of all files in ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
