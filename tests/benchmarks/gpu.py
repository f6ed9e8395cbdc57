"""How much of a GPU graft's own loop uses: against the bare model, and against the chip's peak.

Run as ``uv run python -m tests.benchmarks.gpu [--cifar10]``; without a GPU it says so and ends with
exit code 8. On a machine without a network it needs torch, torchvision, numpy, safetensors and
pydantic alone: docs/benchmarks.md says how to carry what is missing.

ResNet-50 and ResNet-18 with random weights at 224 px, bfloat16 autocast and channels_last. The bare
model trains on one synthetic batch that lies on the device, eager and compiled, each as it is and
in a fixed order of sums, in which graft trains; graft is held against the faster of those in a
fixed order. graft trains the same network through ``finetune``, fed from the rows of a pack as in
any run, and its last epoch counts: what is compiled is compiled by then, and the epoch is so long
that the start of its pipeline, until the first batch is there, is less than half a percent. Each
figure is printed when it is there. ``--cifar10`` adds all of CIFAR-10 through all rows of
``peers``, whose packages and archive (../shared) have to be there: it is for a machine with both.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tasks.artifacts import sha256_bytes
from tasks.config import RunConfig
from tasks.errors import ResourceError
from tasks.finetune.device import free_memory, pick_device
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.pretrained.load import load_pretrained
from tasks.values import InputSpec, PackedSplit, PreparedDataset, SplitName
from tests.benchmarks.gpu_bare import CLASSES, SECONDS, Work, bare, flops_of, peak_flops
from tests.benchmarks.measure import machine

EPOCHS = 3  # of graft: the first two warm up
MOST_START = 0.005  # of the epoch that counts
ZERO = sha256_bytes(b"synthetic")
HEAD = "| | | images/s | of the faster bare in a fixed order | of the peak | GPU memory, MiB |"


@dataclass
class Watched:
    """Keeps what finetune says of every epoch, and how long its first step took to come."""

    batch: int
    records: list[EpochRecord] = field(default_factory=list)
    start: float = math.nan  # seconds, of the last epoch

    def step(self, progress: StepProgress) -> None:
        if progress.step == 1:
            self.start = self.batch / progress.images_per_second

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


@dataclass
class Rows:
    """The rows of one network, printed one by one."""

    work: Work
    architecture: str
    peak: float  # FLOP/s
    flops: float  # of one image's step

    def measure(self, what: str, run: Callable[[], float], base: float | None = None) -> float:
        """Print the images/s that ``run`` gives, with the memory it took; leave none behind."""
        on_gpu, memory = self.work.device.type == "cuda", "-"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        found = run()
        if on_gpu:
            memory = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
        torch.compiler.reset()
        free_memory(self.work.device)
        share = "" if base is None else f"{found / base:.1%}"
        print(
            f"| {self.architecture} | {what} | {found:.1f} | {share} | "
            f"{found * self.flops / self.peak:.1%} | {memory} |",
            flush=True,
        )
        return found

    def bare(self, compiled: bool, fixed: bool) -> float:
        """Measure and print the bare model."""
        what = f"bare, {'compiled' if compiled else 'eager'}"
        run = partial(bare, self.work, self.architecture, compiled, fixed)
        return self.measure(f"{what}, in a fixed order" if fixed else what, run)


def synthetic(work: Work, folder: Path) -> PreparedDataset:
    """Pack random images and labels, as ``prepare`` packs a data set's."""
    assert work.batches is not None
    n = {"train": work.batch * work.batches, "val": work.batch, "test": work.batch}
    spec = InputSpec(
        resize=work.size,
        crop=work.size,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bilinear",
    )
    train, val, test = (_pack(folder, name, n[name], work.size) for name in n)
    return PreparedDataset(
        folder=folder,
        classes=tuple(f"{i:04}" for i in range(CLASSES)),
        input=spec,
        train=train,
        val=val,
        test=test,
        skipped=(),
        warnings=(),
        raw_digest=ZERO,
        digest=ZERO,
    )


def _pack(folder: Path, name: SplitName, n: int, size: int) -> PackedSplit:
    rng = np.random.default_rng(0)
    some = rng.bytes(min(n, 256) * size * size * 3)  # again and again: a read takes as long
    with (folder / f"{name}.u8").open("wb") as file:
        for at in range(0, n, 256):
            file.write(some[: min(256, n - at) * size * size * 3])
    labels = rng.integers(CLASSES, size=n)
    np.save(folder / f"{name}.labels.npy", labels)
    return PackedSplit(
        name=name,
        images=folder / f"{name}.u8",
        labels=folder / f"{name}.labels.npy",
        index=folder / f"{name}.index.csv",  # of no image file: nothing reads it
        n=n,
        height=size,
        width=size,
        counts=tuple(np.bincount(labels, minlength=CLASSES).tolist()),
        digest=ZERO,
    )


def ours(work: Work, architecture: str, watched: Watched) -> float:
    """Return images/s of graft's last epoch of training, validation not counted."""
    config = RunConfig.model_validate(
        {
            "data": {"kind": "digits"},  # not read: the pack is there
            "preprocess": {"resize": work.size, "crop": work.size},
            "model": {"architecture": architecture, "weights": None},
            "strategy": {"kind": "scratch"},
            "training": {
                "epochs": EPOCHS,
                "batch_size": work.batch,
                "momentum": 0.9,
                "device": work.device.type,
                "precision": "bfloat16",
                "compile": "on",
            },
            "evaluation": {"batch_size": work.batch},
        }
    )
    with tempfile.TemporaryDirectory(prefix="graft-gpu-") as name:
        folder = Path(name)
        prepared = synthetic(work, folder)
        backbone = load_pretrained(config, prepared.classes, None, folder / "cache")
        finetune(config, prepared, backbone, folder, watched)
    return watched.records[-1].images_per_second


def table(work: Work, architectures: list[str]) -> None:
    """Measure every architecture, and print lines of Markdown as they come."""
    peak = peak_flops(work)
    print(
        f"{work.size} px, batch {work.batch}; measured bfloat16 peak {peak / 1e12:.3g} TFLOP/s "
        f"(matrices of side {work.matmul}):\n\n{HEAD}\n| --- | --- |" + " ---: |" * 4,
        flush=True,
    )
    for architecture in architectures:
        rows = Rows(work, architecture, peak, flops_of(work, architecture))
        graft(rows, max(rows.bare(False, fixed=True), rows.bare(True, fixed=True)))
        rows.bare(False, fixed=False)
        rows.bare(True, fixed=False)


def graft(rows: Rows, base: float) -> None:
    """Print graft's row, and how much of its last epoch was the start."""
    watched, batch = Watched(rows.work.batch), rows.work.batch
    batches = rows.work.batches or math.ceil(base * SECONDS / batch)
    work = replace(rows.work, batches=batches)
    found = rows.measure("graft", partial(ours, work, rows.architecture, watched), base)
    share = watched.start * found / (batches * batch)
    words = (
        f"{batches} batches an epoch, its start {watched.start * 1000:.0f} ms, {share:.2%} of it"
    )
    if share > MOST_START:
        words += f": more than {MOST_START:.1%}, take more --batches"
    print(f"graft, {rows.architecture}: {words}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try it")
    parser.add_argument("--architectures", nargs="+", default=["resnet50", "resnet18"])
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=256, help="images")
    parser.add_argument("--batches", type=int, help=f"of an epoch; else enough for {SECONDS:g} s")
    parser.add_argument("--matmul", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=60, help="that a bare rate is measured over")
    parser.add_argument("--cifar10", action="store_true", help="all of CIFAR-10 as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    try:
        device = pick_device(given.device)
    except ResourceError as error:
        print("no GPU here: nothing is measured", file=sys.stderr)
        return error.exit_code
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as graft; read at the first use
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(f"Measured on {date.today():%Y-%m-%d}: {gpu}, {machine()}\n", flush=True)
    batches, matmul, steps = given.batches, given.matmul, given.steps
    table(Work(device, given.size, given.batch, batches, matmul, steps), given.architectures)
    if given.cifar10:
        from tests.benchmarks import peers  # whose packages are needed for it alone

        return peers.main(["--datasets", "cifar10"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
