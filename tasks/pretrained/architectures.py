"""Every architecture that can be fine-tuned: torchvision's classifiers, timm's, and GraftTiny."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

from torch import nn
from torchvision import models

from tasks.errors import WeightsError
from tasks.pretrained.timm_networks import TIMM, build_timm, is_timm, timm_names
from tasks.pretrained.tiny import GraftTiny

TINY = "graft_tiny"

# Networks with auxiliary classifiers, and the state-dict prefixes of those. They serve training
# from scratch only, so that they are never built, and these keys of a weights file are not read.
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


@cache
def names() -> list[str]:
    """Return the names that need no extra: graft_tiny, then torchvision's in alphabetical order.

    timm's have a list of their own, ``timm_names``.
    """
    return [TINY, *models.list_models(module=models)]


def check_name(architecture: str) -> None:
    """Raise ``WeightsError`` with the nearest names when there is no such architecture.

    Raises ``ConfigError`` for one of timm's where timm is not installed.
    """
    known = timm_names() if is_timm(architecture) else names()
    if architecture in known:
        return
    name, _, tag = architecture.partition(".")
    if is_timm(architecture) and name in known:  # timm itself writes NAME.TAG
        advice = f"Set model.architecture={name} and model.weights={TIMM}{tag}."
    else:
        advice = nearest(architecture, known)
    raise WeightsError(f"There is no architecture {architecture!r}.\n{advice}")


def nearest(name: str, known: list[str]) -> str:
    """Return a sentence that offers the known names most like ``name``."""
    lowered = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    close = [lowered[one] for one in found]
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(known[:10])} …"


def takes_image_size(architecture: str) -> bool:
    """Tell whether torchvision builds the network for one image size (ViT's position embeddings).

    timm's that are for one size are built for that of their published weights.
    """
    return architecture.startswith("vit_")


def build(architecture: str, classes: int, image_size: int | None = None) -> nn.Module:
    """Build a network with random weights whose output is logits of shape (b, ``classes``).

    ``image_size`` (px) matters to torchvision's vision transformers alone; None is their default.
    The library fits the head, whatever it is called, and initialises it as the architecture's
    paper does. GoogLeNet and Inception v3 come without auxiliary classifiers, so that training
    gives plain logits, and with ``transform_input`` off: images are normalised before the network.
    Raises as ``check_name``.
    """
    check_name(architecture)
    if is_timm(architecture):
        return build_timm(architecture, classes)
    if architecture == TINY:
        return GraftTiny(num_classes=classes)
    options: dict[str, Any] = {}
    if architecture in AUXILIARY:
        options = {"aux_logits": False, "transform_input": False, "init_weights": True}
    if image_size is not None and takes_image_size(architecture):
        options["image_size"] = image_size
    network: nn.Module = models.get_model(
        architecture, weights=None, num_classes=classes, **options
    )
    return network
