"""The study of a search opened, and held to be of this config and these images."""

from __future__ import annotations

from pathlib import Path

from flows.search_points import Points
from flows.search_storage import locked, open_storage, storage_errors
from flows.search_study import Study
from tasks.errors import ConfigError
from tasks.searchconfig import SearchConfig

IDENTITY = "graft.identity"


def open_study(config: SearchConfig, root: Path, identity: str) -> Study:
    """Open the study ``config.name``, or make it; ``identity`` is that of config and images.

    Raises ``ConfigError`` where a study of that name has another identity.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(config.storage, root)
    with storage_errors("opening the study"), locked(root / ".lock"):
        study = optuna.create_study(
            storage=storage,
            sampler=Points(config),
            study_name=config.name,
            direction="maximize" if config.metric == "val_accuracy" else "minimize",
            load_if_exists=True,
        )
        known = study.user_attrs.get(IDENTITY)
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
