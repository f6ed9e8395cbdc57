"""Any names, shapes and types of tensors: the same tensors come back, or a WeightsError."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tasks.errors import WeightsError
from tasks.pretrained.state_dict import check_fit, read_state

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.int32, torch.uint8, torch.bool)
PLAIN = "timm:none"  # an architecture whose names are taken as they are


def tensor(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


tensors = st.builds(
    tensor,
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(FLOATS + OTHERS),
    st.integers(0, 2**31),
)
# a safetensors file keeps its own facts as __metadata__: save_file takes it, and nothing reads that
keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=15) | st.sampled_from(
    ["fc.weight", "fc.bias", "module.fc.weight", "state_dict", "model", "a.b.c"]
).filter(lambda name: name != "__metadata__")
states = st.dictionaries(keys, tensors, max_size=6)


def taken(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``read_state`` says it makes of a file."""
    parallel = state and all(key.startswith("module.") for key in state)
    return {
        key.removeprefix("module.") if parallel else key: (
            value.float() if value.is_floating_point() else value
        )
        for key, value in state.items()
    }


def names_it(error: WeightsError, path: Path) -> None:
    assert path.name in str(error)
    assert len(str(error).split("\n")) <= 2


def read_or_refused(path: Path) -> dict[str, Tensor] | None:
    try:
        return read_state(path, PLAIN)
    except WeightsError as error:
        names_it(error, path)
        return None


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[key].dtype and torch.equal(value, other[key])
        for key, value in one.items()
    )


@given(state=states, ending=st.sampled_from([".safetensors", ".pth", ".old.pth"]))
def test_what_was_saved_is_read(tmp_path: Path, state: dict[str, Tensor], ending: str):
    path = tmp_path / f"weights{ending}"
    if ending == ".safetensors":
        try:
            save_file(state, path)
        except Exception:  # names that safetensors itself refuses
            return
    else:
        torch.save(state, path, _use_new_zipfile_serialization=ending == ".pth")
    found = read_or_refused(path)
    assert found is None or same(found, taken(state))
    assert found is not None or not state or all(not v.numel() for v in state.values())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "state_dict", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(content=anything)
def test_whatever_a_checkpoint_holds(tmp_path: Path, content: object):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    found = read_or_refused(path)
    assert found is None or all(isinstance(value, Tensor) for value in found.values())


@given(start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x08" + bytes(7) + b"{"]),
       content=st.binary(max_size=200))  # fmt: skip
def test_any_bytes(tmp_path: Path, start: bytes, content: bytes):
    path = tmp_path / "weights.pth"
    path.write_bytes(start + content)
    read_or_refused(path)


@pytest.fixture(scope="module")
def outline() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


@given(
    drop=st.sets(st.integers(0, 8), max_size=2),
    extra=st.dictionaries(keys, tensors, max_size=2),
    shapes=st.dictionaries(st.integers(0, 8), tensors, max_size=2),
)
def test_it_fits_exactly_where_names_shapes_and_kinds_do(outline, drop, extra, shapes):
    wanted = outline.state_dict()
    given_state = {
        key: torch.zeros(value.shape, dtype=value.dtype) for key, value in wanted.items()
    }
    names = list(given_state)
    given_state |= {names[i % len(names)]: value for i, value in shapes.items()}
    given_state |= extra
    for i in drop:
        given_state.pop(names[i % len(names)], None)

    def alike(key: str) -> bool:
        one, other = given_state[key], wanted[key]
        return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()

    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    fits = wanted.keys() - counters <= given_state.keys() <= wanted.keys()
    fits = fits and all(alike(key) for key in given_state)
    if fits:
        check_fit(given_state, outline, "it", Path("weights.pth"))
    else:
        with pytest.raises(WeightsError, match="does not fit it") as caught:
            check_fit(given_state, outline, "it", Path("weights.pth"))
        assert len(str(caught.value).split("\n")) <= 2
