"""What is added to the loss to hold the weights near where they started."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.pretrained.heads import is_under


class L2SP:
    """alpha/2·‖w - w⁰‖² over the pretrained weights + beta/2·‖w‖² over the new head.

    L2-SP of Li, Grandvalet & Davoine 2018 (ICML, "Explicit inductive bias for transfer learning
    with convolutional networks", section 3): where weight decay pulls to 0, this pulls to the
    pretrained weights w⁰, and only the head, which has none, to 0. Use it in place of the
    optimiser's weight decay, not with it.

    w⁰ are the weights at construction, copied on their device: construct it once the network is
    there. Of a network that is thawed bit by bit each parameter counts as soon as it trains.
    ``head`` is the new head's dotted name, or those of several.
    """

    def __init__(
        self, network: nn.Module, head: str | tuple[str, ...], alpha: float, beta: float
    ) -> None:
        heads = (head,) if isinstance(head, str) else head
        named = list(network.named_parameters())
        self._body: list[Tensor] = [p for name, p in named if not is_under(name, heads)]
        self._head: list[Tensor] = [p for name, p in named if is_under(name, heads)]
        self._start = [p.detach().clone() for p in self._body]
        self._alpha, self._beta = alpha, beta

    def __call__(self) -> Tensor:
        """Return the penalty, a scalar on the network's device, to be added to the loss.

        A few kernels for the whole network, and the device is not waited for.
        """
        pairs = [(p, w0) for p, w0 in zip(self._body, self._start, strict=True) if p.requires_grad]
        moved: list[Tensor] = []
        if pairs:
            moved += torch._foreach_sub([p for p, _ in pairs], [w0 for _, w0 in pairs])
        head = [p for p in self._head if p.requires_grad]
        return self._alpha / 2 * self._squared(moved) + self._beta / 2 * self._squared(head)

    def _squared(self, tensors: list[Tensor]) -> Tensor:
        """Return ‖·‖² over all of them together; its gradient is 0, not NaN, where they are 0."""
        if not tensors:
            return self._start[0].new_zeros(())
        return torch.stack(torch._foreach_norm(tensors)).square().sum()
