"""Any value in any place of a config: a config that survives its round trips, or a ConfigError."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.cleanupconfig import CleanupConfig
from tasks.compareconfig import CompareConfig
from tasks.config import RunConfig
from tasks.configfile import dump_config, load_config
from tasks.errors import ConfigError
from tasks.monitorconfig import MonitorConfig, ReevaluateConfig
from tasks.rankconfig import RankConfig
from tasks.recipe import Section
from tasks.searchconfig import SearchConfig

REPOSITORY = Path(__file__).resolve().parents[2]
KINDS: dict[type[Section], str] = {
    RunConfig: "digits",
    MonitorConfig: "monitor_folder",
    ReevaluateConfig: "reevaluate_folder",
    CleanupConfig: "cleanup",
    RankConfig: "rank_backbones",
    CompareConfig: "compare_strategies",
    SearchConfig: "search_digits",
}
Path_ = tuple[str, ...]

texts = st.text(max_size=20) | st.text("ab\x00\x1b\n\ud800\udfff\u2028{[:#'\"", max_size=8)
numbers = st.integers() | st.integers(-3, 300) | st.floats() | st.floats(0, 1)
# words that some field or other takes, so that valid configs come up too
words = st.sampled_from(
    "full partial scratch lp_ft wise_ft distill search auto sgd muon folder manifest digits none "
    "models:/a@b https://a/b fail drop off one_cycle cosine crop_flip accuracy float32 cpu "
    f"{64 * 'a'}".split()
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | words, inner, max_size=4),
    max_leaves=8,
)


def places(settings: dict[str, Any], above: Path_ = ()) -> Iterator[Path_]:
    for key, value in settings.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def put(settings: dict[str, Any], place: Path_, value: object) -> None:
    for key in place[:-1]:
        if not isinstance(settings.get(key), dict):
            return  # another change has replaced the section
        settings = settings[key]
    settings[place[-1]] = value


def shipped(model: type[Section]) -> dict[str, Any]:
    config = load_config(REPOSITORY / "configs" / f"{KINDS[model]}.yaml", [], model)
    return json.loads(config.model_dump_json())


def two_lines(error: ConfigError) -> None:
    assert 1 <= len(str(error).split("\n")) <= 2, str(error)
    assert str(error).strip()


def held(path: Path, overrides: list[str], model: type[Section]) -> None:
    """Load a config: it is refused in two lines, or comes back from YAML and JSON the same."""
    try:
        config = load_config(path, overrides, model)
    except ConfigError as error:
        two_lines(error)
        return
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path, [], model) == config
    assert model.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.__name__)
@given(data=st.data())
def test_any_value_in_any_place(model, tmp_path: Path, data):
    settings = shipped(model)
    known = sorted(places(settings))
    for place in data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)):
        put(settings, place, data.draw(values, label=".".join(place)))
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    held(path, [], model)


@given(data=st.data())
def test_any_override(tmp_path: Path, data):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(shipped(RunConfig)), encoding="utf-8")
    keys = st.sampled_from([".".join(place) for place in places(shipped(RunConfig))]) | texts
    simple = st.none() | st.booleans() | numbers | words
    written = st.builds(json.dumps, values) | texts | st.builds(str, simple)
    held(path, data.draw(st.lists(st.builds("{}={}".format, keys, written), max_size=3)), RunConfig)


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-16")))
def test_any_file(tmp_path: Path, content: bytes):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    held(path, [], RunConfig)


@given(value=st.floats())
def test_a_rate_is_taken_to_the_last_digit_or_refused(tmp_path: Path, value: float):
    path = tmp_path / "config.yaml"
    path.write_text("data: {kind: digits}\n")
    given_value = f"training.learning_rate={value!r}"
    if math.isfinite(value) and value > 0:
        assert load_config(path, [given_value]).training.learning_rate == value
    else:
        with pytest.raises(ConfigError, match="learning_rate"):
            load_config(path, [given_value])
