"""Networks with weights in: seeded heads, exact restoring, and what may be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.errors import WeightsError
from tasks.pretrained.architectures import build
from tasks.pretrained.network import build_network, restore_network
from tasks.values import Backbone, InputSpec

SPEC = InputSpec(
    resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear"
)


def backbone(architecture: str, head: str, weights: Path | None) -> Backbone:
    return Backbone(
        architecture=architecture,
        source="test",
        weights=weights,
        sha256=None,
        input=SPEC,
        head=head,
        keep_head=False,
        stages=(),
        parameters=1,
    )


def test_head_is_drawn_from_the_seed_and_nothing_else_is(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    save_file(build("graft_tiny", 10).state_dict(), path)
    source = backbone("graft_tiny", "fc", path)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first, again, other = (build_network(source, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, other.state_dict()[name]) is (
            name not in ("fc.weight", "fc.bias")
        )


def test_scratch_is_drawn_from_the_seed():
    source = backbone("graft_tiny", "fc", None)
    first, again, other = (build_network(source, 3, seed).stem[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_squeezenets_head_is_drawn_as_its_authors_do(shared: Path):
    path = shared / "weights/squeezenet1_0-imagenet.safetensors"
    network = build_network(backbone("squeezenet1_0", "classifier.1", path), 40, seed=0)
    head = network.classifier[1]
    assert head.weight.shape == (40, 512, 1, 1)
    # normal of deviation 0.01, 20,480 draws: four standard errors of the deviation
    assert abs(head.weight.std().item() - 0.01) < 4 * 0.01 / (2 * head.weight.numel()) ** 0.5
    assert head.bias.abs().max() == 0
    assert network.num_classes == 40
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 40)


@pytest.mark.parametrize("architecture", ["graft_tiny", "squeezenet1_1", "mnasnet0_5", "swin_t"])
def test_restored_network_gives_the_same_logits(architecture: str, tmp_path: Path):
    network = build(architecture, 4).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    restored = restore_network(architecture, 4, tmp_path / "model.safetensors")
    images_bchw = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images_bchw), restored(images_bchw))
    assert not restored.training


def test_restoring_what_does_not_fit_is_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    state = build("graft_tiny", 4).state_dict()
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"does not fit GraftTiny.\n.*size mismatch"):
        restore_network("graft_tiny", 5, path)
    save_file({key: value for key, value in state.items() if key != "fc.bias"}, path)
    with pytest.raises(WeightsError, match=r"lacks 1 entries, such as fc\.bias"):
        restore_network("graft_tiny", 4, path)
    save_file({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="does not fit"):
        restore_network("graft_tiny", 4, path)
    with pytest.raises(WeightsError, match="cannot be read"):
        restore_network("graft_tiny", 4, tmp_path / "not-there")


def test_what_travels_in_a_registered_model_needs_torch_alone():
    code = (
        "import sys, tasks.pretrained.network\n"
        "assert len(tasks.pretrained.architectures.names()) > 80\n"
        "loaded = {name for name in sys.modules if name.startswith('tasks')}\n"
        "print(*sorted(loaded))\n"
        "assert not {'pydantic', 'prefect', 'mlflow', 'pandas', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "tasks",
        "tasks.errors",
        "tasks.pretrained",
        "tasks.pretrained.architectures",
        "tasks.pretrained.heads",
        "tasks.pretrained.network",
        "tasks.pretrained.timm_networks",
        "tasks.pretrained.tiny",
    ]
