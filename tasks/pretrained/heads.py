"""The classification head, whatever the architecture calls it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from tasks.errors import WeightsError


def find_heads(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the layers that give the class scores, mostly one.

    timm's networks name theirs: a distilled one has two (Touvron et al. 2021, arXiv 2012.12877). In
    torchvision it is the last ``nn.Linear`` or ``nn.Conv2d`` in the order of definition: ``fc``
    (ResNet), ``classifier.6`` (VGG), ``heads.head`` (ViT), the convolution ``classifier.1``
    (SqueezeNet). The tests hold both against the layers that ``num_classes`` changes. Raises
    ``WeightsError`` when there is none, as in the encoders that timm took from language models.
    """
    facts: dict[str, Any] | None = getattr(network, "pretrained_cfg", None)
    heads = _scoring_layer(network) if facts is None else _timm_heads(network, facts)
    if not heads:
        raise WeightsError(
            f"{type(network).__name__} has no layer that could be its head.\n"
            "Set model.architecture to a network that classifies."
        )
    return heads


def _timm_heads(network: Any, facts: dict[str, Any]) -> tuple[str, ...]:  # noqa: ANN401 - timm's
    """Return the layers that ``pretrained_cfg`` and ``get_classifier()`` name between them.

    Either alone leaves some out: the first LeViT-384-s8's second head, the other VOLO's.
    """
    modules = dict(network.named_modules())
    named = facts.get("classifier") or ()
    heads = [n for n in ((named,) if isinstance(named, str) else named) if n in modules]
    if hasattr(network, "get_classifier"):
        found = network.get_classifier()
        classifiers = found if isinstance(found, tuple | list) else (found,)
        for name in (n for n, m in modules.items() if any(m is one for one in classifiers)):
            if not any(is_under(head, [name]) for head in heads):
                heads += [f"{name}.{n}".rstrip(".") for n in _scoring_layer(modules[name])]
    return tuple(heads)


def _scoring_layer(module: nn.Module) -> tuple[str, ...]:
    layers = [n for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return tuple(layers[-1:])


def is_under(name: str, parents: Iterable[str]) -> bool:
    """Tell whether a parameter or module is one of ``parents`` or inside one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)
