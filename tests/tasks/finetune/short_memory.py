"""A small network with a layer that so many images fit into, for want of a small machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from tasks.finetune.at_once import AtOnce
from tasks.finetune.compiling import Forward
from tasks.finetune.halving import Halving, Part
from tasks.recipe import TrainingConfig

CPU = torch.device("cpu")
Learnt = tuple[Tensor, Tensor]


class Spill(torch.autograd.Function):
    """The identity, for whose gradient there is no memory."""

    @staticmethod
    def forward(ctx, maps_bchw: Tensor) -> Tensor:
        return maps_bchw.view_as(maps_bchw)

    @staticmethod
    def backward(ctx, gradient_bchw: Tensor):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Memory(nn.Module):
    """A layer that so many images fit into, forward, backward, and without gradients."""

    forward_fits = backward_fits = scored_fit = 10**9
    failures = 0

    @torch.compiler.disable
    def forward(self, maps_bchw: Tensor) -> Tensor:
        kind, n = type(self), len(maps_bchw)
        fits = kind.forward_fits if torch.is_grad_enabled() else kind.scored_fit
        if n > fits:
            kind.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if torch.is_grad_enabled() and n > kind.backward_fits:
            kind.failures += 1
            return Spill.apply(maps_bchw)
        return maps_bchw


class Plain(nn.Module):
    """A convolution, a memory, and layers behind it that have their gradients before it fails."""

    norm: type[nn.Module] = nn.Identity
    dropout = 0.0

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), self.norm(8), nn.Tanh())
        self.body = nn.Sequential(nn.Dropout(self.dropout), Memory(), nn.Conv2d(8, 12, 3, 2, 1))
        self.pool = nn.Sequential(nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(12, num_classes)

    def forward(self, images_bchw: Tensor) -> Tensor:
        logits_bk: Tensor = self.fc(self.pool(self.body(self.stem(images_bchw))))
        return logits_bk


class Normed(Plain):
    norm = nn.BatchNorm2d
    dropout = 0.5


class Bench:
    """A network in training mode, and what halves its batches."""

    def __init__(self, kind: type[Plain], fit: int | None = None, compile: str = "auto") -> None:
        torch.manual_seed(0)
        self.network = kind(3).train()
        self.at_once, self.said = AtOnce(fit), list[str]()
        self.forward = Forward(self.network, TrainingConfig(compile=compile), CPU, batches=9)
        optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self.halving = Halving(self.at_once, self.forward, optimizer, CPU, self.said.append)
        self.sizes = list[int]()

    def learn(self, n: int, before: Callable[[Part], None] = lambda _: None) -> Learnt:
        """Learn from ``n`` images; ``before`` sees each part that goes through the network."""

        def learn(part: Part) -> Learnt:
            self.sizes.append(len(part.inputs))
            before(part)
            loss = F.cross_entropy(self.forward(part.inputs), part.targets)
            torch.autograd.backward(loss * part.weight)
            return loss.detach() * len(part.inputs), torch.tensor(len(part.inputs))

        return self.halving.learn(batch_of(n), learn)


def batch_of(n: int) -> Part:
    generator = torch.Generator().manual_seed(n)
    return Part(
        torch.rand(n, 3, 8, 8, generator=generator), labels := torch.arange(n) % 3, None, labels
    )
