"""The deployments beside transfer: retrain, also by an event, cleanup, pretrain and compare."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from tasks.cleanupconfig import CleanupConfig
from tasks.compareconfig import CompareConfig
from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.searchconfig import SearchConfig
from tests.flows.deployments.site import DEPLOYMENTS, REPOSITORY, Site

EVENT, RESOURCE = "graft.data.changed", "graft.data.digits"
MODEL = "digits-again"


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("retrain", "digits", RunConfig),
        ("cleanup", "cleanup", CleanupConfig),
        ("pretrain", "pretrain_tiny_cifar10", RunConfig),
        ("compare", "compare_strategies", CompareConfig),
        ("search", "search_digits", SearchConfig),
    ],
)
def test_parameters_are_those_of_the_config(name: str, file: str, kind: Any):
    given = kind.model_validate(DEPLOYMENTS[name]["parameters"]["config"])
    assert given == load_config(REPOSITORY / "configs" / f"{file}.yaml", [], kind)


def test_what_a_deployment_does_by_itself_is_the_careful_thing():
    assert DEPLOYMENTS["cleanup"]["parameters"]["apply"] is False
    assert DEPLOYMENTS["retrain"]["parameters"]["force"] is False
    # the weights in the repository are not what a worker writes over
    assert DEPLOYMENTS["pretrain"]["parameters"]["target"].startswith("mlruns/")


def quick(site: Site) -> dict[str, Any]:
    """Return the config of digits, for the least work, as a model of this file's own."""
    config = copy.deepcopy(DEPLOYMENTS["retrain"]["parameters"]["config"])
    config["training"]["epochs"] = 1
    config["evaluation"] |= {"latency_runs": 0, "explained_images": 0, "bootstrap": 0}
    config["promotion"]["model"] = MODEL
    config["output"]["folder"] = str(site.folder / "again")
    return config


def versions(site: Site, model: str = MODEL) -> list[int]:
    rows = site.query(f"select version from model_versions where name = '{model}' order by 1")
    return [number for (number,) in rows]


def moves_told(site: Site) -> int:
    """Return how many events said that this file's model has a new champion."""
    about = {
        "event": {"name": ["graft.champion.moved"]},
        "resource": {"id": [f"graft.model.{MODEL}"]},
    }
    deadline = time.monotonic() + 30
    while True:  # events are stored a little after they were sent
        told = site.post("events/filter", {"filter": about})["total"]
        if told or time.monotonic() > deadline:
            return told
        time.sleep(0.5)


@pytest.fixture(scope="module")
def trained(site: Site) -> dict[str, Any]:
    """Return the deployment's first run: there is no version yet, so it trains."""
    return site.run("retrain/retrain", {"config": quick(site)})


@pytest.mark.slow
def test_a_worker_retrains_once_and_then_finds_nothing_to_do(site: Site, trained: dict[str, Any]):
    assert trained["state_type"] == "COMPLETED"
    assert versions(site) == [1]
    assert moves_told(site) == 1
    tracked = site.query("select count(*) from runs")
    again = site.run("retrain/retrain", {"config": quick(site)})
    assert again["state_type"] == "COMPLETED"
    words = f"data, config and code are unchanged since version 1 of {MODEL}: nothing to do"
    assert words in site.messages(again["id"])
    assert versions(site) == [1]
    assert site.query("select count(*) from runs") == tracked  # none was opened
    assert len(list((site.folder / "again").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_an_event_that_the_data_changed_starts_a_run(site: Site):
    # the deployment's own run would train 8 epochs: what the automation starts is not carried out
    site.send("PATCH", "work_pools/graft", {"is_paused": True})
    try:
        before = {run["id"] for run in started(site)}
        site.emit(EVENT, "graft.data.other")
        site.emit(EVENT, RESOURCE)
        deadline = time.monotonic() + 60
        new: list[dict[str, Any]] = []
        while not new and time.monotonic() < deadline:
            time.sleep(0.5)
            new = [run for run in started(site) if run["id"] not in before]
        (run,) = new  # and none for the other resource
        assert run["parameters"]["config"]["name"] == "digits"
        assert run["created_by"]["type"] == "AUTOMATION"
        site.send("DELETE", f"flow_runs/{run['id']}", None)
    finally:
        site.send("PATCH", "work_pools/graft", {"is_paused": False})


def started(site: Site) -> list[dict[str, Any]]:
    return site.ask("flow_runs", deployments={"name": {"any_": ["retrain"]}})


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_worker_cleans_up_only_where_it_is_told_to(site: Site):
    config = {
        "runs": {"folder": str(site.folder / "again"), "keep": 0, "days": 0},
        "caches": None,
        "versions": {"models": [MODEL], "keep": 1, "days": 0, "mlflow_runs": False},
    }
    old = site.folder / "again" / "old-20200101-000000"
    old.mkdir()
    (old / "config.yaml").write_text("name: old\n")
    kept = [path for path in (site.folder / "again").iterdir() if path != old]
    shown = site.run("cleanup/cleanup", {"config": config})
    assert shown["state_type"] == "COMPLETED"
    assert "runs: 1 would go, 1 stay" in site.messages(shown["id"])
    assert old.is_dir()
    done = site.run("cleanup/cleanup", {"config": config, "apply": True})
    assert "runs: 1 removed, 1 stay" in site.messages(done["id"])
    assert not old.exists()
    assert all(path.is_dir() for path in kept)  # the champion's
    assert versions(site) == [1]


@pytest.mark.slow
def test_a_worker_pretrains_into_the_folder_that_is_named(site: Site):
    config = quick(site) | {"strategy": {"kind": "scratch"}}
    config["model"] |= {"weights": None}
    target = site.folder / "pretrained"
    run = site.run("pretrain/pretrain", {"config": config, "target": str(target)})
    assert run["state_type"] == "COMPLETED"
    assert {path.suffix for path in target.iterdir()} >= {".safetensors", ".json", ".md"}


@pytest.mark.slow
def test_a_worker_compares_a_grid(site: Site):
    config = {
        "name": "grid",
        "base": quick(site),
        "datasets": {"digits": {}},
        "backbones": {"tiny": {}},
        "strategies": {"full": {}, "probe": {"strategy.kind": "linear_probe"}},
        "seeds": [0],
    }
    run = site.run("compare/compare", {"config": config})
    assert run["state_type"] == "COMPLETED"
    assert list((site.folder / "again" / "grid").glob("*/comparison.md"))
