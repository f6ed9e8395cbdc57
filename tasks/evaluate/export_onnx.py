"""A network as an ONNX file, and an ONNX file as a network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tasks.errors import ConfigError
from tasks.evaluate.export_program import INPUT, OUTPUT, Runtime, export_errors

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ERRORS_ONLY = 3  # onnxruntime's severity


def check_extra() -> None:
    """Raise ``ConfigError`` where a package that ONNX files need is not installed."""
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"ONNX files need the package {package}.\nInstall it: uv sync --extra export"
            ) from error


def write_onnx(program: ExportedProgram, path: Path, name: str) -> None:
    """Write one .onnx file, weights included, with any batch size; ``onnx.checker`` has passed it.

    Raises ``ConfigError`` as ``check_extra``, and ``EvaluationError`` that calls the network
    ``name``.
    """
    check_extra()
    from onnx import checker

    with export_errors(name):
        torch.onnx.export(
            program,
            f=path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        checker.check_model(path, full_check=True)


def open_onnx(path: Path) -> Runtime:
    """Open an .onnx file by onnxruntime on the CPU, with as many threads as torch has.

    Raises ``ConfigError`` as ``check_extra``, and onnxruntime's errors.
    """
    check_extra()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images_bchw: Tensor) -> Tensor:
        with export_errors(path.name):
            (logits_bk,) = session.run([OUTPUT], {INPUT: images_bchw.contiguous().numpy()})
        return torch.from_numpy(logits_bk)

    return Runtime(run)
