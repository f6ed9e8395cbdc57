"""A training before its first step: the pretrained network, what is frozen, and the dice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tasks.finetune.averaging import Ema
from tasks.finetune.chosen import Chosen, State, copied
from tasks.finetune.course import Course
from tasks.finetune.device import on_device
from tasks.finetune.dropout import with_byte_dropout
from tasks.finetune.lora import add_lora, frozen_by_lora, merged_state
from tasks.finetune.penalty import L2SP
from tasks.finetune.ranks import rank, world
from tasks.finetune.strategy import FrozenPart
from tasks.pretrained.network import build_network
from tasks.recipe import TrainingConfig


@dataclass
class Training:
    """A network on its way; ``recipe`` is the job's, but for a soup's own learning rates."""

    course: Course
    recipe: TrainingConfig
    network: nn.Module
    frozen: FrozenPart
    ema: Ema | None
    penalty: L2SP | None
    orders: torch.Generator  # of the images; the same in every process
    views: torch.Generator  # of augmentation and mixing
    chosen: Chosen
    parameters: int  # scalars of the network, adapters not counted
    probed: State | None = None  # the weights after the head's own phase
    trainable: int = 0  # scalars that the last phases move

    def state(self) -> State:
        """Return a copy of the weights as they would be saved now."""
        network = self.ema.network if self.ema else self.network
        if self.course.config.strategy.kind == "lora":
            return merged_state(network)
        return copied(network.state_dict())


def start_training(course: Course, recipe: TrainingConfig, seed: int) -> Training:
    """Build the network with its pretrained weights, on its device, and nothing frozen yet."""
    config, strategy = course.config, course.config.strategy
    torch.manual_seed(seed + rank())  # dropout draws from the global generator
    network = build_network(course.backbone, len(course.prepared.classes), config.seed)
    parameters = sum(p.numel() for p in network.parameters())
    always: tuple[str, ...] = ()
    if strategy.lora_rank is not None:
        heads = course.backbone.heads
        network = add_lora(network, heads, strategy.lora_rank, strategy.lora_alpha)
        always = frozen_by_lora(network, heads)
    if world() > 1:
        network = _synchronised(course, network)
    if course.device.type == "cpu" and recipe.compile != "on":  # which cannot look into it
        with_byte_dropout(network)
    network = on_device(network, course.device)
    return Training(
        course=course,
        recipe=recipe,
        network=network,
        frozen=FrozenPart(network, always),
        ema=None if strategy.ema_decay is None else Ema(network, strategy.ema_decay),
        penalty=_penalty(course, network),
        orders=torch.Generator().manual_seed(seed),
        views=torch.Generator().manual_seed(seed + rank() + 1),
        chosen=Chosen(recipe.choose),
        parameters=parameters,
    )


def _synchronised(course: Course, network: nn.Module) -> nn.Module:
    """Let batch norm count over all processes' images, as it would in one; GPUs alone can."""
    if course.device.type != "cuda":
        if any(isinstance(module, _BatchNorm) for module in network.modules()):
            course.note("batch norm counts over each process's own images: a CPU's cannot share")
        return network
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    if any(type(module).__module__.startswith("timm.") for module in network.modules()):
        from timm.layers.norm_act import convert_sync_batchnorm as convert  # keeps activations

    return convert(network)


def _penalty(course: Course, network: nn.Module) -> L2SP | None:
    strategy = course.config.strategy
    if strategy.l2_sp is None:
        return None
    decay = course.config.training.weight_decay  # which the head goes on to have
    return L2SP(network, course.backbone.heads, strategy.l2_sp, decay)
