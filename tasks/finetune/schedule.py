"""The learning rate over the steps of a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from tasks.recipe import TrainingConfig

# From the share of the way behind to the share of the rate left
_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
}


def build_schedule(
    optimizer: Optimizer, recipe: TrainingConfig, steps: int, steps_an_epoch: int
) -> LRScheduler:
    """Return a schedule over ``steps`` optimiser steps; call its ``step`` after each of them.

    ``constant``; ``linear``: down to 0; ``cosine``: down to 0 (Loshchilov & Hutter 2017, without
    restarts). These three first rise linearly over ``recipe.warmup_epochs`` (Goyal et al. 2017,
    section 2.2): step s of w, from 0, has the share (s + 1) / (w + 1) of the rate. ``one_cycle``:
    up over the first 30% and down to about 0 (Smith & Topin 2018). Every group of the optimiser
    keeps its own rate, scaled alike.
    """
    if recipe.schedule == "one_cycle":
        # the momentum is the user's: by default torch would cycle it as well
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=max(steps, 2),
            cycle_momentum=False,
        )
    shape = _SHAPES[recipe.schedule]
    warm = round(recipe.warmup_epochs * steps_an_epoch)
    rest = max(steps - warm, 1)

    def share_of_the_rate(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return shape(min((step - warm) / rest, 1.0))

    return LambdaLR(optimizer, share_of_the_rate)
