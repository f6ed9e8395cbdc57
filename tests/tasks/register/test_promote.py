from __future__ import annotations

import json
import sqlite3
import sys

import pytest

from tasks.errors import EvaluationError, ResourceError, TrackingError
from tasks.evaluate import evaluate
from tasks.evaluate.evaluate import score_as_served
from tasks.evaluate.scorer import open_scorer
from tasks.finetune.device import memory_errors
from tasks.index import read_index
from tasks.register import contest, promote
from tasks.register.contest import read_learned
from tasks.register.learned import learned_images
from tasks.register.promote import register
from tasks.register.registry import list_versions
from tasks.register.tracking import open_run
from tasks.register.versions import read_decision, write_decision
from tests.tasks.register.conftest import images_of


def do(trained, **changes):
    """Open a run and register ``trained``, with some of its parts changed."""
    parts = {
        "config": trained.config,
        "raw": trained.raw,
        "prepared": trained.prepared,
        "model": trained.model,
        "report": trained.report,
    } | changes
    with open_run(parts["config"]) as tracker:
        return register(**parts, run_id=tracker.run_id)


def champion(client):
    return int(client.get_model_version_by_alias("colours", "champion").version)


def tags(client, version):
    found = client.get_model_version("colours", str(version)).tags
    return {k.removeprefix("promotion."): v for k, v in found.items() if "promotion." in k}


def test_the_champion_goes_only_to_what_is_really_better(store, weak, strong):
    first = do(weak)
    assert first.promoted
    assert champion(store) == 1

    again = do(weak)
    assert not again.promoted
    assert (again.wins, again.losses, again.p_value) == (0, 0, 1.0)
    assert champion(store) == 1

    better = do(strong)
    assert better.promoted
    assert champion(store) == 3
    assert (better.champion_version, better.champion_accuracy) == (1, weak.report.accuracy)
    assert better.wins - better.losses == round(
        (strong.report.accuracy - weak.report.accuracy) * strong.report.n
    )
    assert tags(store, 3) | {"waiting": "False"} == {
        "promoted": "true",
        "waiting": "False",
        "reason": better.reason,
        "reasons": json.dumps(better.reasons),
        "checks": "[]",
        "rule": "superiority",
        "metric": "accuracy",
        "test_digest": strong.prepared.test.digest,
        "value": str(strong.report.accuracy),
        "champion_value": str(weak.report.accuracy),
        "difference": str(better.difference),
        "difference_low": str(better.difference_low),
        "difference_high": str(better.difference_high),
        "detectable": str(better.detectable),
        "level": "0.05",
        "n": "90",
        "accuracy": str(strong.report.accuracy),
        "alpha": "0.05",
        "champion_version": "1",
        "champion_accuracy": str(weak.report.accuracy),
        "wins": str(better.wins),
        "losses": str(better.losses),
        "p_value": str(better.p_value),
    }

    worse = do(weak)
    assert not worse.promoted
    assert worse.losses == better.wins
    assert champion(store) == 3
    assert tags(store, 4)["promoted"] == "false"
    assert [row.decision for row in list_versions("colours")] == [
        "refused",
        "promoted",
        "refused",
        "promoted",
    ]


def test_a_champion_of_another_input_size_is_scored_as_it_wants_its_images(store, strong24, weak):
    do(strong24)
    decision = do(weak)
    assert strong24.prepared.input != weak.prepared.input
    assert decision.champion_accuracy == strong24.report.accuracy
    assert not decision.promoted
    assert champion(store) == 1


def test_other_classes_are_refused_with_the_reason(store, weak, strong):
    do(weak)
    classes = ("cat", "dog", "fox")
    decision = do(
        strong,
        prepared=strong.prepared.model_copy(update={"classes": classes}),
        model=strong.model.model_copy(update={"classes": classes}),
    )
    assert not decision.promoted
    assert "other classes" in decision.reason
    assert decision.p_value is None
    assert champion(store) == 1
    assert "p_value" not in tags(store, 2)


def test_a_damaged_champion_stays_and_the_reason_says_so(store, weak, strong, tmp_path):
    cache = {"output": strong.config.output.model_copy(update={"cache": tmp_path / "cache"})}
    do(weak)
    (weights,) = (tmp_path / "mlruns").rglob("artifacts/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    decision = do(strong, config=strong.config.model_copy(update=cache))
    assert not decision.promoted
    assert "version 1) cannot be scored" in decision.reason
    assert "not the file that was registered" in decision.reason
    assert champion(store) == 1


def test_a_champion_that_this_machine_cannot_build_stays(store, weak, strong, monkeypatch):
    do(weak, model=weak.model.model_copy(update={"architecture": "timm:resnet10t"}))
    monkeypatch.setitem(sys.modules, "timm", None)  # as where the extra is not installed
    decision = do(strong)
    assert not decision.promoted
    assert "version 1) cannot be scored: this machine cannot: Architectures" in decision.reason
    assert "need the package timm" in decision.reason
    assert champion(store) == 1


@pytest.mark.parametrize("greedy", [1, 2])
def test_a_champion_too_large_for_the_machine_stays_but_not_a_new_version(
    store, weak, strong, monkeypatch, greedy: int
):
    def score(config, model, split):
        with memory_errors(64, "evaluation.batch_size"):
            if model.version == greedy:
                raise MemoryError
        return score_as_served(config, model, split)

    do(weak)
    monkeypatch.setattr(contest, "score_as_served", score)
    if greedy == 2:  # its own fault is not hidden
        with pytest.raises(ResourceError):
            do(strong)
        assert [row.version for row in list_versions("colours")] == [1]
        return
    decision = do(strong)
    assert not decision.promoted
    assert "version 1) cannot be scored: this machine cannot: Out of memory" in decision.reason
    assert champion(store) == 1


def snapshot(client):
    models = {m.name: m.aliases for m in client.search_registered_models()}
    versions = {(v.name, v.version): v.tags for v in client.search_model_versions()}
    logged = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
    return models, versions, [m.model_id for m in logged]


def test_a_fault_while_the_decision_is_written_leaves_the_registry_as_it_was(
    store, weak, strong, tmp_path
):
    do(weak)
    before = snapshot(store)
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")
    database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON model_version_tags WHEN NEW.key = 'promotion.p_value'"
        " BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
    )
    database.commit()
    with pytest.raises(TrackingError, match="refused by the test") as caught:
        do(strong)
    assert len(str(caught.value).splitlines()) == 2
    assert snapshot(store) == before
    database.execute("DROP TRIGGER full")
    database.commit()
    database.close()
    assert do(strong).promoted  # a second try goes through


def test_a_fault_while_the_alias_moves_leaves_it_where_it_was(store, weak, strong, tmp_path):
    do(weak)
    before = snapshot(store)
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER fixed BEFORE UPDATE ON registered_model_aliases WHEN NEW.version = 2"
            " BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )
    database.close()
    with pytest.raises(TrackingError, match="refused by the test"):
        do(strong)
    assert snapshot(store) == before
    assert champion(store) == 1


def test_the_decision_is_made_again_when_another_run_moves_the_alias(
    store, weak, strong, monkeypatch
):
    do(weak)
    do(strong)
    store.set_registered_model_alias("colours", "champion", "1")
    scored = []

    def score_while_another_run_promotes(*arguments):
        if len(scored) == 1:
            store.set_registered_model_alias("colours", "champion", "2")
        scored.append(arguments[1].version)
        return score_as_served(*arguments)

    monkeypatch.setattr(contest, "score_as_served", score_while_another_run_promotes)
    decision = do(strong)
    assert scored == [1, 3, 2]
    assert not decision.promoted
    assert decision.champion_version == 2
    assert champion(store) == 2


def test_weights_that_were_evaluated_just_now_are_not_scored_again(
    store, weak, strong, monkeypatch, tmp_path
):
    opened = []

    def opening(config, model):
        opened.append(model.sha256)
        return open_scorer(config, model)

    def do_after_its_evaluation(**changes):
        evaluate.evaluate(strong.config, strong.prepared, strong.model, tmp_path)
        opened.clear()
        return do(strong, **changes)

    monkeypatch.setattr(evaluate, "open_scorer", opening)
    do(weak)  # after which nothing is remembered
    opened.clear()
    anew = do(strong)
    assert opened == [weak.model.sha256, strong.model.sha256]

    store.set_registered_model_alias("colours", "champion", "1")
    known = do_after_its_evaluation()
    assert opened == [weak.model.sha256]
    own = {"version": anew.version, "uri": anew.uri, "run_id": anew.run_id}
    assert known.model_copy(update=own) == anew

    against_itself = do_after_its_evaluation()
    assert opened == []
    assert (against_itself.champion_version, against_itself.p_value) == (3, 1.0)
    do(strong)
    assert opened == [strong.model.sha256] * 2  # its champion, and itself

    evaluation = strong.config.evaluation.model_copy(update={"batch_size": 7})
    do_after_its_evaluation(config=strong.config.model_copy(update={"evaluation": evaluation}))
    assert opened == [strong.model.sha256] * 2


def test_a_promotion_that_comes_too_late_is_decided_again(store, weak, strong, monkeypatch):
    do(weak)
    do(strong)
    store.set_registered_model_alias("colours", "champion", "1")
    written = []

    def write_while_another_run_promotes(client, version, decision):
        written.append(decision.champion_version)
        if len(written) == 1:
            store.set_registered_model_alias("colours", "champion", "2")
        write_decision(client, version, decision)

    monkeypatch.setattr(promote, "write_decision", write_while_another_run_promotes)
    decision = do(strong)
    assert written == [1, 2]
    assert not decision.promoted
    assert champion(store) == 2
    assert tags(store, 3)["champion_version"] == "2"
    assert read_decision(store, "colours", decision.run_id) == decision


def tag(client, version, key):
    return client.get_model_version("colours", str(version)).tags.get(key)


def learned_from_its_test_images(trained):
    """Return the parts of a run one of whose training images is every test image."""
    train = trained.prepared.train.model_copy(update={"index": trained.prepared.test.index})
    return {"prepared": trained.prepared.model_copy(update={"train": train})}


def test_a_version_that_learned_from_the_test_images_itself_is_refused(store, weak, strong):
    do(weak)
    assert "learned from" not in do(weak).reason
    decision = do(strong, **learned_from_its_test_images(strong))
    assert not decision.promoted
    assert "This model learned from 90 of the 90 test images itself" in decision.reason
    assert "data.checks.exact_duplicates=drop" in decision.reason
    assert "started from" not in decision.reason
    assert decision.p_value < 0.05


def test_a_champion_that_learned_from_the_test_images_is_said_to_be_flattered(store, weak, strong):
    do(strong, **learned_from_its_test_images(strong))
    store.set_registered_model_alias("colours", "champion", "1")
    decision = do(weak)
    assert not decision.promoted
    assert "version 1) learned from 90 of the 90 test images" in decision.reason
    assert "this refusal says little" in decision.reason


@pytest.mark.parametrize("behind", ["backbone_sha256", "teacher_sha256"])
def test_what_goes_on_from_a_version_that_learned_from_the_test_images_is_refused(
    store, weak, strong, behind
):
    do(weak, **learned_from_its_test_images(weak))
    store.set_registered_model_alias("colours", "champion", "1")
    onward = strong.model.model_copy(update={behind: weak.model.sha256})
    decision = do(strong, model=onward)
    assert not decision.promoted
    assert "started from a version that learned from 90 of the 90 test images" in decision.reason
    assert decision.p_value < 0.05
    listed = read_learned(store.get_model_version("colours", "2"))
    own = learned_images(strong.prepared)
    # what it goes on from counts for what goes on from it
    assert images_of(own) < images_of(listed)
    assert tag(store, 2, "graft.teacher_sha256") == onward.teacher_sha256
    assert listed.count_seen(read_index(strong.prepared.test.index)) == 90
    assert own.count_seen(read_index(strong.prepared.test.index)) == 0


def test_a_test_set_that_is_another_than_the_champions_is_said(store, weak, strong):
    digest = "1" * 64
    test = weak.prepared.test.model_copy(update={"digest": digest})
    do(
        weak,
        prepared=weak.prepared.model_copy(update={"test": test}),
        report=weak.report.model_copy(update={"test_digest": digest}),
    )
    decision = do(strong)
    assert decision.promoted
    assert "registered with another test set: it was scored again" in decision.reason
    assert decision.champion_accuracy == weak.report.accuracy


def test_floors_and_limits_hold_for_the_first_version_too_and_all_are_told(
    store, strong, monkeypatch
):
    monkeypatch.delattr(contest, "score_as_served")  # its report has the figures already
    bounds = {
        "floors": {"accuracy": 1.01, "recall[blue]": 0.5, "recall[grey]": 0.5},
        "limits": {"size_mib": 0.001},
        "minimum_test_images": 91,
    }
    promotion = strong.config.promotion.model_copy(update=bounds)
    decision = do(strong, config=strong.config.model_copy(update={"promotion": promotion}))
    assert not decision.promoted
    few, accuracy, grey, size, first = decision.reasons
    assert "fewer than promotion.minimum_test_images=91" in few
    assert "below its floor of 1.01" in accuracy
    assert "the nearest are recall[green]" in grey
    assert "above its limit of 0.001" in size
    assert "no champion yet" in first
    assert len(decision.checks) == 4
    assert read_decision(store, "colours", decision.run_id) == decision


def test_a_champion_whose_list_of_images_is_damaged_cannot_be_scored(store, weak, strong, tmp_path):
    do(weak)
    (listed,) = (tmp_path / "mlruns").rglob("learned_images.bin")
    listed.write_bytes(listed.read_bytes()[8:])
    decision = do(strong)
    assert not decision.promoted
    assert "version 1) cannot be scored: artifacts/learned_images.bin" in decision.reason
    assert champion(store) == 1


def test_ctrl_c_while_the_first_version_is_decided_leaves_no_model(store, weak, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(promote, "write_decision", interrupt)
    with pytest.raises(KeyboardInterrupt):
        do(weak)
    assert snapshot(store) == ({}, {}, [])


def test_a_report_of_another_model_registers_nothing(store, weak, strong):
    with pytest.raises(EvaluationError, match="another model"):
        do(strong, report=weak.report)
    assert snapshot(store) == ({}, {}, [])


def test_a_model_of_other_data_registers_nothing(store, strong):
    other = strong.model.model_copy(update={"data_digest": "0" * 64})
    with pytest.raises(EvaluationError, match="fine-tuned on other data"):
        do(strong, model=other)
    assert snapshot(store) == ({}, {}, [])
