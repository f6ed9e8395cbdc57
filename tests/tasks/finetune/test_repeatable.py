"""The same weights twice, and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tasks.artifacts import sha256_file
from tasks.download import builtin, source
from tasks.evaluate.repeat_words import machine_words, repeat_words
from tasks.finetune import compiling, feature_key, feature_worth
from tasks.finetune import repeatable as repeatable_module
from tasks.finetune.compiling import Forward
from tasks.finetune.course import open_course
from tasks.finetune.machine import this_machine
from tasks.finetune.progress import Nobody
from tasks.finetune.repeatable import in_fixed_order, repeatability
from tasks.finetune.train import finetune
from tasks.preprocess import pack
from tasks.pretrained.load import load_pretrained
from tasks.recipe import TrainingConfig
from tests.tasks.finetune.repeat import CASES, trained
from tests.tasks.shard_folders import CLASSES, picture, shard_folder

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Return where the images are, 72 in class folders and 123 in shards."""
    for number in range(72):
        path = tmp_path / "photos" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, number % 3))
    shards = shard_folder(tmp_path / "shards", (20, 20, 20), val=30, test=33)
    return {"folder": str(tmp_path / "photos"), "shards": shards.path}


def test_two_processes_and_two_versions_come_to_the_same_weights(folders, tmp_path, monkeypatch):
    """Of another hash seed, working folder, cache, date and history."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = {kind: os.path.relpath(path, elsewhere) for kind, path in folders.items()}
    command = [sys.executable, "-m", "tests.tasks.finetune.repeat"]
    done = subprocess.run(
        [*command, json.dumps(given | {"cache": "cache"})],
        cwd=elsewhere,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(REPOSITORY), "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    other = json.loads(done.stdout)
    here = {"cache": str(tmp_path / "cache")} | folders
    for name, case in CASES.items():
        model = trained(case, here, tmp_path / "runs" / name)
        assert model.sha256 == sha256_file(model.weights) == other[name], name
        assert model.repeatable is not None
        assert model.repeatable.exact
    assert len(set(other.values())) == len(CASES)
    cached = entries(tmp_path / "cache")
    assert {"features", "prepared"} <= {path.parent.name for path in cached}
    for module in (builtin, feature_key, pack, source):  # another version of graft on this cache
        monkeypatch.setattr(module, "FORMAT", "of another version")
    model = trained(CASES["partial"], here, tmp_path / "newer")
    assert model.sha256 == other["partial"]
    now = entries(tmp_path / "cache")
    assert cached.items() < now.items()
    assert {path.parent.name for path in now.keys() - cached} == {"features", "prepared", "raw"}


def entries(cache: Path) -> dict[Path, int]:
    """Return the entries of a cache with what tells whether they were made anew."""
    return {path: path.stat().st_ino for path in cache.glob("*/*") if path.name[0] != "."}


@pytest.fixture
def course(prepared, backbone, make_config, tmp_path):
    return open_course(make_config(), prepared, backbone, tmp_path, Nobody(), None)


def test_an_operation_without_a_fixed_order_is_named(course):
    with in_fixed_order(course):
        assert torch.are_deterministic_algorithms_enabled()
        for _ in range(2):
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    assert not torch.are_deterministic_algorithms_enabled()
    found = repeatability(course)
    assert found.reasons == ("put_ adds in no fixed order on this device",)
    assert not found.exact
    assert repeat_words(found) == f"not bit for bit: {found.reasons[0]}"


def test_other_warnings_are_shown_as_ever(course, recwarn):
    with in_fixed_order(course):
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["something else"]
    assert course.varying == []


def test_what_torch_says_once_a_process_is_heard_in_every_training(course, monkeypatch):
    """As of flash attention's gradients; here of another thing, in its place: no GPU is at hand."""
    monkeypatch.setattr(repeatable_module, "_WARNED", re.compile(r"(?P<name>Sparse CSR) tensor"))
    before = torch.is_warn_always_enabled()
    for _ in range(2):
        course.varying.clear()
        with in_fixed_order(course):
            torch.eye(2).to_sparse_csr()
        assert course.varying == ["Sparse CSR adds in no fixed order on this device"]
        assert torch.is_warn_always_enabled() == before


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms"
            "(True)` or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not "
            "deterministic because it uses CuBLAS and you have CUDA >= 10.2.",
            "cuBLAS",
        ),
        (
            "Memory Efficient attention defaults to a non-deterministic algorithm. To explicitly",
            "Memory Efficient attention",
        ),
        ("cumsum_cuda_kernel does not have a deterministic implementation", "cumsum_cuda_kernel"),
    ],
)
def test_what_torch_says_of_a_gpu_is_understood(words, name, course):
    """In torch's words: no GPU is at hand."""
    with in_fixed_order(course):
        warnings.warn(words, UserWarning, stacklevel=1)
    assert course.varying == [f"{name} adds in no fixed order on this device"]


def test_a_disk_that_decides_is_named(prepared, make_config, tmp_path, monkeypatch):
    config = make_config(strategy={"kind": "linear_probe"}, model={"weights": "graft:tiny-cifar10"})
    backbone = load_pretrained(config, prepared.classes, None, tmp_path / "cache")
    monkeypatch.setattr(feature_worth, "free_bytes", lambda _: 1000)
    model = finetune(config, prepared, backbone, tmp_path, Nobody())
    assert model.repeatable is not None
    (reason,) = model.repeatable.reasons
    assert reason.startswith("features were not cached: they would take")


def test_a_clock_that_decides_is_named(monkeypatch):
    told: list[str] = []
    model = torch.nn.Linear(4, 2)
    forward = Forward(model, TrainingConfig(), torch.device("cpu"), 500, told.append)
    assert told == []
    forward._stage = compiling._Stage.WARMING  # as on a GPU
    for _ in range(29):
        forward(torch.randn(4, 4))
    assert told == []
    for _ in range(20):
        forward(torch.randn(4, 4))
    assert told == ["a clock decides by training.compile=auto what is compiled (set on or off)"]


def test_the_kind_of_machine_is_the_processor_and_the_threads_that_compute():
    machine = this_machine(torch.device("cpu"))
    assert machine.threads == torch.get_num_threads()
    assert torch.backends.cpu.get_cpu_capability() in machine.device
    assert machine.libraries == f"torch {torch.__version__}"
    assert machine_words(machine).startswith(f"{machine.device}, {machine.threads} thread")


def test_what_no_machine_here_shows_is_said_all_the_same(course, monkeypatch):
    course.device, course.seconds_before = torch.device("mps"), 3.0
    for processes, sums in (
        (2, []),
        (3, ["the gradients of 3 processes are added in no promised"]),
    ):
        monkeypatch.setattr(repeatable_module, "world", lambda n=processes: n)
        reasons = repeatability(course).reasons
        words = ["of Apple's GPU it is not known", *sums, "it went on after a break"]
        assert len(reasons) == len(words)
        assert all(one.startswith(start) for one, start in zip(reasons, words, strict=True))
