"""Weights that are torn, unsafe, of another network or nowhere to be had."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.flows.bad_inputs.rows import Bad, Make, check

FULL = "strategy.kind=full"


class Evil:
    """Makes a folder when unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("evil-was-here",))


def weights(content: bytes | Callable[[], bytes], name: str = "w.pth", *more: str) -> Make:
    def make(folder: Path) -> list[str]:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content())
        return check(f"model.weights={path}", FULL, *more)(folder)

    return make


def named(source: str, *more: str) -> Make:
    return check(f"model.weights={source}", FULL, *more)


def shipped() -> dict[str, torch.Tensor]:
    from tasks.pretrained.shipped import shipped_weights
    from tasks.pretrained.state_dict import read_state

    return read_state(shipped_weights("graft:tiny-cifar10", "graft_tiny"), "graft_tiny")


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], bytes]:
    """Return the shipped weights, with something done to them, as safetensors."""

    def content() -> bytes:
        state = shipped()
        change(state)
        return save(state)

    return content


def poisoned(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda state: next(t for t in state.values() if t.dim() == 4).view(-1)[:1].fill_(value)


def cut(share: float) -> Callable[[], bytes]:
    def content() -> bytes:
        whole = save(shipped())
        return whole[: int(share * len(whole))]

    return content


def torch_file(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def header(content: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def zip_of_text() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("readme.txt", "no weights")
    return stream.getvalue()


def first_layer(state: dict[str, torch.Tensor]) -> str:
    return next(key for key, value in state.items() if value.dim() == 4)


def reshaped(state: dict[str, torch.Tensor]) -> None:
    state[first_layer(state)] = torch.zeros(3, 3)


def beyond(start: int, end: int) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [start, end]}
    return header({"a": entry}, b"12345678")


FILES = {
    "of no bytes": Bad(weights(b""), 4, r"w\.pth is no readable weights file"),
    "of one byte": Bad(weights(b"\x80"), 4, r"w\.pth"),
    "of text": Bad(weights(b"not weights at all\n"), 4, r"w\.pth is no readable weights"),
    "of zeros": Bad(weights(bytes(4096)), 4, r"w\.pth is no readable weights file"),
    "a zip of text": Bad(weights(zip_of_text), 4, r"w\.pth is damaged"),
    "a pickle with code": Bad(
        weights(pickle.dumps({"a": Evil()})), 4, r"w\.pth holds more than tensors"
    ),
    "a torch file with code": Bad(
        weights(lambda: torch_file({"a": Evil()})), 4, "holds code.*mkdir"
    ),
    "a whole module": Bad(
        weights(lambda: torch_file(torch.nn.Linear(2, 2))), 4, r"holds code \(torch\.nn\.modules"
    ),
    "a pickle of a number": Bad(weights(lambda: torch_file(3)), 4, "holds no tensor"),
    "a list of tensors": Bad(weights(lambda: torch_file([torch.zeros(2)])), 4, "no tensor"),
    "of words": Bad(weights(lambda: torch_file({"a": "b"})), 4, "no tensors: a"),
    "of nothing": Bad(weights(lambda: torch_file({})), 4, "no tensor"),
    "of sparse tensors": Bad(
        weights(lambda: torch_file({"a": torch.eye(3).to_sparse()})), 4, "sparse.*: a"
    ),
    "that hold themselves": Bad(
        weights(b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01h\x00s."), 4, r"w\.pth"
    ),
    "cut off at the header": Bad(weights(cut(0.001), "w.safetensors"), 4, "no readable weights"),
    "cut off in the middle": Bad(weights(cut(0.5), "w.safetensors"), 4, "no readable weights"),
    "without the last byte": Bad(weights(cut(0.999999), "w.safetensors"), 4, "no readable"),
    "of a header too long": Bad(weights(struct.pack("<Q", 1 << 60) + b"{}"), 4, "no readable"),
    "of a header that is no JSON": Bad(weights(struct.pack("<Q", 3) + b"{a}"), 4, "no readable"),
    "of places outside": Bad(weights(beyond(0, 1 << 40)), 4, "no readable weights file"),
    "of places that turn back": Bad(weights(beyond(8, 0)), 4, "no readable weights file"),
    "of a kind that is not known": Bad(
        weights(header({"a": {"dtype": "Q9", "shape": [0], "data_offsets": [0, 0]}})),
        4,
        "no readable weights file",
    ),
    "with NaN": Bad(weights(changed(poisoned(float("nan")))), 4, r"NaN or infinite values in "),
    "with an infinity": Bad(weights(changed(poisoned(float("inf")))), 4, "NaN or infinite"),
    "of another shape": Bad(weights(changed(reshaped)), 4, r"1 different: .* is \(3, 3\), not"),
    "lacking a layer": Bad(
        weights(changed(lambda s: s.pop(first_layer(s)))), 4, r"does not fit.*1 missing: "
    ),
    "with a layer too many": Bad(
        weights(changed(lambda s: s.update(extra=torch.zeros(1)))), 4, "1 unexpected: extra"
    ),
    "with a name to obey": Bad(
        weights(changed(lambda s: s.update({"a\x1b[31m": torch.zeros(1)}))), 4, r"a\\x1b\[31m"
    ),
    "of another network": Bad(
        weights(changed(lambda s: None), "w.pth", "model.architecture=resnet18"),
        4,
        "does not fit resnet18",
    ),
    "of another digest": Bad(
        weights(changed(lambda s: None), "w.pth", "model.sha256=" + 64 * "0"), 4, "not 0000"
    ),
}
SOURCES = {
    "that are nowhere": Bad(named("nowhere.pth"), 4, r"nowhere\.pth is not there"),
    "that are a folder": Bad(named("photos"), 4, "photos is a folder, not a file"),
    "of no name": Bad(named("''"), 4, "no path"),
    "behind http": Bad(named("http://example.org/w.pth"), 4, "http:// is not supported"),
    "with a login": Bad(
        named("https://me:word@example.org/w.pth", "model.sha256=" + 64 * "0"),
        4,
        r"https://example\.org/w\.pth is no usable",
    ),
    "that torchvision has not": Bad(
        named("torchvision:IMAGENET1K_V9", "model.architecture=resnet18"), 4, "IMAGENET1K_V9"
    ),
    "of another one's enum": Bad(named("torchvision:DEFAULT"), 4, "graft_tiny"),
    "that do not ship": Bad(named("graft:huge"), 4, "graft:huge"),
    "shipped for another": Bad(
        named("graft:tiny-cifar10", "model.architecture=resnet18"), 4, "graft:tiny-cifar10"
    ),
    "of timm for none of its": Bad(named("timm:DEFAULT"), 4, "timm"),
    "of no such network": Bad(named("w.pth", "model.architecture=resnet999"), 4, "resnet999"),
    "of a network without a name": Bad(named("w.pth", "model.architecture=''"), 4, "''"),
    "of a network to obey": Bad(named("w.pth", 'model.architecture="\\e[31m"'), 4, r"\\x1b\[31m"),
    "of a network with a path": Bad(named("w.pth", "model.architecture=../x"), 4, r"\.\./x"),
    "of stages that are not there": Bad(
        check("model.weights=graft:tiny-cifar10", "strategy={kind: partial, frozen_stages: 99}"),
        2,
        "strategy.frozen_stages",
    ),
    "of a registry's": Bad(named("models:/nosuch@champion"), 7, "nosuch"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file(refuse, name: str):
    refuse(FILES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_a_source(refuse, name: str):
    refuse(SOURCES[name])
