"""prefect.yaml for a pool: as it is for its own, and without GPUs for what computes nothing."""

from __future__ import annotations

import json

import pytest

from flows.deployed import every
from flows.deployfile import WITHOUT_GPU, for_pool, read_file
from tests.flows.deployments.stack import DEPLOY

FILE = read_file()
VARIABLES = json.loads((DEPLOY / "kubernetes_pool.json").read_text())["variables"]["properties"]


def test_the_files_own_pool_changes_nothing():
    assert for_pool(FILE, "graft", {"env": {}}) == FILE


def test_another_pool_is_named_in_every_deployment():
    places = [one["work_pool"] for one in for_pool(FILE, "other", {})["deployments"]]
    assert {place["name"] for place in places} == {"other"}
    assert not any("gpus" in place["job_variables"] for place in places)


def test_on_kubernetes_what_computes_nothing_takes_no_gpu():
    made = for_pool(FILE, "graft-gpu", VARIABLES)["deployments"]
    asked = {one["name"]: one["work_pool"]["job_variables"] for one in made}
    least = {name for name, given in asked.items() if given.get("gpus") == 0}
    assert least == set(WITHOUT_GPU)
    assert all(asked[name]["nodes"] == 1 for name in least)
    assert not {"gpus", "nodes"} & set(asked["digits"])  # the template's own
    assert all(
        one["work_pool"]["job_variables"]["env"]
        == FILE["deployments"][0]["work_pool"]["job_variables"]["env"]
        for one in made
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_all_pages_are_read(count: int):
    def read(offset: int, limit: int = 2) -> list[int]:
        return list(range(count))[offset : offset + limit]

    assert every(read) == list(range(count))
