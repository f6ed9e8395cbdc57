"""A comparison's run is opened again, and holds those of its cells, in a real sqlite store."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tasks.compareconfig import CompareConfig
from tasks.config import RunConfig
from tasks.errors import DataError
from tasks.register.client import connect
from tasks.register.nested import FOLDER, child_tags, open_comparison
from tasks.register.processes import FLOW_RUN_TAG, PROCESS_TAG, process_tags
from tasks.register.tracking import open_run

PARENT = "mlflow.parentRunId"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def config(store: Path, monkeypatch: pytest.MonkeyPatch, make_config) -> CompareConfig:
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return CompareConfig(
        name=f"comparison-{next(NUMBERS)}",
        base=make_config(),
        datasets={
            "d": {"data.path": "https://me:hunter2@host/x.zip?key=hunter3", "data.sha256": "0" * 64}
        },
        backbones={"b": {}},
        strategies={"scratch": {}},
        reference="scratch",
        seeds=(0,),
    )


def status(run_id: str) -> str:
    return connect().get_run(run_id).info.status


def test_the_same_comparison_goes_on_in_the_same_run(config: CompareConfig):
    with open_comparison(config, "here") as first:
        assert status(first.run_id) == "RUNNING"
    assert status(first.run_id) == "FINISHED"
    more = config.model_copy(update={"seeds": (0, 1)})
    with open_comparison(more, "here") as second:
        assert (second.run_id, status(first.run_id)) == (first.run_id, "RUNNING")
    with open_comparison(config.model_copy(update={"name": "other"}), "here") as third:
        assert third.run_id != first.run_id


def test_others_with_the_same_config_on_the_same_server_are_left_alone(config: CompareConfig):
    cell: RunConfig = config.cells()[0].config
    with (
        open_comparison(config, "here") as ours,
        open_run(cell, child_tags(ours.run_id, "c")) as running,
    ):
        with open_comparison(config, "there") as theirs:
            assert theirs.run_id != ours.run_id
        assert [status(run_id) for run_id in (ours.run_id, running.run_id)] == ["RUNNING"] * 2


def test_a_comparison_that_goes_well_at_last_bears_no_error(config: CompareConfig):
    with pytest.raises(DataError), open_comparison(config, "here") as run:
        raise DataError("No image.")
    told = connect().get_run(run.run_id)
    assert (told.info.status, "No image." in told.data.tags["graft.error"]) == ("FAILED", True)
    with open_comparison(config, "here"):
        assert "graft.error" not in connect().get_run(run.run_id).data.tags
    assert status(run.run_id) == "FINISHED"


def test_who_goes_on_with_a_comparison_is_not_taken_for_who_was_killed(config: CompareConfig):
    client = connect()
    with open_comparison(config, "here") as run:
        client.set_tag(run.run_id, PROCESS_TAG, "a-machine a-boot pid:[1] 1 ticks:0")
        client.set_tag(run.run_id, FLOW_RUN_TAG, "one that has ended")
    with open_comparison(config, "here"):
        tags = client.get_run(run.run_id).data.tags
        assert {key: tags.get(key) for key in (PROCESS_TAG, FLOW_RUN_TAG)} == {
            FLOW_RUN_TAG: None,
            **process_tags(),
        }


def test_a_run_that_no_folder_is_named_in_is_gone_on_with_where_its_cells_are(
    config: CompareConfig, caplog: pytest.LogCaptureFixture
):
    """As earlier versions of graft began them."""

    def told() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "tasks.register.nested"]

    cell: RunConfig = config.cells()[0].config
    with open_comparison(config, "old") as old, open_run(cell, child_tags(old.run_id, "c")):
        pass
    connect().delete_tag(old.run_id, FOLDER)
    for folder, cells in (("new", frozenset()), ("other", frozenset({"of another grid"}))):
        with open_comparison(config, folder, cells) as run:
            assert run.run_id != old.run_id
    for _ in range(2):
        with open_comparison(config, "here", frozenset({"c", "d"})) as run:
            assert (run.run_id, run.finished) == (old.run_id, {"c"})
    assert told() == []
    with open_comparison(config, "copied", frozenset({"c"})) as run:
        assert run.run_id != old.run_id
    (said,) = told()
    assert f"begins a new run in MLflow: {old.run_id}" in said


def test_cells_are_nested_and_counted_once_they_are_whole(config: CompareConfig):
    run: RunConfig = config.cells()[0].config
    with open_comparison(config, "here") as parent:
        with open_run(run, child_tags(parent.run_id, "whole")) as whole:
            pass
        with (
            pytest.raises(ValueError, match="odd"),
            open_run(run, child_tags(parent.run_id, "failed")),
        ):
            raise ValueError("odd")
    tags = connect().get_run(whole.run_id).data.tags
    assert tags[PARENT] == parent.run_id
    with open_comparison(config, "here") as again:
        assert again.finished == {"whole"}


def test_what_a_killed_process_left_open_is_marked_killed(config: CompareConfig):
    client = connect()
    with open_comparison(config, "here") as parent:
        left = client.create_run("0", tags=child_tags(parent.run_id, "left")).info.run_id
        experiment = client.get_run(parent.run_id).info.experiment_id
        lost = client.create_run(experiment, tags=child_tags(parent.run_id, "lost")).info.run_id
    with open_comparison(config, "here"):
        assert (status(lost), status(left)) == ("KILLED", "RUNNING")


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt, "KILLED"), (OSError, "FAILED")]
)
def test_a_stop_ends_parent_and_cells(
    config: CompareConfig, error: type[BaseException], expected: str
):
    opened = []

    def stop_midway() -> None:
        with open_comparison(config, "here") as parent:
            client = connect()
            experiment = client.get_run(parent.run_id).info.experiment_id
            cell = client.create_run(experiment, tags=child_tags(parent.run_id, "c"))
            opened.extend([parent.run_id, cell.info.run_id])
            raise error

    with pytest.raises(error):
        stop_midway()
    assert [status(run_id) for run_id in opened] == [expected, "KILLED"]


def test_no_secret_is_written(config: CompareConfig, tmp_path: Path):
    with open_comparison(config, "here") as parent:
        pass
    file = connect().download_artifacts(parent.run_id, "comparison.yaml", str(tmp_path))
    text = Path(file).read_text()
    assert "https://host/x.zip" in text
    assert "hunter" not in text
