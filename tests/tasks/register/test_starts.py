"""Which start is chosen, by which images; against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.evaluate.evaluate import score_weights
from tasks.index import read_index
from tasks.register.learned import LEARNED, Learned, learned_images
from tasks.register.starts import (
    Champion,
    choice_words,
    choose_start,
    clean_validation,
    start_obstacle,
    validation_digest,
    warm_config,
)
from tasks.values import RegisteredModel


def champion(trained, **changes: object) -> Champion:
    model = trained.model
    registered = RegisteredModel(
        uri="models:/colours/7",
        name="colours",
        version=7,
        architecture=model.architecture,
        classes=model.classes,
        input=model.input,
        weights=model.weights,
        sha256=model.sha256,
    )
    known = {
        "model": registered.model_copy(update=changes),
        "learned": learned_images(trained.prepared),
        "validation": validation_digest(trained.prepared),
    }
    return Champion(**known)


def right(trained) -> np.ndarray:
    return score_weights(trained.config, trained.model, trained.prepared.val).correct_n


def test_the_better_on_validation_is_chosen_and_the_original_where_they_are_equal(strong, weak):
    pair = (strong.model, strong.prepared), (weak.model, weak.prepared)
    known = champion(strong)
    up = choose_start(strong.config, known, *pair)
    down = choose_start(strong.config, known, *reversed(pair))
    same = choose_start(strong.config, known, pair[0], pair[0])
    ours, theirs = right(strong), right(weak)
    assert (up.start, down.start, same.start) == ("champion", "original", "original")
    assert (up.n, up.wins, up.losses) == (len(ours), sum(ours & ~theirs), sum(~ours & theirs))
    assert up.gain == pytest.approx(ours.mean() - theirs.mean())
    assert (down.wins, down.gain) == (up.losses, pytest.approx(-up.gain))
    assert choice_words(same).startswith("the start from the original weights is equal, and so")
    assert f"{ours.mean():.4f} against {theirs.mean():.4f}" in choice_words(up)


def test_images_that_trained_the_champion_have_no_say(strong, weak):
    pair = (strong.model, strong.prepared), (weak.model, weak.prepared)
    # other images chose the champion: of today's it learned from all but four
    records = read_index(strong.prepared.val.index)
    learned = np.array([int(r.sha256[:16], 16) for r in records[:-4]], dtype=np.uint64)
    other = Champion(champion(strong).model, Learned((learned,)), "0" * 64)
    choice = choose_start(strong.config, other, *pair)
    ours, theirs = right(strong)[-4:], right(weak)[-4:]
    assert choice.n == 4
    assert choice.gain == pytest.approx(ours.mean() - theirs.mean())
    everything = Champion(other.model, learned_images(strong.prepared), "0" * 64)
    assert choose_start(strong.config, everything, *pair) is None


def test_what_rules_the_champion_out_is_named(strong):
    config, prepared = strong.config, strong.prepared
    config = config.model_copy(
        update={
            "strategy": config.strategy.model_copy(update={"kind": "full"}),
            "model": config.model.model_copy(update={"weights": "graft:tiny-cifar10"}),
        }
    )
    assert start_obstacle(config, champion(strong), prepared) is None
    for change, words in (
        ({"architecture": "resnet18"}, "is a resnet18, not a graft_tiny"),
        ({"classes": ("blue", "green", "teal")}, "(only here red; only there teal)"),
        ({"multi_label": True}, "one label or several an image"),
    ):
        assert words in start_obstacle(config, champion(strong, **change), prepared)
    assert start_obstacle(config, None, prepared) == "There is no champion yet."
    assert "starts from no weights" in start_obstacle(strong.config, champion(strong), prepared)
    unknown = Champion(champion(strong).model, None, None)
    assert "does not say which images" in start_obstacle(config, unknown, prepared)
    digests = [r.sha256 for r in read_index(prepared.test.index)][:2]
    seen = np.array([int(d[:16], 16) for d in digests], dtype=np.uint64)
    tainted = Champion(unknown.model, Learned((seen,)), None)
    assert "learned from 2 of the 90 test images" in start_obstacle(config, tainted, prepared)


def test_a_warm_start_names_the_version_and_not_the_alias(strong):
    config = strong.config
    given = config.model.model_copy(update={"weights": "a.pth", "sha256": "0" * 64})
    warm = warm_config(config.model_copy(update={"model": given}), champion(strong))
    assert (warm.model.weights, warm.model.sha256) == ("models:/colours/7", None)
    assert warm.training == config.training


def test_validation_is_clean_unless_the_start_trained_on_it(store, strong, publish, tiny_models):
    digest = validation_digest(strong.prepared)
    assert clean_validation(strong.model, strong.prepared) == digest  # from random weights
    number = str(publish(store, "colours", tiny_models[0]))
    warm = strong.model.model_copy(update={"backbone_sha256": tiny_models[0].spec.sha256})
    assert clean_validation(warm, strong.prepared) is None  # it does not say
    store.set_model_version_tag("colours", number, "graft.validation_digest", digest)
    assert clean_validation(warm, strong.prepared) == digest
    elsewhere = strong.model.model_copy(update={"backbone_sha256": "f" * 64})
    assert clean_validation(elsewhere, strong.prepared) == digest


def test_a_start_whose_list_is_lost_is_not_known_and_stops_nothing(
    store, strong, publish, tiny_models, caplog
):
    number = str(publish(store, "colours", tiny_models[0]))
    store.set_model_version_tag("colours", number, LEARNED, "a" * 64)  # of a file that is gone
    warm = strong.model.model_copy(update={"backbone_sha256": tiny_models[0].spec.sha256})
    assert clean_validation(warm, strong.prepared) is None
    assert "whether the start trained on the validation images is not known" in caplog.text
