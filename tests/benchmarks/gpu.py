"""How much of a GPU graft's own loop uses: against the bare model, and against the chip's peak.

Run as ``uv run python -m tests.benchmarks.gpu [--cifar10]``; without a GPU it says so and ends with
exit code 8. ResNet-18 and ResNet-50 with random weights at 224 px, bfloat16 autocast and
channels_last. The bare model trains on one synthetic batch that lies on the device, eager and
compiled, and the faster counts. graft trains the same network through ``finetune``, fed from the
rows of a pack as in any run, and its last epoch counts: what is compiled is compiled by then.
``--cifar10`` adds all of CIFAR-10 through the reference loop and graft, by ``peers``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from tasks.artifacts import sha256_bytes
from tasks.config import RunConfig
from tasks.errors import ResourceError
from tasks.finetune.device import on_device, pick_device
from tasks.finetune.progress import EpochRecord, StepProgress
from tasks.finetune.train import finetune
from tasks.pretrained.load import load_pretrained
from tasks.values import InputSpec, PackedSplit, PreparedDataset, SplitName
from tests.benchmarks import peers
from tests.benchmarks.measure import machine

CLASSES = 1000
EPOCHS = 3  # of graft: the first two warm up
ZERO = sha256_bytes(b"synthetic")


@dataclass(frozen=True)
class Work:
    """What is trained, and on what."""

    device: torch.device
    size: int  # px
    batch: int  # images
    batches: int  # of an epoch
    matmul: int  # side of the matrices that the peak is measured with


@dataclass
class Watched:
    """Keeps what finetune says of every epoch."""

    records: list[EpochRecord] = field(default_factory=list)

    def step(self, progress: StepProgress) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def rate(work: Work, step: Callable[[], object], steps: int, warm: int = 10) -> float:
    """Return how many times a second ``step`` is done, the device's queue emptied."""
    for _ in range(warm):
        step()
    _wait(work.device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(work.device)
    return steps / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_flops(work: Work) -> float:
    """Measure bfloat16 multiply-and-add operations a second, each counted as two."""
    n = work.matmul
    a, b = (torch.randn(n, n, device=work.device, dtype=torch.bfloat16) for _ in range(2))
    return max(rate(work, lambda: a @ b, 20) for _ in range(3)) * 2 * n**3


def bare(work: Work, architecture: str) -> tuple[float, float, float]:
    """Return images/s of the bare model, eager and compiled, and FLOPs of an image's step."""
    network = on_device(models.get_model(architecture, num_classes=CLASSES), work.device).train()
    images = torch.randn(work.batch, 3, work.size, work.size, device=work.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (work.batch,), device=work.device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.001, momentum=0.9, fused=work.device.type == "cuda"
    )

    def step(model: Callable[[Tensor], Tensor]) -> None:
        with torch.autocast(work.device.type, dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step(network)
    eager = rate(work, lambda: step(network), work.batches)
    mode = "reduce-overhead" if work.device.type == "cuda" else "default"
    compiled = torch.compile(network, dynamic=False, mode=mode)
    fast = rate(work, lambda: step(compiled), work.batches)
    return eager * work.batch, fast * work.batch, counter.get_total_flops() / work.batch


def synthetic(work: Work, folder: Path) -> PreparedDataset:
    """Pack random images and labels, as ``prepare`` packs a data set's."""
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
    with (folder / f"{name}.u8").open("wb") as file:
        for _ in range(n):
            file.write(rng.bytes(size * size * 3))
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


def ours(work: Work, architecture: str, prepared: PreparedDataset, folder: Path) -> float:
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
    backbone = load_pretrained(config, prepared.classes, None, folder / "cache")
    (folder / architecture).mkdir()
    watched = Watched()
    finetune(config, prepared, backbone, folder / architecture, watched)
    return watched.records[-1].images_per_second


def table(work: Work, architectures: list[str]) -> list[str]:
    """Measure every architecture; return lines of Markdown."""
    peak = peak_flops(work)
    lines = [
        f"{work.size} px, batch {work.batch}; measured bfloat16 peak {peak / 1e12:.3g} TFLOP/s "
        f"(matrices of side {work.matmul}):",
        "",
        "| | bare eager, images/s | bare compiled | graft | of the faster bare | of the peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory(prefix="graft-gpu-") as name:
        folder = Path(name)
        prepared = synthetic(work, folder)
        for architecture in architectures:
            eager, compiled, flops = bare(work, architecture)
            images = ours(work, architecture, prepared, folder)
            share = images / max(eager, compiled)
            lines.append(
                f"| {architecture} | {eager:.1f} | {compiled:.1f} | {images:.1f} | {share:.1%} | "
                f"{images * flops / peak:.1%} |"
            )
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try it")
    parser.add_argument("--architectures", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=256, help="images")
    parser.add_argument("--batches", type=int, default=60, help="of an epoch")
    parser.add_argument("--matmul", type=int, default=8192)
    parser.add_argument("--cifar10", action="store_true", help="all of CIFAR-10 as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    try:
        device = pick_device(given.device)
    except ResourceError as error:
        print("no GPU here: nothing is measured", file=sys.stderr)
        return error.exit_code
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    print(f"Measured on {date.today():%Y-%m-%d}: {gpu}, {machine()}\n")
    work = Work(device, given.size, given.batch, given.batches, given.matmul)
    print("\n".join(table(work, given.architectures)), flush=True)
    if given.cifar10:
        rows = [peers.REFERENCE, "graft", "graft, once more"]
        return peers.main(["--datasets", "cifar10", "--only", *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
