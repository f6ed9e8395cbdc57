"""Temperature scaling against closed forms, a grid, torch's LBFGS, and temperatures known."""

from __future__ import annotations

import logging
import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.evaluate import decisions
from tasks.evaluate.calibration import fit_temperature, scaled
from tasks.evaluate.reliability import expected_calibration_error, reliability
from tasks.evaluate.score import Scores, scores_of


def of(z, labels) -> Scores:
    return scores_of(torch.as_tensor(z, dtype=torch.float32), np.asarray(labels), 0.0)


def drawn(n: int, c: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels as likely as the softmax of logits / temperature says."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (n, c))
    p = softmax(z / temperature, axis=1)
    return z, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def drawn_several(n: int, c: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (n, c))
    return z, (rng.random((n, c)) < expit(z / temperature)).astype(np.float32)


def lbfgs(loss) -> float:
    """Minimise over the logarithm of the temperature, as Guo et al.'s own code does."""
    exponent = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([exponent], lr=0.5, max_iter=200, tolerance_change=1e-12)

    def step():
        optimizer.zero_grad()
        value = loss(exponent)
        value.backward()
        return value

    optimizer.step(step)
    return math.exp(exponent.item())


def equal_margins(n: int, wrong: int, margin: float) -> Scores:
    """Return two classes' scores: every image is for the second by the same margin."""
    return of(np.tile([0.0, margin], (n, 1)), np.arange(n) >= wrong)


def best(n: int, wrong: int, margin: float) -> float:
    """Return the temperature that makes the confidence the share that is right, or Laplace's."""
    return margin / logit(1 - wrong / n) if wrong else min(1.0, margin / math.log(n + 1))


def held_out_gain(n: int, wrong: int, margin: float) -> float:
    """Return by how much five folds' log loss falls from temperature 1; errors are dealt round."""
    gain = 0.0
    for fold in range(5):
        size, errors = len(range(fold, n, 5)), len(range(fold, wrong, 5))
        cold = margin / best(n - size, wrong - errors, margin)
        for m, sign in ((margin, 1), (cold, -1)):
            gain += sign * (errors * np.logaddexp(0, m) + (size - errors) * np.logaddexp(0, -m))
    return float(gain)


@pytest.mark.parametrize("margin", [0.5, 4.0, 8.0])
@pytest.mark.parametrize("wrong", [0, 1, 2, 3, 10, 40])
def test_equal_margins_have_a_closed_form(margin, wrong):
    calibration = fit_temperature(equal_margins(100, wrong, margin))
    expected, gain = best(100, wrong, margin), held_out_gain(100, wrong, margin)
    assert abs(gain) > 1e-3 or expected == 1  # else rounding decides
    taken = expected if gain > 0 else 1.0
    assert calibration.temperature == pytest.approx(taken, rel=1e-4)
    assert calibration.val_ece_before == pytest.approx(
        abs(1 - wrong / 100 - expit(margin)), abs=1e-5
    )
    assert calibration.val_ece == pytest.approx(
        abs(1 - wrong / 100 - expit(margin / taken)), abs=1e-5
    )
    if taken == expected:
        assert (calibration.declined, calibration.fitted) == (None, None)
    else:
        assert calibration.declined == "held_out"
        assert calibration.fitted == pytest.approx(expected, rel=1e-4)


def test_the_closed_form_takes_some_temperatures_and_declines_others():
    gains = [held_out_gain(100, w, m) for w in (1, 2, 3, 10, 40) for m in (0.5, 4.0, 8.0)]
    assert {gain > 0 for gain in gains} == {True, False}


@pytest.mark.parametrize("n", [12, 180])
def test_one_wrong_image_among_sure_ones_moves_nothing(n, caplog):
    """It is held out once, and then the others say nothing of it."""
    with caplog.at_level(logging.INFO):
        calibration = fit_temperature(equal_margins(n, 1, 8.0))
    assert (calibration.temperature, calibration.declined) == (1.0, "held_out")
    assert calibration.fitted == pytest.approx(8 / logit(1 - 1 / n), rel=1e-4)
    assert calibration.val_log_loss == calibration.val_log_loss_before
    assert f"fitted on {n} validation images, is no better" in caplog.text


def test_one_surely_wrong_image_does_not_make_all_confidences_chance(caplog):
    z = np.array([[0.0, 3.0]] * 5 + [[0.0, 20.0]])
    calibration = fit_temperature(of(z, [1] * 5 + [0]))
    assert (calibration.temperature, calibration.declined) == (1.0, "bound")
    assert calibration.fitted == 100
    assert "the temperature stays 1" in caplog.text


def test_an_image_alone_tells_nothing():
    assert fit_temperature(of([[0.0, 0.2]], [1])).temperature == 1


class Sizes(TorchDispatchMode):
    """Notes how many numbers each tensor has that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found.add(out.numel())
        return out


@pytest.mark.parametrize("several", [False, True])
def test_memory_does_not_grow_with_images_and_labels(several, monkeypatch):
    val = of(*(drawn_several(400, 300, 2.0) if several else drawn(400, 300, 2.0)))
    whole = fit_temperature(val)
    monkeypatch.setattr(decisions, "BLOCK", 12_000)
    monkeypatch.setattr("tasks.evaluate.reliability._BLOCK", 12_000)
    with Sizes() as sizes:
        parts = fit_temperature(val)
    assert max(sizes.found) == 12_000
    for name in ("temperature", "val_log_loss", "val_ece", "val_ece_before"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-6)
    tracemalloc.start()
    fit_temperature(val)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # numpy's share: the probabilities once more, scaled, what is right, and some blocks
    assert peak < 2.5 * val.probabilities_nc.nbytes


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature):
    calibration = fit_temperature(of(*drawn(20_000, 5, temperature)))
    assert calibration.temperature == pytest.approx(temperature, rel=0.04)
    assert calibration.val_ece < 0.02
    if temperature != 1:
        assert calibration.val_log_loss < calibration.val_log_loss_before
        assert calibration.val_ece < calibration.val_ece_before / 3


@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_a_grid_and_lbfgs_find_the_same(temperature):
    z, labels = drawn(300, 4, temperature, seed=1)
    found = fit_temperature(of(z, labels)).temperature
    grid = np.exp(np.linspace(math.log(0.2), math.log(10), 2001))
    losses = [-log_softmax(z / t, axis=1)[np.arange(300), labels].mean() for t in grid]
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.002)
    exact, truth = torch.from_numpy(z), torch.from_numpy(labels)
    assert found == pytest.approx(
        lbfgs(lambda exponent: cross_entropy(exact / exponent.exp(), truth)), rel=1e-3
    )


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_several_labels_share_one_temperature(temperature):
    z, labels = drawn_several(4_000, 3, temperature)
    calibration = fit_temperature(of(z, labels))
    assert calibration.temperature == pytest.approx(temperature, rel=0.05)
    exact, truth = torch.from_numpy(z), torch.from_numpy(labels).double()
    oracle = lbfgs(lambda exponent: binary_cross_entropy_with_logits(exact / exponent.exp(), truth))
    assert calibration.temperature == pytest.approx(oracle, rel=1e-3)


@pytest.mark.parametrize("temperature", [0.3, 1.7, 20.0])
def test_scaled_is_the_softmax_of_divided_logits(temperature):
    z, labels = drawn(50, 4, 1.0)
    scores = of(z, labels)
    after = scaled(scores, temperature)
    np.testing.assert_allclose(after.probabilities_nc, softmax(z / temperature, axis=1), atol=1e-6)
    assert after.probabilities_nc.dtype == np.float32
    for name in ("labels_n", "predictions_n", "energy_n", "seconds", "multi_label"):
        assert getattr(after, name) is getattr(scores, name)
    assert np.array_equal(after.probabilities_nc.argmax(axis=1), scores.predictions_n)


@pytest.mark.parametrize("temperature", [0.3, 1.7, 20.0])
def test_scaled_is_each_labels_sigmoid_of_divided_logits(temperature):
    z, labels = drawn_several(50, 4, 1.0)
    scores = of(z, labels)
    after = scaled(scores, temperature)
    np.testing.assert_allclose(after.probabilities_nc, expit(z / temperature), atol=2e-5)
    assert np.array_equal(after.probabilities_nc > 0.5, scores.predictions_n)
    assert after.predictions_n is scores.predictions_n


def test_temperature_1_changes_nothing():
    scores = of(*drawn(9, 3, 1.0))
    assert scaled(scores, 1.0) is scores


UP = np.nextafter(np.float32(0.4), np.float32(1))  # by what float32 cannot keep, once divided


@pytest.mark.parametrize("temperature", [0.01, 0.5, 3.0, 100.0])
@pytest.mark.parametrize(
    ("row", "prediction"),
    [
        ([0.5, 0.5, 0.0], 0),
        ([0.2, 0.4, 0.4], 1),
        ([1 / 3, 1 / 3, 1 / 3], 0),
        ([0.2, 0.4, UP], 2),
        ([0.0, 0.0, 1.0], 2),
    ],
)
def test_predictions_stay_on_ties(row, prediction, temperature):
    p = np.array([row], np.float32)
    scores = Scores(p, np.array([0]), p.argmax(axis=1), 0.0, np.zeros(1))
    after = scaled(scores, temperature)
    assert after.predictions_n.tolist() == [prediction]
    assert after.probabilities_nc[0, prediction] == after.probabilities_nc.max()
    assert after.probabilities_nc.sum() == pytest.approx(1)
    assert np.isfinite(after.log_loss)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_labels_without_doubt_stay_in_order(temperature):
    p = np.array([[0.0, 1.0, 0.5]], np.float32)
    scores = Scores(p, np.array([[0, 1, 1]]), np.array([[0, 1, 0]]), 0.0, np.zeros(1), True)
    low, high, middle = scaled(scores, temperature).probabilities_nc[0]
    assert 0 <= low < middle == 0.5 < high <= 1
    assert low == pytest.approx(expit(logit(np.finfo(np.float32).eps) / temperature), rel=1e-3)


def test_figures_are_scikit_learns_and_those_of_the_scaled_scores():
    z, labels = drawn(500, 4, 2.0)
    val = of(z, labels)
    got = fit_temperature(val)
    after = scaled(val, got.temperature)
    assert got.val_log_loss_before == pytest.approx(log_loss(labels, softmax(z, axis=1)), rel=1e-5)
    assert got.val_log_loss == pytest.approx(
        log_loss(labels, softmax(z / got.temperature, axis=1)), rel=1e-5
    )
    assert got.val_log_loss == pytest.approx(after.log_loss, rel=1e-5)
    assert got.val_ece_before == expected_calibration_error(reliability(val))
    assert got.val_ece == expected_calibration_error(reliability(after))


def test_figures_of_several_labels_are_over_all_their_decisions():
    z, labels = drawn_several(200, 3, 2.0)
    val = of(z, labels)
    got = fit_temperature(val)
    after = scaled(val, got.temperature)
    for scores, loss, ece in (
        (val, got.val_log_loss_before, got.val_ece_before),
        (after, got.val_log_loss, got.val_ece),
    ):
        assert loss == pytest.approx(scores.log_loss, rel=1e-5)
        p = scores.probabilities_nc.ravel()
        there = labels.ravel()
        bins = np.ceil(p * 15).astype(int)
        gaps = [abs((there[bins == b] - p[bins == b]).sum()) for b in range(16)]
        assert ece == pytest.approx(sum(gaps) / len(p), abs=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_where_nothing_is_wrong_laplace_bounds_the_temperature(several, caplog):
    n = 40
    z = np.tile([[1.0, -1.0, -2.0]], (n, 1)) * np.linspace(0.2, 2, n)[:, None]
    labels = np.tile([[1.0, 0.0, 0.0]], (n, 1)) if several else np.zeros(n, int)
    with caplog.at_level(logging.INFO):
        temperature = fit_temperature(of(z, labels)).temperature
    assert 0.01 < temperature < 1
    p = expit(z / temperature) if several else softmax(z / temperature, axis=1)
    confidence = np.maximum(p, 1 - p).mean() if several else p.max(axis=1).mean()
    decisions = p.size if several else n
    assert confidence == pytest.approx((decisions + 1) / (decisions + 2), abs=1e-4)
    assert caplog.text.count(f"none of {decisions} validation decisions is wrong") == 1
    assert caplog.text.count("decisions is wrong") == 1  # the folds are not told of


def test_a_network_that_is_surer_than_laplace_is_left_as_it_is():
    z = 9 * np.eye(3)[np.arange(12) % 3]
    calibration = fit_temperature(of(z, np.arange(12) % 3))
    assert calibration.temperature == 1
    assert calibration.val_log_loss == calibration.val_log_loss_before


@pytest.mark.parametrize(
    ("z", "labels", "bound"),
    [
        ([[0.0, 1.0]] * 3, [0, 0, 1], 100.0),  # mostly wrong: no temperature is high enough
        ([[0.0, 0.001]] * 9, [0] + [1] * 8, 0.01),  # mostly right, by next to nothing
    ],
)
def test_no_temperature_at_a_bound_is_served(z, labels, bound, caplog):
    calibration = fit_temperature(of(z, labels))
    assert (calibration.temperature, calibration.fitted) == (1.0, bound)
    assert calibration.declined == "bound"
    assert calibration.val_log_loss == calibration.val_log_loss_before
    assert f"stopped at its bound, {bound:g}" in caplog.text


def test_no_doubt_at_all_has_no_scale():
    """All classes equally probable, and right by being the first: no temperature is enough."""
    calibration = fit_temperature(of(np.zeros((2, 3)), [0, 0]))
    assert (calibration.temperature, calibration.declined) == (1.0, "bound")


def test_small_samples_lose_less_than_by_always_fitting():
    """40 images of a network that is as sure as it is right: on fresh images, 1 is the best."""
    fresh = of(*drawn(20_000, 3, 1.0, seed=999))
    everything = np.arange(len(fresh.labels_n))
    losses = {False: 0.0, True: 0.0}
    for seed in range(30):
        found = fit_temperature(of(*drawn(40, 3, 1.0, seed=seed)))
        for always in losses:
            temperature = (found.fitted if always else None) or found.temperature
            losses[always] += decisions.log_losses(fresh, temperature, everything).mean()
    assert losses[False] < losses[True]
