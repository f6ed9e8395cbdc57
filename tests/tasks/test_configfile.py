"""Configs are read strictly, and every config that ships is complete and commented."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tasks.cleanupconfig import CleanupConfig, StudioRule
from tasks.compareconfig import CompareConfig
from tasks.config import DataConfig, RunConfig
from tasks.configfile import dump_config, known_keys, load_config
from tasks.errors import ConfigError
from tasks.monitorconfig import MonitorConfig, ReevaluateConfig
from tasks.rankconfig import RankConfig
from tasks.searchconfig import SearchConfig

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
STUDIES = {
    "cleanup": CleanupConfig,
    "compare": CompareConfig,
    "monitor": MonitorConfig,
    "rank": RankConfig,
    "reevaluate": ReevaluateConfig,
    "search": SearchConfig,
}  # by the first word of the file's name; any other is a run
RATE_OF = {  # a number of each kind of config
    RunConfig: "training.learning_rate",
    CleanupConfig: "runs.days",
    MonitorConfig: "checks_a_day",
    ReevaluateConfig: "margin",
    SearchConfig: "base.training.momentum",
}
DIGITS = "data: {kind: digits}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def kind_of(path: Path) -> type[BaseModel]:
    return STUDIES.get(path.stem.split("_")[0], RunConfig)


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def flat(settings: dict, known: set[str], prefix: str = "") -> set[str]:
    """Return the dotted keys; a mapping that is one value of the config is not looked into."""
    found = set()
    for key, value in settings.items():
        inner = isinstance(value, dict) and prefix + key not in known
        found |= flat(value, known, f"{prefix}{key}.") if inner else {prefix + key}
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_is_complete(path: Path):
    known = leaves(kind_of(path))
    assert flat(yaml.safe_load(path.read_text()), known) == known
    load_config(path, model=kind_of(path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_value_of_a_shipped_config_is_commented(path: Path):
    before = ""
    for line in path.read_text().splitlines():
        is_value = ":" in line and not line.lstrip().startswith("#") and not line.endswith(":")
        assert not is_value or " # " in line or before.lstrip().startswith("#"), line
        before = line


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dumped_config_is_read_back_the_same(path: Path, tmp_path: Path):
    model = kind_of(path)
    change = f"{RATE_OF.get(model, 'base.training.learning_rate')}=3e-05"
    config = load_config(path, [change], model)
    assert load_config(write(tmp_path, dump_config(config)), model=model) == config
    assert flat(yaml.safe_load(dump_config(config)), leaves(model)) == leaves(model)


def test_what_cleans_up_ships_with_its_own_defaults():
    shipped = load_config(FOLDER / "cleanup.yaml", model=CleanupConfig)
    # the studio is left alone by a config that does not name it
    assert shipped == CleanupConfig(studio=StudioRule())


def test_there_are_the_five_configs_and_none_names_this_machine():
    names = {path.stem for path in CONFIGS}
    assert names >= {
        "digits",
        "cifar10",
        "image_folder",
        "squeezenet_hymenoptera",
        "squeezenet_cifar10",
    }
    assert not any(": /" in path.read_text() for path in CONFIGS)


def test_the_digests_are_those_of_the_shared_files(shared: Path):
    lines = (shared / "SHA256SUMS").read_text().split("\n")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for stem in ("squeezenet_hymenoptera", "squeezenet_cifar10"):
        config = load_config(CONFIGS[0].with_name(f"{stem}.yaml"))
        for path, digest in (
            (config.data.path, config.data.sha256),
            (config.model.weights, config.model.sha256),
        ):
            assert sums[path.removeprefix("../shared/")] == digest
    ranked = load_config(CONFIGS[0].with_name("rank_backbones.yaml"), [], RankConfig)
    weights = ranked.candidates[0].weights
    assert sums[ranked.base.data.path.removeprefix("../shared/")] == ranked.base.data.sha256
    assert sums[weights.removeprefix("../shared/")] == ranked.candidates[0].sha256


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=1E-3", 0.001),
        ("training.learning_rate=.5", 0.5),
        ("training.learning_rate=1", 1.0),
        ("training.gradient_clip=", None),
        ("training.threads=3", 3),
        ("data.train=no", "no"),
        ("data.test=2024-01-01", "2024-01-01"),
        ("data.path=a=b", "a=b"),
        ("model.weights=models:/graft@champion", "models:/graft@champion"),
        ("preprocess.mean=[0.5, 0.5, 0.5]", (0.5, 0.5, 0.5)),
        ("output.cache=../elsewhere", Path("../elsewhere")),
    ],
)
def test_an_override_is_yaml(tmp_path: Path, override: str, value: object):
    config: object = load_config(write(tmp_path, DIGITS), [override])
    for part in override.partition("=")[0].split("."):
        config = getattr(config, part)
    assert config == value


def test_the_last_override_wins_over_file_and_others(tmp_path: Path):
    path = write(tmp_path, DIGITS + "seed: 1\n")
    assert load_config(path, ["seed=2", "seed=3"]).seed == 3


# text of the file, overrides, words of the message
WRONG = {
    "not a mapping": ("- a\n", [], ["not a mapping", "configs/digits.yaml"]),
    "empty": ("", [], ["not a mapping"]),
    "not yaml": ("a: [b\n", [], ["not YAML", "line"]),
    "control character": ("a: \0\n", [], ["not YAML"]),
    "too deep": ("[" * 5000, [], ["not YAML"]),
    "repeated key": (DIGITS + "seed: 1\nseed: 2\n", [], ["line 3", "'seed' appears twice"]),
    "repeated inner key": ("data: {kind: digits, kind: folder}\n", [], ["'kind' appears twice"]),
    "alias": (DIGITS + "preprocess: &x [*x]\n", [], ["aliases"]),
    "binary": (DIGITS + "name: !!binary aGk=\n", [], ["tag", "binary", "line 2"]),
    "set": (DIGITS + "name: !!set {a, b}\n", [], ["tag", "set"]),
    "time": (DIGITS + "name: !!timestamp 2024-01-01\n", [], ["tag", "timestamp"]),
    "python": (DIGITS + "name: !!python/name:os.system\n", [], ["tag", "python"]),
    "own tag": ("data: !mine {kind: digits}\n", [], ["tag '!mine'"]),
    "tagged override": (DIGITS, ["name=!!binary aGk="], ["command line, name", "tag"]),
    "no bool": (DIGITS + "seed: !!bool abc\n", [], ["not YAML"]),
    "no int": (DIGITS + "seed: !!int ''\n", [], ["not YAML"]),
    "no data": ("seed: 1\n", [], ["data is missing"]),
    "unknown key": (DIGITS + "training: {epoch: 3}\n", [], ["training.epoch ", "training.epochs?"]),
    "unknown section": (DIGITS + "traning: {}\n", [], ["traning", "Did you mean training?"]),
    "wrong section": (DIGITS + "learning_rate: 1\n", [], ["Did you mean training.learning_rate?"]),
    "unknown override": (DIGITS, ["seeed=1"], ["command line: seeed", "Did you mean seed?"]),
    "text for a number": (DIGITS, ["seed=one"], ["command line: seed", '"one"', "integer"]),
    "text in quotes": (DIGITS + "seed: '1'\n", [], ["seed", "integer"]),
    "bool for a number": (DIGITS, ["seed=true"], ["seed", "integer"]),
    "fraction for an int": (DIGITS, ["seed=1.5"], ["seed"]),
    "not finite": (DIGITS, ["training.learning_rate=.inf"], ["finite"]),
    "out of range": (DIGITS, ["training.epochs=0"], ["greater than or equal to 1"]),
    "not a choice": (DIGITS, ["data.on_bad_image=ignore"], ["'fail' or 'skip'", "stop and list"]),
    "too short": (DIGITS, ["preprocess.mean=[1, 2]"], ["preprocess.mean"]),
    "section as value": (DIGITS, ["data=3"], ["data is 3"]),
    "two that clash": (DIGITS, ["data.kind=folder"], ["data.path is needed"]),
    "no equals sign": (DIGITS, ["seed"], ["'seed' is not an override", "key=value"]),
    "no key": (DIGITS, ["=3"], ["not an override"]),
    "open bracket": (DIGITS, ["seed=["], ["command line, seed", "not YAML"]),
    "several": (
        DIGITS + "sed: 1\n",
        ["training.epochs=x"],
        ["2 values are wrong", "sed is not a known key (Did you mean seed?)", "training.epochs"],
    ),
    "a name that leads out": (DIGITS, ["name=../../x"], ["name is", "should match pattern"]),
    "a model that leads out": (DIGITS, ["promotion.model=a/../b"], ["promotion.model is"]),
    "a digest that leads out": (DIGITS, ["data.sha256=../../x"], ["data.sha256 is"]),
    "laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", [], ["aliases"]),
    "code": ("!!python/object/apply:os.system ['exit']\n", [], ["tag", "python"]),
    "too large": ("#" * (1 << 20) + "\n" + DIGITS, [], ["larger than 1,048,576 bytes"]),
    "too deep a key": (DIGITS, ["a." * 2000 + "b=1"], ["not an override"]),
    "an endless one": (None, [], ["larger than 1,048,576 bytes"]),
    "nothing to stay near": (
        DIGITS,
        ["strategy.kind=scratch", "model.weights=null", "strategy.l2_sp=0.1"],
        ["strategy.kind=scratch has no pretrained weights to stay near"],
    ),
    "warmed up twice": (
        DIGITS,
        ["training.schedule=one_cycle", "training.warmup_epochs=1"],
        ["training.schedule=one_cycle warms up by itself", "warmup_epochs=0"],
    ),
    "weights from anywhere": (
        DIGITS,
        ["model.weights=https://host/w.pth"],
        ["model.sha256 is needed when model.weights is an https address"],
    ),
    "a teacher of mixtures": (
        DIGITS,
        ["strategy={kind: distill, teacher: models:/a@b}", "training.cutmix=1.0"],
        ["training.mixup and cutmix must be 0 with strategy.kind=distill"],
    ),
    "key with a line break": (DIGITS + '"a\\nb": 1\n', [], ["a b is not a known key"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_two_lines(tmp_path: Path, case: str):
    text, overrides, words = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text) if text is not None else Path("/dev/zero"), overrides)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert all(word in message for word in words), message


RANK = "base: {data: {kind: digits}}\ncandidates: [{weights: null}, {architecture: alexnet}]\n"
WRONG_RANK = {
    "unknown key": (RANK, ["base.training.epoch=3"], ["Did you mean base.training.epochs?"]),
    "key of a run": (RANK, ["training.epochs=3"], ["Did you mean base.training?"]),
    "in a list": (
        RANK + "images: 9\n",
        ["candidates=[{weight: null}, {}]"],
        ["candidates.0.weight is not a known key", "Did you mean candidates.weights?"],
    ),
    "a place in a list": (RANK, ["candidates.0.weights=null"], ["candidates", "valid array"]),
    "a run from scratch": (
        RANK,
        ["base.strategy.kind=scratch", "base.model.weights=null"],
        ["base.strategy.kind=scratch", "alexnet", "full"],
    ),
    "nothing": ("", [], ["See configs/rank_backbones.yaml"]),
    "not its own": ("seed: 1\n", [], ["base is missing", "seed is not a known key"]),
}


@pytest.mark.parametrize("case", WRONG_RANK)
def test_another_kind_of_config_is_explained_in_its_own_words(tmp_path: Path, case: str):
    text, overrides, words = WRONG_RANK[case]
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides, RankConfig)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert all(word in message for word in words), message


def test_an_override_reaches_into_the_run_of_a_study(tmp_path: Path):
    config = load_config(write(tmp_path, RANK), ["base.training.epochs=3"], RankConfig)
    assert config.base.training.epochs == 3
    assert [candidate.architecture for candidate in config.candidates] == ["resnet18", "alexnet"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=path.name):
            load_config(path)


def test_known_keys_are_the_sections_and_the_leaves():
    assert leaves(RunConfig) < set(known_keys())
    assert "training" in known_keys()


WORDS = ["1e3", ".5", "1E-3", "null", "~", "true", "no", "2024-01-01", "0x1F", "1:30", "1_000"]
WORDS += [
    "=",
    "<<",
    ".inf",
    "- a",
    "a: b",
    "# a",
    "!!int 3",
    "*a",
    "&a",
    " a ",
    "a\nb",
    "ä 例",
    "'",
]


@pytest.mark.parametrize("word", WORDS)
def test_any_word_comes_back_from_a_dump(tmp_path: Path, word: str):
    data = DataConfig(path=word, train=word)
    config = RunConfig(data=data)
    text = dump_config(config)
    assert load_config(write(tmp_path, text)) == config
    assert yaml.safe_load(text)["data"]["train"] == word  # to readers of YAML 1.1 as well


def test_tags_that_say_what_is_so_anyway_are_fine(tmp_path: Path):
    text = (
        "data: !!map {kind: !!str digits}\nseed: !!int 3\ntraining: {learning_rate: !!float .1}\n"
    )
    assert load_config(write(tmp_path, text)).seed == 3
