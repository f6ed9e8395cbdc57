"""Networks with their weights in: to fine-tune, or to predict with.

This module, ``architectures``, ``heads``, ``timm_networks`` and ``tiny`` travel inside a registered
model: they need nothing beyond torch, torchvision and safetensors, and timm for its networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tasks.errors import WeightsError
from tasks.pretrained.architectures import build, takes_image_size
from tasks.pretrained.heads import is_under

if TYPE_CHECKING:  # pydantic is not there where a registered model is served
    from tasks.values import Backbone

State = Mapping[str, Tensor]


def build_network(backbone: Backbone, classes: int, seed: int) -> nn.Module:
    """Build the pretrained network (float32, CPU) with logits of shape (b, ``classes``).

    The head is new, drawn from ``seed`` as torchvision initialises that architecture's, unless
    ``backbone.keep_head``. Without weights every layer is drawn from ``seed``. The caller's random
    state stays as it was. Raises ``WeightsError`` when the file cannot be read or does not fit.
    """
    from tasks.pretrained.state_dict import read_state  # not needed, nor there, when serving

    if backbone.weights is None:
        return _draw(backbone.architecture, classes, backbone.input.crop, seed)
    state = read_state(backbone.weights, backbone.architecture)
    network = _draw(backbone.architecture, classes, image_size(backbone.architecture, state), seed)
    if not backbone.keep_head:
        state = {key: value for key, value in state.items() if not is_under(key, backbone.heads)}
    new = () if backbone.keep_head else backbone.heads
    _fill(network, state, backbone.weights, except_for=new)
    return network


def restore_network(architecture: str, classes: int, weights: Path) -> nn.Module:
    """Build a fine-tuned network (float32, CPU, eval mode) from its ``model.safetensors``.

    Raises ``WeightsError`` when the file cannot be read or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights} cannot be read: {error}.") from error
    network = _draw(architecture, classes, image_size(architecture, state), seed=0)
    _fill(network, state, weights)
    return network.eval()


def image_size(architecture: str, state: State) -> int | None:
    """Return the side (px) of the images that a vision transformer's weights are for.

    Position embeddings are (1, 1 + patches, width), a patch for each cell of a square grid. None
    for architectures that take any size.
    """
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if not takes_image_size(architecture) or positions is None or patches is None:
        return None
    patch = int(architecture.rpartition("_")[2])  # vit_b_16
    if positions.ndim != 3 or patches.shape[2:] != (patch, patch):
        return None  # another architecture's, which is told by its shapes
    return isqrt(max(positions.shape[1] - 1, 1)) * patch


def _draw(architecture: str, classes: int, size: int | None, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every GPU's dice as well, which nothing puts back
        torch.default_generator.manual_seed(seed)
        return build(architecture, classes, size)


def _fill(network: nn.Module, state: State, source: Path, except_for: tuple[str, ...] = ()) -> None:
    """Copy ``state`` over the network's own, which must lack nothing but counters of batches."""
    own = network.state_dict()
    optional = (key for key in own if key.endswith("num_batches_tracked"))
    missing = own.keys() - state.keys() - set(optional)
    missing = {key for key in missing if not is_under(key, except_for)}
    if missing:
        raise WeightsError(f"{source} lacks {len(missing)} entries, such as {min(missing)}.")
    own.update(state)
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise WeightsError(
            f"{source} does not fit {type(network).__name__}.\n{lines[-1]}"
        ) from error
