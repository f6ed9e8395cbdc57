"""Whether a recipe's devices and nodes are here, found before anything is downloaded for it."""

from __future__ import annotations

import torch

from tasks.errors import ConfigError, ResourceError
from tasks.finetune.device import pick_device
from tasks.finetune.meeting import Place, check_nodes
from tasks.recipe import TrainingConfig


def check_machine(recipe: TrainingConfig) -> Place | None:
    """Return where ``training.nodes`` machines meet, None for this one alone.

    Raises ``ConfigError`` where the command was started for another number of machines, and for
    processes that would share Apple's GPU; ``ResourceError`` for a device, or so many, that this
    machine has not.
    """
    place = check_nodes(recipe.nodes)
    if recipe.devices > 1 and pick_device(recipe.device).type == "mps":
        raise ConfigError(
            f"training.devices={recipe.devices}, but processes cannot share Apple's GPU.\n"
            "Set training.device=cpu, or training.devices=1."
        )
    check_gpus(recipe)
    return place


def check_gpus(recipe: TrainingConfig) -> None:
    """Raise ``ResourceError`` when this machine has fewer GPUs than ``training.devices``.

    And, as ``pick_device``, when it has no such device at all.
    """
    wanted = recipe.devices
    if pick_device(recipe.device).type == "cuda" and torch.cuda.device_count() < wanted:
        raise ResourceError(
            f"training.devices={wanted}, and this machine has {torch.cuda.device_count()} GPUs.\n"
            f"Set training.devices={torch.cuda.device_count()} or less."
        )
