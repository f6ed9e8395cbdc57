"""The study of a search opened, and held to be of this config and these images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.search_points import Points
from flows.search_storage import locked, open_storage, storage_errors
from flows.search_study import PROCESS, Study, has_ended
from tasks.errors import ConfigError
from tasks.register.processes import is_gone
from tasks.searchconfig import SearchConfig

if TYPE_CHECKING:
    from optuna import Study as Plain
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

IDENTITY = "graft.identity"


def open_study(config: SearchConfig, root: Path, identity: str) -> Study:
    """Open the study ``config.name``, or make it; ``identity`` is that of config and images.

    A study of another identity is begun anew while no trial of it has ended or runs: so a base that
    fails can be corrected. Raises ``ConfigError`` where one has.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(config.storage, root)
    with storage_errors("opening the study"), locked(root / ".lock"):
        study = _opened(config, storage)
        known = study.user_attrs.get(IDENTITY)
        if known not in (None, identity) and not any(map(_holds, study.get_trials(deepcopy=False))):
            optuna.delete_study(study_name=config.name, storage=storage)
            study = _opened(config, storage)
            known = None
        if known is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(IDENTITY, identity)
            known = identity
    if known != identity:
        raise ConfigError(
            f"The study {config.name} is of another config, or of other images.\n"
            "Set another name; or go on with base, space, metric, sampler, pruner and seed as "
            "they were."
        )
    return Study(config, study, storage, root)


def _opened(config: SearchConfig, storage: BaseStorage) -> Plain:
    import optuna

    return optuna.create_study(
        storage=storage,
        sampler=Points(config),
        study_name=config.name,
        direction="maximize" if config.metric == "val_accuracy" else "minimize",
        load_if_exists=True,
    )


def _holds(trial: FrozenTrial) -> bool:
    """Say whether a trial holds its study to the identity: it has ended, or somebody has it."""
    if trial.state.name == "RUNNING":
        process = trial.user_attrs.get(PROCESS)
        return process is None or not is_gone(process)
    return has_ended(trial)
