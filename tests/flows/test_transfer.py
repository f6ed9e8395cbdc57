"""The flow: what is cached, what is retried, what Prefect shows of it."""

from __future__ import annotations

import re
import shutil
import urllib.request
from pathlib import Path

import pytest

from tasks.errors import DataError, TransientDataError, TransientTrackingError
from tasks.retry import RETRIES, may_pass
from tests.flows.recorded import Recorded, ended


def run_states(recorded: Recorded, name: str) -> dict[str, str]:
    """Return the state of each step of the flow run of config ``name``, once all are recorded."""
    runs = recorded.task_runs(f"{name}:", ended(6))
    return {task.split()[0]: state for task, state in runs}


@pytest.fixture
def connected(prefect_url: str):
    """Point this process's Prefect client at the server the runs use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield


def zipped(workspace: Path) -> Path:
    archive = workspace / "photos.zip"
    if not archive.exists():
        shutil.make_archive(str(workspace / "photos"), "zip", workspace / "photos")
    return archive


def test_an_unchanged_second_run_has_download_and_preprocess_cached(
    workspace: Path, graft, recorded: Recorded
):
    data = f"data.path={zipped(workspace)}"
    for name, state in (("first", "Completed"), ("second", "Cached")):
        result = graft("run", "good.yaml", data, f"name={name}", "data.val_fraction=0.15")
        assert result.code == 0, result.err
        states = run_states(recorded, name)
        assert states["download"] == state
        assert states["preprocess"] == state
        others = ("load", "finetune", "evaluate", "register")
        assert {states[task] for task in others} == {"Completed"}
    assert ", cached" in result.err


def test_other_content_settings_or_seed_are_not_cached(
    workspace: Path, tmp_path: Path, graft, recorded: Recorded
):
    data = f"data.path={zipped(workspace)}"
    graft("run", "good.yaml", data)
    graft("run", "good.yaml", data, "name=seeded", "seed=7")
    assert run_states(recorded, "seeded")["preprocess"] == "Completed"
    shutil.copytree(workspace / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "red" / "0.png").unlink()
    other = shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "photos")
    shutil.copy(other, workspace / "photos.zip")
    graft("run", "good.yaml", data, "name=fewer")
    states = run_states(recorded, "fewer")
    assert (states["download"], states["preprocess"]) == ("Completed", "Completed")


def test_a_local_folder_is_read_each_time_and_packed_once(
    workspace: Path, graft, recorded: Recorded
):
    graft("run", "good.yaml", "name=folder-1", "data.val_fraction=0.2")
    graft("run", "good.yaml", "name=folder-2", "data.val_fraction=0.2")
    states = run_states(recorded, "folder-2")
    assert (states["download"], states["preprocess"]) == ("Completed", "Cached")


def test_a_cached_result_whose_files_are_gone_is_made_again(workspace: Path, tmp_path: Path, graft):
    arguments = ("run", "good.yaml", f"data.path={zipped(workspace)}", f"output.cache={tmp_path}")
    assert graft(*arguments).code == 0
    shutil.rmtree(tmp_path / "prepared")
    again = graft(*arguments)
    assert again.code == 0, again.err
    assert "made again" in again.err
    assert len(list((tmp_path / "prepared").iterdir())) == 1


@pytest.mark.usefixtures("workspace")
def test_prefect_shows_a_report_and_a_table(graft, recorded: Recorded):
    assert graft("run", "good.yaml", "name=artifacts").code == 0
    artifacts = dict(recorded.artifacts("artifacts:"))
    assert artifacts["report"].type == "markdown"
    assert "Test accuracy" in artifacts["report"].data
    assert artifacts["classes"].type == "table"
    assert "blue" in artifacts["classes"].data
    assert artifacts["report-page"].type == "markdown"
    address = re.search(r"\((file://.*report\.html)\)", artifacts["report-page"].data)[1]
    page = urllib.request.urlopen(address).read().decode()
    assert page.startswith("<!doctype html>")


@pytest.mark.usefixtures("workspace")
def test_a_pupil_learns_from_the_registered_champion(graft, registry_copy):
    strategy = ("strategy.kind=distill", "strategy.teacher=models:/small@champion")
    weights = "model.weights=graft:tiny-cifar10"
    assert graft("run", "good.yaml", "name=pupil", weights, *strategy).code == 0
    versions = registry_copy.search_model_versions("name='small'")
    teacher, pupil = (v.tags for v in sorted(versions, key=lambda v: int(v.version)))
    assert pupil["graft.teacher_sha256"] == teacher["graft.sha256"] != pupil["graft.sha256"]


@pytest.mark.usefixtures("connected", "home")
@pytest.mark.parametrize(
    ("error", "tries"),
    [(TransientDataError, 3), (TransientTrackingError, 3), (DataError, 1), (OSError, 1)],
)
def test_only_what_may_pass_is_tried_again(error: type[Exception], tries: int):
    from prefect import flow, task

    tried = []

    @task(retries=2, retry_delay_seconds=0, retry_condition_fn=may_pass)
    def fails() -> None:
        tried.append(1)
        raise error("no")

    @flow
    def one_task() -> None:
        fails()

    with pytest.raises(error):
        one_task()
    assert len(tried) == tries


def test_the_tasks_retry_time_out_and_are_named():
    from tasks.download.task import download_images
    from tasks.evaluate.task import evaluate_model
    from tasks.finetune.task import finetune_model
    from tasks.preprocess.task import preprocess_images
    from tasks.pretrained.task import load_backbone
    from tasks.register.task import register_model

    reaching_out = (download_images, load_backbone, register_model)
    within = (preprocess_images, finetune_model, evaluate_model)
    for task in reaching_out:
        assert (task.retries, task.retry_condition_fn) == (RETRIES, may_pass)
    for task in within:
        assert task.retries == 0
    for task in (*reaching_out, *within):
        assert task.timeout_seconds
        assert "{" in task.task_run_name


def test_the_form_in_prefects_ui_knows_every_setting():
    from flows.transfer import transfer

    schema = transfer.parameters.model_dump()
    assert schema["required"] == ["config"]
    assert set(schema["definitions"]) >= {"RunConfig", "DataConfig", "TrainingConfig"}
    assert schema["definitions"]["TrainingConfig"]["properties"]["epochs"]["type"] == "integer"
