"""Cut a network into stages from the input on, so that the first few can be frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from tasks.pretrained.heads import is_under
from tasks.pretrained.run_order import by_turns

# A module with fewer blocks inside than this is a chain around the backbone (``features``,
# ``encoder.layers``, RegNet's ``trunk_output``): it is opened, and what it holds is staged.
_FEW = 3


class _Part(NamedTuple):
    name: str  # dotted name of a module or of a parameter
    opens: bool  # a layer with weights opens a stage; a norm or a bare parameter joins one


def find_stages(
    network: nn.Module, *heads: str, images_bchw: Tensor | None = None
) -> tuple[tuple[str, ...], ...]:
    """Return the stages, input first, as dotted names of modules or bare parameters.

    Together they hold every parameter outside ``heads`` exactly once. A stage is a block as the
    architecture groups them, or a convolution or linear layer, with the norms that follow it:
    ``(conv1, bn1), (layer1,), …`` for ResNet, the items of ``features`` for VGG, ``(class_token,
    conv_proj, encoder.pos_embedding)`` and then the encoder's layers for a vision transformer.

    Their order is that of definition, which in torchvision is that of the forward pass. In timm it
    is not always: there ``images_bchw`` is sent through, and parts that run by turns make one
    stage, lists of blocks being opened where else hardly a stage would be left.
    """
    parts = list(_parts(network, "", heads))
    if images_bchw is None:
        return _joined([[part] for part in parts])
    stages = _joined(_turns(network, parts, images_bchw))
    if len(stages) < _FEW:
        parts = list(_parts(network, "", heads, open_lists=True))
        stages = _joined(_turns(network, parts, images_bchw))
    return stages


def _turns(network: nn.Module, parts: list[_Part], images_bchw: Tensor) -> list[list[_Part]]:
    named = {part.name: part for part in parts}
    groups = by_turns(network, list(named), images_bchw)
    return [[named[name] for name in group] for group in groups]


def _joined(groups: list[list[_Part]]) -> tuple[tuple[str, ...], ...]:
    stages: list[list[str]] = [[]]
    opened = False
    for group in groups:
        opens = any(part.opens for part in group)
        if opens and opened:
            stages.append([])
        opened = opened or opens
        stages[-1] += [part.name for part in group]
    return tuple(tuple(stage) for stage in stages if stage)


def _parts(
    module: nn.Module, prefix: str, heads: tuple[str, ...], open_lists: bool = False
) -> Iterator[_Part]:
    """Walk in order of definition."""
    for name, _ in module.named_parameters(recurse=False):
        yield _Part(prefix + name, opens=False)
    few = sum(_is_block(m) and not _holds(prefix + n, heads) for n, m in _children(module))
    for name, child in _children(module):
        path = prefix + name
        if path in heads:
            continue
        is_chain = few < _FEW or (open_lists and isinstance(child, nn.ModuleList))
        if _holds(path, heads) or (_is_block(child) and is_chain):
            yield from _parts(child, f"{path}.", heads, open_lists)
        else:
            yield _Part(path, opens=any(p.ndim > 1 for p in child.parameters()))


def _holds(path: str, heads: tuple[str, ...]) -> bool:
    return any(is_under(head, [path]) for head in heads)


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((n, m) for n, m in module.named_children() if any(True for _ in m.parameters()))


def _is_block(module: nn.Module) -> bool:
    """Tell a module that holds layers from a layer."""
    return any(True for _ in _children(module))
