"""Where in an image a network finds what speaks for a class: Grad-CAM, or attention roll-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tasks.evaluate.feature_maps import Place, gradient_at, tapped, undisturbed, walk
from tasks.evaluate.rollout import attention_weights, reach_all, rollout

Method = Literal["grad-cam", "attention roll-out"]

_AT_ONCE = 8  # images: what is behind the maps is kept for the gradient


@dataclass(frozen=True)
class Way:
    """How a network is explained, and the place in it where that begins."""

    method: Method
    place: Place
    gradient: Tensor  # of one image's logit, at that place


def heat_maps(
    network: nn.Module, images_bchw: Tensor, targets: Sequence[int]
) -> tuple[Tensor, Method] | None:
    """Return float32 (b, h, w) on the CPU in 0 to 1, and the method; None where no method fits.

    ``targets`` are the logits to explain, one an image; ``images_bchw`` are normalised squares on
    the network's device. A network whose every block attends from all patches to all is explained
    by attention roll-out, which is the same for every logit; any other by Grad-CAM at the last
    place that has maps of more than one place and a gradient there. The network is run in
    evaluation mode and left as it was.
    """
    with undisturbed(network):
        way = find_way(network, images_bchw[:1], targets[0])
        if way is None:
            return None
        explain = _roll_out if way.method == "attention roll-out" else _grad_cam
        maps_b1hw = torch.cat(
            [
                explain(network, way, images_bchw[start : start + _AT_ONCE], targets[start:])
                for start in range(0, len(images_bchw), _AT_ONCE)
            ]
        )
    return _scaled(maps_b1hw, images_bchw.shape[-1], way.method), way.method


def find_way(network: nn.Module, image_bchw: Tensor, target: int) -> Way | None:
    """Choose by forward passes of one image (1, 3, h, w); no network is known by name here."""
    with attention_weights(network) as attention:
        places = walk(network, image_bchw)
    last: Place | None = None
    for place in reversed(places):
        if last is not None and place.layout.order != last.layout.order:
            continue  # between tokens, what looks like maps may be attention from each to each
        gradient = gradient_at(network, place, image_bchw, target)
        if gradient is None:
            continue  # a branch that the logit is not made of
        tokens = gradient.shape[1] if place.layout.order == "blc" else 0
        if last is None and reach_all(attention, tokens):
            return Way("attention roll-out", place, gradient)
        if place.layout.to_maps(gradient).any():
            return Way("grad-cam", place, gradient)
        if not gradient.any() and last is None:
            return None  # a head of zeros; otherwise a class token alone is read at the end
        last = place
    return None


def _grad_cam(network: nn.Module, way: Way, images_bchw: Tensor, targets: Sequence[int]) -> Tensor:
    """Return (b, 1, side, side): relu(sum over k of w_k A_k), w_k the mean gradient of map k.

    Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2; captum does the arithmetic.
    """
    from captum.attr import LayerGradCam

    wanted = [int(target) for target in targets[: len(images_bchw)]]
    with tapped(network, way.place) as tap:
        maps_b1hw: Tensor = LayerGradCam(network, tap).attribute(
            images_bchw, target=wanted, relu_attributions=True
        )
    return maps_b1hw.detach()


def _roll_out(network: nn.Module, way: Way, images_bchw: Tensor, targets: Sequence[int]) -> Tensor:
    """Return (b, 1, side, side): what the tokens that the logits are read from hold of each patch.

    Those are the tokens with a gradient at the end: a class token, or all that are averaged.
    """
    layout = way.place.layout
    with attention_weights(network) as attention, torch.no_grad():
        network(images_bchw)
    read_l = way.gradient[0].abs().sum(dim=1) > 0
    if not read_l.any():  # a head of zeros reads from all alike
        read_l = torch.ones_like(read_l)
    held_bl = rollout(attention)[:, read_l].mean(dim=1)
    return held_bl[:, layout.extra :].reshape(-1, 1, layout.side, layout.side)


def _scaled(maps_b1hw: Tensor, side: int, method: Method) -> Tensor:
    """Enlarge maps to (b, side, side) in 0 to 1, each by itself.

    Grad-CAM's 0 stays 0, no evidence, and an image without any is 0 throughout; attention never is
    0, so that the least patch is taken for it.
    """
    from captum.attr import LayerAttribution

    large_bhw = LayerAttribution.interpolate(maps_b1hw, (side, side), "bilinear")[:, 0].cpu()
    if method == "attention roll-out":
        large_bhw = large_bhw - large_bhw.amin(dim=(1, 2), keepdim=True)
    most_b11 = large_bhw.amax(dim=(1, 2), keepdim=True)
    return torch.where(most_b11 > 0, large_bhw / most_b11, 0.0)
