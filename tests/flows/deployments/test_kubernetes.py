"""The job template of .deploy/, rendered by Prefect's own code and held to Kubernetes' schema."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.templating import find_placeholders

from tests.flows.deployments.stack import DEPLOY, compose

TEMPLATE: dict[str, Any] = json.loads((DEPLOY / "kubernetes_pool.json").read_text())
VERSIONS = ("1.31", "1.34")


def rendered(**values: object) -> dict[str, Any]:
    """Return the manifest of the job that Prefect's Kubernetes worker would make."""
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    nobody = PrefectClient("http://127.0.0.1:9/api")  # no block is named, so nobody is asked
    making = KubernetesWorkerJobConfiguration.from_template_and_values(
        TEMPLATE, values, client=nobody
    )
    job = asyncio.run(making)
    job.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="digits"))
    return job.job_manifest


@pytest.mark.parametrize("version", VERSIONS)
def test_a_job_is_what_kubernetes_takes(version: str):
    kubernetes_validate.validate(rendered(), version, strict=True)


def test_the_schema_refuses_what_is_none():
    wrong = rendered(gpus=1)
    wrong["spec"]["template"]["spec"]["completion"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_a_job_asks_for_its_gpus_and_runs_the_flow():
    spec = rendered(gpus=2, image="registry/graft:7", memory_limit="64Gi")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/gpu"] == 2
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 2}
    assert container["image"] == "registry/graft:7"
    assert container["args"] == ["prefect", "flow-run", "execute"]
    names = {entry["name"] for entry in container["env"]}
    assert {"PREFECT_FLOW_RUN_ID", "PREFECT__FLOW_RUN_ID"} & names
    assert {"GRAFT_CACHE", "MLFLOW_TRACKING_URI"} <= names


def test_every_placeholder_is_a_variable_and_every_variable_is_used():
    used = {found.name for found in find_placeholders(TEMPLATE["job_configuration"])}
    assert used == set(TEMPLATE["variables"]["properties"])


def test_places_are_those_of_the_image():
    (container,) = rendered()["spec"]["template"]["spec"]["containers"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"WORKDIR {container['workingDir']}\n" in dockerfile
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert f"GRAFT_CACHE={environment['GRAFT_CACHE']}\n" in dockerfile
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    worker = compose()["services"]["worker"]["volumes"]
    assert {path.split(":")[1] for path in worker} | {"/dev/shm"} == mounted
