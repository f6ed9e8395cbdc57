"""What would be refused when a training begins, found without beginning one."""

from __future__ import annotations

from tasks.config import RunConfig
from tasks.finetune.distill import check_teacher
from tasks.finetune.lora import add_lora
from tasks.finetune.optimizer import build_optimizer
from tasks.finetune.phases import check_warm_up, plan_phases
from tasks.finetune.strategy import FrozenPart
from tasks.pretrained.network import build_network
from tasks.values import Backbone, RegisteredModel


def rehearse(
    config: RunConfig,
    backbone: Backbone,
    classes: tuple[str, ...],
    multi_label: bool,
    teacher: RegisteredModel | None,
) -> None:
    """Plan the phases, fit adapters and make the optimiser of the last phase; train nothing.

    Raises ``ConfigError`` for whatever in strategy and recipe does not fit the network, the number
    of epochs or the teacher.
    """
    recipe, strategy = config.training, config.strategy
    phases = plan_phases(strategy, backbone, recipe.epochs)
    check_warm_up(phases, recipe)
    if teacher is not None:
        check_teacher(teacher, classes, multi_label)
    network = build_network(backbone, len(classes), config.seed)
    if strategy.lora_rank is not None:
        network = add_lora(network, backbone.heads, strategy.lora_rank, strategy.lora_alpha)
    FrozenPart(network).hold(phases[-1].frozen)
    build_optimizer(network, recipe, backbone, strategy)
