"""The losses against scikit-learn's weights, torch's own losses and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from tasks.finetune.losses import build_loss, class_weights, label_weights
from tasks.recipe import TrainingConfig
from tasks.values import PackedSplit

COUNTS = (30, 5, 7, 18)
CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 4, generator=GENERATOR)
LABELS = torch.randint(4, (12,), generator=GENERATOR)
SEVERAL = torch.randint(2, (12, 4), generator=GENERATOR).float()


@pytest.fixture
def split(prepared) -> PackedSplit:
    return prepared.train.model_copy(update={"counts": COUNTS, "n": 60})


def loss_of(split: PackedSplit, multi_label: bool = False, **settings: object) -> nn.Module:
    return build_loss(TrainingConfig(**settings), split, multi_label, CPU)


def test_class_weights_are_scikit_learns(split):
    labels = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    torch.testing.assert_close(class_weights(split), torch.tensor(expected).float())


def test_a_class_without_images_weighs_nothing_and_the_mean_stays_one(split):
    split = split.model_copy(update={"counts": (30, 0, 12, 18)})
    weights = class_weights(split)
    labels = np.repeat([0, 2, 3], (30, 12, 18))
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    torch.testing.assert_close(weights[[0, 2, 3]], torch.tensor(expected).float())
    assert weights[1] == 0
    assert float(weights[labels].mean()) == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_it_is_torchs_cross_entropy(split, smoothing):
    loss = loss_of(split, label_smoothing=smoothing)
    torchs = nn.CrossEntropyLoss(label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, LABELS), torchs(LOGITS, LABELS))
    soft = torch.rand(12, 4, generator=GENERATOR).softmax(dim=1)
    torch.testing.assert_close(loss(LOGITS, soft), torchs(LOGITS, soft))


@pytest.mark.parametrize("balance", ["none", "class_weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_soft_target_is_the_weighted_mean_of_hard_ones(split, smoothing, balance):
    loss = loss_of(split, label_smoothing=smoothing, balance=balance)
    soft = torch.rand(12, 4, generator=GENERATOR).softmax(dim=1)
    hard = [
        sum(soft[i, c] * loss(LOGITS[i : i + 1], torch.tensor([c])) for c in range(4))
        for i in range(12)
    ]
    torch.testing.assert_close(loss(LOGITS, soft), torch.stack(hard).mean())


def test_weights_and_smoothing_by_hand(split):
    loss = loss_of(split, label_smoothing=0.2, balance="class_weights")
    weights = 60 / (4 * torch.tensor(COUNTS))
    target = 0.8 * torch.eye(4)[LABELS] + 0.2 / 4
    by_hand = -(weights * target * LOGITS.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss(LOGITS, LABELS), by_hand)


def test_batches_add_up_to_the_loss_of_all(split):
    """Torch's own weighted mean does not; gradients of batches and processes are added up."""
    loss = loss_of(split, balance="class_weights")
    parts = [(LOGITS[:5], LABELS[:5]), (LOGITS[5:], LABELS[5:])]
    whole = sum(loss(x, y) * len(y) / 12 for x, y in parts)
    torch.testing.assert_close(whole, loss(LOGITS, LABELS))


def test_label_weights_are_negatives_over_positives(split):
    split = split.model_copy(update={"counts": (30, 0, 15, 60)})
    assert label_weights(split).tolist() == [1.0, 1.0, 3.0, 1.0]


@pytest.mark.parametrize("targets", [SEVERAL, SEVERAL.to(torch.uint8)])
def test_several_labels_are_torchs_binary_cross_entropy(split, targets):
    plain = loss_of(split, multi_label=True)
    expected = functional.binary_cross_entropy(LOGITS.sigmoid(), SEVERAL)
    torch.testing.assert_close(plain(LOGITS, targets), expected)
    weighted = loss_of(split, multi_label=True, balance="class_weights")
    positive = (60 - torch.tensor(COUNTS)) / torch.tensor(COUNTS)
    p = LOGITS.sigmoid()
    by_hand = -(positive * SEVERAL * p.log() + (1 - SEVERAL) * (1 - p).log()).mean()
    torch.testing.assert_close(weighted(LOGITS, targets), by_hand)


def test_smoothing_of_several_labels(split):
    smooth = loss_of(split, multi_label=True, label_smoothing=0.1)
    expected = functional.binary_cross_entropy_with_logits(LOGITS, SEVERAL * 0.9 + 0.05)
    torch.testing.assert_close(smooth(LOGITS, SEVERAL), expected)


@pytest.mark.parametrize("multi_label", [False, True])
def test_bfloat16_logits_give_a_float32_loss(split, multi_label):
    loss = loss_of(split, multi_label, balance="class_weights", label_smoothing=0.1)
    targets = SEVERAL if multi_label else LABELS
    rounded = LOGITS.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(rounded, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(rounded.float(), targets))
    assert torch.equal(loss(rounded, targets), found)  # without autocast as well
