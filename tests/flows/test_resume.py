"""``graft run --resume``: what was broken off goes on, and ends as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.artifacts import sha256_file
from tasks.finetune import keeper, train
from tasks.finetune import training as training_module
from tasks.finetune.checkpoint import belongs
from tasks.finetune.tree_file import read_tree
from tasks.unfinished import CHECKPOINT, FOLDER

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch):
    """Return what lets the next training end by Ctrl-C in an epoch, from 1."""
    monkeypatch.setattr(keeper, "SPARED", 0.0)

    def stop_in(epoch: int) -> None:
        before = training_module.train_epoch

        def interrupted(trainer, inputs, order, number, *rest):
            if number == epoch:
                monkeypatch.setattr(training_module, "train_epoch", before)
                raise KeyboardInterrupt
            return before(trainer, inputs, order, number, *rest)

        monkeypatch.setattr(training_module, "train_epoch", interrupted)

    return stop_in


def folders(name: str) -> list[Path]:
    return sorted(Path("mlruns/runs").glob(f"{name}-*"))


def tracked(name: str) -> list[tuple[str, list[int]]]:
    """Return status and epochs of each MLflow run of a name."""
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [
        (run.info.status, [m.step for m in client.get_metric_history(run.info.run_id, "val_loss")])
        for run in client.search_runs(ids, f"attributes.run_name = '{name}'")
    ]


VALUES = ("run", "good.yaml", "training.epochs=3", "training.augment=crop_flip", "seed=5")


@pytest.fixture
def whole(workspace: Path, graft) -> str:
    """Return the digest of what ``VALUES`` come to when nothing breaks the run off."""
    if not folders("unbroken"):
        assert graft(*VALUES, "name=unbroken").code == 0
    (folder,) = folders("unbroken")
    return sha256_file(folder / "model.safetensors")


def test_a_stopped_run_goes_on_as_if_it_had_not_been(workspace: Path, graft, stopping, whole):
    run = (*VALUES, "name=broken")
    stopping(3)
    first = graft(*run)
    assert first.code == 130
    assert "training.epochs=3" in first.message
    assert first.message.endswith("name=broken --resume goes on.\n")
    assert tracked("broken") == [("KILLED", [1, 2])]
    (folder,) = folders("broken")
    other = graft(*run, "training.batch_size=9", "--resume")
    assert other.code == 2
    assert "another config: training.batch_size differs" in other.message
    again = graft(*run, "--resume")
    assert again.code == 0, again.err
    assert folders("broken") == [folder]
    assert tracked("broken") == [("FINISHED", [1, 2, 3])]
    assert sha256_file(folder / "model.safetensors") == whole
    assert not list(folder.rglob(".*"))
    assert not list(Path("mlruns/artifacts").rglob(FOLDER))
    late = graft(*run, "--resume")
    assert late.code == 2
    assert "is finished: there is nothing to resume" in late.message


_SLOW = """
import os, sys, time
from flows.cli import main
from tasks.finetune.loop import Trainer

def slow(trainer, *given, step=Trainer.step):
    print("a step", file=sys.stderr, flush=True)
    time.sleep(0.5)
    return step(trainer, *given)

Trainer.step = slow
code = main(sys.argv[1:])
sys.stderr.flush()
os._exit(code)
"""


def test_sigterm_in_an_epoch_loses_no_step(workspace: Path, prefect_url: str, graft, whole):
    """A process of its own, whose epochs of 4 steps take 2 s."""
    run = (*VALUES, "name=terminated")
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW, *run],
        env=os.environ | {"PREFECT_API_URL": prefect_url},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        steps = filter("a step\n".__eq__, process.stderr)
        for _ in range(6):  # the second of the second epoch has begun
            next(steps)
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        said = process.stderr.read()
        code = process.wait()
    assert (code, time.monotonic() - start < 10) == (143, True), said
    assert said.endswith("name=terminated --resume goes on.\n"), said
    assert "Traceback" not in said
    assert tracked("terminated") == [("KILLED", [1])]
    (folder,) = folders("terminated")
    state = read_tree(folder / FOLDER, CHECKPOINT)["state"]
    assert (len(state["records"]), state["lap"]["batches"]) == (1, 2)
    again = graft(*run, "--resume")
    assert again.code == 0, again.err
    assert "going on in epoch 2 of 3 after batch 2" in again.err
    assert tracked("terminated") == [("FINISHED", [1, 2, 3])]
    assert sha256_file(folder / "model.safetensors") == whole


def test_a_run_that_was_not_begun_is_not_resumed(workspace: Path, graft):
    result = graft("run", "good.yaml", "name=never", "--resume")
    assert result.code == 2
    assert "There is no unfinished run" in result.message
    assert len(result.message.splitlines()) == 2
    assert not folders("never")


def test_a_run_goes_on_only_with_the_same_images_and_code(
    workspace: Path, tmp_path: Path, graft, stopping, monkeypatch
):
    photos = tmp_path / "photos"
    shutil.copytree(workspace / "photos", photos)
    run = ("run", "good.yaml", f"data.path={photos}", "training.epochs=2", "name=changed")
    stopping(2)
    assert graft(*run).code == 130
    (folder,) = folders("changed")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.resuming.code_digest", lambda _: "0" * 64)
        result = graft(*run, "--resume")
    assert (result.code, "other code of graft" in result.message) == (2, True)
    (photos / "red" / "0.png").rename(tmp_path / "0.png")
    result = graft(*run, "--resume")
    assert result.code == 2
    assert "begun with other images" in result.message
    assert len(result.message.splitlines()) == 2
    assert (folder / FOLDER / "checkpoint.json").is_file()  # nothing is lost by being refused
    (tmp_path / "0.png").rename(photos / "red" / "0.png")
    with monkeypatch.context() as patch:
        patch.setattr(train, "belongs", lambda course: belongs(course) | {"device": "cuda"})
        result = graft(*run, "--resume")
    assert (result.code, "is of another device" in result.message) == (2, True)
    assert f"{folder} is kept" in result.err or str(folder) in result.message
    assert (folder / FOLDER / "checkpoint.json").is_file()
    done = graft(*run, f"output.cache={tmp_path / 'cache'}", "--resume")  # output may differ
    assert done.code == 0, done.err
    assert tracked("changed") == [("FINISHED", [1, 2])]


def test_a_warm_start_goes_on_from_the_version_it_began_with(
    workspace: Path, graft, stopping, registry_copy, monkeypatch
):
    """The alias moves on before it is resumed; then it is killed after its own decision."""
    champion = registry_copy.get_model_version_by_alias("small", "champion")
    run = ("run", "good.yaml", "name=warm", "strategy.kind=full", "training.epochs=2")
    run = (*run, "model.weights=models:/small@champion")
    stopping(2)
    assert graft(*run).code == 130
    other = json.loads(graft("run", "good.yaml", "name=other", "seed=9", "--json").out)["decision"]
    assert other["version"] != champion.version
    registry_copy.set_registered_model_alias("small", "champion", str(other["version"]))
    with monkeypatch.context() as patch:
        patch.setattr("flows.transfer.publish", interrupted)
        stopped = graft(*run, "--resume")
    assert stopped.code == 130, stopped.err
    (folder,) = folders("warm")
    made = registry_copy.search_model_versions("name='small'")
    (warm,) = [version for version in made if version.tags["graft.run"] == "warm"]
    assert warm.tags["graft.backbone_sha256"] == champion.tags["graft.sha256"]
    registry_copy.set_registered_model_alias("small", "champion", warm.version)
    monkeypatch.setattr("flows.transfer.begin", interrupted)  # nothing is fetched any more
    done = json.loads(graft(*run, "--resume", "--json").out)
    assert done["decision"]["version"] == int(warm.version)
    assert len(registry_copy.search_model_versions("name='small'")) == len(made)
    assert not list(folder.rglob(".*"))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_cannot_resume_one_run(workspace: Path, graft, stopping):
    import fcntl

    run = ("run", "good.yaml", "training.epochs=2", "name=twice-resumed")
    stopping(2)
    assert graft(*run).code == 130
    (folder,) = folders("twice-resumed")
    with (folder / FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = graft(*run, "--resume")
    assert result.code == 2
    assert "still goes on in another process" in result.message
    shutil.rmtree(folder)


def test_a_run_stopped_before_an_epoch_leaves_nothing(workspace: Path, graft, stopping):
    stopping(1)
    result = graft("run", "good.yaml", "name=too-soon")
    assert result.code == 130
    assert "nothing half-made was left behind" in result.message
    assert not folders("too-soon")


def test_a_run_killed_in_every_stage_in_turn(told_by):
    """The program of ``tests/benchmarks/kills.py`` says what must be left; 30 rounds are there."""
    assert sum(told_by("kills", "--chain", timeout=600)["kills"].values()) >= 4
