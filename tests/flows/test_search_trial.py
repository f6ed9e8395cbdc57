"""The pruners end what is bad early, and leave the best alone."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from flows.search_trial import make_pruner
from tests.flows.conftest import small_config

EPOCHS = 9


@pytest.mark.parametrize(("kind", "least", "most"), [("median", 5, 30), ("hyperband", 5, 30)])
def test_what_is_pruned_is_bad(kind: str, least: int, most: int):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = small_config(training={"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.01})
    study = optuna.create_study(
        direction="maximize", pruner=make_pruner(kind, config), study_name=kind
    )
    pruned, kept = [], []
    for quality in np.random.default_rng(0).permutation(40):
        trial = study.ask()
        for epoch in range(1, EPOCHS + 1):
            trial.report(quality + epoch / 100, epoch)
            if epoch < EPOCHS and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                pruned.append(quality)
                break
        else:
            study.tell(trial, quality)
            kept.append(quality)
    assert least <= len(pruned) <= most
    assert 39 in kept
    assert np.mean(pruned) < np.mean(kept) - 5


def test_none_prunes_nothing():
    study = optuna.create_study(pruner=make_pruner("none", small_config()))
    for _ in range(12):
        trial = study.ask()
        trial.report(float(trial.number), 1)
        assert not trial.should_prune()
        study.tell(trial, float(trial.number))
