"""A network without its numbers: shapes, names and a forward pass that costs no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tasks.errors import WeightsError
from tasks.pretrained.architectures import build
from tasks.pretrained.timm_networks import is_timm


class _EmptyOnMeta(TorchFunctionMode):
    """Makes ``torch.empty``, where layers get their weights, allocate nothing.

    ``torch.device("meta")`` would also catch the arithmetic by which RegNet finds its widths.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  (the protocol of torch)
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def outline(architecture: str, classes: int, image_size: int | None = None) -> nn.Module:
    """Build ``architectures.build``'s network on the meta device, in evaluation mode."""
    # timm's hybrids run themselves while they are built, and so must be of one device
    with torch.device("meta") if is_timm(architecture) else _EmptyOnMeta():
        network = build(architecture, classes, image_size)
    return network.to("meta").eval()


def check_size(architecture: str, crop: int, image_size: int | None) -> None:
    """Raise ``WeightsError`` when the network cannot take images of ``crop`` x ``crop`` px.

    ``image_size`` is what a vision transformer's weights are for. The forward pass itself decides,
    on the meta device.
    """
    try:
        with torch.no_grad():
            outline(architecture, 1, image_size)(torch.empty(2, 3, crop, crop, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        known = image_size is not None and image_size != crop
        advice = f"{image_size}, as the weights are" if known else "the size it was made for"
        reason = str(error).splitlines()[0].rstrip(" .!") if str(error) else type(error).__name__
        raise WeightsError(
            f"{architecture} cannot take images of {crop} px: {reason}.\n"
            f"Set preprocess.crop to {advice}."
        ) from error
