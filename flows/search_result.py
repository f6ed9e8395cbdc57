"""What a study holds, as values that a report is made of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flows.search_points import as_written
from flows.search_storage import storage_errors
from flows.search_study import CAME, LOST
from flows.search_trial import Came
from tasks.evaluate.search import Importance, Search, Tried
from tasks.searchconfig import SearchConfig

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

ENOUGH = 5  # whole trials; importances of fewer say nothing

Ended = Literal["complete", "pruned", "failed", "lost", "open"]


def look_at(config: SearchConfig, study: optuna.Study, root: Path, run_id: str) -> Search:
    """Return the search as it stands; raises ``TrackingError`` where the storage is lost."""
    with storage_errors("reading the study"):
        trials = study.get_trials(deepcopy=False)
        whole = [trial for trial in trials if trial.state.name == "COMPLETE"]
        importances = _importances(study, whole)
    found = Search(
        name=config.name,
        folder=root,
        run_id=run_id,
        metric=config.metric,
        sampler=config.sampler,
        pruner=config.pruner,
        wanted=config.trials,
        searched=tuple(config.space),
        trials=tuple(_tried(config, trial) for trial in trials),
        best=None,
        importances=importances,
    )
    ranked = found.ranked()  # of equal ones the database's best is any
    return found.model_copy(update={"best": ranked[0].number}) if ranked else found


def _tried(config: SearchConfig, trial: FrozenTrial) -> Tried:
    came = Came.model_validate(trial.user_attrs.get(CAME, {"state": "failed"}))
    return Tried(
        number=trial.number,
        state=_state(trial),
        point=as_written(config, trial.params or trial.system_attrs.get("fixed_params", {})),
        value=trial.value if trial.state.name == "COMPLETE" else came.value,
        val_accuracy=came.val_accuracy,
        val_loss=came.val_loss,
        epochs=came.epochs,
        seconds=came.seconds,
        reason=came.reason,
        same_as=came.same_as,
    )


def _state(trial: FrozenTrial) -> Ended:
    if not trial.state.is_finished():
        return "open"
    if trial.user_attrs.get(LOST, False):
        return "lost"
    names: dict[str, Ended] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return names[trial.state.name]


def _importances(study: optuna.Study, whole: list[FrozenTrial]) -> tuple[Importance, ...]:
    """Ask two of Optuna's evaluators, where the trials differ enough."""
    from optuna.importance import (
        FanovaImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    if len(whole) < ENOUGH or len({trial.value for trial in whole}) == 1:
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that PED-ANOVA is experimental, and of its few trials
        fanova = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
        ped_anova = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    keys = sorted(fanova, key=lambda key: (-fanova[key], key))
    return tuple(
        Importance(key=key, fanova=fanova[key], ped_anova=ped_anova.get(key, 0.0)) for key in keys
    )
