"""The energy of scores against scipy and numpy, and that no batch changes any score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from tasks.evaluate.score import score_batches, scores_of

CPU = torch.device("cpu")


def logits(n: int, c: int) -> torch.Tensor:
    return 20 * torch.randn(n, c, generator=torch.Generator().manual_seed(n))


def test_energy_of_one_label_is_scipys_logsumexp():
    z = logits(40, 5)
    scores = scores_of(z, np.zeros(40, np.int64), 1.0)
    assert scores.energy_n.dtype == np.float64
    np.testing.assert_allclose(scores.energy_n, -logsumexp(z.double().numpy(), axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        scores.probabilities_nc, softmax(z.double().numpy(), axis=1), rtol=1e-6
    )


def test_energy_of_several_labels_is_the_sum_over_them():
    z = logits(40, 5)
    scores = scores_of(z, np.zeros((40, 5), np.float32), 1.0)
    expected = -np.logaddexp(0, z.double().numpy()).sum(axis=1)
    np.testing.assert_allclose(scores.energy_n, expected, rtol=1e-8)
    assert scores.multi_label


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_batches_are_put_together_in_order(batch):
    z = logits(40, 3)
    labels = np.arange(40) % 3
    batches = ((part, torch.zeros(len(part))) for part in z.split(batch))
    scores = score_batches(lambda inputs: inputs, batches, labels, CPU)
    whole = scores_of(z, labels, 0.0)
    for name in ("probabilities_nc", "labels_n", "predictions_n", "energy_n"):
        assert np.array_equal(getattr(scores, name), getattr(whole, name))
