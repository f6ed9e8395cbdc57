"""The preprocessing that weights were trained with."""

from __future__ import annotations

from torchvision import models
from torchvision.models import WeightsEnum

from tasks.config import ModelConfig
from tasks.errors import WeightsError
from tasks.pretrained.architectures import AUXILIARY, TINY, check_name, nearest
from tasks.pretrained.shipped import SCHEME, shipped_card
from tasks.pretrained.timm_networks import TIMM, is_timm
from tasks.pretrained.timm_weights import timm_input
from tasks.values import InputSpec, RegisteredModel

TORCHVISION = "torchvision:"

# Channel statistics of CIFAR-10's 50,000 training images, which GraftTiny is pretrained on.
_TINY_INPUT = InputSpec(
    resize=32,
    crop=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    interpolation="bilinear",
)
_HALF = (0.5, 0.5, 0.5)


def preset(model: ModelConfig, registered: RegisteredModel | None) -> InputSpec:
    """Return how images are put before the network when the user sets nothing.

    A registered model: as it was registered. Weights of torchvision: their own ``transforms()``,
    and of timm: their ``pretrained_cfg``. The shipped weights: their card. A file, or no weights:
    the architecture's first published recipe, ``IMAGENET1K_V1``, timm's default tag, and 32 px for
    graft_tiny. Raises ``WeightsError`` for a name that torchvision, timm or graft does not have.
    """
    check_name(model.architecture)
    source = model.weights or ""
    if registered is not None:
        return registered.input
    if source.startswith(SCHEME):
        return shipped_card(source, model.architecture).input
    if source.startswith(TORCHVISION):
        return _input_of(torchvision_weights(source, model.architecture), model.architecture)
    if source.startswith(TIMM) or is_timm(model.architecture):
        return timm_input(model.architecture, model.weights)
    if model.architecture == TINY:
        return _TINY_INPUT
    return _input_of(_first_weights(model.architecture), model.architecture)


def torchvision_weights(source: str, architecture: str) -> WeightsEnum:
    """Return the enum member that ``torchvision:NAME`` or ``torchvision:ENUM.NAME`` names.

    Raises ``WeightsError``, with the nearest names, when the architecture has none of that name.
    """
    check_name(architecture)
    if architecture == TINY or is_timm(architecture):
        own = f"{TIMM}DEFAULT" if is_timm(architecture) else "graft:tiny-cifar10"
        raise WeightsError(
            f"torchvision has no weights for {architecture}.\n"
            f"Set model.weights={own}, or another model.architecture."
        )
    members = models.get_model_weights(architecture)
    enum, _, name = source.removeprefix(TORCHVISION).rpartition(".")
    if enum not in ("", members.__name__):
        raise WeightsError(
            f"{source} is not for {architecture}, whose weights are {members.__name__}."
        )
    known = list(members.__members__)
    if name not in known:
        close = nearest(name, known)
        raise WeightsError(f"torchvision has no weights {name!r} for {architecture}.\n{close}")
    found: WeightsEnum = members[name]
    return found


def _first_weights(architecture: str) -> WeightsEnum:
    """Return IMAGENET1K_V1 or, where that was never published, the weights of smallest crop."""
    members = models.get_model_weights(architecture)
    if "IMAGENET1K_V1" in members.__members__:
        return members["IMAGENET1K_V1"]
    return min(members, key=lambda weights: _crop_of(weights))


def _crop_of(weights: WeightsEnum) -> int:
    crop: int = weights.transforms().crop_size[0]
    return crop


def _input_of(weights: WeightsEnum, architecture: str) -> InputSpec:
    """Read torchvision's ``ImageClassification`` preset.

    GoogLeNet and Inception v3 were trained on images scaled to -1…1, which torchvision reaches by
    undoing the usual normalisation inside the network (``transform_input``). That is off here, and
    a mean and deviation of 0.5 give the network the same numbers.
    """
    transforms = weights.transforms()
    halved = architecture in AUXILIARY
    return InputSpec(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        mean=_HALF if halved else tuple(transforms.mean),
        std=_HALF if halved else tuple(transforms.std),
        interpolation=transforms.interpolation.value,
    )
