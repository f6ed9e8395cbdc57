"""The points that a search tries: a pure function of seed, number of the trial and what is known.

Optuna's samplers count on one process that lives as long as the study. With one seed two processes
would draw the same points, and one that goes on would draw its first ones again. So each trial is
drawn as its number says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from tasks.searchconfig import Dimension, Scalar, SearchConfig

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Space = dict[str, BaseDistribution]


class Points(BaseSampler):
    """Trial 0 is the base's own point; the others are drawn by one of Optuna's samplers.

    ``random``: trial n is draw n of ``RandomSampler(seed)``. ``tpe``: a multivariate TPE (Bergstra
    et al. 2011; Falkner et al. 2018) that sees the running trials as bad ones, with random numbers
    of the trial's own; its first ten trials are random.
    """

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._space = space_of(config)
        self._random = RandomSampler(config.seed)
        self._drawn = 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """Return the whole space: it is the same for every trial."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """Return the point of trial ``trial.number``."""
        if trial.number == 0:
            return dict(self._config.first())
        if self._config.sampler == "random":
            return self._draw(study, trial)
        inner = TPESampler(
            multivariate=True, constant_liar=True, seed=own_seed(self._config.seed, trial.number)
        )
        point = inner.sample_relative(study, trial, search_space)
        return {
            key: point[key] if key in point else inner.sample_independent(study, trial, key, kind)
            for key, kind in search_space.items()
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # noqa: ANN401 - as Optuna's
        """Draw one value that ``sample_relative`` has not given; of a trial begun again half."""
        inner = RandomSampler(own_seed(self._config.seed, trial.number))
        return inner.sample_independent(study, trial, param_name, param_distribution)

    def _draw(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        """Go on to draw ``trial.number``; from the start where it is an earlier one."""
        if self._drawn >= trial.number:
            self._random, self._drawn = RandomSampler(self._config.seed), 0
        point: dict[str, Any] = {}
        while self._drawn < trial.number:
            point = {
                key: self._random.sample_independent(study, trial, key, kind)
                for key, kind in self._space.items()
            }
            self._drawn += 1
        return point


def own_seed(seed: int, number: int) -> int:
    """Return the seed of one trial's random numbers, by numpy's ``SeedSequence``."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def space_of(config: SearchConfig) -> Space:
    """Return the space as Optuna's distributions, integers where the base's value is one."""
    first = config.first()
    return {key: _distribution(of, first[key]) for key, of in config.space.items()}


def as_written(config: SearchConfig, point: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return a point of Optuna's with Python's own numbers, as a config would hold them."""
    return {
        key: config.space[key].rounded(value.item() if isinstance(value, np.generic) else value)
        for key, value in point.items()
    }


def _distribution(of: Dimension, first: Scalar) -> BaseDistribution:
    if of.choices is not None:
        return CategoricalDistribution(of.choices)
    assert of.low is not None
    assert of.high is not None
    if isinstance(first, int):
        return IntDistribution(int(of.low), int(of.high), of.log, int(of.step or 1))
    step = None if of.step is None else float(of.step)
    return FloatDistribution(float(of.low), float(of.high), of.log, step)
