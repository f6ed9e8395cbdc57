"""The deployments monitor and reevaluate, run by the worker on a champion that a run registered."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.config import RunConfig
from tasks.configfile import load_config
from tasks.monitorconfig import MonitorConfig, ReevaluateConfig, WatchConfig
from tasks.register.promote import register
from tasks.register.tracking import open_run
from tests.flows.deployments.site import DEPLOYMENTS, REPOSITORY, Site
from tests.tasks.register.conftest import run_up_to_evaluation

KINDS: dict[str, type[WatchConfig]] = {"monitor": MonitorConfig, "reevaluate": ReevaluateConfig}


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_those_of_the_config(name: str):
    given = KINDS[name].model_validate(DEPLOYMENTS[name]["parameters"]["config"])
    path = REPOSITORY / "configs" / f"{name}_folder.yaml"
    assert given == load_config(path, [], KINDS[name])


@pytest.mark.parametrize(("name", "runs_a_day"), [("monitor", 1), ("reevaluate", 1 / 7)])
def test_false_alarms_are_counted_by_the_schedule_that_ships(name: str, runs_a_day: float):
    (schedule,) = DEPLOYMENTS[name]["schedules"]
    days = 1 if schedule["cron"].endswith("* * *") else 7
    config = KINDS[name].model_validate(DEPLOYMENTS[name]["parameters"]["config"])
    assert config.checks_a_day == pytest.approx(1 / days, abs=0.005)
    assert config.checks_a_day == pytest.approx(runs_a_day, abs=0.005)


def photographs(folder: Path, n: int, seed: int, grey: bool = False) -> Path:
    """Write noisy blue and red images into class folders, or images of neither colour."""
    rng = np.random.default_rng(seed)
    for channel, name in ((2, "blue"), (0, "red")):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            if grey:
                pixels = pixels // 8 + 100
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def champion(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Register a model of red and blue on the site, and return a folder for new images."""
    folder = tmp_path_factory.mktemp("watch")
    photographs(folder / "photos", 30, seed=0)
    config = RunConfig.model_validate(
        {
            "name": "watched",
            "data": {"path": str(folder / "photos")},
            "preprocess": {"resize": 32, "crop": 32},
            "model": {"architecture": "graft_tiny", "weights": None},
            "strategy": {"kind": "scratch"},
            "training": {"epochs": 4, "batch_size": 8, "threads": 1, "learning_rate": 0.01},
            "evaluation": {"explained_images": 0, "latency_runs": 0, "bootstrap": 0},
            "promotion": {"model": "watched"},
            "output": {"cache": site.folder / "cache"},
        }
    )
    with pytest.MonkeyPatch.context() as patch:  # here, not by graft run: that takes a server
        patch.setenv("MLFLOW_TRACKING_URI", site.environment["MLFLOW_TRACKING_URI"])
        with open_run(config) as tracker:
            done = run_up_to_evaluation(config, folder / "run")
            parts = (done.raw, done.prepared, done.model, done.report)
            assert register(config, *parts, tracker.run_id).promoted
    return folder


def checked(site: Site, name: str, images: Path) -> dict:
    """Run a deployment as it ships, on other images and another model."""
    config = DEPLOYMENTS[name]["parameters"]["config"] | {
        "model": "models:/watched@champion",
        "output": {"folder": site.runs, "cache": None},
    }
    config["images"] = config["images"] | {"path": str(images)}
    return site.run(f"{name}/{name}", {"config": config})


def alerts(site: Site, event: str, wanted: int) -> list[dict]:
    """Return the events of a name about the model; they arrive a little later."""
    about = {"event": {"name": [event]}, "resource": {"id": ["graft.model.watched"]}}
    deadline = time.monotonic() + 30
    while True:
        found = site.post("events/filter", {"filter": about, "limit": 50})["events"]
        if len(found) >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


@pytest.mark.slow
def test_the_monitor_alerts_on_other_images_and_completes_all_the_same(site: Site, champion: Path):
    same = checked(site, "monitor", photographs(champion / "same", 20, seed=1))
    assert (same["state_type"], same["state_name"]) == ("COMPLETED", "Completed"), site.messages(
        same["id"]
    )
    other = checked(site, "monitor", photographs(champion / "other", 20, seed=2, grey=True))
    assert (other["state_type"], other["state_name"]) == ("COMPLETED", "Alert")
    assert any("ALERT: The new images differ" in line for line in site.messages(other["id"]))
    (event,) = alerts(site, "graft.alert.drift", 1)
    assert other["id"] in {
        one["prefect.resource.id"].rpartition(".")[2] for one in event["related"]
    }
    assert "drift" in {artifact["key"] for artifact in site.ask("artifacts")}
    runs = site.query("select value from tags where key = 'graft.alert'")
    assert sorted(runs) == [("false",), ("true",)]


@pytest.mark.slow
def test_the_reevaluation_alerts_where_the_labels_say_otherwise(site: Site, champion: Path):
    photographs(champion / "labelled", 40, seed=3)
    for name, wrong in (("blue", "red"), ("red", "blue")):  # every label is the other one
        (champion / "labelled" / name).rename(champion / f"was-{wrong}")
    for name in ("blue", "red"):
        (champion / f"was-{name}").rename(champion / "labelled" / name)
    found = checked(site, "reevaluate", champion / "labelled")
    assert (found["state_type"], found["state_name"]) == ("COMPLETED", "Alert"), site.messages(
        found["id"]
    )
    (event,) = alerts(site, "graft.alert.accuracy", 1)
    assert "worse by more than 2 points" in event["payload"]["reason"]
    assert "reevaluation" in {artifact["key"] for artifact in site.ask("artifacts")}
