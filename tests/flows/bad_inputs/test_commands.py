"""Every command wrongly typed, on models that are not there, and on registries in disorder."""

from __future__ import annotations

import pytest

from tests.flows.bad_inputs.rows import Bad, Make, typed

OTHER = "models:/small@best"
SMALL = "--model models:/small/1"  # other tests may have made more champions

WORDS = {
    "no command at all": ("", 2, ""),
    "an unknown command": ("rum good.yaml", 2, "rum"),
    "an unknown option": ("run good.yaml --fast", 2, "--fast"),
    "run: no config": ("run", 2, "CONFIG"),
    "check: a config for an override": ("check good.yaml good.yaml", 2, "good.yaml.*override"),
    "predict: no image": ("predict", 2, "IMAGE"),
    "predict: a lost image": (f"predict nowhere.png {SMALL}", 3, "nowhere.png"),
    "predict: a text": (f"predict good.yaml {SMALL}", 3, "good.yaml.*not an image"),
    "predict: a folder": (f"predict photos {SMALL}", 3, r"photos \(a folder\)"),
    "predict: one of two is lost": (f"predict photos/red/0.png no.png {SMALL}", 3, "no.png"),
    "predict: no such model": ("predict photos/red/0.png --model models:/no@champion", 7, "no"),
    "predict: no such alias": (f"predict photos/red/0.png --model {OTHER}", 7, "best"),
    "predict: no such version": ("predict photos/red/0.png --model models:/small/99", 7, "99"),
    "predict: version 0": ("predict photos/red/0.png --model models:/small/0", 7, "small/0"),
    "predict: a version in words": ("predict photos/red/0.png --model models:/small/x", 7, "x"),
    "predict: a path": ("predict photos/red/0.png --model ../small", 7, r"\.\./small"),
    "predict: a path in it": ("predict photos/red/0.png --model models:/../../etc", 7, "etc"),
    "predict: another scheme": ("predict photos/red/0.png --model runs:/1/model", 7, "runs:/1"),
    "predict: a bare scheme": ("predict photos/red/0.png --model models:/", 7, "models:/"),
    "evaluate: no model": ("evaluate good.yaml", 2, "--model"),
    "evaluate: no such version": ("evaluate good.yaml --model models:/small/99", 7, "99"),
    "evaluate: a report that is there": (
        "evaluate good.yaml --model models:/small/1 --report photos",
        2,
        "photos.*(there|exists)",
    ),
    "models: an unknown one": ("models nobody", 7, "nobody"),
    "models: an empty name": ("models ''", 7, ""),
    "ui: no port": ("ui --port 0", 2, "--port"),
    "ui: a port in words": ("ui --port web", 2, "--port"),
    "ui: a port too high": ("ui --port 65536", 2, "--port"),
    "serve: no name": ("serve", 2, "NAME"),
    "serve: an unknown model": ("serve nobody --port 0", 7, "nobody"),
    "serve: another alias": (f"serve {OTHER} --port 0", 7, "best"),
    "serve: no such host": ("serve small --port 0 --host nowhere.invalid", 2, "nowhere.invalid"),
    "serve: images of no size": ("serve small --max-megapixels 0", 2, "--max-megapixels"),
    "serve: no images": ("serve small --max-images 0", 2, "--max-images"),
    "serve: no time between looks": ("serve small --poll 0", 2, "--poll"),
    "serve: NaN between looks": ("serve small --poll nan --port 0", 2, "--poll"),
    "serve: an address for a host": ("serve small --allow-url https://a --port 0", 2, "HOST"),
    "export: no format": ("export models:/small/1 good.yaml --output out", 2, "--format"),
    "export: another format": (
        "export models:/small/1 good.yaml --format tflite --output out",
        2,
        "tflite",
    ),
    "export: no output": ("export models:/small/1 good.yaml --format onnx", 2, "--output"),
    "export: a folder that is there": (
        "export models:/small/1 good.yaml --format torch_export --output photos",
        2,
        "photos",
    ),
    "export: no such model": (
        "export models:/no/1 good.yaml --format torch_export --output out",
        7,
        "no",
    ),
    "approve: an unknown model": ("approve nobody 1", 7, "nobody"),
    "approve: no such version": ("approve small 99", 7, "99"),
    "approve: what waits for nobody": ("approve small 1", 7, "small"),
    "approve: a version in words": ("approve small first", 7, "first"),
    "promote: an unknown model": ("promote nobody 1", 7, "nobody"),
    "promote: no such version": ("promote small 99", 7, "99"),
    "promote: a version below 0": ("promote small -- -1", 7, "-1"),
    "rollback: an unknown model": ("rollback nobody", 7, "nobody"),
    "rollback: none before": ("rollback small", 7, "small"),
    "history: an unknown model": ("history nobody", 7, "nobody"),
    "diff: an unknown model": ("diff nobody 1 2", 7, "nobody"),
    "diff: one version alone": ("diff small 1", 2, "VERSION"),
    "diff: no such version": ("diff small 1 99", 7, "99"),
    "lr-find: no config": ("lr-find nosuch.yaml", 2, "nosuch.yaml"),
    "lr-find: another config": ("lr-find rank.yaml", 2, "rank.yaml"),
    "compare: a run's config": ("compare good.yaml", 2, "good.yaml.*values are wrong"),
    "rank: a run's config": ("rank good.yaml", 2, "good.yaml.*values are wrong"),
    "pretrain: no config": ("pretrain nosuch.yaml", 2, "nosuch.yaml"),
    "retrain: another start": ("retrain good.yaml --start best", 2, "best"),
    "retrain: no config": ("retrain nosuch.yaml", 2, "nosuch.yaml"),
    "monitor: a run's config": ("monitor good.yaml", 2, "good.yaml.*values are wrong"),
    "reevaluate: a run's config": ("reevaluate good.yaml", 2, "good.yaml.*values are wrong"),
    "cleanup: a run's config": ("cleanup good.yaml", 2, "good.yaml.*values are wrong"),
    "studio: a port too high": ("studio --port 99999", 2, "--port"),
    "studio: no size": ("studio --max-mib 0", 2, "--max-mib"),
    "schedule: no cron line": ("schedule", 2, "CRON"),
    "schedule: a line too short": ("schedule '0 3 * *' good.yaml", 2, "0 3"),
    "schedule: a minute in words": ("schedule 'x 3 * * 1' good.yaml", 2, "'x' is no minute"),
    "schedule: minute 60": ("schedule '60 3 * * 1' good.yaml", 2, "60"),
    "schedule: a day that never comes": ("schedule '0 3 31 2 *' good.yaml", 2, "31 2"),
    "schedule: another timezone": (
        "schedule '0 3 * * 1' good.yaml --timezone Mars/Base",
        2,
        "Mars/Base",
    ),
    "schedule: a timezone that is a path": (
        "schedule '0 3 * * 1' good.yaml --timezone ../../etc/passwd",
        2,
        "passwd",
    ),
    "schedule: another flow": ("schedule '0 3 * * 1' good.yaml --flow rank", 2, "'rank'"),
    "shards: neither way": ("shards good.yaml", 2, "either --output FOLDER or --index"),
    "shards: both ways": ("shards good.yaml --index --output out", 2, "either --output"),
    "shards: none in one": ("shards good.yaml --output out --images-a-shard 0", 2, "--images-a-"),
    "shards: among the images": ("shards good.yaml --output photos/x", 2, "photos/x lies in"),
    "shards: into a file": ("shards good.yaml --output good.yaml/x", 8, "good.yaml"),
    "shards: into a web page": ("shards good.yaml --output http://127.0.0.1:9/x", 2, "127.0.0.1"),
    "shards: a scheme that is none": ("shards good.yaml --output gopher://a/b", 2, "gopher"),
    "shards: an index of a folder of images": (
        "shards good.yaml --index data.kind=shards",
        3,
        "photos",
    ),
    "shards: an index of nothing": (
        "shards good.yaml --index data.kind=shards data.path=nowhere",
        3,
        "nowhere",
    ),
    "search: no config": ("search nosuch.yaml", 2, "nosuch.yaml"),
    "search: a run's config": ("search good.yaml", 2, "good.yaml.*values are wrong"),
    "submit: no config": ("submit nosuch.yaml", 2, "nosuch.yaml"),
    "submit: no server": ("submit good.yaml", 7, "PREFECT_API_URL"),
    "deploy: no prefect.yaml": ("deploy", 2, "prefect.yaml"),
    "deploy: no GPUs": ("deploy --gpus 0", 2, "--gpus"),
    "status: no server": ("status", 7, "PREFECT_API_URL"),
    "status: silence below 0": ("status --after -1", 2, "--after"),
    "status: NaN of silence": ("status --after nan", 2, "--after"),
}


def words(line: str) -> Make:
    import shlex

    return typed(*shlex.split(line))


@pytest.mark.parametrize("name", [name for name in WORDS if WORDS[name][0]])
def test_words(refuse, name: str):
    line, code, pattern = WORDS[name]
    message = refuse(Bad(words(line), code, pattern))
    assert message
