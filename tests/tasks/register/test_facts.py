from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import subprocess

import pytest

from tasks.config import DataConfig, ModelConfig, RunConfig
from tasks.public import public_config, without_secrets
from tasks.register.facts import environment_text, finite_metrics, flat_params, run_tags


def count_leaves(value):
    return sum(map(count_leaves, value.values())) if isinstance(value, dict) and value else 1


def test_params_are_the_whole_config_under_dotted_keys():
    config = RunConfig(data=DataConfig(kind="digits"), seed=7)
    params = flat_params(config)
    assert params["seed"] == "7"
    assert params["data.kind"] == "digits"
    assert params["data.path"] == "null"
    assert params["training.learning_rate"] == "0.001"
    leaves = count_leaves(config.model_dump(mode="json"))
    assert len(params) == leaves


def test_a_mapping_with_the_users_keys_is_one_param():
    floors = {"recall[cat]": 0.8, "accuracy[site=$A$]": 0.5}
    config = RunConfig(data=DataConfig(kind="digits"), promotion={"floors": floors})
    params = flat_params(config)
    assert json.loads(params["promotion.floors"]) == floors
    assert params["data.checks.near_distance"] == "4"
    assert not [key for key in params if "[" in key]


def test_a_value_longer_than_mlflow_takes_is_cut():
    config = RunConfig(data=DataConfig(kind="folder", path="x" * 9000))
    assert len(flat_params(config)["data.path"]) == 6000


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://host/a.zip?sig=secret&x=1", "https://host/a.zip?…"),
        ("https://me:secret@host:8/a.zip", "https://host:8/a.zip"),
        ("https://host/a.zip#secret", "https://host/a.zip"),
        ("http://host/a.zip", "http://host/a.zip"),
        ("photos/what?.zip", "photos/what?.zip"),
        ("file:///photos/what?.zip", "file:///photos/what?.zip"),
        ("models:/graft@champion", "models:/graft@champion"),
        ("torchvision:DEFAULT", "torchvision:DEFAULT"),
    ],
)
def test_secrets_in_addresses_are_not_shown(address, public):
    assert without_secrets(address) == public
    config = RunConfig(
        data=DataConfig(kind="folder", path=address, sha256="0" * 64),
        model=ModelConfig(weights=address, sha256="0" * 64),
    )
    assert public_config(config).data.path == public_config(config).model.weights == public
    params = flat_params(config)
    assert params["data.path"] == params["model.weights"] == public
    assert public_config(config).training == config.training


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_the_folder_is_noted(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.chdir(tmp_path)
    tags = run_tags()
    assert tags["mlflow.source.git.commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert tags["graft.git_dirty"] == "false"
    (tmp_path / "a").write_text("2")
    assert run_tags()["graft.git_dirty"] == "true"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tags = run_tags()
    assert "mlflow.source.git.commit" not in tags
    assert tags["graft.version"] == importlib.metadata.version("graft")
    assert tags["mlflow.user"]


def test_the_environment_names_python_and_every_package():
    lines = environment_text().splitlines()
    assert lines[0] == f"python {platform.python_version()}"
    assert f"torch=={importlib.metadata.version('torch')}" in lines
    assert f"mlflow=={importlib.metadata.version('mlflow')}" in lines


def test_what_is_no_number_is_said_in_words():
    metrics, odd = finite_metrics({"a": 1.0, "b": math.inf, "c": math.nan}, 5, 3)
    assert [(m.key, m.value, m.timestamp, m.step) for m in metrics] == [("a", 1.0, 5, 3)]
    assert odd == ["b is inf at step 3", "c is nan at step 3"]


def test_a_repository_without_a_commit_does_not_stop_a_run(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    monkeypatch.chdir(tmp_path)
    assert "mlflow.source.git.commit" not in run_tags()
