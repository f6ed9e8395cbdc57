"""The services of .deploy/compose.yaml, started as processes, and the main job through them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.flows.deployments.site import LEAST, until
from tests.flows.deployments.stack import (
    BIN,
    DEPLOY,
    POSTGRES,
    REPOSITORY,
    SECRETS,
    Stack,
    compose,
    interpolated,
    open_stack,
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not POSTGRES:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is not installed, and CI must have it")
        pytest.skip("PostgreSQL is not installed")
    with open_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


def test_a_variable_is_put_in_or_asked_for():
    assert interpolated("a ${B} ${C:-d}", {"B": "b"}) == "a b d"
    with pytest.raises(KeyError, match="say it"):
        interpolated("${B:?say it}", {})


def test_services_wait_for_those_they_use_and_nothing_is_published_to_all():
    services = compose()["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            done = how["condition"] == "service_completed_successfully"
            assert done or "healthcheck" in services[needed], (name, needed)
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    gpu = compose("compose.gpu.yaml")["services"]
    assert gpu.keys() <= services.keys()


def test_every_password_is_asked_for_and_none_is_written():
    example = (DEPLOY / "example.env").read_text()
    for name in SECRETS:
        assert f"\n{name}=\n" in example
        with pytest.raises(KeyError, match=name):
            interpolated(
                (DEPLOY / "compose.yaml").read_text(),
                {key: value for key, value in SECRETS.items() if key != name},
            )


def test_the_image_takes_what_the_wheel_and_the_deployments_need():
    copied = {
        word
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
        for word in line.split()[1:-1]
    }
    assert copied == {
        *("pyproject.toml", "README.md", "LICENSE", "prefect.yaml"),
        *("flows", "tasks", "configs"),
    }
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert {word.removeprefix("!") for word in let_in if word.startswith("!")} == copied
    assert all((REPOSITORY / name).exists() for name in copied)


@pytest.mark.slow
def test_the_main_job_runs_through_all_of_them(stack: Stack, tmp_path: Path):
    until(_is_deployed(stack), 240, lambda: stack.log("worker"))
    least = [f"evaluation.{key}={value}" for key, value in LEAST.items()]
    runs = f"output.folder={tmp_path / 'runs'}"
    _graft(stack, "submit", "configs/digits.yaml", "training.epochs=1", *least, runs)
    assert _psql(stack, "mlflow", "select name, version from model_versions") == ["digits|1"]
    states = _psql(stack, "prefect", "select state_type from flow_run where name like 'digits:%'")
    assert states == ["COMPLETED"]
    said = _graft(stack, "models", "digits")
    assert "champion" in said
    _the_files_are_in_the_store(stack)


def _is_deployed(stack: Stack) -> Callable[[], bool]:
    """Say whether a run can be asked for: the worker may still be starting."""
    return lambda: "transfer/digits" in stack.log("worker")


def _the_files_are_in_the_store(stack: Stack) -> None:
    import boto3

    store = boto3.client(
        "s3",
        endpoint_url=f"http://{stack.hosts['minio:9000']}",
        region_name="us-east-1",
        aws_access_key_id="graft",
        aws_secret_access_key=SECRETS["MINIO_PASSWORD"],
    )
    keys = [row["Key"] for row in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(key.endswith("model.safetensors") for key in keys), keys


def test_mlflow_starts_no_jobs_of_language_models(stack: Stack):
    family = psutil.Process(stack.processes["mlflow"].pid).children(recursive=True)
    words = [" ".join(one.cmdline()) for one in family]
    assert words
    assert not [line for line in words if "job" in line or "huey" in line]


def test_prefect_lets_nobody_in_without_the_password(stack: Stack):
    open_to_all = stack.environment("worker")
    del open_to_all["PREFECT_API_AUTH_STRING"]
    done = subprocess.run(
        [BIN / "prefect", "work-pool", "ls"], env=open_to_all, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "401" in done.stdout + done.stderr


def _graft(stack: Stack, *arguments: str) -> str:
    done = subprocess.run(
        [BIN / "graft", *arguments],
        cwd=REPOSITORY,
        env=stack.environment("worker"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr + stack.log("worker")[-4000:]
    return done.stdout


def _psql(stack: Stack, database: str, statement: str) -> list[str]:
    host, port = stack.hosts["postgres:5432"].split(":")
    login = ("-h", host, "-p", port, "-U", "graft", "-d", database)
    done = subprocess.run(
        [POSTGRES[-1] / "psql", *login, "-At", "-c", statement],
        env={**os.environ, "PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
