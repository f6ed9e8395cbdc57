"""A network as ``torch.export`` sees it, for any batch size: what every export starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tasks.artifacts import FULL
from tasks.errors import EvaluationError, GraftError
from tasks.values import InputSpec

if TYPE_CHECKING:
    from torch.export import ExportedProgram

INPUT, OUTPUT = "images_bchw", "logits_bk"  # names in the exported file
_TRACED = 2  # images; with 1 torch.export would take their number for a constant


class Runtime(nn.Module):
    """An exported file as a network: logits (b, k) of float32 (b, 3, crop, crop), on the CPU.

    So that evaluation scores and times it by the very code that scores every other network.
    """

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._run = run

    def forward(self, images_bchw: Tensor) -> Tensor:
        """Run the file on a batch of any size."""
        return self._run(images_bchw)


class _Named(nn.Module):
    """Gives the input one name, whatever the network's own ``forward`` calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_bchw: Tensor) -> Tensor:
        logits_bk: Tensor = self.network(images_bchw)
        return logits_bk


def export_program(network: nn.Module, spec: InputSpec, name: str) -> ExportedProgram:
    """Return ``network`` in evaluation mode as a program of operators with any batch size.

    Raises ``EvaluationError`` that calls it ``name`` where it cannot be told apart from Python.
    """
    images_bchw = torch.zeros(_TRACED, 3, spec.crop, spec.crop)
    with export_errors(name), torch.no_grad():
        return torch.export.export(
            _Named(network.eval()),
            (images_bchw,),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        )


def write_program(program: ExportedProgram, path: Path, name: str) -> None:
    """Write a .pt2 archive; raises ``EvaluationError`` that calls the network ``name``."""
    program.example_inputs = None  # images that were traced with, which would lie in the file
    with export_errors(name):
        torch.export.save(program, path)


def open_program(path: Path) -> Runtime:
    """Load a .pt2 archive. It may hold pickles: load none that you do not trust."""
    module = torch.export.load(path).module()
    return Runtime(lambda images_bchw: module(images_bchw))


@contextmanager
def export_errors(name: str) -> Iterator[None]:
    """Turn what exporters and runtimes raise into an ``EvaluationError`` of two lines.

    They raise what they like. Memory and disk that run out stay what they are.
    """
    try:
        yield
    except (GraftError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        lines = str(error).strip().splitlines()
        reason = lines[0].strip() if lines else type(error).__name__
        raise EvaluationError(
            f"{name} cannot be exported: {reason}\nTry another --format, or another architecture."
        ) from error
