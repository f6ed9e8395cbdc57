"""The points of a search against Optuna's own samplers, whichever process draws which."""

from __future__ import annotations

import optuna
import pytest
from optuna.samplers import RandomSampler

from flows.search_points import Points, as_written, space_of
from tasks.searchconfig import SearchConfig
from tests.flows.conftest import small_config

SPACE = {
    "training.learning_rate": {"low": 0.001, "high": 1.0, "log": True},
    "training.batch_size": {"low": 2, "high": 32},
    "training.label_smoothing": {"low": 0.0, "high": 0.3, "step": 0.05},
    "training.optimizer": {"choices": ["sgd", "adamw"]},
}


def config(sampler: str, seed: int = 3) -> SearchConfig:
    return SearchConfig.model_validate(
        {"base": small_config(), "space": SPACE, "sampler": sampler, "seed": seed}
    )


def worth(point: dict) -> float:
    """Return a value that is highest at a rate of 0.1 and a batch of 8."""
    return -abs(point["training.learning_rate"] - 0.1) - abs(point["training.batch_size"] - 8) / 64


def drawn(searched: SearchConfig, n: int, study: optuna.Study | None = None) -> list[dict]:
    """Return ``n`` points, each drawn by a new sampler, as processes that die do."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = study or optuna.create_study(direction="maximize")
    points = []
    for _ in range(n):
        study.sampler = Points(searched)
        trial = study.ask(fixed_distributions=space_of(searched))
        points.append(as_written(searched, trial.params))
        study.tell(trial, worth(points[-1]))
    return points


def test_random_points_are_those_of_optunas_own_sampler():
    searched = config("random")
    oracle = optuna.create_study(sampler=RandomSampler(seed=searched.seed))
    expected = [
        as_written(searched, oracle.ask(fixed_distributions=space_of(searched)).params)
        for _ in range(8)
    ]
    first, *others = drawn(searched, 9)
    assert first == searched.first()
    assert others == expected
    one_sampler = optuna.create_study(sampler=Points(searched))
    found = [one_sampler.ask(fixed_distributions=space_of(searched)).params for _ in range(9)]
    assert [as_written(searched, point) for point in found[1:]] == expected


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_is_gone_on_with_draws_what_it_would_have(sampler: str):
    searched = config(sampler)
    whole = drawn(searched, 16)
    study = optuna.create_study(direction="maximize")
    assert drawn(searched, 7, study) + drawn(searched, 9, study) == whole
    assert drawn(config(sampler, seed=4), 16)[1:] != whole[1:]
    assert len({tuple(point.values()) for point in whole}) == 16


def test_every_point_is_in_the_space():
    searched = config("tpe")
    for point in drawn(searched, 30):
        assert list(point) == list(SPACE)
        assert all(searched.space[key].holds(value) for key, value in point.items()), point
        assert searched.run_of(point).training.batch_size == point["training.batch_size"]


def test_tpe_comes_nearer_than_chance():
    """The mean worth of points after the random ones, over some seeds."""
    tpe = [worth(p) for seed in range(4) for p in drawn(config("tpe", seed), 30)[15:]]
    chance = [worth(p) for seed in range(4) for p in drawn(config("random", seed), 30)[15:]]
    assert sum(tpe) / len(tpe) > sum(chance) / len(chance) + 0.05
