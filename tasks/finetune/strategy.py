"""Whole and partial transfer: which parameters train, and what stays as it was pretrained."""

from __future__ import annotations

from torch import nn

from tasks.config import StrategyConfig
from tasks.errors import ConfigError
from tasks.values import Backbone


def frozen_names(strategy: StrategyConfig, backbone: Backbone) -> tuple[str, ...]:
    """Return the dotted names of the modules and parameters that stay as pretrained.

    ``full`` and ``scratch``: none. ``partial``: the first ``frozen_stages`` stages (Yosinski et
    al. 2014, "How transferable are features in deep neural networks?"). ``linear_probe``: every
    stage, so that only the head trains (Alain & Bengio 2016). Raises ``ConfigError`` when there
    are fewer stages than asked for.
    """
    stages = backbone.stages
    if strategy.kind == "linear_probe":
        return tuple(name for stage in stages for name in stage)
    if strategy.frozen_stages > len(stages):
        raise ConfigError(
            f"strategy.frozen_stages={strategy.frozen_stages}, but {backbone.architecture} has "
            f"{len(stages)} stages:\n{describe_stages(backbone)}"
        )
    return tuple(name for stage in stages[: strategy.frozen_stages] for name in stage)


def describe_stages(backbone: Backbone) -> str:
    """Return the stages on one line, numbered from 1: ``1 conv1+bn1, 2 layer1, …``."""
    return ", ".join(f"{i} {'+'.join(names)}" for i, names in enumerate(backbone.stages, start=1))


class FrozenPart:
    """The frozen modules of a network, held still in both parameters and statistics."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        modules = dict(network.named_modules())
        parameters = dict(network.named_parameters())
        self._network = network
        self._modules = [modules[name] for name in names if name in modules]
        for name in names:
            held = modules[name].parameters() if name in modules else [parameters[name]]
            for parameter in held:
                parameter.requires_grad_(False)

    def train_mode(self) -> None:
        """Put the network in training mode, but the frozen part in evaluation mode.

        Batch norm of a frozen stage must not go on counting: its running statistics belong to the
        frozen weights, and dropout there would only add noise.
        """
        self._network.train()
        for module in self._modules:
            module.eval()


def count_trainable(network: nn.Module) -> int:
    """Return how many scalars the optimiser will move."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
