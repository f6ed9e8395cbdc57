"""The last place in a network where its features still lie on a map of the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tasks.finetune.tracing import modes_kept

_MOST_EXTRA_TOKENS = 8  # of class, distillation and registers, before those of the patches


@dataclass(frozen=True)
class Layout:
    """How features lie in a tensor: maps, maps with the channels last, or a row of tokens."""

    order: Literal["bchw", "bhwc", "blc"]
    side: int  # of the map, in places
    extra: int = 0  # tokens before those of the map

    def to_maps(self, features: Tensor) -> Tensor:
        """Return features as maps (b, c, side, side), without the extra tokens."""
        if self.order == "bchw":
            return features
        if self.order == "blc":
            b, _, channels = features.shape
            features = features[:, self.extra :].reshape(b, self.side, self.side, channels)
        return features.permute(0, 3, 1, 2)

    def from_maps(self, maps_bchw: Tensor, features: Tensor) -> Tensor:
        """Return maps in this layout; extra tokens are those of ``features``."""
        if self.order == "bchw":
            return maps_bchw
        maps_bhwc = maps_bchw.permute(0, 2, 3, 1)
        if self.order == "bhwc":
            return maps_bhwc
        return torch.cat((features[:, : self.extra], maps_bhwc.flatten(1, 2)), dim=1)


def layout_of(features: Tensor) -> Layout | None:
    """Tell how features lie on a map, by their shape alone; square images give square maps.

    None where they lie on none, or on one of a single place. Where channels and places are equal
    in number, the channels are taken to come first.
    """
    shape = features.shape
    if features.ndim == 4 and shape[2] == shape[3] > 1:
        return Layout("bchw", shape[2])
    if features.ndim == 4 and shape[1] == shape[2] > 1:
        return Layout("bhwc", shape[1])
    if features.ndim == 3 and shape[2] > 1:
        side = isqrt(shape[1])
        extra = shape[1] - side**2
        if side > 1 and extra <= _MOST_EXTRA_TOKENS:
            return Layout("blc", side, extra)
    return None


@dataclass(frozen=True)
class Place:
    """What one call of one layer takes or gives in a forward pass."""

    layer: nn.Module
    call: int  # counted from 0: a network may call one ReLU in many places
    side: Literal["input", "output"]
    layout: Layout


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode, its parameters without gradients, and gradients recorded.

    Its modes and flags are restored when the block ends.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    with modes_kept(network), torch.inference_mode(False), torch.enable_grad():
        network.eval().requires_grad_(False)
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


@contextmanager
def hooked(register: Callable[[list[RemovableHandle]], None]) -> Iterator[None]:
    """Remove every hook that ``register`` put into its list when the block ends."""
    handles: list[RemovableHandle] = []
    try:
        register(handles)
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Walk:
    """Notes each place that a forward pass of one image meets, in order."""

    def __init__(self, image_bchw: Tensor) -> None:
        self.places: list[Place] = []
        self._calls: Counter[nn.Module] = Counter()
        self._latest = image_bchw
        self._none = [image_bchw]  # what is no map of features

    def entered(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        self._calls[layer] += 1
        if given:
            self._note(layer, "input", given[0])

    def left(self, layer: nn.Module, given: tuple[Any, ...], result: object) -> None:
        if isinstance(result, Tensor) and _enlarged(given, result):
            self._none.append(result)
        self._note(layer, "output", result)

    def _note(self, layer: nn.Module, side: Literal["input", "output"], features: object) -> None:
        if not isinstance(features, Tensor) or len(features) != 1:
            return
        layout = layout_of(features)
        if layout is None or any(features is one for one in self._none):
            return
        if features is self._latest:  # handed on, perhaps changed in place
            self.places.pop()
        self._latest = features
        self.places.append(Place(layer, self._calls[layer] - 1, side, layout))


def walk(network: nn.Module, image_bchw: Tensor) -> list[Place]:
    """Run one image (1, 3, h, w) and return the places that hold maps, in the order of the pass.

    The image itself is no such place, nor is a map that was only copied to more places.
    """
    seen = _Walk(image_bchw)

    def register(handles: list[RemovableHandle]) -> None:
        for layer in network.modules():
            handles.append(layer.register_forward_pre_hook(seen.entered))
            handles.append(layer.register_forward_hook(seen.left))

    with hooked(register), torch.no_grad():
        network(image_bchw)
    return seen.places


def _enlarged(given: tuple[Any, ...], result: Tensor) -> bool:
    """Tell whether a layer gives the same channels on a larger map, as VGG's pooling may."""
    before = given[0] if given else None
    if not isinstance(before, Tensor) or not before.ndim == result.ndim == 4:
        return False
    (*before_bc, height, width), (*after_bc, higher, wider) = before.shape, result.shape
    return before_bc == after_bc and higher > height and wider > width


class Tap(nn.Module):
    """Hands features on as they are; the graph of gradients begins here."""

    features: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Take and give any shape."""
        self.features = features.detach().clone().requires_grad_()
        return self.features


class _Tapping:
    """Lets what passes a place go through a tap, each time the network is run."""

    def __init__(self, place: Place, layout: Layout) -> None:
        self.tap = Tap()
        self._place, self._layout, self._calls = place, layout, 0

    def reset(self, network: nn.Module, given: tuple[Any, ...]) -> None:
        self._calls = 0

    def entered(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        here = self._place.side == "input" and self._calls == self._place.call
        self._calls += 1
        return (self._through(given[0]), *given[1:]) if here else None

    def left(self, layer: nn.Module, given: tuple[Any, ...], result: Tensor) -> Tensor | None:
        here = self._place.side == "output" and self._calls - 1 == self._place.call
        return self._through(result) if here else None

    def _through(self, features: Tensor) -> Tensor:
        maps = self.tap(self._layout.to_maps(features)).clone()  # ReLU may change them in place
        return self._layout.from_maps(maps, features)


@contextmanager
def tapped(network: nn.Module, place: Place, as_maps: bool = True) -> Iterator[Tap]:
    """Let what passes ``place`` go through a tap, as maps (b, c, h, w) or in its own shape."""
    tapping = _Tapping(place, place.layout if as_maps else Layout("bchw", place.layout.side))

    def register(handles: list[RemovableHandle]) -> None:
        handles.append(network.register_forward_pre_hook(tapping.reset))
        handles.append(place.layer.register_forward_pre_hook(tapping.entered))
        handles.append(place.layer.register_forward_hook(tapping.left))

    with hooked(register):
        yield tapping.tap


def gradient_at(network: nn.Module, place: Place, image_bchw: Tensor, target: int) -> Tensor | None:
    """Return d logit / d features of one image, of the features' own shape.

    None where the logit is not made of them. Call it within ``undisturbed``.
    """
    with tapped(network, place, as_maps=False) as tap:
        logit = network(image_bchw)[0, target]
    if not logit.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(logit, tap.features, allow_unused=True)
    return gradient
