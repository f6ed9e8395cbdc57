"""The classification head, whatever the architecture calls it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tasks.errors import WeightsError
from tasks.pretrained.timm_networks import timm_heads


def find_heads(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the layers that give the class scores, mostly one.

    timm names a network's own, of which a distilled one has two. In torchvision it is the last
    ``nn.Linear`` or ``nn.Conv2d`` in the order of definition: ``fc`` (ResNet), ``classifier.6``
    (VGG), ``heads.head`` (ViT), the convolution ``classifier.1`` (SqueezeNet). The tests hold that
    against the layers that ``num_classes`` changes. Raises ``WeightsError`` when there is none.
    """
    heads = timm_heads(network)
    if heads is None:
        heads = _scoring_layers(network)[-1:]
    if not heads:
        raise WeightsError(
            f"{type(network).__name__} has no layer that could be its head.\n"
            "Set model.architecture to a network that classifies."
        )
    return heads


def _scoring_layers(network: nn.Module) -> tuple[str, ...]:
    return tuple(n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))


def is_under(name: str, parents: Iterable[str]) -> bool:
    """Tell whether a parameter or module is one of ``parents`` or inside one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)
