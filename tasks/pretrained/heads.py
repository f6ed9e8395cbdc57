"""The classification head, whatever the architecture calls it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tasks.errors import WeightsError


def find_head(network: nn.Module) -> str:
    """Return the dotted name of the layer that gives the class scores.

    It is the last ``nn.Linear`` or ``nn.Conv2d`` in the order of definition: ``fc`` (ResNet),
    ``classifier.6`` (VGG), ``heads.head`` (ViT), the convolution ``classifier.1``
    (SqueezeNet). True of every classifier of torchvision, which the tests hold against the layer
    that ``num_classes`` changes. Raises ``WeightsError`` when there is no such layer.
    """
    layers: list[str] = [
        n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    if not layers:
        raise WeightsError(f"{type(network).__name__} has no layer that could be its head.")
    return layers[-1]


def is_under(name: str, parents: Iterable[str]) -> bool:
    """Tell whether a parameter or module is one of ``parents`` or inside one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)
