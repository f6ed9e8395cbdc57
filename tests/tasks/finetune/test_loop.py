"""A step for which memory is short before the network, and how far a GPU's queue grows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from tasks.finetune import halving as halving_module
from tasks.finetune import loop
from tasks.finetune.inputs import Share
from tasks.finetune.loop import Trainer
from tasks.finetune.training import train_once
from tasks.recipe import TrainingConfig
from tests.tasks.finetune.short_memory import CPU, Bench, Plain

BATCH = (torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64))
MORE = Share(weight=1.0, last=False)  # the optimiser does not move yet


class Views:
    """An objective that draws, and then has so many times no memory for what it drew."""

    penalty = None

    def __init__(self, failures: int) -> None:
        self.generator = torch.Generator().manual_seed(4)
        self.drawn: list[float] = []
        self._failures = failures

    def prepare(self, batch):
        self.drawn.append(float(torch.rand((), generator=self.generator)))
        if len(self.drawn) <= self._failures:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return (*batch, None)

    def loss(self, logits_bk, targets, hints):
        return F.cross_entropy(logits_bk, targets)

    def right(self, logits_bk, labels):
        return (logits_bk.argmax(1) == labels).sum()


def trainer_of(bench: Bench, objective: Views) -> Trainer:
    rest = dict.fromkeys(("frozen", "optimizer", "schedule", "ema"))
    return Trainer(
        network=bench.network,
        forward=bench.forward,
        objective=objective,
        halving=bench.halving,
        recipe=TrainingConfig(),
        device=CPU,
        precision=torch.float32,
        **rest,
    )


def test_what_is_compiled_is_given_up_for_a_batchs_views():
    """Whose random numbers are the same."""
    bench, views = Bench(Plain, compile="on"), Views(1)
    loss, _ = trainer_of(bench, views).step(BATCH, MORE)
    torch.testing.assert_close(loss / 3, F.cross_entropy(bench.network(BATCH[0]), BATCH[1]))
    assert len(views.drawn) == 2
    assert views.drawn[0] == views.drawn[1]
    assert bench.said == ["not compiled from here on: memory ran out"]
    assert not bench.forward.stay_plain()


@pytest.mark.parametrize(
    ("compiled", "failures", "processes", "tries"),
    [("on", 2, 1, 2), ("off", 1, 1, 1), ("on", 1, 2, 1)],
)
def test_where_that_does_not_help_it_ends(compiled, failures, processes, tries, monkeypatch):
    monkeypatch.setattr(halving_module, "world", lambda: processes)
    bench, views = Bench(Plain, compile=compiled), Views(failures)
    with pytest.raises(torch.AcceleratorError):
        trainer_of(bench, views).step(BATCH, MORE)
    assert len(views.drawn) == tries


def test_every_step_of_an_epoch_is_counted(make_course, monkeypatch):
    course, grown = make_course({"kind": "full"}, training={"epochs": 2, "batch_size": 16}), []
    monkeypatch.setattr(loop._Queue, "grow", lambda queue: grown.append(queue._device))
    train_once(course, course.config.training, course.config.seed)
    assert grown == [CPU] * 2 * 4  # of 61 images


def test_a_gpu_is_waited_for_two_steps_behind(monkeypatch):
    """What torch is asked for: there is no GPU. Else batches would pile up in its memory."""
    gpu, made, waited = torch.device("cuda", 0), [], []

    class Event:
        def __init__(self, blocking: bool) -> None:
            self.number = len(made)
            made.append(self)

        def record(self, stream: object) -> None:
            assert stream is gpu

        def synchronize(self) -> None:
            waited.append((self.number, len(made) - 1))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    for queue in (loop._Queue(gpu), loop._Queue(CPU)):
        for _ in range(6):
            queue.grow()
    assert waited == [(0, 2), (1, 3), (2, 4), (3, 5)]
