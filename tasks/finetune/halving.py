"""A batch that memory does not suffice for goes through the network in parts, as one update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from tasks.errors import ResourceError
from tasks.finetune.at_once import AtOnce
from tasks.finetune.averaging import momenta_kept
from tasks.finetune.compiling import Forward, Uncompilable
from tasks.finetune.device import free_memory, is_out_of_memory
from tasks.finetune.randomness import read_torchs, set_torchs
from tasks.finetune.ranks import world


@dataclass(frozen=True)
class Part:
    """Some of a batch's images, augmented and mixed with all of them."""

    inputs: Tensor
    targets: Tensor
    hints: Tensor | None
    labels: Tensor
    weight: float = 1.0  # of its mean loss in the batch's
    last: bool = True

    def split(self, n: int) -> list[Part]:
        """Return it in ``n`` parts of the same size, or of one image more."""
        if n == 1:
            return [self]
        inputs, targets, labels = (
            tensor.tensor_split(n) for tensor in (self.inputs, self.targets, self.labels)
        )
        hints = [None] * n if self.hints is None else self.hints.tensor_split(n)
        weights = [len(part) / len(self.inputs) for part in inputs]
        lasts = [False] * (n - 1) + [True]
        return list(map(Part, inputs, targets, hints, labels, weights, lasts))


# what is learnt of a part: summed loss and number right, on the device
Learn = Callable[[Part], tuple[Tensor, Tensor]]


class Halving:
    """Begins a batch again in smaller parts where memory runs out in the network.

    The batch's loss is the mean over all its images whatever the parts, so that their gradients add
    up to its own. A part in which memory ran out leaves nothing behind: gradients, buffers (batch
    norm's statistics) and torch's random numbers are put back. ``at_once`` keeps what was found,
    for all trainings of a job. Several processes are left alone: they exchange within the step, and
    would wait for one that begins again.

    Batch norm in training mode takes mean and variance from each part alone, which is another
    update than the whole batch's ("ghost batch norm" of Hoffer et al. 2017, "Train longer,
    generalize better", section 4). So its running statistics are let move by a batch's parts
    together as by one, and a part has two images where its batch has.
    """

    def __init__(
        self,
        at_once: AtOnce,
        forward: Forward,
        optimizer: Optimizer,
        device: torch.device,
        note: Callable[[str], None],
    ) -> None:
        self._at_once, self._forward, self._optimizer = at_once, forward, optimizer
        self._device, self._note = device, note
        self._mark: _Mark | None = None  # made when the first step has set the modes
        self._norms: list[_BatchNorm] = []
        if at_once.images is not None:
            forward.stay_plain()

    def learn(self, batch: Part, learn: Learn) -> tuple[Tensor, Tensor]:
        """Return what is learnt of a batch; its gradients are added to those there are.

        Raises ``ResourceError`` where the smallest parts do not fit either.
        """
        if world() > 1:
            return learn(batch)
        mark, images = self._marked(), len(batch.inputs)
        first, earlier = self._largest(images), self._taken_aside()
        while True:
            try:
                learnt = self._each(batch.split(self._parts(images)), learn)
                break
            except Uncompilable:  # which it has told
                pass
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._go_smaller(images, error)
            # the error is gone here, and with it the activations that its frames held
            self._optimizer.zero_grad(set_to_none=True)
            mark.put_back()
            free_memory(self._device)
        _add(earlier)
        if self._largest(images) < first:
            self._tell(first, self._largest(images))
        return learnt

    def gives_up_compiled(self) -> bool:
        """Go on without what is compiled, if anything is, for want of memory, and say so."""
        given_up = world() == 1 and self._forward.stay_plain()
        if given_up:
            self._note("not compiled from here on: memory ran out")
        return given_up

    def _marked(self) -> _Mark:
        """Return what a part may change, as it is now."""
        if self._mark is None:
            self._mark = _Mark(self._forward.model, self._device)
            self._norms = [
                module
                for module in self._forward.model.modules()
                if isinstance(module, _BatchNorm) and module.training
            ]
        self._mark.set()
        return self._mark

    def _parts(self, images: int) -> int:
        """Return into how many parts a batch is split."""
        if self._at_once.images is None:
            return 1
        fewest = 2 if self._norms else 1
        return max(1, min(-(-images // self._at_once.images), images // fewest))

    def _largest(self, images: int) -> int:
        return -(-images // self._parts(images))

    def _taken_aside(self) -> list[tuple[Tensor, Tensor]]:
        """Take the gradients of the step's batches before this one off their weights.

        A part that fails may have added to some. So this batch's are gathered by themselves, in
        memory that its activations have left by then, and are added when all of it is through.
        """
        weights = [p for group in self._optimizer.param_groups for p in group["params"]]
        earlier = [(p, p.grad) for p in weights if p.grad is not None]
        for p, _ in earlier:
            p.grad = None
        return earlier

    def _each(self, parts: list[Part], learn: Learn) -> tuple[Tensor, Tensor]:
        if len(parts) == 1:
            return learn(parts[0])
        found, after = list[tuple[Tensor, Tensor]](), sum(len(part.inputs) for part in parts)
        images = after
        for part in parts:
            after -= len(part.inputs)
            with _counted(self._norms, len(part.inputs), after, images):
                found.append(learn(part))
        losses, right = zip(*found, strict=True)
        return torch.stack(losses).sum(), torch.stack(right).sum()

    def _go_smaller(self, images: int, error: Exception) -> None:
        """Give up what is compiled, whose graphs keep memory of their own; then halve."""
        if self.gives_up_compiled():
            return
        parts = self._parts(images)
        self._at_once.images = -(-images // (2 * parts))
        if self._parts(images) == parts:
            raise ResourceError(
                f"Memory ran out with {-(-images // parts)} image(s) in the network at once, and "
                "fewer cannot be.\nTake a smaller model.architecture or preprocess.crop, or freeze "
                "a part of the network."
            ) from error

    def _tell(self, first: int, now: int) -> None:
        update = "their gradients add up to the same update"
        if self._norms:
            update = "their gradients add up to one update, with batch norm over each part alone"
        self._note(
            f"memory ran out with {first} images at once: from here on a batch goes through the "
            f"network in parts of at most {now}; {update}"
        )


def _add(earlier: list[tuple[Tensor, Tensor]]) -> None:
    """Put gradients back that were taken aside, and add those that have come since."""
    both = [(gradient, p.grad) for p, gradient in earlier if p.grad is not None]
    if both:
        torch._foreach_add_([before for before, _ in both], [since for _, since in both])
    for p, gradient in earlier:
        p.grad = gradient


@contextmanager
def _counted(norms: list[_BatchNorm], part: int, after: int, images: int) -> Iterator[None]:
    """Let batch norm count a part as its share of one batch; ``after`` images are still to come.

    With momentum m, a statistic r and parts i of b images that have b_i each and the statistics
    x_i, m·b_i / (b - m·(b_{i+1} + …)) makes of r, in turn, (1 - m)·r + m·Σ b_i·x_i / b.
    """
    with momenta_kept(norms):
        for norm in norms:
            if norm.momentum is not None:  # None is a plain mean over all there were
                norm.momentum = norm.momentum * part / (images - norm.momentum * after)
        yield


class _Mark:
    """What a pass through a model changes besides gradients: buffers, and torch's random numbers.

    A copy before every step: two or three kernels, for which the device is not waited for.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        live: dict[torch.dtype, list[Tensor]] = {}
        for module in model.modules():
            for buffer in module.buffers(recurse=False) if module.training else ():
                live.setdefault(buffer.dtype, []).append(buffer)
        self._live = list(live.values())
        self._kept = [[torch.empty_like(buffer) for buffer in group] for group in self._live]
        self._device = device

    def set(self) -> None:
        """Remember how all of it is now."""
        self._random = read_torchs(self._device)
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def put_back(self) -> None:
        """Make all of it as it was when it was remembered."""
        set_torchs(self._random, self._device)
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)
