"""graft's own steps up to the trained model, without Prefect and MLflow: what it trains with.

Download, pack, load, fine-tune, through the same functions as ``graft run``. graft scores no test
image while it trains, so that there is one measurement, at the end.
"""

from __future__ import annotations

from pathlib import Path

from tasks.artifacts import cache_folder
from tasks.configfile import load_config
from tasks.download.source import download
from tasks.finetune.device import pick_device
from tasks.finetune.train import finetune
from tasks.memory import share_one_arena
from tasks.preprocess.prepare import prepare
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.pretrained.network import restore_network
from tests.benchmarks.core_job import Quiet
from tests.benchmarks.peer_jobs.instrument import AfterEpoch, Spec, run


def main(spec: Spec, after_epoch: AfterEpoch) -> None:
    share_one_arena()  # as the command does
    config = load_config(Path(spec.config), spec.overrides)
    cache = cache_folder(config.output.cache)
    raw = download(config.data, cache)
    images = input_spec(config.model, config.preprocess)
    prepared = prepare(config.data, config.seed, raw, images, cache)
    backbone = load_pretrained(config, prepared.classes, None, cache)
    config.output.folder.mkdir(parents=True)
    model = finetune(config, prepared, backbone, config.output.folder, Quiet())
    network = restore_network(model.architecture, len(model.classes), model.weights)
    network = network.to(pick_device(config.training.device))
    after_epoch(network, model.epochs * prepared.train.n)


if __name__ == "__main__":
    run(main)
