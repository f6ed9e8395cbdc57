"""Load a pretrained backbone: found, checked and proven to fit before any training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.artifacts import sha256_file
from tasks.config import ModelConfig, PreprocessConfig, RunConfig
from tasks.errors import ConfigError, WeightsError
from tasks.pretrained.architectures import takes_image_size
from tasks.pretrained.heads import find_heads, is_under
from tasks.pretrained.network import build_network, image_size
from tasks.pretrained.outline import check_size, outline
from tasks.pretrained.presets import TORCHVISION, preset, torchvision_weights
from tasks.pretrained.sources import locate
from tasks.pretrained.stages import find_stages
from tasks.pretrained.state_dict import check_fit, read_state
from tasks.pretrained.timm_networks import is_timm
from tasks.values import Backbone, InputSpec, RegisteredModel


def input_spec(
    model: ModelConfig, preprocess: PreprocessConfig, registered: RegisteredModel | None = None
) -> InputSpec:
    """Return how images are put before the network: as its weights were trained, but for overrides.

    Every field of ``preprocess`` that is not null wins. Raises ``ConfigError`` when the crop is
    larger than the resized image, ``WeightsError`` when the network cannot take that crop or a
    name is unknown.
    """
    published = preset(model, registered)
    spec = published.model_copy(update=preprocess.model_dump(exclude_none=True))
    if spec.crop > spec.resize:
        raise ConfigError(
            f"preprocess.crop {spec.crop} is larger than preprocess.resize {spec.resize}.\n"
            f"Set both; {model.architecture} has {published.crop} of {published.resize}."
        )
    check_size(model.architecture, spec.crop, _expected_size(model, registered, spec, published))
    return spec


def load_pretrained(
    config: RunConfig, classes: tuple[str, ...], registered: RegisteredModel | None, cache: Path
) -> Backbone:
    """Find, read and check the weights, and put them into the network once.

    ``classes`` are the new data's. The head is kept only in a warm start from a registered model
    with the same classes in the same order, one or several of them an image as now. Raises
    ``WeightsError`` for a file that is missing, damaged, unsafe or does not fit,
    ``TransientWeightsError`` when a download may go well later.
    """
    spec = input_spec(config.model, config.preprocess, registered)
    weights = locate(config.model, registered, cache)
    network = _outline(config.model.architecture, weights, len(classes), spec)
    heads = find_heads(network)
    backbone = Backbone(
        architecture=config.model.architecture,
        source=config.model.weights or "none",
        weights=weights,
        sha256=None if weights is None else sha256_file(weights),
        input=spec,
        head=heads[0],
        other_heads=heads[1:],
        keep_head=_knows(registered, classes, config.data.multi_label),
        stages=find_stages(network, *heads, images_bchw=_images(config.model.architecture, spec)),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )
    build_network(backbone, len(classes), config.seed)
    return backbone


def _images(architecture: str, spec: InputSpec) -> Tensor | None:
    """Return two images without numbers, where the order of the stages has to be seen."""
    if not is_timm(architecture):
        return None
    return torch.empty(2, 3, spec.crop, spec.crop, device="meta")


def _knows(registered: RegisteredModel | None, classes: tuple[str, ...], multi_label: bool) -> bool:
    if registered is None:
        return False
    return (registered.classes, registered.multi_label) == (classes, multi_label)


def _expected_size(
    model: ModelConfig, registered: RegisteredModel | None, spec: InputSpec, published: InputSpec
) -> int | None:
    """Return the image size a vision transformer is built for, as far as known without its file."""
    if is_timm(model.architecture):
        return published.crop
    if not takes_image_size(model.architecture):
        return None
    if registered is not None:
        return registered.input.crop
    if (model.weights or "").startswith(TORCHVISION):
        weights = torchvision_weights(model.weights or "", model.architecture)
        size: int = weights.meta["min_size"][0]
        return size
    return spec.crop


def _outline(architecture: str, weights: Path | None, classes: int, spec: InputSpec) -> nn.Module:
    """Return the network as its file has it, original head included, on the meta device."""
    if weights is None:
        return outline(architecture, classes, spec.crop)
    state = read_state(weights, architecture)
    size = image_size(architecture, state)
    original = _with_head_of(state, architecture, size)
    check_fit(state, original, architecture, weights)
    if size not in (None, spec.crop):
        raise WeightsError(
            f"{weights} is for images of {size} px, not {spec.crop}.\n"
            f"Set preprocess.crop={size}, and preprocess.resize to no less."
        )
    return original


def _with_head_of(state: dict[str, Tensor], architecture: str, size: int | None) -> nn.Module:
    """Outline a network whose head scores as many classes as the file's.

    timm publishes many backbones without a head (DINOv2, SigLIP): there it is taken out.
    """
    network = outline(architecture, 1, size)
    heads = find_heads(network)
    weight = state.get(f"{heads[0]}.weight")
    if weight is not None and weight.ndim > 1:
        return outline(architecture, weight.shape[0], size)
    if is_timm(architecture) and not any(is_under(key, heads) for key in state):
        for head in heads:
            network.set_submodule(head, nn.Identity())
    return network
