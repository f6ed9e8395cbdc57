"""What counts as the same work: each part of it changes the digest, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.config import RunConfig
from tasks.register.sameness import (
    aim,
    describe_work,
    find_precedent,
    work_tags,
)
from tasks.values import RegisteredModel
from tasks.work import Work


def changed(config: RunConfig, key: str, value: object) -> RunConfig:
    section, _, name = key.rpartition(".")
    if not section:
        return config.model_copy(update={name: value})
    inner = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: inner})


def digest(trained, config: RunConfig, registered: RegisteredModel | None = None) -> str:
    return describe_work(config, trained.raw, registered, None).config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("tracking.experiment", "other"),
        ("output.folder", Path("other")),
        ("output.cache", Path("other")),
        ("training.threads", 7),
        ("data.path", "moved"),
        ("data.timeout_seconds", 5.0),
        ("promotion.model", "other"),
    ],
)
def test_names_places_and_pace_are_not_part_of_the_work(strong, key: str, value: object):
    assert digest(strong, changed(strong.config, key, value)) == digest(strong, strong.config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("training.epochs", 3),
        ("data.val_fraction", 0.3),
        ("preprocess.resize", 40),
        ("strategy.ema_decay", 0.5),
        ("evaluation.calibrate", False),
        ("promotion.alpha", 0.01),
        ("model.weights", "torchvision:DEFAULT"),
    ],
)
def test_what_changes_the_result_is(strong, key: str, value: object):
    assert digest(strong, changed(strong.config, key, value)) != digest(strong, strong.config)


def test_a_weights_file_counts_by_its_content(strong, tmp_path: Path):
    (tmp_path / "a.pth").write_bytes(b"one")
    (tmp_path / "b.pth").write_bytes(b"one")
    here, there = (
        changed(strong.config, "model.weights", str(tmp_path / name)) for name in ("a.pth", "b.pth")
    )
    before = digest(strong, here)
    assert before == digest(strong, there)
    (tmp_path / "a.pth").write_bytes(b"two")
    assert before != digest(strong, here)
    assert digest(strong, changed(strong.config, "model.weights", str(tmp_path / "gone.pth")))


def test_another_models_version_counts_by_its_weights_and_the_own_alias_by_name(strong):
    def at(uri: str, sha256: str) -> str:
        model = strong.model
        found = RegisteredModel(
            uri="models:/x/1",
            name="x",
            version=1,
            architecture=model.architecture,
            classes=model.classes,
            input=model.input,
            weights=model.weights,
            sha256=sha256 * 64,
        )
        return digest(strong, changed(strong.config, "model.weights", uri), found)

    assert at("models:/base@champion", "a") == at("models:/base/1", "a")
    assert at("models:/base@champion", "a") != at("models:/base@champion", "b")
    own = "models:/colours@champion"  # or each promotion would lead to the next retraining
    assert at(own, "a") == at(own, "b")


def test_the_nearest_version_is_the_precedent_and_a_refused_one_counts(
    store: MlflowClient, publish, tiny_models
):
    work = Work(data="a" * 64, config="b" * 64, code="c" * 64)
    assert find_precedent("colours", work).version is None
    other = work.model_copy(update={"data": "d" * 64})
    far = other.model_copy(update={"code": "e" * 64})
    for made, promoted in (
        (work, "false"),
        (other, "true"),
        (far, "true"),
        (work, None),
        (None, "x"),
    ):
        number = str(publish(store, "colours", tiny_models[0]))
        tags = {} if made is None else work_tags(made)
        if promoted is not None:
            tags["promotion.promoted"] = promoted
        for key, value in tags.items():
            store.set_model_version_tag("colours", number, key, value)
    found = find_precedent("colours", work)
    assert (found.version, found.changed, found.same) == (1, (), True)  # 4 is half-made
    assert found.when is not None
    newer = find_precedent("colours", work.model_copy(update={"config": "f" * 64}))
    assert (newer.version, newer.changed) == (1, ("config",))
    moved = find_precedent("colours", work.model_copy(update={"data": "f" * 64}))
    assert (moved.version, moved.changed) == (2, ("data",))  # of equally near ones the newest
    Work.model_validate_json(work.model_dump_json())


WORK = Work(data="a" * 64, config="b" * 64, code="c" * 64)


@pytest.fixture
def decided(store: MlflowClient, publish, tiny_models) -> Callable[..., None]:
    """Return what makes the next version of colours: what it came from, and what was decided."""

    def make(work: Work, against: str | None, promoted: bool = False) -> None:
        number = str(publish(store, "colours", tiny_models[0]))
        tags = work_tags(work) | {"promotion.promoted": str(promoted).lower()}
        if against is not None:
            tags["promotion.champion_version"] = against
        for key, value in tags.items():
            store.set_model_version_tag("colours", number, key, value)
        if promoted:
            store.set_registered_model_alias("colours", "champion", number)

    return make


def changes(start: str) -> tuple[str, ...]:
    return find_precedent("colours", aim("colours", WORK, start)).changed  # type: ignore[arg-type]


def test_a_refusal_counts_only_while_the_champion_that_it_was_by_is(store: MlflowClient, decided):
    other = WORK.model_copy(update={"data": "d" * 64})
    decided(other, None, promoted=True)
    decided(other.model_copy(update={"code": "e" * 64}), "1", promoted=True)
    decided(WORK, "2")
    assert changes("original") == ()
    store.set_registered_model_alias("colours", "champion", "1")  # 2 is rolled back
    assert changes("original") == ("champion",)
    store.delete_registered_model_alias("colours", "champion")
    assert changes("original") == ("champion",)
    store.set_registered_model_alias("colours", "champion", "3")  # by hand: it is what would come
    assert changes("original") == changes("both") == ()


def test_a_promotion_counts_after_a_rollback_too(store: MlflowClient, decided):
    decided(WORK.model_copy(update={"data": "d" * 64}), None, promoted=True)
    decided(WORK, "1", promoted=True)
    store.set_registered_model_alias("colours", "champion", "1")
    assert changes("original") == changes("both") == ()


def test_a_start_counts_only_if_it_was_tried(decided):
    decided(WORK, None, promoted=True)
    assert changes("original") == changes("both") == ()
    assert changes("champion") == ("start",)
    decided(aim("colours", WORK, "champion").model_copy(update={"start": "champion"}), "1")
    assert changes("champion") == ()
    decided(WORK.model_copy(update={"data": "d" * 64}), "1", promoted=True)
    assert changes("champion") == ("champion",)
    assert changes("original") == ()  # version 1 was promoted


def test_of_both_each_start_counts_that_was_refused(store: MlflowClient, decided):
    decided(WORK.model_copy(update={"data": "d" * 64}), None, promoted=True)
    decided(WORK, "1")
    assert changes("both") == ("start",)  # from the champion it might win
    decided(aim("colours", WORK, "both"), "1")  # validation chose the original start
    assert changes("both") == ()
    assert changes("champion") == ("start",)
    # the weights that it started from were another champion's than the one that refused it
    store.set_model_version_tag("colours", "3", "graft.work.champion", "f" * 64)
    assert changes("both") == ("champion",)
    assert changes("original") == ()


def test_without_a_champion_both_is_the_original_start_and_done(decided):
    decided(aim("colours", WORK, "both"), None)  # refused by a bound
    assert changes("both") == changes("original") == ()
    assert changes("champion") == ("start",)
