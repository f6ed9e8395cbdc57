"""What a pretrained network makes of images before its head: the features a new head would get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.errors import EvaluationError
from tasks.preprocess.batches import Batch, Labels, Order, PackedImages
from tasks.preprocess.views import eval_view
from tasks.values import InputSpec


def head_inputs(
    network: nn.Module,
    head: str,
    packed: PackedImages,
    rows_n: Order,
    spec: InputSpec,
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return the input of the layer called ``head`` for the evaluation view of each row, (n, d).

    As ``head_inputs_of`` the rows' batches.
    """
    device = next(network.parameters()).device
    return head_inputs_of(network, head, packed.batches(rows_n, batch_size, device), spec)


def head_inputs_of(
    network: nn.Module, head: str, batches: Iterable[Batch], spec: InputSpec
) -> npt.NDArray[np.float32]:
    """Return the input of the layer called ``head`` for the evaluation view of each image, (n, d).

    In float32 on every device: what tells one image from another may be less than bfloat16 shows.

    Pooled as ``captured`` says. Raises ``EvaluationError`` when one of them is no finite number.
    """
    network.eval()
    with captured(network, head) as kept, torch.inference_mode():
        for images_bhwc, _ in batches:
            network(eval_view(images_bhwc, spec))
    return finite(torch.cat(kept))


@contextmanager
def captured(
    network: nn.Module, head: str, wanted_n: npt.NDArray[np.bool_] | None = None
) -> Iterator[list[Tensor]]:
    """Collect, on the CPU, what the layer called ``head`` is given in the block, pooled: (b, d).

    Maps before a convolution are averaged over their places, tokens before a linear layer over
    their positions. ``wanted_n`` says of each image in turn whether its features are kept: memory
    is that of those alone.
    """
    kept: list[Tensor] = []
    seen = 0

    def take(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal seen
        rows = slice(seen, seen + len(given[0]))
        seen = rows.stop
        wanted = slice(None) if wanted_n is None else torch.from_numpy(wanted_n[rows])
        kept.append(_pooled(module, given[0])[wanted].cpu())

    hook = network.get_submodule(head).register_forward_pre_hook(take)
    try:
        yield kept
    finally:
        hook.remove()


def _pooled(head: nn.Module, inputs: Tensor) -> Tensor:
    if isinstance(head, nn.Conv2d):
        return inputs.mean(dim=(2, 3))  # (b, d, h, w)
    return inputs if inputs.ndim == 2 else inputs.flatten(1, -2).mean(dim=1)  # (b, …, d)


def finite(features_nd: Tensor) -> npt.NDArray[np.float32]:
    """Return features as an array; raises ``EvaluationError`` for what is no finite number."""
    if not features_nd.isfinite().all():
        raise EvaluationError(
            "The network's features are not all finite numbers.\n"
            "Take other weights, or check preprocess.mean and preprocess.std."
        )
    array: npt.NDArray[np.float32] = features_nd.numpy()
    return array


def sample_rows(labels_n: Labels, most: int | None, seed: int) -> Order:
    """Return the rows of at most ``most`` images in order, the same share of each class.

    Each class's images are dealt out at even distances over one line, in random order, and the
    line's beginning is taken: so no class is more than an image away from its share.
    """
    if most is None or most >= len(labels_n):
        return np.arange(len(labels_n), dtype=np.int64)
    rng = np.random.default_rng(seed)
    places_n = np.empty(len(labels_n))
    for label in np.unique(labels_n):
        members = rng.permutation(np.flatnonzero(labels_n == label))
        places_n[members] = (np.arange(len(members)) + 0.5) / len(members)
    rows: Order = np.sort(np.argsort(places_n, kind="stable")[:most]).astype(np.int64)
    return rows
