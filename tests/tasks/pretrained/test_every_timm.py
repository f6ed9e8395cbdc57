"""A walk over timm's networks: heads, stages and output, on the meta device.

The suite takes one network of each of timm's modules. All of them (about 1,370, a quarter of an
hour of one core) are walked by hand, after a change here or of timm's version, with

    python -m tests.tasks.pretrained.test_every_timm
"""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from tasks.errors import WeightsError
from tasks.pretrained.heads import find_heads, is_under
from tasks.pretrained.outline import outline
from tasks.pretrained.stages import find_stages
from tasks.pretrained.timm_networks import TIMM

# encoders that timm took from language models: they give features, and have no head
ENCODERS = ("deepseek_vit_", "gemma4_vit_", "mobilenetv5_", "qwen3_vit_")
# how timm names the small networks of a family, smallest first
SMALL = ("atto", "femto", "nano", "pico", "tiny", "xxs", "_s", "small", "_t", "26", "18", "_m")


def is_encoder(name: str) -> bool:
    return name.startswith(ENCODERS) and name.endswith("_enc")


def one_a_module() -> list[str]:
    """Return a network of each module, a small one by its name, for small ones are quick."""
    families = (timm.list_models(module=module) for module in timm.list_modules())
    names = ([name for name in family if not is_encoder(name)] for family in families)
    return [min(family, key=size_by_name) for family in names if family]


def size_by_name(name: str) -> tuple[int, int, str]:
    small = next((rank for rank, word in enumerate(SMALL) if word in name), len(SMALL))
    return small, len(name), name


def faults(name: str) -> list[str]:
    """Return what is wrong with how graft sees ``timm:name``."""
    network = outline(f"{TIMM}{name}", 7)
    heads = find_heads(network)
    images_bchw = torch.empty(2, *network.pretrained_cfg["input_size"], device="meta")
    stages = [*find_stages(network, *heads, images_bchw=images_bchw), heads]
    return [
        *head_faults(name, network, heads),
        *part_faults(network, stages),
        *order_faults(network, stages, images_bchw),
    ]


def head_faults(name: str, network: nn.Module, heads: tuple[str, ...]) -> list[str]:
    """Hold the heads against the layers that ``num_classes`` changes."""
    seven, nine = network.state_dict(), outline(f"{TIMM}{name}", 9).state_dict()
    changed = {key for key, value in seven.items() if value.shape != nine[key].shape}
    held = {key for key in seven if is_under(key, heads)}
    return [] if changed == held else [f"heads {heads}, but {sorted(changed)} change"]


def part_faults(network: nn.Module, stages: list[tuple[str, ...]]) -> list[str]:
    """Every parameter is in one stage, and stages name nothing else."""
    known = {name for name, _ in [*network.named_modules(), *network.named_parameters()]}
    times = {
        name: sum(is_under(name, stage) for stage in stages)
        for name, _ in network.named_parameters()
    }
    return [
        *(["fewer than two stages"] if len(stages) < 3 else []),
        *(f"{name} is in {n} stages" for name, n in times.items() if n != 1),
        *(f"{name} is not there" for stage in stages for name in stage if name not in known),
    ]


def order_faults(
    network: nn.Module, stages: list[tuple[str, ...]], images_bchw: torch.Tensor
) -> list[str]:
    """The forward pass meets the stages in order, and gives seven scores an image.

    Norms right before a head belong to the last stage; of several heads each may have its own.
    """
    ran: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
        for name, module in network.named_modules()
        for place, stage in enumerate(stages)
        if is_under(name, stage) and any(True for _ in module.parameters(recurse=False))
        if not (re.match(r"head[^.]*\.", name) and name.endswith(".bn"))
    ]
    with torch.no_grad():
        logits = network(images_bchw)
    for hook in hooks:
        hook.remove()
    back = [(stages[a], stages[b]) for a, b in pairwise(ran) if b < a]
    silent = [stages[place] for place in set(range(len(stages))) - set(ran)]
    return [
        *([f"{len(back)} times back, as from {back[0][0]} to {back[0][1]}"] if back else []),
        *([f"never run: {silent}"] if silent else []),
        *([] if logits.shape == (2, 7) else [f"output {tuple(logits.shape)}"]),
    ]


# the last has two heads, and timm's pretrained_cfg names one of them
@pytest.mark.parametrize("name", [*one_a_module(), "levit_384_s8"])
def test_heads_and_stages_are_in_order(name: str):
    assert faults(name) == []


@pytest.mark.parametrize("name", ["qwen3_vit_88m_enc", "mobilenetv5_300m_enc"])
def test_encoders_without_a_head_are_refused(name: str):
    with pytest.raises(WeightsError, match=r"no layer that could be its head"):
        find_heads(outline(f"{TIMM}{name}", 7))


def walk_all() -> None:
    """Print every network that does not hold, and how many do."""
    names = [name for name in timm.list_models() if not is_encoder(name)]
    good = 0
    for name in names:
        try:
            found = faults(name)
        except Exception as error:  # go on to the others
            found = [f"{type(error).__name__}: {error}"]
        good += not found
        if found:
            print(name, *found, sep="\n    ", flush=True)
    print(f"{good} of {len(names)} hold", flush=True)


if __name__ == "__main__":
    walk_all()
