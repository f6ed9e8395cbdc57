"""What a check can be told, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.configfile import load_config
from tasks.errors import ConfigError
from tasks.monitorconfig import MonitorConfig, ReevaluateConfig


def monitored(folder: Path, *overrides: str) -> MonitorConfig:
    path = folder / "monitor.yaml"
    path.write_text("model: models:/x@champion\nimages: {path: new}\n")
    return load_config(path, overrides, MonitorConfig)


@pytest.mark.parametrize(
    ("test", "level"), [("both", 0.01), ("kernel", 0.02), ("classifier", 0.02)]
)
def test_tests_share_the_false_alarm_rate(tmp_path: Path, test: str, level: float):
    config = monitored(tmp_path, f"test={test}", "alpha=0.02", "checks_a_day=2")
    assert config.level == level
    assert config.level * len(config.tests) == 0.02
    assert config.false_alarms_a_year == pytest.approx(14.61)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["permutations=198"], "gives no p-value as small as 0.005"),
        (["alpha=0"], "alpha is 0"),
        (["alpha=0.5"], "alpha is 0.5"),
        (["images.path=https://host/new.zip"], "images.sha256 is needed"),
        (["model=x"], "model is"),
        (["images.at_most=6000"], "images.at_most is 6000"),
        (["images.pth=x"], "Did you mean images.path?"),
        (["images.label_column=x"], "images.label_column is not a known key"),
    ],
)
def test_what_makes_no_sense_is_refused_in_two_lines(tmp_path: Path, overrides, words):
    with pytest.raises(ConfigError) as caught:
        monitored(tmp_path, *overrides)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_few_permutations_are_enough_for_a_high_level_or_without_the_kernel(tmp_path: Path):
    assert monitored(tmp_path, "permutations=199", "alpha=0.01", "test=kernel").level == 0.01
    assert monitored(tmp_path, "permutations=99", "test=classifier").tests == ("classifier",)


def test_a_reevaluation_has_labels_and_a_margin(tmp_path: Path):
    path = tmp_path / "reevaluate.yaml"
    path.write_text("model: models:/x/3\nimages: {path: new, label_column: class}\nmargin: 0.0\n")
    config = load_config(path, [], ReevaluateConfig)
    assert (config.images.label_column, config.margin) == ("class", 0.0)
    assert config.tracking.experiment == "graft-monitoring"
