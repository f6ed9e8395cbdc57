"""torch.compile: the same numbers, full batches only, and kept only where it pays."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import convert_frame
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compilers import nop

from tasks.errors import ConfigError
from tasks.finetune import compiling
from tasks.finetune.compiling import Forward
from tasks.finetune.training import train_once
from tasks.recipe import TrainingConfig
from tests.tasks.finetune.short_memory import Bench, Normed, Plain

CPU = torch.device("cpu")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture
def compilations(monkeypatch):
    """Count what torch.compile is asked for, with a backend that needs no compiler."""
    sizes: list[set[int]] = []
    compile_ = torch.compile

    def backend(graph, inputs):
        sizes.append({x.shape[0] for x in inputs if x.shape[1:] == (8,)} - {16})  # no weights
        return graph.forward

    def counted(model, **options):
        options.pop("mode")
        return compile_(model, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", counted)
    return sizes


def test_the_numbers_are_the_same_and_small_batches_are_not_compiled(model, compilations):
    forward = Forward(model, TrainingConfig(compile="on"), CPU, batches=4)
    for size in (20, 20, 7, 20):
        inputs = torch.randn(size, 8)
        torch.testing.assert_close(forward(inputs), model(inputs))
    assert compilations == [{20}]


def test_off_and_a_cpu_left_to_itself_compile_nothing(model, compilations):
    for choice in ("off", "auto"):
        forward = Forward(model, TrainingConfig(compile=choice), CPU, batches=99)
        for _ in range(99):
            forward(torch.randn(4, 8))
    assert compilations == []


@pytest.mark.parametrize(
    ("plain", "compiled", "worth", "kept"),
    [(0.010, 0.004, 0.0, True), (0.010, 0.011, 0.0, False), (0.010, 0.004, 1e9, None)],
)
def test_it_is_tried_where_it_may_pay_and_kept_where_it_does(
    plain, compiled, worth, kept, model, compilations, monkeypatch, caplog
):
    monkeypatch.setattr(compiling, "_WORTH_SECONDS", worth)
    forward = Forward(model, TrainingConfig(), CPU, batches=500)
    forward._stage = compiling._Stage.WARMING  # as on a GPU
    now = 0.0
    monkeypatch.setattr(forward, "_clock", lambda: now)
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            forward(torch.randn(4, 8))
            now += plain if forward._compiled is None else compiled
    assert (forward._compiled is not None) == bool(kept)
    assert compilations == ([] if kept is None else [{4}])
    words = caplog.records[-1].getMessage()
    assert ("too few" in words) == (kept is None)
    if kept:
        assert "2.50 times as fast" in words


def test_time_between_epochs_does_not_count(model, compilations, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "_WORTH_SECONDS", 0.0)
    forward = Forward(model, TrainingConfig(), CPU, batches=5000)
    forward._stage = compiling._Stage.WARMING
    now = 0.0
    monkeypatch.setattr(forward, "_clock", lambda: now)
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            now += 7.0  # validation
            forward.begin_epoch()
            for _ in range(25):
                forward(torch.randn(4, 8))
                now += 0.010 if forward._compiled is None else 0.004
    assert "2.50 times as fast" in caplog.records[-1].getMessage()


def test_no_variant_is_run_as_it_is_in_silence(compilations):
    """Torch keeps eight of a function; a job's phases and a search's trials make more."""
    wide = nn.Sequential(*(nn.Linear(8, 8) for _ in range(10)))
    for number in range(10):
        wide[number].requires_grad_(False)
        forward = Forward(wide, TrainingConfig(compile="on"), CPU, batches=2)
        with forward.for_a_while():
            for _ in range(2):
                forward(torch.randn(20, 8))
        assert len(compilations) == number + 1
        forward(torch.randn(20, 8))  # as it is
    assert len(compilations) == 10


def test_each_phase_has_its_own_compiled_model(make_course, compilations):
    course = make_course({"kind": "gradual_unfreeze"}, training={"epochs": 3, "compile": "on"})
    with torch._dynamo.config.patch(recompile_limit=1):
        train_once(course, course.config.training, course.config.seed)
    assert len(compilations) == 3
    assert not convert_frame.input_codes.seen  # what torch has compiled


@pytest.mark.parametrize("choice", ["auto", "on"])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_compiler_that_fails(way, choice, monkeypatch, caplog):
    _with_backend(monkeypatch, broken(way, "no C++ compiler here"))
    bench = Bench(Normed, compile=choice)
    if choice == "on":
        with pytest.raises(ConfigError, match=r"training\.compile=on.*no C\+\+ compiler here"):
            bench.learn(8)
        return
    bench.forward._compiled = bench.forward._compile()
    learnt = bench.learn(8)
    assert "not compiled, since torch.compile fails: no C++ compiler here" in caplog.text
    assert bench.sizes == [8, 8]
    _assert_as_plain(bench, learnt)


@pytest.mark.parametrize("choice", ["auto", "on"])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_compiler_without_memory(way, choice, monkeypatch):
    _with_backend(monkeypatch, broken(way, "CUDA out of memory."))
    bench = Bench(Normed, compile=choice)
    bench.forward._compiled = bench.forward._compile()
    learnt = bench.learn(8)
    assert bench.said == ["not compiled from here on: memory ran out"]
    assert bench.at_once.images is None
    _assert_as_plain(bench, learnt)


def fail(words: str, fits: int = 0):
    """Return a compiler that fails after so many graphs."""
    kind = torch.OutOfMemoryError if "memory" in words else RuntimeError

    graphs = iter(range(9))

    def compiler(graph, inputs):
        if next(graphs) < fits:
            return nop(graph, inputs)
        raise kind(f"{words}\nand more")

    return compiler


def broken(way: str, words: str):
    """Return a backend that fails in one way, with a first part of the network compiled and run."""
    forward, backward = (fail(words, 1), nop) if way == "forward" else (nop, fail(words, 1))
    return aot_autograd(fw_compiler=forward, bw_compiler=backward)


def _with_backend(monkeypatch, backend) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, mode, **given: compile_(model, backend=backend, **given)
    )


def _assert_as_plain(bench: Bench, learnt: tuple[Tensor, Tensor]) -> None:
    """See that the step is bit for bit the one of a model that was never compiled."""
    assert bench.forward._compiled is None
    plain = Bench(Normed, compile="off")
    assert torch.equal(plain.learn(8)[0], learnt[0])
    for one, other in zip(plain.network.parameters(), bench.network.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(map(torch.equal, plain.network.buffers(), bench.network.buffers()))


def test_the_default_compiler_trains_as_without_it(model):
    forward = Forward(model, TrainingConfig(compile="on"), CPU, batches=1)
    inputs = torch.randn(20, 8)
    ours = torch.autograd.grad(forward(inputs).square().sum(), list(model.parameters()))
    plain = torch.autograd.grad(model(inputs).square().sum(), list(model.parameters()))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_compiled_is_given_up_first(memory):
    bench = Bench(Plain, compile="on")
    bench.forward._compiled = torch.compile(bench.network, backend="eager")
    memory(forward_fits=4)
    bench.learn(8)
    assert bench.sizes == [8, 8, 4, 4]
    assert bench.said[0] == "not compiled from here on: memory ran out"
    assert "8 images at once" in bench.said[1]
    assert not bench.forward.stay_plain()
    assert not Forward(bench.network, TrainingConfig(compile="off"), CPU, batches=1).stay_plain()


def test_a_gpu_is_waited_for_before_the_clock_is_read(model, compilations, monkeypatch):
    """What torch is asked for: there is no GPU."""
    gpu, waited, told = torch.device("cuda"), [], []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    timed = Forward(model, TrainingConfig(), gpu, batches=99, vary=told.append)
    assert timed._stage is compiling._Stage.WARMING
    timed.begin_epoch()
    assert (waited, told) == ([gpu], [])
    forward = Forward(model, TrainingConfig(compile="on"), gpu, batches=99, vary=told.append)
    forward.begin_epoch()  # times nothing
    assert waited == [gpu]
    assert told == ["torch.compile may choose among kernels by timing them"]
