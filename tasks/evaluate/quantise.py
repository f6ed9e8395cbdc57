"""An ONNX file in 8-bit integers: a quarter of the size, at a loss that has to be measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.evaluate.export_onnx import check_extra
from tasks.evaluate.export_program import INPUT, export_errors
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.views import eval_view
from tasks.values import InputSpec, PackedSplit

CALIBRATION_IMAGES = 128  # at most; the ranges of activations are those that they reach
_BATCH = 16
# what normalises has a scale for each channel in one vector, which loses much and saves nothing
_KEPT_FLOAT = ("LayerNormalization", "InstanceNormalization", "Softmax")

Images = npt.NDArray[np.float32]


def calibration_batches(split: PackedSplit, spec: InputSpec, seed: int) -> Iterator[Images]:
    """Yield float32 (b, 3, crop, crop) of ``split``, drawn by ``seed``, as evaluation sees them."""
    random = torch.Generator().manual_seed(seed)
    rows_n = torch.randperm(split.n, generator=random)[:CALIBRATION_IMAGES].numpy()
    for images_bhwc, _ in PackedImages(split).batches(rows_n, _BATCH, torch.device("cpu")):
        yield eval_view(images_bhwc, spec).contiguous().numpy()


def quantise(path: Path, target: Path, batches: Iterator[Images], name: str) -> None:
    """Write the ONNX file ``path`` to ``target`` in 8 bits, its ranges from ``batches``.

    onnxruntime's static quantisation: weights for each output channel, activations for each
    tensor, as pairs of QuantizeLinear and DequantizeLinear (Jacob et al. 2018); norms and softmax
    stay in float32. Raises ``ConfigError`` as ``check_extra``, and ``EvaluationError`` that calls
    the network ``name``.
    """
    check_extra()
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(dir=target.parent) as scratch, export_errors(name):
        ready = Path(scratch) / "ready.onnx"
        quant_pre_process(path, ready)
        nodes = onnx.load(ready, load_external_data=False).graph.node
        quantize_static(
            ready,
            target,
            _reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            nodes_to_exclude=[node.name for node in nodes if node.op_type in _KEPT_FLOAT],
        )


def _reader(batches: Iterator[Images]) -> Any:  # noqa: ANN401 - onnxruntime has no types
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc] # the same
        def get_next(self) -> dict[str, Images] | None:
            images_bchw = next(batches, None)
            return None if images_bchw is None else {INPUT: images_bchw}

    return Reader()
