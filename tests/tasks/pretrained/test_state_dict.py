"""Weights files of every kind, whole, damaged and hostile."""

from __future__ import annotations

import contextlib
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.vision_transformer import MLPBlock

from tasks.errors import WeightsError
from tasks.pretrained.architectures import build
from tasks.pretrained.outline import outline
from tasks.pretrained.state_dict import check_fit, read_state

ARCHITECTURE = "graft_tiny"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(build(ARCHITECTURE, 10).state_dict())


def equal(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


def old_format(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "save",
    [
        lambda state, path: save_file(state, path),
        lambda state, path: torch.save(state, path),
        old_format,
        lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
        lambda state, path: torch.save({"model": OrderedDict(state), "optimizer": {}}, path),
        lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
        lambda state, path: torch.save({"state_dict": parallel(state)}, path),
    ],
    ids=["safetensors", "zip", "old", "state_dict", "model", "module.", "both"],
)
def test_every_format_gives_the_same_tensors(
    save: Callable[[State, Path], None], state: State, tmp_path: Path
):
    path = tmp_path / "weights.bin"  # told apart by content, not by name
    save(state, path)
    assert equal(read_state(path, ARCHITECTURE), state)


def parallel(state: State) -> State:
    return {f"module.{key}": value for key, value in state.items()}


def test_real_weights_are_equal_in_both_formats(shared: Path):
    safe, pickled = (
        read_state(shared / f"weights/squeezenet1_0-imagenet.{suffix}", "squeezenet1_0")
        for suffix in ("safetensors", "pth")
    )
    assert len(safe) == 52
    assert equal(safe, pickled)
    assert equal(safe, load_file(shared / "weights/squeezenet1_0-imagenet.safetensors"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(kind: torch.dtype, state: State, tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}, path)
    found = read_state(path, ARCHITECTURE)
    assert found["fc.weight"].dtype == torch.float32
    assert torch.equal(found["fc.weight"], state["fc.weight"].to(kind).float())
    assert found["stem.1.num_batches_tracked"].dtype == torch.int64


class Evil:
    """Leaves a mark when it is unpickled the ordinary way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("save", [torch.save, old_format], ids=["zip", "old"])
def test_pickled_code_is_refused_and_never_runs(
    save: Callable[[object, Path], None], state: State, tmp_path: Path
):
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    save({**state, "extra": Evil(mark)}, path)
    with pytest.raises(WeightsError, match=r"holds code .*and was not run") as caught:
        read_state(path, ARCHITECTURE)
    assert not mark.exists()
    assert str(caught.value).count("\n") <= 1
    torch.load(path, weights_only=False)  # the trap is a real one
    assert mark.exists()


def packed(state: State, path: Path) -> None:
    """Save 4 MB of zeros as torch does, and pack them: torch.load unpacks what is packed."""
    whole = path.with_suffix(".whole")
    torch.save({"fc.weight": torch.zeros(1 << 20)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in source.infolist():
            file.writestr(member.filename, source.read(member))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (packed, "unpacks to 4,194,"),
        (lambda _, path: torch.save({"a": torch.zeros(1).expand(1 << 40)}, path), "8 times its"),
        (lambda _, path: old_format({"a": torch.zeros(1).expand(1 << 40)}, path), "8 times its"),
        (
            lambda _, path: torch.save(
                {f"a{n}": t for t in [torch.zeros(1000)] for n in range(300)}, path
            ),
            "8 times its",
        ),
    ],
    ids=["packed", "one number", "one number, old", "one tensor of many names"],
)
def test_a_small_file_cannot_fill_the_memory(
    save: Callable[[State, Path], None], message: str, state: State, tmp_path: Path
):
    path = tmp_path / "weights.pth"
    save(state, path)
    assert path.stat().st_size < 100_000
    with pytest.raises(WeightsError, match=message) as caught:
        read_state(path, ARCHITECTURE)
    assert str(caught.value).count("\n") == 1


def test_tensors_that_share_their_numbers_as_tied_ones_do_are_read(state: State, tmp_path: Path):
    path = tmp_path / "weights.pth"
    twice = {**state, "again": state["fc.weight"], "once more": state["fc.weight"].t()}
    torch.save(twice, path)
    assert equal(read_state(path, ARCHITECTURE), twice)


def safetensors(header: bytes, content: bytes = bytes(64)) -> bytes:
    return len(header).to_bytes(8, "little") + header + content


def entries(*places: tuple[int, int], shape: str = "[4]") -> bytes:
    rows = (
        f'"t{n}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}'
        for n, (start, end) in enumerate(places)
    )
    return f"{{{','.join(rows)}}}".encode()


@pytest.mark.parametrize(
    "content",
    [
        (1 << 63).to_bytes(8, "little") + b"{}" + bytes(64),
        (99_000_000).to_bytes(8, "little") + b"{}" + bytes(64),
        safetensors(entries((0, 16), (8, 24)), bytes(24)),
        safetensors(entries((0, 16), (32, 48)), bytes(48)),
        safetensors(entries((0, 1 << 40))),
        safetensors(entries((0, 0), shape=f"[{1 << 62},{1 << 62}]"), b""),
        safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
    ids=["2^63", "99 MB", "overlap", "hole", "beyond the end", "overflow", "deep"],
)
def test_a_header_that_lies_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="no readable weights file"):
        read_state(path, ARCHITECTURE)


def test_whole_pickled_network_is_refused(tmp_path: Path):
    path = tmp_path / "network.pt"
    torch.save(build(ARCHITECTURE, 10), path)
    with pytest.raises(WeightsError, match=r"tasks\.pretrained\.tiny\.GraftTiny"):
        read_state(path, ARCHITECTURE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable weights file"),
        (b"these are no weights", "no readable weights file"),
        (b"PK\x03\x04 nor is this", "damaged"),
        (b"\x80\x02}q\x00.", "damaged"),
        (b"\x80\x02", "holds|damaged"),
        (b"\xff" * 64, "no readable weights file"),
    ],
)
def test_files_that_are_no_weights_are_refused(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_state(path, ARCHITECTURE)
    assert str(caught.value).count("\n") <= 1


@pytest.mark.parametrize("save", [save_file, torch.save, old_format])
@pytest.mark.parametrize("share", [0.3, 0.999])
def test_cut_off_files_are_refused(
    save: Callable[[State, Path], None], share: float, state: State, tmp_path: Path
):
    path = tmp_path / "weights"
    save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError):
        read_state(path, ARCHITECTURE)


def test_missing_file_and_folder_are_refused(tmp_path: Path):
    for path in (tmp_path / "not-there.pth", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state(path, ARCHITECTURE)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3, "loss": 0.5}, torch.zeros(3)])
def test_content_that_is_no_state_dict_is_refused(content: object, tmp_path: Path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="no tensor"):
        read_state(tmp_path / "weights.pth", ARCHITECTURE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float, state: State, tmp_path: Path):
    bad = state["stage1.0.conv1.weight"].clone()
    bad[0, 0, 0, 0] = value
    save_file({**state, "stage1.0.conv1.weight": bad}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"NaN or infinite values in stage1\.0\.conv1\.weight"):
        read_state(tmp_path / "w.safetensors", ARCHITECTURE)


def test_misfit_shows_keys_and_shapes(state: State, tmp_path: Path):
    others = {key: value for key, value in state.items() if not key.startswith("stage3")}
    others |= {"fc.weight": torch.zeros(10, 7), "extra.weight": torch.zeros(1)}
    others["stem.0.weight"] = torch.zeros(16, 3, 3, 3, dtype=torch.int8)
    with pytest.raises(WeightsError) as caught:
        check_fit(others, outline(ARCHITECTURE, 10), ARCHITECTURE, tmp_path / "w.pth")
    first, second = str(caught.value).split("\n")
    assert first.endswith("w.pth does not fit graft_tiny.")
    missing, unexpected, different = second.split("; ")
    lacking = [k for k in state if k.startswith("stage3") and not k.endswith("tracked")]
    assert (
        missing == f"{len(lacking)} missing: {', '.join(lacking[:5])} and {len(lacking) - 5} more"
    )
    assert unexpected == "1 unexpected: extra.weight"
    assert different == (
        "2 different: stem.0.weight is (16, 3, 3, 3) of integers, not (16, 3, 3, 3), "
        "fc.weight is (10, 7), not (10, 112)"
    )


def test_counters_of_batches_may_be_missing(state: State, tmp_path: Path):
    without = {key: value for key, value in state.items() if not key.endswith("tracked")}
    check_fit(without, outline(ARCHITECTURE, 10), ARCHITECTURE, tmp_path)


def test_auxiliary_classifiers_are_left_out(tmp_path: Path):
    from torchvision.models import googlenet

    theirs = googlenet(weights=None, aux_logits=True, init_weights=False)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    found = read_state(tmp_path / "w.safetensors", "googlenet")
    assert not [key for key in found if key.startswith("aux")]
    check_fit(found, outline("googlenet", 1000), "googlenet", tmp_path)


def test_names_of_old_densenet_files_are_understood(tmp_path: Path):
    wanted = outline("densenet121", 1000).state_dict()
    old = {old_densenet_name(key): torch.zeros(value.shape) for key, value in wanted.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old  # as in densenet121-a639ec97.pth
    torch.save(old, tmp_path / "w.pth")
    assert read_state(tmp_path / "w.pth", "densenet121").keys() == wanted.keys()


def old_densenet_name(key: str) -> str:
    import re

    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key)


def test_names_of_old_transformer_files_are_understood(tmp_path: Path):
    block = MLPBlock(4, 8, 0.0)
    old = {
        "e.mlp.linear_1.weight": block[0].weight,
        "e.mlp.linear_1.bias": block[0].bias,
        "e.mlp.linear_2.weight": block[3].weight,
        "e.mlp.linear_2.bias": block[3].bias,
    }
    torch.save({key: value.detach() for key, value in old.items()}, tmp_path / "w.pth")
    found = read_state(tmp_path / "w.pth", "vit_b_16")
    theirs = nn.ModuleDict({"e": nn.ModuleDict({"mlp": block})}).state_dict()
    assert equal(found, dict(theirs))


@pytest.mark.parametrize("save", [torch.save, old_format, save_file], ids=["zip", "old", "safe"])
def test_any_damage_is_a_weights_error_or_does_no_harm(
    save: Callable[[State, Path], None], state: State, tmp_path: Path
):
    """Overwrite a few bytes of the structure: torch raises what it likes, a user sees one error."""
    path = tmp_path / "weights"
    save({"fc.weight": state["fc.weight"][:2, :3].clone(), "n": torch.tensor(3)}, path)
    whole, chance, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(WeightsError):
            read_state(path, ARCHITECTURE)
            continue
        refused += 1
    assert refused > 50


@pytest.mark.filterwarnings("ignore")  # of torch, that these layouts are in beta
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
        lambda: torch.empty(3, 3, device="meta"),
    ],
    ids=["sparse", "csr", "quantized", "meta"],
)
def test_tensors_that_are_not_dense_are_refused(make: Callable[[], Tensor], tmp_path: Path):
    torch.save({"fc.weight": make()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "w.pth", ARCHITECTURE)
    assert "fc.weight" in str(caught.value) or "was not run" in str(caught.value)


def test_state_dict_that_holds_itself_is_refused(tmp_path: Path):
    content: dict[str, object] = {}
    content["state_dict"] = {"model": content}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no tensors"):
        read_state(tmp_path / "w.pth", ARCHITECTURE)
