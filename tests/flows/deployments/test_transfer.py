"""The deployments: a real server and worker, `prefect deploy --all`, and a run of digits."""

from __future__ import annotations

import copy
import json

import pytest

from tasks.config import RunConfig
from tasks.configfile import load_config
from tests.flows.deployments.site import DEPLOYMENTS, REPOSITORY, Site


@pytest.mark.parametrize(("name", "config"), [("digits", "digits"), ("folder", "image_folder")])
def test_parameters_are_those_of_the_config(name: str, config: str):
    given = RunConfig.model_validate(DEPLOYMENTS[name]["parameters"]["config"])
    assert given == load_config(REPOSITORY / "configs" / f"{config}.yaml")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_is_described_and_its_schedules_wait_for_somebody(name: str):
    deployment = DEPLOYMENTS[name]
    assert deployment["description"]
    assert "graft" in deployment["tags"]
    file, function = deployment["entrypoint"].split(":")
    assert f"def {function}(" in (REPOSITORY / file).read_text()
    assert deployment["work_pool"]["name"] == "graft"
    assert not any(schedule["active"] for schedule in deployment["schedules"])


def test_deployments_are_portable():
    assert ": /" not in (REPOSITORY / "prefect.yaml").read_text()


@pytest.mark.slow
def test_a_worker_runs_the_digits_deployment(site: Site):
    # epochs and folder alone differ from the deployment, to be quick and to leave no run behind
    config = copy.deepcopy(DEPLOYMENTS["digits"]["parameters"]["config"])
    config["training"]["epochs"] = 1
    config["promotion"]["approval"] = True
    config["output"]["folder"] = site.runs
    run = site.run("transfer/digits", {"config": config})
    assert (run["name"], run["state_type"]) == ("digits: graft_tiny, full", "COMPLETED")
    assert {artifact["key"] for artifact in site.ask("artifacts")} >= {"report", "classes"}
    versions = site.query("select version from model_versions where name = 'digits'")
    assert versions == [(1,)]
    assert (site.folder / "runs").is_dir()
    messages = site.messages(run["id"])
    assert any(message.startswith("epoch 1/1") for message in messages), messages
    (asked,) = site.ask("flow_runs", flow_runs={"name": {"any_": ["approve models:/digits/1"]}})
    _approve(site, asked["id"])


def _approve(site: Site, run_id: str) -> None:
    """Resume the flow run that asks, as the form in Prefect's pages does."""
    site.wait_until(run_id, "PAUSED")
    assert _champions(site) == []
    given = {"approve": True, "name": "Ada Lovelace", "reason": "looked at the errors"}
    nobody = {key: value for key, value in given.items() if key != "name"}
    for bad in (given | {"approve": "perhaps"}, given | {"name": " "}, nobody):
        refused = site.post(f"flow_runs/{run_id}/resume", {"run_input": bad})
        assert refused["status"] == "REJECT", bad
    answer = {"run_input": given}
    assert site.post(f"flow_runs/{run_id}/resume", answer)["status"] == "ACCEPT"
    site.wait_until(run_id, "COMPLETED")
    assert _champions(site) == [(1,)]
    events = site.query("select value from registered_model_tags where name = 'digits'")
    told = [json.loads(value) for (value,) in events]
    said = [(one["kind"], one["who"], one["typed"], one["why"]) for one in told]
    assert ("approved", "Ada Lovelace", True, "looked at the errors") in said


def _champions(site: Site) -> list[tuple]:
    return site.query(
        "select version from registered_model_aliases where alias = 'champion' and name = 'digits'"
    )
