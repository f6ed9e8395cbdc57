"""Which floors and limits are refused before training: none that a real report can have."""

from __future__ import annotations

import pytest

from tasks.config import RunConfig
from tasks.errors import ConfigError
from tasks.evaluate.corruptions import SEVERITIES
from tasks.evaluate.evaluate import evaluate
from tasks.register.bounds import refuse_unknown_figures
from tasks.register.figures import figures

CLASSES = ("ants", "bees")


def config_of(evaluation=None, data=None, **promotion) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"kind": "manifest", "path": "x.csv", "slice_columns": ["site"]} | (data or {}),
            "evaluation": evaluation or {},
            "promotion": {"model": "small", **promotion},
        }
    )


def test_every_figure_of_a_real_report_may_be_named(strong, tmp_path):
    evaluation = strong.config.evaluation.model_copy(
        update={"robustness_images": 3, "rejection_error": 0.3, "bootstrap": 0}
    )
    config = strong.config.model_copy(update={"evaluation": evaluation})
    found = figures(evaluate(config, strong.prepared, strong.model, tmp_path))
    assert len(found) > 60
    bounds = {"floors": dict.fromkeys(found, 0.0), "limits": {}}
    promotion = config.promotion.model_copy(update=bounds)
    config = config.model_copy(update={"promotion": promotion})
    refuse_unknown_figures(config, strong.prepared.classes)
    refuse_unknown_figures(config, None)
    off = {"robustness_images": 0, "rejection_error": None, "novelty": False, "latency_runs": 0}
    plain = config.model_copy(update={"evaluation": evaluation.model_copy(update=off)})
    with pytest.raises(ConfigError) as caught:
        refuse_unknown_figures(plain, strong.prepared.classes)
    for words in ("robustness_images is 0", "rejection_error is null", "novelty is false"):
        assert words in str(caught.value)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("name", "evaluation", "words"),
    [
        ("accuracy[fog:3]", {"robustness_images": 9}, "the nearest are accuracy[jpeg:3]"),
        ("accuracy[jpeg:3]", {}, "evaluation.robustness_images is 0"),
        ("accuracy[jpeg:2]", {"robustness_images": 9}, "the nearest are accuracy[jpeg:"),
        ("size_mib", {"latency_runs": 0}, "evaluation.latency_runs is 0"),
        ("test_error", {}, "evaluation.rejection_error is null"),
        ("noise_auroc", {"novelty": False}, "evaluation.novelty is false"),
        ("recall[ant]", {}, "the nearest are recall[ants]"),
        ("accuracy[sight=A]", {}, "data.slice_columns has site"),
        ("acuracy", {}, "the nearest are accuracy"),
        ("hamming_loss", {}, "(the nearest are"),
        ("top_5", {}, "names top_5 ("),
        ("zzz", {}, "(none has a name like that)"),
    ],
)
def test_what_no_report_of_the_config_has_is_refused(name, evaluation, words):
    for kind in ("floors", "limits"):
        config = config_of(evaluation, **{kind: {name: 0.5}})
        with pytest.raises(ConfigError) as caught:
            refuse_unknown_figures(config, CLASSES)
        first, _ = str(caught.value).split("\n")
        assert first.startswith(f"promotion.{kind} names {name} (")
        assert words in first


@pytest.mark.parametrize(
    "name",
    ["recall[bees]", "roc_auc[ants]", "accuracy[site=A=B]", "log_loss[site=]", "accuracy[jpeg:3]"],
)
def test_what_may_be_is_left_to_the_gate(name):
    refuse_unknown_figures(config_of({"robustness_images": 5}, floors={name: 0.5}), CLASSES)
    assert 3 in SEVERITIES


def test_several_labels_have_other_figures():
    several = {"multi_label": True}
    refuse_unknown_figures(config_of(data=several, limits={"hamming_loss": 0.1}), CLASSES)
    refuse_unknown_figures(config_of(data=several, limits={"ece": 0.1}), CLASSES)
    with pytest.raises(ConfigError, match="names top_2"):
        refuse_unknown_figures(config_of(data=several, limits={"top_2": 0.1}), CLASSES)


def test_without_the_data_any_class_may_be():
    refuse_unknown_figures(config_of(floors={"recall[emus]": 0.5, "top_10": 0.5}), None)
    with pytest.raises(ConfigError, match=r"names recal\[emus\]"):
        refuse_unknown_figures(config_of(floors={"recal[emus]": 0.5}), None)
