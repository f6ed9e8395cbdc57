"""What measures every peer alike: one clock, one count of CPU seconds, one scorer.

A peer calls its ``AfterEpoch`` at the end of each epoch, its own validation done. The clock stands
still while the test images are scored, and memory is not looked at, since no peer would do that:
the score is what the benchmark plots, and chooses nothing. The clock starts when the driver starts
the process, so that imports, worker processes and whatever a program prepares first all count.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from tests.benchmarks.peer_watch import SCORING

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the SqueezeNet weights
SCORED_AT_ONCE = 4  # images: no more than any peer trains with


@dataclass(frozen=True)
class Spec:
    """The work that is the same for every peer; paths are absolute."""

    images: str  # folder of train/CLASS/*.jpg, val/CLASS/*.jpg and test/CLASS/*.jpg
    test: str  # folder of the test images, decoded: images.npy (n, 3, h, w) uint8, labels.npy
    weights: str  # SqueezeNet 1.0 with ImageNet's 1000 classes, .safetensors
    classes: int
    resize: int  # px, short side
    crop: int  # px, side of the square the network sees
    epochs: int  # planned, where a schedule needs to know
    most_epochs: int | None  # stop after so many, planned or not
    workers: int  # processes that decode, where a peer has them
    seed: int
    scratch: str  # folder for whatever the peer writes
    lines: str  # file of the measurements, a JSON object an epoch
    target: float | None  # stop at this test accuracy
    cap_seconds: float | None  # stop after so many seconds on the clock
    started: float  # time.monotonic() when the driver started the process
    config: str  # graft's YAML; no other peer reads this or the next
    overrides: tuple[str, ...]  # KEY=VALUE of graft's config


@dataclass(frozen=True)
class Line:
    """What is known at the end of an epoch."""

    epoch: int
    seconds: float  # on the clock
    cpu_seconds: float  # user and system, worker processes included
    images: int  # trained on so far
    accuracy: float  # of the test images
    peak_mib: float  # resident, of this process, since the last line


class Enough(Exception):  # noqa: N818 - as StopIteration, it is none
    """The target or the cap is reached: training stops here."""


class AfterEpoch:
    """Writes a line an epoch; raises ``Enough`` when the peer has nothing more to show."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._epoch = 0
        self._paused = self._paused_cpu = 0.0

    def __call__(self, network: nn.Module, images: int) -> None:
        """Score ``network`` (normalised images to logits), trained on ``images`` so far."""
        now, cpu, peak = time.monotonic(), cpu_seconds(), peak_mib()
        self._epoch += 1
        with unseen(Path(self._spec.scratch)):
            right = accuracy(network, Path(self._spec.test))
        line = Line(
            epoch=self._epoch,
            seconds=now - self._spec.started - self._paused,
            cpu_seconds=cpu - self._paused_cpu,
            images=images,
            accuracy=right,
            peak_mib=peak,
        )
        with Path(self._spec.lines).open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")
        self._paused += time.monotonic() - now
        self._paused_cpu += cpu_seconds() - cpu
        if self._is_enough(line):
            raise Enough("the target or the cap is reached")  # fastai wants a text

    def _is_enough(self, line: Line) -> bool:
        limits = (
            (line.accuracy, self._spec.target),
            (line.seconds, self._spec.cap_seconds),
            (line.epoch, self._spec.most_epochs),
        )
        return any(limit is not None and value >= limit for value, limit in limits)


def cpu_seconds() -> float:
    """Return the user and system seconds of this process and its children, dead or alive."""
    own = psutil.Process()
    total = sum(own.cpu_times()[:4])  # user, system, and both of the children waited for
    for child in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:4])
    return total


def peak_mib() -> float:
    """Return the resident peak of this process since its start, or since the last ``unseen``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


@contextmanager
def unseen(folder: Path) -> Iterator[None]:
    """Let memory in this block count for nothing: not in samples, nor in the kernel's own peak."""
    (folder / SCORING).touch()
    try:
        yield
    finally:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew, proc(5)
        (folder / SCORING).unlink()


@torch.inference_mode()
def accuracy(network: nn.Module, test: Path) -> float:
    """Return the share of the test images that ``network`` gets right, in evaluation mode.

    Every module is put back as it was.
    """
    images = np.load(test / "images.npy", mmap_mode="r")
    labels = torch.from_numpy(np.load(test / "labels.npy"))
    device = next(network.parameters()).device
    mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (MEAN, STD))
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    right = 0
    for i in range(0, len(labels), SCORED_AT_ONCE):
        batch = torch.from_numpy(np.array(images[i : i + SCORED_AT_ONCE])).to(device)
        logits = network((batch / 255 - mean) / std)
        right += int((logits.argmax(1).cpu() == labels[i : i + SCORED_AT_ONCE]).sum())
    for module, mode in modes:
        module.training = mode
    return right / len(labels)


def run(job: Callable[[Spec, AfterEpoch], None]) -> None:
    """Run a peer as the process that the driver started."""
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    torch.manual_seed(spec.seed)
    with suppress(Enough):
        job(spec, AfterEpoch(spec))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # taking torch apart takes more memory than some trainings, and is none
