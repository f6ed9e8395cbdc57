"""The order in which a network's parts run, which is not always that of their definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.pretrained.heads import is_under


def by_turns(network: nn.Module, parts: Sequence[str], images_bchw: Tensor) -> list[list[str]]:
    """Sort parts by when they first run; those that run by turns come as one group.

    ``parts`` are dotted names of modules or bare parameters, in the order of definition. One that
    does not run itself, as no bare parameter does, goes with the next that does. The forward pass
    is made without gradients, on ``images_bchw``'s device.
    """
    ran = _runs(network, parts, images_bchw)
    first: dict[str, int] = {}
    for at, name in enumerate(ran):
        first.setdefault(name, at)
    last = {name: at for at, name in enumerate(ran)}
    at = len(ran) - 1
    for name in reversed(parts):
        at = first.setdefault(name, at)
        last.setdefault(name, at)
    groups: list[list[str]] = []
    end = -1
    for name in sorted(parts, key=lambda name: first[name]):
        if first[name] > end:
            groups.append([])
        groups[-1].append(name)
        end = max(end, last[name])
    return groups


def _runs(network: nn.Module, parts: Sequence[str], images_bchw: Tensor) -> list[str]:
    """Return the part of every module with parameters of its own, as the forward pass meets it."""
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, part=part: ran.append(part))
        for name, module in network.named_modules()
        for part in parts
        if is_under(name, [part]) and any(True for _ in module.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            network(images_bchw)
    finally:
        for hook in hooks:
            hook.remove()
    return ran
