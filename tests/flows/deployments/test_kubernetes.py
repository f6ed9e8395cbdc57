"""The job template of .deploy/, rendered by Prefect's own code and held to Kubernetes' schema."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import subprocess
from typing import Any
from uuid import UUID, uuid4

import kubernetes_validate
import pytest
import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.schema_tools import ValidationError, is_valid_schema
from prefect.utilities.schema_tools import validate as check_variables
from prefect.utilities.templating import find_placeholders

from tests.flows.deployments.site import DEPLOYMENTS, LEAST, REPOSITORY, Site
from tests.flows.deployments.stack import BIN, DEPLOY, compose, free_ports

TEMPLATE: dict[str, Any] = json.loads((DEPLOY / "kubernetes_pool.json").read_text())
NODES = list(yaml.safe_load_all((DEPLOY / "kubernetes_nodes.yaml").read_text()))
VERSIONS = ("1.31", "1.34")


def rendered(run: UUID | None = None, **values: object) -> dict[str, Any]:
    """Return the manifest of the job that Prefect's Kubernetes worker would make."""
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    nobody = PrefectClient("http://127.0.0.1:9/api")  # no block is named, so nobody is asked
    making = KubernetesWorkerJobConfiguration.from_template_and_values(
        TEMPLATE, values, client=nobody
    )
    job = asyncio.run(making)
    job.prepare_for_flow_run(FlowRun(id=run or uuid4(), flow_id=uuid4(), name="digits"))
    return job.job_manifest


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_is_what_kubernetes_takes(version: str, nodes: int):
    job = rendered(nodes=nodes)
    kubernetes_validate.validate(job, version)
    for key in ("completions", "parallelism"):
        # Prefect's check wants them here, where none belong; Kubernetes leaves out what it does
        # not know (fieldValidation is Warn unless a client asks for Strict)
        assert job["spec"]["template"]["spec"].pop(key) == 1
    kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_applied_once_is_what_kubernetes_takes(version: str):
    for manifest in NODES:
        kubernetes_validate.validate(manifest, version, strict=True)


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


def test_pods_of_several_nodes_are_not_started_again_one_by_one():
    schema = TEMPLATE["variables"]
    is_valid_schema(schema, preprocess=False)
    defaults = {k: v["default"] for k, v in schema["properties"].items() if "default" in v}

    def check(**values: int) -> None:  # as Prefect's server does, of a deployment and of a run
        check_variables(
            defaults | values, schema, raise_on_error=True, allow_none_with_default=True
        )

    check(nodes=2)
    check(nodes=1, backoff_limit=3)
    with pytest.raises(ValidationError, match="backoff_limit"):
        check(nodes=2, backoff_limit=1)


def test_places_are_those_of_the_image():
    (container,) = rendered()["spec"]["template"]["spec"]["containers"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"WORKDIR {container['workingDir']}\n" in dockerfile
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert f"GRAFT_CACHE={environment['GRAFT_CACHE']}\n" in dockerfile
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    worker = compose()["services"]["worker"]["volumes"]
    assert {path.split(":")[1] for path in worker} | {"/dev/shm"} == mounted


def test_the_pods_of_a_job_find_the_first_by_the_service():
    job = rendered(nodes=3)
    spec, template = job["spec"], job["spec"]["template"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    service, policy = NODES
    assert template["spec"]["subdomain"] == service["metadata"]["name"]
    labels = template["metadata"]["labels"]
    for selector in (
        service["spec"]["selector"],
        policy["spec"]["podSelector"]["matchLabels"],
        policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    longest = "x" * 45 + "-abcde"  # Prefect cuts a run's name; the suffix is Kubernetes'
    assert len(f"{longest}-{spec['completions'] - 1}") <= 63  # a host's name


def in_cluster(job: dict[str, Any], index: int) -> tuple[list[str], dict[str, str]]:
    """Return what the pod ``index`` of a job runs and its environment, as Kubernetes makes them."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    labels = {"batch.kubernetes.io/job-name": "digits-abcde"}
    environment = {"JOB_COMPLETION_INDEX": str(index)}
    for entry in container["env"]:
        if "valueFrom" in entry:
            field = entry["valueFrom"]["fieldRef"]["fieldPath"]
            environment[entry["name"]] = labels[field.split("'")[1]]
        else:
            environment[entry["name"]] = entry["value"]
    command = [
        re.sub(r"\$\((\w+)\)", lambda name: environment[name[1]], word)
        for word in [*container["command"], *container["args"]]
    ]
    return command, environment


def start_pod(job: dict[str, Any], index: int, site: Site, port: int) -> subprocess.Popen[bytes]:
    """Run a pod's command on this machine, whose address is the first pod's name."""
    command, environment = in_cluster(job, index)
    here = {
        "GRAFT_NODE_PORT": str(port),
        "GRAFT_CACHE": site.environment["GRAFT_CACHE"],
        "MLFLOW_TRACKING_URI": site.environment["MLFLOW_TRACKING_URI"],
        "PREFECT_API_URL": site.url,
        "PATH": f"{BIN}:{site.environment['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    with (site.folder / f"pod-{index}.log").open("wb") as log:
        return subprocess.Popen(
            [word.replace("digits-abcde-0.graft-nodes", "localhost") for word in command],
            cwd=REPOSITORY,
            env=site.environment | environment | here,
            stdout=log,
            stderr=log,
        )


@pytest.mark.slow
def test_two_pods_train_together(site: Site):
    config = copy.deepcopy(DEPLOYMENTS["digits"]["parameters"]["config"])
    config["training"] |= {"epochs": 1, "nodes": 2, "device": "cpu", "threads": 1}
    config["evaluation"] |= LEAST
    config["promotion"]["model"] = "pods"
    config["output"]["folder"] = site.runs
    # no worker takes runs from there: the pods are what one would start
    queue = site.post("work_pools/graft/queues", {"name": "pods", "concurrency_limit": 0})
    run = site.begin("transfer/digits", {"config": config}, work_queue_name=queue["name"])
    job = rendered(UUID(run), nodes=2)
    (port,) = free_ports(1)
    pods = [start_pod(job, index, site, port) for index in (0, 1)]
    try:
        assert [pod.wait(240) for pod in pods] == [0, 0], site.logs()
    finally:
        for pod in pods:
            pod.kill()
            pod.wait()
        site.send("DELETE", "work_pools/graft/queues/pods", None)  # as it was, for other files
    (found,) = site.ask("flow_runs", flow_runs={"id": {"any_": [run]}})
    assert found["state_type"] == "COMPLETED", site.logs()
    assert "training digits as node 1" in (site.folder / "pod-1.log").read_text()
    assert site.query("select version from model_versions where name = 'pods'") == [(1,)]
