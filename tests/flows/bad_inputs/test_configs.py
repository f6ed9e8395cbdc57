"""Configs that are no YAML or no mapping, and values of a wrong type, range or combination."""

from __future__ import annotations

import pytest

from tests.flows.bad_inputs.rows import Bad, check, config, typed

GOOD = "data: {kind: folder, path: photos}\n"

FILES = {
    "not there": Bad(typed("check", "nosuch.yaml"), 2, r"nosuch\.yaml.*cannot be read"),
    "a folder": Bad(typed("check", "photos"), 2, r"photos.*cannot be read.*directory"),
    "an image": Bad(typed("check", "photos/red/0.png"), 2, r"0\.png.*not YAML"),
    "of length zero": Bad(config(b""), 2, r"bad\.yaml.*not a mapping"),
    "comments alone": Bad(config("# nothing\n"), 2, "not a mapping"),
    "a list": Bad(config("- data\n- model\n"), 2, "not a mapping"),
    "a word": Bad(config("digits\n"), 2, "not a mapping"),
    "JSON that is cut off": Bad(config('{"data": {"kind": "dig'), 2, "not YAML"),
    "two documents": Bad(config(GOOD + "---\n" + GOOD), 2, "line 2: not YAML.*document"),
    "a tab": Bad(config("data:\n\tkind: folder\n"), 2, r"line 2: not YAML.*\\t"),
    "Latin-1": Bad(config("name: é\n".encode("latin-1")), 2, r"bad\.yaml.*not YAML.*UTF-8"),
    "UTF-16 cut off": Bad(config(GOOD.encode("utf-16")[:-1]), 2, r"not YAML"),
    "UTF-32": Bad(config(GOOD.encode("utf-32")), 2, r"not YAML"),
    "a null byte": Bad(config(GOOD.encode() + b"\0"), 2, "not YAML"),
    "nested 5,000 deep": Bad(config("a: " * 1 + "{a: " * 5000), 2, "not YAML"),
    "a key twice": Bad(config(GOOD + "seed: 1\nseed: 2\n"), 2, "line 3.*'seed' appears twice"),
    "a section twice": Bad(config(GOOD + GOOD), 2, "line 2.*'data' appears twice"),
    "a billion laughs": Bad(
        config(GOOD + "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), 2, "aliases"
    ),
    "code by a tag": Bad(config(GOOD + "name: !!python/name:os.system\n"), 2, "tag.*python"),
    "a merge key": Bad(config("data: {<<: {kind: digits}}\n"), 2, r"<< is not a known key"),
    "a key that is a list": Bad(config(GOOD + "? [a, b]\n: 1\n"), 2, r"not YAML"),
    "a key that is a number": Bad(config(GOOD + "1: 2\n"), 2, r"1 is not a known key"),
    "a key that is null": Bad(config(GOOD + "~: 2\n"), 2, r"null is not a known key"),
    "a surrogate": Bad(config(GOOD + 'name: "\\ud800"\n'), 2, "line 2.*half of a surrogate"),
    "no data": Bad(config("seed: 1\n"), 2, "data is missing"),
}

VALUES = {
    "name with a slash": ("name=a/b", r"name is \"a/b\""),
    "name that leads out": ("name=..", r"name is \"\.\.\""),
    "name that is empty": ("name=''", r"name is \"\""),
    "name of 101 letters": ("name=" + 101 * "a", r"name is"),
    "name with a line break": ('name="a\\n"', r"name is"),
    "seed below 0": ("seed=-1", "seed is -1.*greater than or equal to 0"),
    "seed beyond 31 bits": ("seed=2147483648", "seed is 2147483648"),
    "seed of 5,000 digits": ("seed=" + 5000 * "9", r"seed.*4300 digits.*has 5000 digits|value\.$"),
    "seed that is true": ("seed=true", "seed is true.*integer"),
    "kind of data": ("data.kind=web", "data.kind is \"web\".*'digits'"),
    "no path": ("data.path=", "data.path is needed"),
    "path that is a number": ("data.path=3", "data.path is 3.*string"),
    "https without a digest": ("data.path=https://example.org/a.zip", "data.sha256 is needed"),
    "digest that is short": ("data.sha256=abc", 'data.sha256 is "abc"'),
    "digest in capitals": ("data.sha256=" + 64 * "A", "data.sha256"),
    "fraction of 0": ("data.val_fraction=0", "data.val_fraction is 0"),
    "fraction of 1": ("data.test_fraction=1", "data.test_fraction is 1"),
    "fraction that is NaN": ("data.val_fraction=.nan", "data.val_fraction.*finite"),
    "no time": ("data.timeout_seconds=0", "data.timeout_seconds is 0"),
    "labels without a manifest": ("data.multi_label=true", "data.kind=manifest"),
    "no separator": ("data.label_separator=''", "data.label_separator"),
    "policy of images": ("data.on_bad_image=ignore", "data.on_bad_image.*'fail' or 'skip'"),
    "policy of a check": ("data.checks.tiny_classes=off", 'data.checks.tiny_classes is "off"'),
    "distance of hashes": ("data.checks.near_distance=65", "data.checks.near_distance is 65"),
    "slices twice": ("data.slice_columns=[a, a]", "data.slice_columns names a column twice"),
    "slices that are a word": ("data.slice_columns=site", 'data.slice_columns is "site"'),
    "crop over resize": ("preprocess.crop=64", "preprocess.crop must not be larger"),
    "crop of 0": ("preprocess.crop=0", "preprocess.crop is 0"),
    "crop of a million": ("preprocess.crop=1000000", "preprocess.crop is 1000000"),
    "two means": ("preprocess.mean=[1, 2]", "line: preprocess.mean has too few values, 2"),
    "deviation of 0": ("preprocess.std=[1, 0, 1]", "preprocess.std must be above 0"),
    "interpolation": ("preprocess.interpolation=lanczos", "preprocess.interpolation"),
    "weights from scratch": ("model.weights=graft:tiny-cifar10", "strategy.kind=scratch"),
    "no epochs": ("training.epochs=0", "training.epochs is 0"),
    "epochs in words": ("training.epochs=three", 'training.epochs is "three".*integer'),
    "epochs in quotes": ("training.epochs='3'", 'training.epochs is "3"'),
    "epochs of a half": ("training.epochs=1.5", "training.epochs"),
    "batch of 0": ("training.batch_size=0", "training.batch_size is 0"),
    "rate of 0": ("training.learning_rate=0", "training.learning_rate is 0"),
    "rate without end": ("training.learning_rate=.inf", "training.learning_rate.*finite"),
    "rate beyond float": ("training.learning_rate=1e999", "training.learning_rate.*finite"),
    "momentum of 1": ("training.momentum=1", "training.momentum is 1"),
    "decay below 0": ("training.weight_decay=-1", "training.weight_decay is -1"),
    "smoothing of 1": ("training.label_smoothing=1", "training.label_smoothing is 1"),
    "warm-up over all": ("training.warmup_epochs=1", "training.warmup_epochs must be less"),
    "optimizer": ("training.optimizer=adam", 'training.optimizer is "adam"'),
    "device": ("training.device=tpu", 'training.device is "tpu"'),
    "devices": ("training.devices=0", "training.devices is 0"),
    "batch for two": ("training={devices: 3, batch_size: 8}", "not a multiple of training.devices"),
    "nodes": ("training.nodes=0", "training.nodes is 0"),
    "threads": ("training.threads=0", "training.threads is 0"),
    "a list for a section": ("training=[1]", r"training is \[1\]"),
    "nothing for a section": ("training=", "training is null"),
    "frozen stages": ("strategy.frozen_stages=2", "strategy.kind=partial"),
    "partial of none": ("strategy.kind=partial", "strategy.frozen_stages must be above 0"),
    "a teacher for none": ("strategy.teacher=models:/a@b", "strategy.kind=distill"),
    "rank for none": ("strategy.lora_rank=4", "strategy.lora_rank goes with"),
    "alpha for none": ("strategy.lora_alpha=4", "strategy.lora_alpha goes with .*set it to null"),
    "weight for none": ("strategy.distill_weight=0.9", "strategy.distill_weight goes with"),
    "views of none": ("training.feature_views=4", "nothing augments"),
    "soup of one": ("strategy.soup=1", "strategy.soup is 1"),
    "wise beyond 1": ("strategy.wise_ft=2", "strategy.wise_ft must be between 0 and 1"),
    "confidence of 95": ("evaluation.confidence=95", "evaluation.confidence is 95"),
    "resamples": ("evaluation.bootstrap=1000000", "evaluation.bootstrap is 1000000"),
    "model with a slash": ("promotion.model=a/b", r"promotion.model is \"a/b\""),
    "level of 0": ("promotion.alpha=0", "promotion.alpha is 0"),
    "metric": ("promotion.metric=f1", 'promotion.metric is "f1"'),
    "floor that is a word": (
        "promotion.floors={accuracy: high}",
        "line: promotion.floors.accuracy",
    ),
    "floor over its limit": (
        "promotion={floors: {ece: 0.2}, limits: {ece: 0.1}}",
        "promotion.floors of ece is above",
    ),
    "experiment without a name": ("tracking.experiment=''", 'tracking.experiment is ""'),
    "folder that is a number": ("output.folder=3", "output.folder is 3"),
    "unknown key": ("training.epoch=3", r"training.epoch .*Did you mean training.epochs\?"),
    "unknown section": ("trainig.epochs=3", "line: trainig is not a known key"),
    "key of nothing": ("=3", "not an override"),
    "no equals sign": ("training.epochs", "key=value"),
    "dots alone": ("..=3", "not an override"),
    "key into a value": ("seed.x=3", r"line: seed is \{\"x\": 3\}"),
    "a bracket": ("training.epochs=[", "training.epochs.*not YAML.*Correct the value"),
    "an alias": ("name=*a", "name.*aliases"),
    "a tag": ("name=!!binary aGk=", "name.*tag"),
    "two documents": ("name=a\n---\nb", "name.*not YAML"),
    "a control character": ("name=\x1b[31m", "name.*not YAML"),
    "a surrogate": ("name=\udcff", "name"),
    "a key with a control character": ("na\x1bme=a", r"na\\x1bme is not a known key"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file(refuse, name: str):
    refuse(FILES[name])


@pytest.mark.parametrize("name", VALUES)
def test_a_value(refuse, name: str):
    override, pattern = VALUES[name]
    refuse(Bad(check(override), 2, pattern))
