"""The optimiser and the learning-rate schedule that a recipe names, all of them torch's own."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from tasks.config import TrainingConfig


def build_optimizer(network: nn.Module, recipe: TrainingConfig, head: str) -> Optimizer:
    """Return SGD with momentum, or AdamW (Loshchilov & Hutter 2019), over what is not frozen.

    The layer named ``head`` starts from random weights and so may have a learning rate of its own,
    higher than the pretrained part's (Howard & Ruder 2018, section 3.2).
    """
    trainable = _groups(network, recipe, head)
    if recipe.optimizer == "adamw":
        return AdamW(trainable, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return SGD(
        trainable,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def _groups(network: nn.Module, recipe: TrainingConfig, head: str) -> list[dict[str, Any]]:
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    in_head = [p for name, p in named if name.startswith(f"{head}.")]
    body = [p for name, p in named if not name.startswith(f"{head}.")]
    head_rate = recipe.head_learning_rate or recipe.learning_rate
    groups: list[dict[str, Any]] = [{"params": body}, {"params": in_head, "lr": head_rate}]
    return [group for group in groups if group["params"]]


def build_schedule(optimizer: Optimizer, recipe: TrainingConfig, steps: int) -> LRScheduler:
    """Return a schedule over ``steps`` optimiser steps.

    ``cosine``: from the learning rate to 0 (Loshchilov & Hutter 2017, without restarts).
    ``one_cycle``: up over the first 30% and down to about 0 (Smith & Topin 2018).
    """
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if recipe.schedule == "one_cycle":
        # the momentum is the user's: by default torch would cycle it as well
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=max(steps, 2),
            cycle_momentum=False,
        )
    return ConstantLR(optimizer, factor=1.0, total_iters=0)
