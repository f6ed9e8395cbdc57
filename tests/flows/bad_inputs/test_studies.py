"""Configs of the commands that are no run: compare, rank, search, monitor, reevaluate, cleanup."""

from __future__ import annotations

import pytest

from tests.flows.bad_inputs.rows import RUN, Bad, config

IMAGES = "images: {path: photos}\n"
WATCHED = "model: models:/small@champion\n" + IMAGES
DIGITS = "base: {data: {kind: digits}}\n"


def space(key: str, dimension: str) -> str:
    """Return a search of one value."""
    return DIGITS + f"space: {{{key}: {{{dimension}}}}}\n"


STUDIES = {
    "compare: nothing to compare": ("compare", "base: {data: {kind: digits}}\n", "datasets is"),
    "compare: a strategy that is none": (
        "compare",
        "base: {data: {kind: digits}}\ndatasets: {a: {}}\nbackbones: {b: {}}\n"
        "strategies: {full: {strategy.kind: half}}\n",
        "in a · b · full · seed 0, strategy.kind",
    ),
    "compare: a key of the output": (
        "compare",
        "base: {data: {kind: digits}}\ndatasets: {a: {output.folder: /x}}\nbackbones: {b: {}}\n"
        "strategies: {full: {}}\n",
        "output.folder",
    ),
    "compare: a circle of teachers": (
        "compare",
        "base: {data: {kind: digits}}\ndatasets: {a: {}}\nbackbones: {b: {}}\nreference: x\n"
        "strategies: {x: {strategy.kind: distill, strategy.teacher: 'cell:x'}}\n",
        "leads back to itself",
    ),
    "compare: a seed twice": (
        "compare",
        "base: {data: {kind: digits}}\ndatasets: {a: {}}\nbackbones: {b: {}}\n"
        "strategies: {full: {}}\nseeds: [1, 1]\n",
        "seeds has one twice",
    ),
    "rank: one candidate": (
        "rank",
        "base: {data: {kind: digits}}\ncandidates: [{weights: null}]\n",
        "candidates.*at least 2",
    ),
    "rank: several labels": (
        "rank",
        "base: {data: {kind: manifest, path: a, multi_label: true}}\ncandidates: [{}, {}]\n",
        "multi_label=false",
    ),
    "search: an empty space": ("search", DIGITS + "space: {}\n", "space is {}"),
    "search: a key that is none": ("search", space("training.rate", "low: 1, high: 2"), "rate"),
    "search: a key of the data": ("search", space("seed", "low: 1, high: 2"), "seed"),
    "search: a range the wrong way": (
        "search",
        space("training.learning_rate", "low: 1.0, high: 0.1"),
        "low must be below high",
    ),
    "search: a logarithm of 0": (
        "search",
        space("training.learning_rate", "low: 0.0, high: 0.1, log: true"),
        "log needs a low above 0",
    ),
    "search: one choice": ("search", space("training.augment", "choices: [none]"), "choices"),
    "search: a choice that is none": (
        "search",
        space("training.augment", "choices: [none, turn]"),
        "training.augment",
    ),
    "search: no trials": (
        "search",
        space("training.batch_size", "low: 8, high: 9") + "trials: 0\n",
        "trials is 0",
    ),
    "monitor: no model": ("monitor", IMAGES, "model is missing"),
    "monitor: a path for a model": ("monitor", "model: ../x\n" + IMAGES, "model is .*x"),
    "monitor: too few permutations": (
        "monitor",
        WATCHED + "permutations: 99\n",
        "permutations=99 gives no p-value",
    ),
    "monitor: a level of a half": ("monitor", WATCHED + "alpha: 0.5\n", "alpha is 0.5"),
    "reevaluate: no images": ("reevaluate", "model: models:/small/1\n", "images is missing"),
    "reevaluate: a margin of all": ("reevaluate", WATCHED + "margin: 1\n", "margin is 1"),
    "cleanup: keeps less than none": ("cleanup", "runs: {keep: -1}\n", "runs.keep is -1"),
    "cleanup: a word for a part": ("cleanup", "caches: all\n", 'caches is "all"'),
    "cleanup: keeps no version": ("cleanup", "versions: {keep: 0}\n", "versions.keep is 0"),
    "cleanup: a folder of somebody's": (
        "cleanup",
        "runs: {folder: photos}\ncaches: null\nversions: null\n",
        "photos",
    ),
}

WATCHES = {
    "monitor: an unknown model": ("monitor", "model: models:/no@champion\n" + IMAGES, 7, "no"),
    "monitor: lost images": ("monitor", "model: models:/small/1\nimages: {path: no}\n", 3, "no"),
    "reevaluate: other classes": (
        "reevaluate",
        "model: models:/small/1\nimages: {path: .}\n",
        3,
        "photos|mlruns",
    ),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study(refuse, name: str):
    command, text, pattern = STUDIES[name]
    refuse(Bad(config(text, command), 2, pattern))


@pytest.mark.parametrize("name", WATCHES)
def test_a_watch(refuse, name: str):
    command, text, code, pattern = WATCHES[name]
    refuse(Bad(config(text, command), code, pattern, RUN))
