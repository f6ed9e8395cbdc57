"""Whole and partial transfer: which parameters train, and what stays as it was pretrained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from tasks.errors import ConfigError
from tasks.pretrained.heads import is_under
from tasks.recipe import StrategyConfig
from tasks.values import Backbone


def frozen_names(strategy: StrategyConfig, backbone: Backbone) -> tuple[str, ...]:
    """Return the dotted names of the modules and parameters that stay as pretrained all along.

    ``partial``: the first ``frozen_stages`` stages (Yosinski et al. 2014, "How transferable are
    features in deep neural networks?"). ``linear_probe``: every stage, so that only the head
    trains (Alain & Bengio 2016). ``full``: none, whole transfer (Yosinski et al. 2014, whose
    "fine-tuned" networks these are). ``scratch``: none, as there is nothing to keep: the same
    training from random weights is the control (He, Girshick & Dollár 2019, "Rethinking ImageNet
    pre-training"). The other kinds: none all along. Raises ``ConfigError`` when there are fewer
    stages than asked for.
    """
    stages = backbone.stages
    if strategy.kind == "linear_probe":
        return every_stage(backbone)
    if strategy.frozen_stages > len(stages):
        raise ConfigError(
            f"strategy.frozen_stages={strategy.frozen_stages}, but {backbone.architecture} has "
            f"{len(stages)} stages:\n{describe_stages(backbone)}"
        )
    return first_stages(backbone, strategy.frozen_stages)


def every_stage(backbone: Backbone) -> tuple[str, ...]:
    """Return the names of everything but the head."""
    return first_stages(backbone, len(backbone.stages))


def first_stages(backbone: Backbone, n: int) -> tuple[str, ...]:
    """Return the names of what the first ``n`` stages from the input hold."""
    return tuple(name for stage in backbone.stages[:n] for name in stage)


def describe_stages(backbone: Backbone) -> str:
    """Return the stages on one line, numbered from 1: ``1 conv1+bn1, 2 layer1, …``."""
    return ", ".join(f"{i} {'+'.join(names)}" for i, names in enumerate(backbone.stages, start=1))


class FrozenPart:
    """The part of a network that is held still, in both parameters and statistics.

    ``always`` names modules that stay still whatever a phase holds: with adapters, the layers that
    they adapt. Parameters that do not train when this is made never will.
    """

    def __init__(self, network: nn.Module, always: Iterable[str] = ()) -> None:
        self._network = network
        self._always = tuple(always)
        self._can_train = {name for name, p in network.named_parameters() if p.requires_grad}
        self._still: list[nn.Module] = []
        self.hold(())

    def hold(self, names: tuple[str, ...]) -> None:
        """Hold the modules and parameters of these dotted names; let all others train."""
        for name, parameter in self._network.named_parameters():
            trains = name in self._can_train and not is_under(name, names)
            parameter.requires_grad_(trains)
            if not trains:
                parameter.grad = None  # or the optimiser would go on with the last one
        modules = dict(self._network.named_modules())
        self._still = [modules[name] for name in (*names, *self._always) if name in modules]

    def can_train(self, name: str) -> bool:
        """Tell whether the parameter of this dotted name trains in any phase."""
        return name in self._can_train

    def modules(self) -> set[nn.Module]:
        """Return every module that is held still."""
        return {inner for module in self._still for inner in module.modules()}

    def train_mode(self) -> None:
        """Put the network in training mode, but the frozen part in evaluation mode.

        Batch norm of a frozen stage must not go on counting: its running statistics belong to the
        frozen weights, and dropout there would only add noise.
        """
        self._network.train()
        for module in self._still:
            module.eval()


def count_trainable(network: nn.Module) -> int:
    """Return how many scalars the optimiser will move."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
