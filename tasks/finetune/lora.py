"""LoRA: small low-rank adapters train, the pretrained weights stay, and in the end both are one.

Hu et al. 2022 (ICLR, "LoRA: low-rank adaptation of large language models"): every adapted weight
W is W + (alpha / rank)·B·A with B (out, rank) zero and A (rank, in) random at the start, so that
the network starts as it was pretrained. A convolution's W counts as the matrix (out, in·h·w).
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Callable
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from tasks.errors import ConfigError
from tasks.finetune.chosen import State, copied
from tasks.pretrained.heads import is_under

log = logging.getLogger(__name__)


class LowRank(nn.Module):
    """W + scale·B·A as a parametrization of W, for weights that are read without their layer.

    ``nn.MultiheadAttention`` and Swin's attention hand the weights of their layers to a function,
    where peft's layers are passed by. (peft has a layer for the former, which in 0.21 adds the
    output projection's adapter twice, and rounds the frozen weights anew at every step.)
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        columns = weight[0].numel()
        self.lora_A = nn.Parameter(weight.new_empty(rank, columns))
        self.lora_B = nn.Parameter(weight.new_zeros(len(weight), rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)  # as peft does

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, in the shape of ``weight``."""
        return weight + (self.lora_B @ self.lora_A).view_as(weight) * self.scale


def add_lora(
    network: nn.Module, head: str | tuple[str, ...], rank: int, alpha: float | None
) -> nn.Module:
    """Put adapters on every layer outside ``head``, and let them and the head alone train.

    ``head`` is the new head's dotted name, or those of several. The network is changed in place
    and returned. Adapted are linear layers, convolutions (but not grouped ones: a depthwise kernel
    has fewer numbers than an adapter for it would) and the projections of attention: by peft where
    a layer is called, by ``LowRank`` where its weight is read. All else is frozen, batch norm's
    statistics too if ``frozen_by_lora`` is heeded. A is drawn from torch's global generator.
    ``alpha`` None is twice the rank. Raises ``ConfigError``, and leaves the network as it is, when
    peft is not installed and when there is nothing to adapt.
    """
    peft = _peft()
    alpha = 2.0 * rank if alpha is None else alpha
    heads = (head,) if isinstance(head, str) else head
    called, read = _targets(network, heads)
    if not called and not read:
        raise ConfigError(
            f"strategy.kind=lora found no layer to adapt in {type(network).__name__} outside its "
            f"head {' and '.join(heads)}.\nUse strategy.kind=full or linear_probe."
        )
    network.requires_grad_(False)
    if called:
        exactly = "|".join(map(re.escape, called))  # a list would match by suffix
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=exactly)
        peft.inject_adapter_in_model(config, network)
    for module, name in read:
        adapter = LowRank(getattr(module, name).detach(), rank, alpha / rank)
        parametrize.register_parametrization(module, name, adapter)
    for name in heads:
        network.get_submodule(name).requires_grad_(True)
    log.info("LoRA of rank %d on %d layers", rank, len(called) + len(read))
    return network


def frozen_by_lora(network: nn.Module, head: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the batch norms outside ``head``, which must not go on counting.

    Their statistics belong to frozen weights. The names are the same with and without adapters.
    """
    heads = (head,) if isinstance(head, str) else head
    return tuple(
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not is_under(name, heads)
    )


@torch.no_grad()
def merge_lora(network: nn.Module) -> nn.Module:
    """Add the adapters into the weights and remove them, in place; return the network.

    What is left is the original architecture with its own state-dict keys, frozen parameters
    still frozen.
    """
    lora_layer = _peft().tuners.lora.LoraLayer
    for name, module in list(network.named_modules()):
        if isinstance(module, lora_layer):
            module.merge()
            network.set_submodule(name, module.get_base_layer())
        elif parametrize.is_parametrized(module):
            _settle(module)
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network


def _settle(module: nn.Module) -> None:
    """Make every parametrized weight of a module a plain parameter again.

    ``parametrize.remove_parametrizations`` would take the weight out of the module's class, which
    a copy of the module shares.
    """
    assert isinstance(module.parametrizations, nn.ModuleDict)
    weights = {name: getattr(module, name) for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


def merged_state(network: nn.Module) -> State:
    """Return the merged weights under the original names, on the CPU; training can go on."""
    return copied(merge_lora(copy.deepcopy(network)).state_dict())


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "strategy.kind=lora needs the package peft.\nInstall it: uv sync --extra lora"
        ) from error
    return peft


def _targets(
    network: nn.Module, heads: tuple[str, ...]
) -> tuple[list[str], list[tuple[nn.Module, str]]]:
    """Return the names of layers for peft, and (module, parameter name) of weights for LowRank."""
    called: list[str] = []
    read: list[tuple[nn.Module, str]] = []
    for name, module in network.named_modules():
        if is_under(name, heads):
            continue
        if isinstance(module, nn.MultiheadAttention):
            read += [(module, n) for n, p in module.named_parameters(recurse=False) if p.ndim == 2]
        elif _is_adaptable(module):
            parent, _, own = name.rpartition(".")
            if _suits_peft(module) and not _looks_into(network.get_submodule(parent), own):
                called.append(name)
            else:
                read.append((module, "weight"))
    return called, read


def _is_adaptable(module: nn.Module) -> bool:
    linear = isinstance(module, nn.Linear)
    return linear or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _suits_peft(module: nn.Module) -> bool:
    """Tell a plain layer; peft's adapter is blind to subclasses, dilation and padding modes."""
    if type(module) is nn.Conv2d:
        return module.dilation == (1, 1) and module.padding_mode == "zeros"
    return type(module) is nn.Linear


def _looks_into(parent: nn.Module, layer: str) -> bool:
    """Tell whether a module uses its layer's weight or settings itself, not only calls it."""
    return f"self.{layer}." in _source(type(parent).forward)


@cache
def _source(forward: Callable[..., object]) -> str:
    return inspect.getsource(forward)
