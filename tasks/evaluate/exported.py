"""Exported files: how each format is written and opened, and what spec.json says beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from tasks.artifacts import sha256_file
from tasks.config import Sha256
from tasks.errors import EvaluationError
from tasks.evaluate.export_onnx import open_onnx, write_onnx
from tasks.evaluate.export_program import (
    INPUT,
    OUTPUT,
    Runtime,
    export_errors,
    export_program,
    open_program,
    write_program,
)
from tasks.evaluate.quantise import calibration_batches, quantise
from tasks.evaluate.score import Scores
from tasks.finetune.fuse import fused
from tasks.pretrained.network import restore_network
from tasks.values import Certainty, InputSpec, PackedSplit, RegisteredModel

Format = Literal["onnx", "torch_export", "int8"]

AGREEMENT = 1e-4  # greatest difference of a probability that a float file may make
SPEC_FILE = "spec.json"
FILES: dict[Format, str] = {"onnx": "model.onnx", "torch_export": "model.pt2", "int8": "model.onnx"}
_OPENERS: dict[Format, Callable[[Path], Runtime]] = {
    "onnx": open_onnx,
    "torch_export": open_program,
    "int8": open_onnx,
}


class ExportSpec(Certainty):
    """What an exported file is, what it takes, and what is to be made of its logits."""

    format: Format
    file: str
    sha256: Sha256  # of the file
    source: str  # models:/NAME/VERSION
    source_sha256: Sha256  # of its weights
    architecture: str
    classes: tuple[str, ...]  # in the order of the logits
    multi_label: bool  # probabilities are the sigmoid of logits / temperature, else the softmax
    label_separator: str
    input: InputSpec  # how an image becomes the input
    input_name: str = INPUT
    input_shape: tuple[Literal["batch"], int, int, int]  # float32
    output_name: str = OUTPUT
    agreement: float  # greatest difference of a probability from the source's on the test images
    graft_version: str


@dataclass(frozen=True)
class ExportedFile:
    """A file just written; of an int8 file, also the float one that it was made from."""

    path: Path
    from_float: Path | None = None


def write_file(
    model: RegisteredModel, kind: Format, folder: Path, val: PackedSplit, seed: int
) -> ExportedFile:
    """Write ``model`` into ``folder`` as ``kind``; int8 is calibrated on images of ``val``.

    Batch norms are folded into the layers before them. Raises ``EvaluationError`` where the
    network cannot be exported, ``ConfigError`` where the extra is missing.
    """
    network = fused(restore_network(model.architecture, len(model.classes), model.weights))
    program = export_program(network, model.input, model.architecture)
    path = folder / FILES[kind]
    if kind == "torch_export":
        write_program(program, path, model.architecture)
        return ExportedFile(path)
    if kind == "onnx":
        write_onnx(program, path, model.architecture)
        return ExportedFile(path)
    from_float = folder / "float.onnx"
    write_onnx(program, from_float, model.architecture)
    batches = calibration_batches(val, model.input, seed)
    quantise(from_float, path, batches, model.architecture)
    return ExportedFile(path, from_float)


def open_file(kind: Format, path: Path) -> Runtime:
    """Open an exported file by its own runtime; raises ``EvaluationError`` where that cannot."""
    with export_errors(str(path)):
        return _OPENERS[kind](path)


def open_exported(folder: Path) -> tuple[ExportSpec, Runtime]:
    """Open what ``graft export`` left in ``folder``, its digest checked.

    Raises ``EvaluationError`` when a file is missing or is not the one that passed the gate.
    """
    try:
        spec = ExportSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise EvaluationError(
            f"{folder / SPEC_FILE} describes no exported model.\nExport the model again."
        ) from error
    path = folder / spec.file
    if not path.is_file() or sha256_file(path) != spec.sha256:
        raise EvaluationError(
            f"{path} is missing or is not the file that was exported.\nExport the model again."
        )
    return spec, open_file(spec.format, path)


def agreement(found: Scores, wanted: Scores) -> float:
    """Return the greatest difference of a probability; NaN where one is not a number."""
    return float(np.max(np.abs(found.probabilities_nc - wanted.probabilities_nc)))
