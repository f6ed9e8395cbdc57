"""Averages of weights against closed forms, torch's own averages and brute force."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from tasks.evaluate.score import Scores
from tasks.finetune.averaging import Ema, greedy_soup, interpolate, recalibrate, wise_ft


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 5, 3, bias=False),
        nn.BatchNorm2d(5, momentum=0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 2),
    )


def walk(moving: nn.Module) -> None:
    """Move every weight at random, and count a batch."""
    with torch.no_grad():
        for parameter in moving.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter)
    moving.train()(torch.randn(4, 3, 8, 8, dtype=next(moving.parameters()).dtype))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_ema_is_the_weighted_sum_of_all_weights_that_were(decay):
    moving = network().double()
    ema = Ema(moving, decay)
    history = [copy.deepcopy(moving.state_dict())]
    for _ in range(30):
        walk(moving)
        ema.update(moving)
        history.append(copy.deepcopy(moving.state_dict()))
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(1, 31)]
    weights = [np.prod(decays)]
    weights += [(1 - d) * np.prod(decays[t:]) for t, d in enumerate(decays, start=1)]
    assert sum(weights) == pytest.approx(1)
    for key, value in ema.network.state_dict().items():
        if value.is_floating_point():
            want = sum(w * state[key] for w, state in zip(weights, history, strict=True))
            torch.testing.assert_close(value, want)
        else:
            assert value == moving.state_dict()[key] == 30


def test_without_its_warm_up_ema_is_torchs_averaged_model():
    moving = network()
    ema = Ema(moving, 0.1)  # below 2/11, where the warm-up starts
    averaged = AveragedModel(moving, multi_avg_fn=get_ema_multi_avg_fn(0.1), use_buffers=True)
    averaged.update_parameters(moving)  # the first one copies
    for _ in range(5):
        walk(moving)
        ema.update(moving)
        averaged.update_parameters(moving)
    ours, torchs = ema.network.state_dict(), averaged.module.state_dict()
    for key in (key for key in ours if not key.endswith("num_batches_tracked")):
        torch.testing.assert_close(ours[key], torchs[key])


def test_a_short_run_does_not_lag_at_its_start():
    moving = nn.Linear(1, 1)
    with torch.no_grad():
        moving.weight.fill_(0.0)
        ema = Ema(moving, 0.99)
        moving.weight.fill_(1.0)
    for _ in range(20):
        ema.update(moving)
    assert ema.network.weight.item() > 0.99
    assert 1 - 0.99**20 < 0.2  # what the plain average would have


def test_ema_leaves_the_network_alone_and_what_is_frozen_to_the_bit():
    moving = network()
    moving[0].requires_grad_(False)
    start = copy.deepcopy(moving[0].state_dict())
    ema = Ema(moving, 0.9)
    walk(moving)
    before = copy.deepcopy(moving.state_dict())
    for _ in range(50):
        ema.update(moving)
    assert same(moving.state_dict(), before)
    assert same(ema.network[0].state_dict(), start)
    assert list(ema.network.state_dict()) == list(moving.state_dict())
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())


def test_interpolation_is_exact_at_its_ends_and_linear_between():
    start, end = network(1).state_dict(), network(2).state_dict()
    end["1.num_batches_tracked"] += 7
    assert same(interpolate(start, end, 0), start)
    assert same(interpolate(start, end, 1), end)
    assert interpolate(start, end, 1)["0.weight"].data_ptr() != end["0.weight"].data_ptr()
    mixed = interpolate(start, end, 0.3)
    assert mixed["1.num_batches_tracked"] == 7
    for key in ("0.weight", "1.running_mean", "8.bias"):
        want = 0.7 * start[key].double().numpy() + 0.3 * end[key].double().numpy()
        np.testing.assert_allclose(mixed[key].numpy(), want, rtol=1e-5, atol=1e-7)


POINTS = torch.linspace(-1, 1, 101).unsqueeze(1)
LABELS = (POINTS[:, 0] > 0.24).long()


def validate(threshold: nn.Module) -> Scores:
    """Score a linear network on points of a line, of which those beyond 0.24 are class 1."""
    with torch.no_grad():
        probabilities = threshold(POINTS).softmax(1).numpy()
    return Scores(probabilities, LABELS.numpy(), probabilities.argmax(1), 0.0, np.zeros(101))


def threshold(at: float, steep: float = 1.0) -> dict[str, Tensor]:
    """Return a ``nn.Linear(1, 2)`` that says class 1 beyond ``at``."""
    return {
        "weight": torch.tensor([[0.0], [steep]]),
        "bias": torch.tensor([0.0, -at * steep]),
    }


@pytest.mark.parametrize(("start", "end"), [(-0.5, 0.8), (0.9, 0.1), (0.3, -0.9)])
def test_wise_ft_finds_what_brute_force_finds(start, end):
    head = nn.Linear(1, 2)
    one, other = threshold(start), threshold(end, steep=3.0)
    found = wise_ft(head, one, other, "search", validate)
    results = []
    for tenth in range(11):
        share = tenth / 10
        head_there = nn.Linear(1, 2)
        head_there.load_state_dict({k: (1 - share) * one[k] + share * other[k] for k in one})
        scores = validate(head_there)
        results.append((scores.accuracy, -scores.log_loss, share))
    assert found.share == max(results)[2]
    assert found.tried == tuple((share, accuracy) for accuracy, _, share in results)
    assert same(head.state_dict(), found.state)
    assert same(found.state, interpolate(one, other, found.share))
    assert validate(head).accuracy == max(results)[0]


def test_wise_ft_prefers_the_fine_tuned_weights_among_equals():
    head = nn.Linear(1, 2)
    assert wise_ft(head, threshold(0.2), threshold(0.2), "search", validate).share == 1


def test_wise_ft_takes_a_share_that_is_given():
    head = nn.Linear(1, 2)
    found = wise_ft(head, threshold(0.0), threshold(0.5), 0.25, validate)
    assert (found.share, len(found.tried)) == (0.25, 1)
    assert head.bias[1].item() == pytest.approx(-0.125)


def test_wise_ft_keeps_what_validation_recalibrates():
    def recalibrated(moving: nn.Module) -> Scores:
        with torch.no_grad():
            moving.weight += 1
        return validate(moving)

    head = nn.Linear(1, 2)
    found = wise_ft(head, threshold(0.0), threshold(0.5), 1.0, recalibrated)
    assert torch.equal(found.state["weight"], threshold(0.5)["weight"] + 1)
    assert same(head.state_dict(), found.state)


def test_the_soup_takes_in_what_helps_and_leaves_out_what_does_not():
    head, prepared = nn.Linear(1, 2), []
    states = [threshold(0.9), threshold(0.5), threshold(0.1), threshold(-0.2)]
    alone = []
    for state in states:
        head.load_state_dict(state)
        alone.append(validate(head).accuracy)
    assert sorted(alone, reverse=True) == [alone[2], alone[1], alone[3], alone[0]]
    soup = greedy_soup(head, states, validate, prepared.append)
    # 0.1 is best; with 0.5 the mean is 0.3: better; with -0.2 too it is 0.13: worse; 0.9 worse
    assert soup.members == (2, 1)
    assert soup.accuracy == validate(head).accuracy > max(alone)
    assert len(prepared) == 3  # one for every mean, none for a run alone
    assert same(head.state_dict(), soup.state)
    torch.testing.assert_close(soup.state["bias"], torch.tensor([0.0, -0.3]))


def test_a_soup_of_one_is_that_run_to_the_bit():
    head = nn.Linear(1, 2)
    states = [threshold(0.24), threshold(5.0)]
    soup = greedy_soup(head, states, validate, lambda _: None)
    assert soup.members == (0,)
    assert same(soup.state, states[0])
    assert same(head.state_dict(), states[0])


def test_runs_that_are_equally_good_stay_in_the_soup():
    states = [threshold(0.22), threshold(0.22, steep=2.0), threshold(0.22)]
    soup = greedy_soup(nn.Linear(1, 2), states, validate, lambda _: None)
    assert sorted(soup.members) == [0, 1, 2]
    assert soup.members[0] == 1  # the lowest loss comes first


def test_a_soup_of_batch_norm_networks_is_recalibrated():
    states = [network(seed).state_dict() for seed in (1, 2)]
    images = torch.randn(6, 3, 8, 8)
    mixed = network()

    def always_better(_: nn.Module) -> Scores:
        always_better.calls += 1
        right = np.arange(10) < always_better.calls
        predictions = right.astype(int)
        return Scores(
            np.zeros((10, 2), np.float32), np.ones(10, int), predictions, 0.0, np.zeros(10)
        )

    always_better.calls = 0
    soup = greedy_soup(mixed, states, always_better, lambda it: recalibrate(it, [images]))
    assert len(soup.members) == 2
    want = network()
    want.load_state_dict(soup.state)
    first = want[0](images)
    torch.testing.assert_close(soup.state["1.running_mean"], first.mean((0, 2, 3)))


def test_recalibration_gives_the_statistics_of_torchs_update_bn():
    ours, torchs = network(), network()
    for one in (ours, torchs):
        one[3].p = 0.0  # update_bn leaves dropout on
        one.eval()
    batches = list(torch.randn(4, 5, 3, 8, 8) * 3 + 1)
    recalibrate(ours, batches)
    update_bn(batches, torchs)
    for key in (k for k in ours.state_dict() if "running" in k):
        torch.testing.assert_close(ours.state_dict()[key], torchs.state_dict()[key])


def test_recalibration_is_not_disturbed_by_dropout_and_puts_everything_back():
    ours, quiet = network(), network()
    quiet[3].p = 0.0
    ours.train()
    ours[1].eval()
    modes = [module.training for module in ours.modules()]
    images = torch.randn(5, 3, 8, 8)
    for one in (ours, quiet):
        recalibrate(one, [images])
    assert torch.equal(ours[5].running_mean, quiet[5].running_mean)
    assert [module.training for module in ours.modules()] == modes
    assert (ours[1].momentum, ours[5].momentum) == (0.1, 0.3)
    weights = network().state_dict()
    assert all(torch.equal(ours.state_dict()[k], weights[k]) for k in weights if "weight" in k)


def test_frozen_batch_norm_keeps_and_uses_its_statistics():
    ours = network()
    frozen = nn.Sequential(ours[0], ours[1])  # found inside a module that is named
    ours[1].running_mean.fill_(0.5)
    images = torch.randn(5, 3, 8, 8)
    recalibrate(ours, [images], frozen_modules=[frozen])
    assert torch.equal(ours[1].running_mean, torch.full((4,), 0.5))
    with torch.no_grad():
        before_second = ours.eval()[:5](images)
    torch.testing.assert_close(ours[5].running_mean, before_second.mean((0, 2, 3)))


def test_without_batch_norm_nothing_is_read():
    def never() -> Iterator[Tensor]:
        pytest.fail("read")
        yield

    recalibrate(nn.Linear(2, 2), never())
    ours = network()
    recalibrate(ours, never(), frozen_modules=[ours])


def test_a_batch_that_fails_leaves_modes_and_momentum_as_they_were():
    ours = network()
    with pytest.raises(RuntimeError):
        recalibrate(ours, [torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)])
    assert all(module.training for module in ours.modules())
    assert ours[5].momentum == 0.3
