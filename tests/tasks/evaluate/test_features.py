"""Features are what the head is given, pooled, of the images that the sample names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tasks.errors import EvaluationError
from tasks.evaluate.features import head_inputs, sample_rows
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.views import eval_view
from tasks.pretrained.architectures import build
from tasks.pretrained.heads import find_heads

ROWS = np.arange(3, 24, 2)
SIDES = {"vit_b_16": 32, "squeezenet1_0": 32}  # px; the others take 16


def without_head(network: nn.Module, head: str) -> nn.Module:
    parent, _, leaf = head.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network.eval()


@pytest.mark.parametrize("name", ["graft_tiny", "resnet18", "squeezenet1_0", "vit_b_16"])
def test_features_are_what_comes_out_when_the_head_is_taken_off(prepared, name: str):
    side = SIDES.get(name, 16)
    spec = prepared.input.model_copy(update={"crop": side, "resize": side})
    torch.manual_seed(0)
    network = build(name, 3, side)
    (head,) = find_heads(network)
    packed = PackedImages(prepared.train)
    found_nd = head_inputs(network, head, packed, ROWS, spec, batch_size=4)
    bare = without_head(network, head)
    if name == "squeezenet1_0":  # its head is a convolution, with ReLU and pooling behind it
        bare = nn.Sequential(bare.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        expected_nd = bare(eval_view(torch.from_numpy(packed.images_nhwc[ROWS]), spec)).numpy()
    assert found_nd.shape == (len(ROWS), expected_nd.shape[1])
    np.testing.assert_allclose(found_nd, expected_nd, rtol=1e-4, atol=1e-5)


def test_tokens_before_a_linear_head_are_averaged(prepared):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, images_bchw):
            return self.head(images_bchw.permute(0, 2, 3, 1)).mean(dim=(1, 2))

    packed = PackedImages(prepared.train)
    found_nd = head_inputs(Tokens(), "head", packed, ROWS, prepared.input, batch_size=4)
    images = eval_view(torch.from_numpy(packed.images_nhwc[ROWS]), prepared.input)
    np.testing.assert_allclose(found_nd, images.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-6)


def test_features_that_are_no_numbers_are_refused_and_the_network_is_left_as_it_was(prepared):
    network = build("graft_tiny", 3)
    with torch.no_grad():
        network.stem[0].weight[0] = float("nan")
    with pytest.raises(EvaluationError, match="finite"):
        head_inputs(network, "fc", PackedImages(prepared.train), ROWS, prepared.input, 4)
    assert not network.fc._forward_pre_hooks


@pytest.mark.parametrize("most", [3, 20, 59, 60])
def test_a_sample_has_its_share_of_each_class(most: int):
    labels_n = np.repeat([0, 1, 2], [10, 30, 60])
    np.random.default_rng(1).shuffle(labels_n)
    rows = sample_rows(labels_n, most, seed=0)
    assert len(rows) == most
    assert len(set(rows)) == most
    np.testing.assert_array_equal(rows, np.sort(rows))
    shares = most * np.array([0.1, 0.3, 0.6])
    assert np.all(np.abs(np.bincount(labels_n[rows], minlength=3) - shares) <= 1)
    np.testing.assert_array_equal(rows, sample_rows(labels_n, most, seed=0))
    if most < 59:
        assert set(rows) != set(sample_rows(labels_n, most, seed=1))


@pytest.mark.parametrize("most", [None, 100, 1000])
def test_all_are_taken_where_there_are_no_more(most: int | None):
    np.testing.assert_array_equal(sample_rows(np.zeros(100, int), most, 0), np.arange(100))
