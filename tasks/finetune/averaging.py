"""Means of weights: of a run's steps (EMA), of before and after (WiSE-FT), of runs (soup)."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tasks.evaluate.score import Scores
from tasks.finetune.chosen import State, copied

log = logging.getLogger(__name__)

Validate = Callable[[nn.Module], Scores]

SHARES = tuple(tenth / 10 for tenth in range(11))  # what ``share="search"`` tries


class Ema:
    """An exponential moving average of weights and buffers (Polyak & Juditsky 1992).

    The average starts as the network is, and update t = 1, 2, … makes it d·average + (1 - d)·now
    with d = min(decay, (1 + t) / (10 + t)). That warm-up is TensorFlow's
    (``tf.train.ExponentialMovingAverage(num_updates=t)``): without it a decay of 0.99 is still for
    more than a third the start after 100 steps, which is all that a short run has. Batch norm's
    statistics are averaged as well, counters are copied, and a frozen parameter stays as it is, to
    the bit.

    ``network`` is the averaged one, in evaluation mode, to validate and to save. Give the module
    itself to both methods, not what ``torch.compile`` or DDP put around it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay
        self._updates = 0
        self._floats, self._counters = _tensors(self.network)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Average the weights of ``network`` in; call it after every optimiser step.

        A few kernels for the whole network, and the device is not waited for.
        ``swa_utils.AveragedModel`` would do so: it keeps count in a tensor, which a GPU's update
        copies over each time. Hence its kernel alone is used.
        """
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        floats, counters = _tensors(network)
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # so in torch
        average(self._floats, floats, None)
        if counters:
            torch._foreach_copy_(self._counters, counters)

    def as_tree(self) -> dict[str, Any]:
        """Return all of it, for a checkpoint."""
        return {"network": self.network.state_dict(), "updates": self._updates}

    def restore(self, tree: dict[str, Any]) -> None:
        """Be as the one that ``as_tree`` was asked of."""
        self.network.load_state_dict(tree["network"])
        self._updates = tree["updates"]


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return parameters and buffers: those that can be averaged, and the integer ones."""
    every = [t.detach() for t in itertools.chain(network.parameters(), network.buffers())]
    return [t for t in every if t.is_floating_point()], [
        t for t in every if not t.is_floating_point()
    ]


def interpolate(start: State, end: State, share: float) -> State:
    """Return (1 - share)·start + share·end.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", eq. 1. Both have the same keys
    and shapes. Integer buffers are those of ``end``. A share of 0 or 1
    gives a copy of ``start`` or ``end``, to the bit.
    """
    if share in (0, 1):
        return {key: value.clone() for key, value in (end if share else start).items()}
    return {
        key: value.lerp(end[key], share) if value.is_floating_point() else end[key].clone()
        for key, value in start.items()
    }


@dataclass(frozen=True)
class WiseFt:
    """The mean that was chosen, and every (share, validation accuracy) that was tried."""

    share: float
    state: State
    tried: tuple[tuple[float, float], ...]


def wise_ft(
    network: nn.Module,
    start: State,
    end: State,
    share: float | Literal["search"],
    validate: Validate,
) -> WiseFt:
    """Load into ``network`` the mean of the weights before and after fine-tuning.

    WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3): between
    the two lie weights that are no worse on the new data, and better on shifted data. ``search``
    tries the shares 0, 0.1, … 1 on the validation split and takes the highest accuracy, then the
    lowest log-loss, then the largest share. ``validate`` may first ``recalibrate`` the network: the
    state is taken after it.
    """
    tried: list[tuple[float, float]] = []
    state: State = {}
    best = (-math.inf, -math.inf, -math.inf)
    for one in SHARES if share == "search" else (share,):
        scores = _scored(network, interpolate(start, end, one), validate)
        tried.append((one, scores.accuracy))
        log.info("WiSE-FT share %g: validation accuracy %.4f", *tried[-1])
        rank = (scores.accuracy, -scores.log_loss, one)
        if rank > best:
            best, state = rank, copied(network.state_dict())
    network.load_state_dict(state)
    return WiseFt(best[2], state, tuple(tried))


@dataclass(frozen=True)
class Soup:
    """The averaged weights, which runs are in them, and their validation accuracy."""

    state: State
    members: tuple[int, ...]  # positions in the list that was given, best first
    accuracy: float


def greedy_soup(
    network: nn.Module,
    states: list[State],
    validate: Validate,
    prepare: Callable[[nn.Module], None],
) -> Soup:
    """Load into ``network`` the mean of those runs that help it on the validation split.

    Wortsman et al. 2022, "Model soups", recipe 1: from the best run down, a run stays in the mean
    if the accuracy does not fall. ``prepare`` is called on every mean before it is scored, to
    ``recalibrate`` its batch norm; a run on its own is scored as it is.
    """
    alone = [_scored(network, state, validate) for state in states]
    order = sorted(range(len(states)), key=lambda i: (-alone[i].accuracy, alone[i].log_loss))
    members, accuracy = order[:1], alone[order[0]].accuracy
    best = {key: value.clone() for key, value in states[order[0]].items()}
    for candidate in order[1:]:
        trial = [*members, candidate]
        mean = _mean([states[i] for i in trial])
        scores = _scored(network, mean, validate, prepare)
        kept = scores.accuracy >= accuracy
        log.info(
            "soup: run %d %s: validation accuracy %.4f with it, %.4f without",
            *(candidate + 1, "stays" if kept else "is left out", scores.accuracy, accuracy),
        )
        if kept:
            members, accuracy, best = trial, scores.accuracy, copied(network.state_dict())
    network.load_state_dict(best)
    return Soup(best, tuple(members), accuracy)


def _scored(
    network: nn.Module,
    state: State,
    validate: Validate,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Scores:
    network.load_state_dict(state)
    if prepare is not None:
        prepare(network)
    return validate(network)


def _mean(states: list[State]) -> State:
    """Return the plain mean; integer buffers are those of the first."""
    return {
        key: torch.stack([state[key] for state in states]).mean(0)
        if value.is_floating_point()
        else value.clone()
        for key, value in states[0].items()
    }


@torch.no_grad()
def recalibrate(
    network: nn.Module, batches: Iterable[Tensor], frozen_modules: Collection[nn.Module] = ()
) -> None:
    """Compute the batch norm statistics of averaged weights anew over training ``batches``.

    Izmailov et al. 2018, "Averaging weights leads to wider optima", section 3.2: a mean of weights
    has other activations than those the statistics were counted over. ``batches`` are images as
    the network takes them, (b, 3, h, w), on its device. Batch norm in ``frozen_modules`` keeps its
    statistics and goes on using them. ``swa_utils.update_bn`` would overwrite those, hence this;
    the result is the same: the mean over the batches. Without such layers nothing is read.
    Momentum and each module's training mode are left as they were.
    """
    frozen = {id(part) for module in frozen_modules for part in module.modules()}
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and id(module) not in frozen
    ]
    if not norms:
        return
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()  # dropout would add noise that is not there later
        for norm in norms:
            norm.train()
        with momenta_kept(norms):
            for count, images_bchw in enumerate(batches, start=1):
                for norm in norms:
                    # momentum=None means the same, but waits for the device
                    norm.momentum = 1 / count
                network(images_bchw)
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def momenta_kept(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Leave the momentum of each of ``norms`` as it was, whatever the block makes of it."""
    momenta = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
