"""The test images that the model is most surely wrong about, and what it looked at in them."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from tasks.artifacts import write_atomic
from tasks.evaluate.error_grid import Picture, save_grid
from tasks.evaluate.heatmaps import Method, heat_maps
from tasks.evaluate.score import Scores
from tasks.index import read_index
from tasks.measures import ExplainedImage
from tasks.outputs import named
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.views import fitted, normalize
from tasks.values import InputSpec, PreparedDataset
from tasks.words import printable

log = logging.getLogger(__name__)

_MOST_COVER = 0.6  # of the picture by the heat map, where that is hottest


@dataclass(frozen=True)
class WorstError:
    """An image and the choice about it that is most surely wrong."""

    row: int  # in the test split
    confidence: float  # probability of the wrong class, label, or absence of a label
    target: int  # class; ``classes + k``: that label k is not there


def explain(
    network: nn.Module,
    architecture: str,
    scores: Scores,
    prepared: PreparedDataset,
    count: int,
    folder: Path,
    separator: str,
) -> tuple[ExplainedImage, ...]:
    """Write the ``count`` worst errors of the test split into ``folder``/explained, worst first.

    Each as the picture that the network sees and, where a method fits the network, as the same
    under the heat map of what spoke for the wrong choice; ``grid.png`` shows them all. A label that
    was missed is explained by what spoke against it. Where nothing is wrong, nothing is written.
    Raises ``ResourceError`` when the disk is full.
    """
    errors = worst_errors(scores, count)
    if not errors:
        return ()
    images_bhwc = _pictures(prepared, [error.row for error in errors])
    found = _heat(network, architecture, images_bhwc, prepared.input, errors)
    maps, method = found if found is not None else (None, None)
    pictures = list(images_bhwc.numpy())
    overlays = [None] * len(errors) if maps is None else _overlays(pictures, maps)
    explained = _facts(scores, prepared, errors, method, separator)
    for one, picture, overlay in zip(explained, pictures, overlays, strict=True):
        _save(folder / "explained" / one.image, picture)
        if one.overlay is not None and overlay is not None:
            _save(folder / "explained" / one.overlay, overlay)
    save_grid(folder / "explained" / "grid.png", explained, pictures, overlays)
    return explained


def worst_errors(scores: Scores, count: int) -> list[WorstError]:
    """Return the ``count`` wrong images with the most probable wrong choice, worst first.

    With several labels an image, that is the label with the largest binary log loss among those
    that are wrong. On a tie the earlier image comes first.
    """
    wrong_nk = _wrong_confidence(scores)
    confidence_n = wrong_nk.max(axis=1)
    rows = np.argsort(-confidence_n, kind="stable")[:count]
    worst_n = wrong_nk.argmax(axis=1)
    return [
        WorstError(int(row), float(confidence_n[row]), _target(scores, row, int(worst_n[row])))
        for row in rows
        if not scores.correct_n[row]
    ]


def _wrong_confidence(scores: Scores) -> npt.NDArray[np.float64]:
    """Return (n, k): the probability of each wrong choice that was made, elsewhere -1."""
    given_nk = scores.probabilities_nc.astype(np.float64)
    if scores.multi_label:
        wrong_nk = scores.predictions_n != scores.labels_n
        return np.where(wrong_nk, np.where(scores.predictions_n == 1, given_nk, 1 - given_nk), -1.0)
    chosen_nk = np.arange(given_nk.shape[1]) == scores.predictions_n[:, None]
    return np.where(chosen_nk & ~scores.correct_n[:, None], given_nk, -1.0)


def _target(scores: Scores, row: int, label: int) -> int:
    missed = scores.multi_label and scores.predictions_n[row, label] == 0
    return label + scores.probabilities_nc.shape[1] if missed else label


def _pictures(prepared: PreparedDataset, rows: Sequence[int]) -> Tensor:
    """Return uint8 (b, crop, crop, 3): what the network sees, before it is normalised."""
    packed = PackedImages(prepared.test)
    return fitted(torch.from_numpy(packed.images_nhwc[np.array(rows)]), prepared.input)


class _ForAndAgainst(nn.Module):
    """Logits (b, 2k) of each class's presence and of its absence."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_bchw: Tensor) -> Tensor:
        logits_bk: Tensor = self.network(images_bchw)
        return torch.cat((logits_bk, -logits_bk), dim=1)


def _heat(
    network: nn.Module,
    architecture: str,
    images_bhwc: Tensor,
    spec: InputSpec,
    errors: Sequence[WorstError],
) -> tuple[Tensor, Method] | None:
    device = next(network.parameters()).device
    images_bchw = normalize(images_bhwc.to(device), spec)
    targets = [error.target for error in errors]
    found = heat_maps(_ForAndAgainst(network), images_bchw, targets)
    if found is None:
        log.warning(
            "no heat maps: no layer of %s gives a map of more than one place that its outputs "
            "depend on",
            architecture,
        )
    return found


def _overlays(pictures: Sequence[Picture], maps_bhw: Tensor) -> list[Picture | None]:
    """Cover each picture by its heat map: the hotter, the more; what is cold shows as it is."""
    from matplotlib import colormaps

    overlays: list[Picture | None] = []
    for picture, map_hw in zip(pictures, maps_bhw.numpy(), strict=True):
        colours_hw3 = 255 * colormaps["turbo"](map_hw)[..., :3]
        cover_hw1 = _MOST_COVER * map_hw[..., None]
        mixed_hw3 = (1 - cover_hw1) * picture + cover_hw1 * colours_hw3
        overlays.append(mixed_hw3.round().astype(np.uint8))
    return overlays


def _facts(
    scores: Scores,
    prepared: PreparedDataset,
    errors: Sequence[WorstError],
    method: Method | None,
    separator: str,
) -> tuple[ExplainedImage, ...]:
    between = separator if scores.multi_label else None
    rows = np.array([error.row for error in errors])
    labels = named(scores.labels_n[rows], prepared.classes, between)
    predictions = named(scores.predictions_n[rows], prepared.classes, between)
    records = read_index(prepared.test.index)
    return tuple(
        ExplainedImage(
            path=printable(records[error.row].path),
            label=label,
            prediction=prediction,
            confidence=error.confidence,
            row=error.row,
            image=f"{rank:02d}.png",
            overlay=f"{rank:02d}-heat.png" if method else None,
            method=method,
        )
        for rank, (error, label, prediction) in enumerate(
            zip(errors, labels, predictions, strict=True), start=1
        )
    )


def _save(path: Path, picture: Picture) -> None:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png", compress_level=1)  # of photographs all are alike
    write_atomic(path, content.getvalue())
