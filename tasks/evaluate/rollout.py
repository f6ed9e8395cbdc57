"""Attention roll-out: how much of each patch the tokens that a transformer decides by hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tasks.evaluate.feature_maps import hooked

_SUMS = 1e-3  # how far from 1 the weights of one token may sum


def rollout(attention: Sequence[Tensor]) -> Tensor:
    """Return (b, l, l): row i is what token i at the end holds of the tokens at the beginning.

    Takes the attention weights (b, l, l) of each block in order, their heads' mean. A block's skip
    connection counts as much as its attention: A = 0.5 W + 0.5 I, and the result is the product of
    all A, the last block's first (Abnar & Zuidema 2020, "Quantifying Attention Flow in
    Transformers", section 3).
    """
    identity_ll = torch.eye(attention[0].shape[-1]).to(attention[0])
    joint_bll = identity_ll.expand_as(attention[0])
    for weights_bll in attention:
        joint_bll = (0.5 * weights_bll + 0.5 * identity_ll) @ joint_bll
    return joint_bll


def reach_all(attention: Sequence[Tensor], tokens: int) -> bool:
    """Tell whether every block attends from all tokens to all, by weights that sum to 1.

    Of one image, whose ``tokens`` are counted at the network's end. Windows, pooled tokens and
    attention to a class token alone do not; nor does a network without any block.
    """
    shape = (1, tokens, tokens)
    return bool(attention) and all(
        weights.shape == shape and bool(((weights.sum(-1) - 1).abs() < _SUMS).all())
        for weights in attention
    )


@contextmanager
def attention_weights(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list that a forward pass fills with each block's attention weights, heads' mean.

    Of torch's ``nn.MultiheadAttention``, which is asked for its weights, and of layers that hand
    them to a dropout called ``attn_drop``, as all of timm's do when attention is not fused. When
    the block ends, the network is as it was.
    """
    kept: list[Tensor] = []
    layers: Iterable[Any] = network.modules()
    fused = [layer for layer in layers if getattr(layer, "fused_attn", False) is True]

    def keep(layer: nn.Module, given: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401 - torch
        weights = result[1] if isinstance(layer, nn.MultiheadAttention) else result
        kept.append(weights.detach().mean(dim=1) if weights.ndim == 4 else weights.detach())

    try:
        for layer in fused:
            layer.fused_attn = False
        with hooked(lambda handles: _listen(network, keep, handles)):
            yield kept
    finally:
        for layer in fused:
            layer.fused_attn = True


def _listen(network: nn.Module, keep: Callable[..., None], handles: list[RemovableHandle]) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.MultiheadAttention):
            handles.append(layer.register_forward_pre_hook(_ask_for_weights, with_kwargs=True))
            handles.append(layer.register_forward_hook(keep))
        elif isinstance(dropout := getattr(layer, "attn_drop", None), nn.Module):
            handles.append(dropout.register_forward_hook(keep))


def _ask_for_weights(
    layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return given, named | {"need_weights": True, "average_attn_weights": True}
