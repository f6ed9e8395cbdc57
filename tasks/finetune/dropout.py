"""Dropout on a CPU with an eighth of the random numbers, and the same distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 256  # of a byte


class ByteDropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) that draws a byte of a random number for each value.

    torch draws one number for each value, on all but Intel's processors one after another whatever
    the threads, which on a map of features takes longer than the convolution behind it. Exact where
    ``256 * p`` is whole.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero each value with probability ``p`` in training and scale the others by 1 / (1 - p).

        Drawn from torch's global generator, in the order in which the values lie in memory.
        """
        if not self.training:
            return input
        kept = _kept(input, round(self.p * _LEVELS)).to(input.dtype)
        return input * kept.mul_(1 / (1 - self.p))


def _kept(like: Tensor, dropped: int) -> Tensor:
    """Return for each value whether its byte is at least ``dropped``."""
    bytes_of = torch.empty_like(like, dtype=torch.uint8)  # dense, and in the same memory order
    numbers = torch.empty(-(-like.numel() // 8), dtype=torch.int64)
    drawn = numbers.random_(-(2**63), None).view(torch.uint8)[: like.numel()]
    bytes_of.as_strided((like.numel(),), (1,)).copy_(drawn)
    return bytes_of >= dropped


def with_byte_dropout(network: nn.Module) -> None:
    """Let the network's dropout layers draw bytes, where that changes no probability."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Dropout and _is_exact(module):
            quick = ByteDropout(module.p).train(module.training)
            network.set_submodule(name, quick)


def _is_exact(layer: nn.Dropout) -> bool:
    return not layer.inplace and 0 < layer.p < 1 and (layer.p * _LEVELS).is_integer()
