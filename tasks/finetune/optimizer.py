"""The optimiser that a recipe names, all of them torch's own, and the rate of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Muon, Optimizer

from tasks.errors import ConfigError
from tasks.pretrained.heads import is_under
from tasks.recipe import StrategyConfig, TrainingConfig
from tasks.values import Backbone

Group = dict[str, Any]
_FUSED_ON = ("cpu", "cuda")


def build_optimizer(
    network: nn.Module,
    recipe: TrainingConfig,
    backbone: Backbone,
    strategy: StrategyConfig,
    trainable: Callable[[str], bool] | None = None,
) -> Optimizer:
    """Return SGD with momentum, AdamW (Loshchilov & Hutter 2019) or Muon (Jordan et al. 2024).

    ``trainable`` tells by its dotted name whether a parameter belongs to the optimiser; left out,
    all that need a gradient now do. One that is frozen meanwhile has no gradient, and is passed
    over. Weight decay is on all of them, norms and biases too, as torch does it and the recipes of
    torchvision by default. Call this once the network is on its device. Raises ``ConfigError`` for
    Muon where there is nothing it could train.
    """
    groups = _groups(network, recipe, backbone, strategy, trainable)
    if recipe.optimizer == "muon":
        return _muon(network, groups, recipe)
    if recipe.optimizer == "adamw":
        return _adamw(groups, recipe)
    return SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        # torch's fused SGD fails where some parameters have a momentum yet and others have not
        fused=_can_fuse(groups) and strategy.kind != "gradual_unfreeze",
    )


def _groups(
    network: nn.Module,
    recipe: TrainingConfig,
    backbone: Backbone,
    strategy: StrategyConfig,
    trainable: Callable[[str], bool] | None,
) -> list[Group]:
    """Sort the parameters: the body (or its stages, the last one first), then the head.

    With ``strategy.layer_decay`` the last stage has the full rate and every stage below it that of
    the stage above times the decay (Howard & Ruder 2018, section 3.2; Bao et al. 2022, BEiT). The
    head starts from random weights, and so may have a higher rate of its own.
    """
    stages, decay = len(backbone.stages), strategy.layer_decay
    whole: Group = {"name": "body", "params": [], "lr": recipe.learning_rate}
    by_stage: list[Group] = [
        {"name": f"stage {n + 1}", "params": [], "lr": rate}
        for n, rate in enumerate(_stage_rates(recipe.learning_rate, decay or 1.0, stages))
    ]
    head_rate = recipe.head_learning_rate or recipe.learning_rate
    head: Group = {"name": "head", "params": [], "lr": head_rate}
    for name, parameter in network.named_parameters():
        if not (parameter.requires_grad if trainable is None else trainable(name)):
            continue
        if is_under(name, backbone.heads):
            head["params"].append(parameter)
        elif decay is None:
            whole["params"].append(parameter)
        else:
            by_stage[_stage_of(name, backbone)]["params"].append(parameter)
    return [group for group in (whole, *reversed(by_stage), head) if group["params"]]


def _stage_rates(rate: float, decay: float, stages: int) -> list[float]:
    return [rate * decay ** (stages - 1 - n) for n in range(stages)]


def _stage_of(name: str, backbone: Backbone) -> int:
    """Return the stage of a parameter, from 0; the stages hold all that is not the head's."""
    return next(n for n, stage in enumerate(backbone.stages) if is_under(name, stage))


def _can_fuse(groups: Iterable[Group]) -> bool:
    """Tell whether one kernel can move all parameters, which torch has not on every device."""
    return all(p.device.type in _FUSED_ON for group in groups for p in group["params"])


def _adamw(groups: list[Group], recipe: TrainingConfig) -> AdamW:
    return AdamW(
        groups,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=_can_fuse(groups),
    )


def _muon(network: nn.Module, groups: list[Group], recipe: TrainingConfig) -> Optimizer:
    matrices = _matrices(network)
    of_muon, of_adamw = list[Group](), list[Group]()
    for group in groups:
        for part, inside in ((of_muon, True), (of_adamw, False)):
            chosen = [
                p
                for p in group["params"]
                if (group["name"] != "head" and id(p) in matrices) == inside
            ]
            if chosen:
                part.append({**group, "params": chosen})
    if not of_muon:
        raise ConfigError(
            "training.optimizer=muon is for networks with matrices (linear layers) that train "
            "below the head,\nand here there are none. Set training.optimizer=adamw or sgd."
        )
    return MuonWithAdamW(of_muon, of_adamw, recipe)


def _matrices(network: nn.Module) -> set[int]:
    """Return the ids of the weights of linear maps: no embeddings, tables of positions, biases.

    The factors of ``LowRank`` adapters are such maps as well, if by other names.
    """
    return {
        id(parameter)
        for module in network.modules()
        if not isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 2 and name.endswith(("weight", "lora_A", "lora_B"))
    }


class MuonWithAdamW(Optimizer):
    """Muon for matrices and AdamW for all else, as one optimiser (Jordan et al. 2024).

    Muon's update is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM
    training", section 2.2), so that one learning rate serves both. ``param_groups`` are the groups
    of both parts themselves: what a schedule writes into them, the parts read.
    """

    def __init__(self, of_muon: list[Group], of_adamw: list[Group], recipe: TrainingConfig) -> None:
        muon = Muon(
            of_muon,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        self._parts: list[Optimizer] = [muon]
        if of_adamw:
            self._parts.append(_adamw(of_adamw, recipe))
        super().__init__(self._part_groups(), {})

    def _part_groups(self) -> list[Group]:
        return [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Move the weights once; ``closure`` as in every torch optimiser."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both parts."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._part_groups()
