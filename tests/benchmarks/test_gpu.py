"""The GPU's benchmark, without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


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
