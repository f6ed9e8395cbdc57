"""The networks of timm (Wightman 2019, "PyTorch Image Models"), with the extra ``graft[timm]``.

This module travels inside a registered model, whose requirements name timm where it is one of
these. timm takes seconds to import, and so is imported where one of its networks is asked for.
"""

from __future__ import annotations

from types import ModuleType

from torch import nn

from tasks.errors import ConfigError

TIMM = "timm:"


def is_timm(architecture: str) -> bool:
    """Tell whether a network is named ``timm:NAME``."""
    return architecture.startswith(TIMM)


def timm_library() -> ModuleType:
    """Import timm; raises ``ConfigError`` where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "Architectures and weights named timm:… need the package timm.\n"
            "Install it: uv sync --extra timm"
        ) from error
    library: ModuleType = timm
    return library


def timm_names() -> list[str]:
    """Return every network of timm as ``timm:NAME``; raises as ``timm_library``."""
    return [f"{TIMM}{name}" for name in timm_library().list_models()]


def build_timm(architecture: str, classes: int) -> nn.Module:
    """Build ``timm:NAME`` with random weights and logits of shape (b, ``classes``).

    A network that is for one image size is built for that of its published weights. The name must
    be known. Raises as ``timm_library``.
    """
    network: nn.Module = timm_library().create_model(
        architecture.removeprefix(TIMM), pretrained=False, num_classes=classes
    )
    return network
