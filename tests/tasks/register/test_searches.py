"""A search's run is opened again, and its trials' runs are closed by number, in a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.register.client import connect
from tasks.register.searches import closing_search, find_search, trial_tags
from tasks.register.tracking import open_run
from tasks.searchconfig import SearchConfig


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_config) -> SearchConfig:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    signed = {
        "data": {
            "kind": "folder",
            "path": "https://host/x.zip?key=hunter3",
            "sha256": "0" * 64,
        }
    }
    space = {"training.epochs": {"low": 1, "high": 9}}
    return SearchConfig.model_validate({"base": make_config(**signed), "space": space})


def test_a_search_has_one_run_and_closes_those_of_lost_trials(config: SearchConfig):
    client = connect()
    first = find_search(config, None)
    with closing_search(first):
        first.describe(config)
        again = find_search(config.model_copy(update={"trials": 99}), first.run_id)
        assert again.run_id == first.run_id
        # a search of the same values is another one where its study, folder or storage is
        assert find_search(config, None).run_id != first.run_id
        with (
            open_run(config.base, trial_tags(first.run_id, 3)) as lost,
            open_run(config.base, trial_tags(first.run_id, 33)) as other,
        ):
            first.close_trials([3], "killed")
            assert client.get_run(lost.run_id).info.status == "KILLED"
            assert client.get_run(lost.run_id).data.tags["graft.error"] == "killed"
            assert client.get_run(other.run_id).info.status == "RUNNING"
        first.report({"best_val_accuracy": 0.5}, config.base, [])
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"best_val_accuracy": 0.5}
    assert run.data.params["space"] == "training.epochs"
    for name in ("best.yaml", "search.yaml"):
        path = client.download_artifacts(first.run_id, name)
        assert "hunter" not in Path(path).read_text()
    assert find_search(config, first.run_id).run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    client.delete_run(first.run_id)
    assert find_search(config, first.run_id).run_id not in (first.run_id, again.run_id)
    assert find_search(config, "0" * 32).run_id != first.run_id
