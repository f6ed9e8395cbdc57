"""Energies above a threshold against counting, and noise against torch's own forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.evaluate.novelty import novelty, score_noise
from tasks.evaluate.score import Scores
from tasks.pretrained.tiny import GraftTiny
from tasks.values import InputSpec

CPU = torch.device("cpu")
SPEC = InputSpec(
    resize=20, crop=15, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear"
)


def of(energies, multi_label: bool = False) -> Scores:
    n = len(energies)
    p, labels = np.full((n, 2), 0.5, np.float32), np.zeros((n, 2) if multi_label else n, int)
    return Scores(p, labels, labels, 0.0, np.asarray(energies, float), multi_label)


@pytest.mark.parametrize("kept", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 20, 333])
def test_the_threshold_is_the_least_that_keeps_enough(n, kept):
    energies = np.random.default_rng(n).normal(size=n)
    got = novelty(of(energies), of(energies), of([9.0]), kept)
    assert got.threshold in energies
    assert np.mean(energies <= got.threshold) >= kept
    assert np.mean(energies < got.threshold) < kept
    assert got.test_flagged == pytest.approx(np.mean(energies > got.threshold))
    assert got.test_flagged <= 1 - kept + 1e-12


def test_shares_and_auroc_are_what_counting_gives():
    rng = np.random.default_rng(0)
    val, test, noise = rng.normal(size=200), rng.normal(size=60), rng.normal(1.5, 1, 40)
    noise[:5] = test[:5]  # ties count half
    got = novelty(of(val), of(test), of(noise))
    above = noise[:, None] > test[None]
    ties = noise[:, None] == test[None]
    assert got.noise_auroc == pytest.approx(above.mean() + ties.mean() / 2)
    assert got.noise_flagged == pytest.approx(np.mean(noise > got.threshold))
    assert got.test_flagged == pytest.approx(np.mean(test > got.threshold))
    assert 0.7 < got.noise_auroc < 0.95
    assert got.kept == 0.95


@pytest.mark.parametrize(
    ("test", "noise", "auroc"), [([-3, -2], [1, 2], 1.0), ([1, 2], [-3, -2], 0.0), ([1], [1], 0.5)]
)
def test_higher_energy_is_noise(test, noise, auroc, caplog):
    assert novelty(of([0.0]), of(test), of(noise)).noise_auroc == auroc
    assert ("does not set noise apart" in caplog.text) == (auroc <= 0.5)


def test_energies_of_two_kinds_are_not_compared():
    with pytest.raises(ValueError, match="of one label and of several"):
        novelty(of([0.0], True), of([0.0], True), of([0.0]))


@pytest.fixture(scope="module")
def network() -> GraftTiny:
    torch.manual_seed(0)
    return GraftTiny(num_classes=4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_noise_is_scored_by_a_plain_forward(network, multi_label):
    network.train()
    scores = score_noise(network, SPEC, CPU, 4, 6, 7, multi_label)
    assert not network.training
    draw = np.random.default_rng(7)
    images = np.stack([draw.integers(0, 256, (15, 15, 3), dtype=np.uint8) for _ in range(6)])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        z = network((x - mean) / std).double()
    softplus = torch.log1p(z.exp()).sum(dim=1)
    expected = -(softplus if multi_label else z.exp().sum(dim=1).log())
    assert scores.energy_n == pytest.approx(expected.numpy(), abs=1e-5)
    assert scores.multi_label == multi_label
    assert scores.labels_n.shape == ((6, 4) if multi_label else (6,))
    assert abs(images.mean() - 127.5) < 5  # uniform, on the whole scale
    assert (images.min(), images.max()) == (0, 255)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_noise_is_the_same_in_any_batch_and_another_for_another_seed(network, batch):
    whole = score_noise(network, SPEC, CPU, 9, 9, 1).energy_n
    assert score_noise(network, SPEC, CPU, batch, 9, 1).energy_n == pytest.approx(whole, abs=1e-5)
    assert np.abs(score_noise(network, SPEC, CPU, 9, 9, 2).energy_n - whole).min() > 1e-6
