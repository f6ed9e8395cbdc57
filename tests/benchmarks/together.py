"""Whole runs of one config started at the same moment, where there is neither cache nor database.

    python -m tests.benchmarks.together

Two are the same run: same config, cache, MLflow database, model. The third is of another version of
graft, which lays the files of the cache out otherwise, with a model of its own. Prints as JSON what
they have left; tests/flows/test_together.py says what must be. The processes are forked from one
that has imported everything, as those of kills.py, and begin at one moment.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.kills import Ended, begun, found, import_all, watched, write_photos

# where files in the cache are marked with how they are laid out
MARKED = ("tasks.download.source", "tasks.preprocess.pack", "tasks.finetune.feature_key")
SETTINGS = {
    "name": "small",
    "data": {"kind": "folder", "path": "photos.zip"},
    "strategy": {"kind": "linear_probe"},
    "training": {"epochs": 3, "batch_size": 8, "threads": 1, "learning_rate": 0.01},
    "output": {"cache": "cache"},
}


def be_another_version() -> None:
    """Mark what is written into the cache as another version of graft would."""
    for name in MARKED:
        module = importlib.import_module(name)
        module.FORMAT = f"{module.FORMAT}, and more"


def run_all() -> list[Ended]:
    """Run the three; those that are the same come first."""
    gate, bolt = os.pipe()

    def wait() -> None:
        os.close(bolt)
        os.read(gate, 1)  # ends where nobody has the bolt any more

    def wait_as_another() -> None:
        be_another_version()
        wait()

    other = ["name=other", "promotion.model=other"]
    pipes = [
        begun(["run", "run.yaml"], wait),
        begun(["run", "run.yaml"], wait),
        begun(["run", "run.yaml", *other], wait_as_another),
    ]
    os.close(bolt)
    with ThreadPoolExecutor(len(pipes)) as pool:
        return list(pool.map(lambda pipe: watched(*pipe), pipes))


def spans(name: str) -> list[tuple[int, int]]:
    """Return when each MLflow run of a name began and ended, ms since 1970."""
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, f"attributes.run_name = '{name}'")
    return [(run.info.start_time, run.info.end_time) for run in runs]


def aliases(name: str) -> dict[str, str]:
    """Return the aliases of a registered model."""
    from mlflow import MlflowClient

    return dict(MlflowClient("sqlite:///mlruns/mlflow.db").get_registered_model(name).aliases)


def main() -> None:
    """Run, and print what is left."""
    with tempfile.TemporaryDirectory(prefix="graft-together-") as folder:
        os.chdir(folder)
        import_all(Path(folder))
        write_photos(Path(folder), 20, **SETTINGS)
        shutil.make_archive("photos", "zip", "photos")
        ended = run_all()
        names = ("small", "other")
        told = {
            "codes": [each.code for each in ended],
            "said": [each.said for each in ended],
            "seconds": [each.seconds for each in ended],
            "spans": spans("small") + spans("other"),
            "aliases": {name: aliases(name) for name in names},
            **{name: found(name) for name in names},
            "cache": Counter(path.parent.name for path in Path("cache").glob("*/[!.]*")),
            "hidden": sorted(map(str, Path("cache").rglob(".*"))),
            "folders": sorted(path.name for path in Path("mlruns/runs").iterdir()),
        }
        print(json.dumps(told))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
