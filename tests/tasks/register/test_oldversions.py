"""Old versions: what keeps one, on plain facts; and their removal from a real registry."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.cleanupconfig import VersionsRule
from tasks.register import oldversions
from tasks.register.locks import locked
from tasks.register.oldversions import Known, needed_runs, plan_versions, reasons, remove_version

DECIDED = {"promotion.promoted": "false"}
ALL = VersionsRule(keep=1, days=0)


def known(number: int, days: float = 100, name: str = "m", **more: object) -> Known:
    tags = {"graft.sha256": f"{name}{number}", **DECIDED, **more.pop("tags", {})}
    created = datetime.now(UTC) - timedelta(days=days)
    return Known(name=name, number=number, created=created, tags=tags, **more)


def why(versions: list[Known], rule: VersionsRule = ALL) -> dict[int, str]:
    return {int(title.split("/")[1]): why for title, why in reasons(versions, rule).items()}


def test_without_a_reason_a_version_goes():
    assert why([known(n) for n in range(1, 4)]) == {3: "among the newest 1"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"aliases": ("champion",)}, "alias champion"),
        ({"aliases": ("prod", "previous")}, "alias prod, previous"),
        ({"tags": {"promotion.waiting": "True"}}, "waiting for approval"),
        ({"tags": {"graft.export.onnx": "0"}}, "exported (onnx)"),
        ({"moving": True}, "an alias of m is being moved"),
        ({"days": 5}, "younger than 30 days"),
    ],
)
def test_each_reason_keeps_it(more: dict, words: str):
    rule = VersionsRule(keep=1, days=30)
    assert why([known(1, **more), known(2)], rule)[1] == words


def test_a_version_without_a_decision_stays():
    half = Known("m", 1, datetime(2020, 1, 1, tzinfo=UTC), {"graft.sha256": "x"})
    assert why([half, known(2)])[1].startswith("no decision stands on it")


def test_the_newest_are_counted_by_model():
    versions = [known(n) for n in range(1, 6)] + [known(n, name="other") for n in range(6, 8)]
    assert set(why(versions, VersionsRule(keep=2, days=0))) == {4, 5, 6, 7}


def test_what_one_that_stays_came_from_stays_over_models_and_generations():
    def grown(number: int, base: str, **more: object) -> Known:
        return known(number, tags={"graft.backbone_sha256": base}, **more)

    versions = [
        known(1),
        grown(2, "m1"),
        known(3, tags={"graft.teacher_sha256": "m2"}),
        known(4),
        grown(5, "m4"),
        known(6),
        grown(9, "m3", name="other"),
    ]
    assert why(versions) == {
        6: "among the newest 1",
        9: "among the newest 1",
        3: "other/9 started from it",
        2: "m/3 was taught by it",
        1: "m/2 started from it",
    }


def test_models_that_are_not_asked_for_stay_and_keep_what_they_need():
    versions = [known(1), known(2), known(9, name="other", tags={"graft.backbone_sha256": "m1"})]
    assert why(versions, VersionsRule(models=("m",), keep=1, days=0)) == {
        1: "other/9 started from it",
        2: "among the newest 1",
        9: "not asked for",
    }


@pytest.fixture
def four(store: MlflowClient, publish, tiny_models) -> list[int]:
    """Return four decided versions of a real registry, the second champion."""
    numbers = [publish(store, "colours", tiny_models[n % 2]) for n in range(4)]
    for number in numbers:
        store.set_model_version_tag("colours", str(number), "promotion.promoted", "false")
        store.set_model_version_tag("colours", str(number), "graft.sha256", f"{number}" * 64)
    store.set_registered_model_alias("colours", "champion", "2")
    return numbers


def there(store: MlflowClient) -> list[int]:
    return sorted(int(v.version) for v in store.search_model_versions("name='colours'"))


def going(rule: VersionsRule = ALL) -> list:
    return [item for item in plan_versions(rule) if item.goes]


@pytest.mark.usefixtures("four")
def test_an_alias_set_between_plan_and_removal_saves_the_version(store: MlflowClient):
    first, second = going()
    assert [item.name for item in (first, second)] == ["colours/3", "colours/1"]
    store.set_registered_model_alias("colours", "champion", "3")
    saved = remove_version(ALL, first)
    assert (saved.removed, saved.why) == (False, "alias champion, by now")
    assert remove_version(ALL, second).removed
    assert there(store) == [2, 3, 4]
    assert int(store.get_model_version_by_alias("colours", "champion").version) == 3
    assert remove_version(ALL, second).why == "gone meanwhile"


@pytest.mark.usefixtures("four")
def test_a_removal_waits_for_whoever_moves_an_alias(store: MlflowClient):
    item = going()[0]
    came: list = []
    thread = threading.Thread(target=lambda: came.append(remove_version(ALL, item)))
    with locked(store, "colours"):
        thread.start()
        thread.join(1)
        assert thread.is_alive()  # it waits
        store.set_registered_model_alias("colours", "champion", "3")
    thread.join()
    assert came[0].why == "alias champion, by now"
    assert there(store) == [1, 2, 3, 4]


@pytest.mark.usefixtures("four")
def test_run_folders_of_versions_in_service_are_needed(store: MlflowClient):
    store.set_model_version_tag("colours", "3", "promotion.waiting", "True")
    assert needed_runs() == {
        "2" * 64: "colours/2 came from it (alias champion)",
        "3" * 64: "colours/3 came from it (waiting for approval)",
    }


def logged(store: MlflowClient, publish_from: Path) -> tuple[str, str, Path]:
    """Log a model with a file, as a run does; return its id, its run's and where its files are."""
    experiment = store.create_experiment("x", artifact_location=publish_from.as_uri())
    run = store.create_run(experiment)
    model = store.create_logged_model(experiment, name="m", source_run_id=run.info.run_id)
    place = Path(model.artifact_location.removeprefix("file://"))
    place.mkdir(parents=True)
    (place / "weights").write_bytes(bytes(1234))
    store.finalize_logged_model(model.model_id, "READY")
    return model.model_id, run.info.run_id, place


def test_the_files_go_with_the_last_version_that_has_them_and_the_run_if_asked(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model_id, run_id, place = logged(store, tmp_path / "artifacts")
    bystander = tmp_path / "artifacts" / "bystander"
    bystander.write_text("precious")
    store.create_registered_model("colours")
    with oldversions.named_store():
        for _ in range(3):
            version = store.create_model_version(
                "colours", f"models:/{model_id}", run_id, model_id=model_id
            )
            store.set_model_version_tag("colours", version.version, "promotion.promoted", "true")
    monkeypatch.setattr(
        oldversions, "_own_reason", lambda one, *_: "three" if one.number == 3 else ""
    )
    rule = VersionsRule(keep=1, days=0, mlflow_runs=True)
    two, one = going(rule)
    assert (two.size, one.size) == (1234, 1234)
    assert remove_version(rule, two).removed
    assert (place / "weights").is_file()  # versions 1 and 3 have it
    assert store.get_run(run_id).info.lifecycle_stage == "active"
    store.delete_model_version("colours", "3")
    assert remove_version(rule, one).removed
    assert not place.exists()
    assert bystander.read_text() == "precious"
    assert store.get_run(run_id).info.lifecycle_stage == "deleted"
    with pytest.raises(MlflowException):
        store.get_logged_model(model_id)
