"""How many test images a run, or a version, has seen, by a real registry."""

from __future__ import annotations

import shutil

import pytest

from tasks.measures import Seen
from tasks.register.promote import register
from tasks.register.seen import seen_by_run, seen_by_version
from tasks.register.tracking import open_run


def registered(trained, prepared):
    """Register ``trained`` as a version that learned from the images of ``prepared``."""
    with open_run(trained.config) as tracker:
        return register(
            trained.config, trained.raw, prepared, trained.model, trained.report, tracker.run_id
        ).uri


def overlapping(prepared):
    """Return splits whose validation images are the test images."""
    val = prepared.val.model_copy(update={"index": prepared.test.index})
    return prepared.model_copy(update={"val": val})


@pytest.fixture
def no_registry(monkeypatch, tmp_path):
    """A database below a file: MLflow cannot open it, and nothing need ask it."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")


def test_a_run_from_random_weights_knows_all_by_itself(no_registry, weak):
    assert weak.model.backbone_sha256 is None
    assert seen_by_run(weak.config, weak.prepared, weak.model) == Seen(images=0, complete=True)
    both = overlapping(weak.prepared)
    assert seen_by_run(weak.config, both, weak.model) == Seen(images=90, complete=True)


def test_a_registry_that_cannot_say_leaves_it_open(no_registry, weak, caplog):
    onward = weak.model.model_copy(update={"backbone_sha256": "1" * 64})
    assert seen_by_run(weak.config, weak.prepared, onward) == Seen(images=0, complete=False)
    assert "what the model learned from is not known" in caplog.text
    assert seen_by_version("models:/colours/1", weak.prepared.test) == Seen(
        images=0, complete=False
    )


def test_what_a_run_goes_on_from_or_is_taught_by_counts(store, weak, strong):
    registered(weak, overlapping(weak.prepared))
    for behind in ("backbone_sha256", "teacher_sha256"):
        onward = strong.model.model_copy(update={behind: weak.model.sha256})
        seen = seen_by_run(strong.config, strong.prepared, onward)
        assert seen == Seen(images=90, complete=True)


def test_a_version_says_itself_what_it_learned_from(store, weak, tmp_path):
    clean = registered(weak, weak.prepared)
    mixed = registered(weak, overlapping(weak.prepared))
    assert seen_by_version(clean, weak.prepared.test) == Seen(images=0, complete=True)
    assert seen_by_version(mixed, weak.prepared.test) == Seen(images=90, complete=True)
    half = weak.prepared.val
    assert seen_by_version(clean, half) == Seen(images=half.n, complete=True)
    for file in (tmp_path / "mlruns").rglob("learned_images.bin"):
        shutil.move(file, file.with_suffix(".gone"))
    assert seen_by_version(mixed, weak.prepared.test) == Seen(images=0, complete=False)
    # versions of an older graft never said
    store.delete_model_version_tag("colours", "1", "graft.learned_digest")
    assert seen_by_version(clean, weak.prepared.test) == Seen(images=0, complete=False)
