"""Where weights come from: torchvision, files, the repo and the registry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet18_Weights, Weights, WeightsEnum

from tasks.config import ModelConfig
from tasks.errors import TransientWeightsError, WeightsError
from tasks.pretrained import shipped
from tasks.pretrained.architectures import build
from tasks.pretrained.presets import preset, torchvision_weights
from tasks.pretrained.sources import locate, published_weights
from tasks.values import InputSpec, RegisteredModel

SPEC = InputSpec(
    resize=40, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic"
)


def model(architecture: str = "resnet18", **values: str | None) -> ModelConfig:
    return ModelConfig.model_validate({"architecture": architecture, **values})


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvision_names(name: str):
    assert torchvision_weights(f"torchvision:{name}", "resnet18") is ResNet18_Weights.IMAGENET1K_V1


@pytest.mark.parametrize(
    ("architecture", "name", "message"),
    [
        ("resnet18", "IMAGENET1K_V3", "Did you mean IMAGENET1K_V1"),
        ("resnet18", "imagenet1k_v2", "Did you mean IMAGENET1K_V1"),
        ("resnet18", "ResNet50_Weights.IMAGENET1K_V1", "not for resnet18.*ResNet18_Weights"),
        ("resnet81", "DEFAULT", "Did you mean resnet"),
        ("graft_tiny", "DEFAULT", "graft:tiny-cifar10"),
    ],
)
def test_wrong_torchvision_names_are_refused(architecture: str, name: str, message: str):
    with pytest.raises(WeightsError, match=message) as caught:
        torchvision_weights(f"torchvision:{name}", architecture)
    assert str(caught.value).count("\n") <= 1


def test_no_weights_is_no_file(tmp_path: Path):
    assert locate(model(weights=None), None, tmp_path) is None


@pytest.mark.parametrize("form", [str, lambda path: path.as_uri()])
def test_local_file_with_and_without_its_digest(form: Callable[[Path], str], tmp_path: Path):
    path = tmp_path / "my weights.pth"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert locate(model(weights=form(path)), None, tmp_path) == path
    assert locate(model(weights=form(path), sha256=digest), None, tmp_path) == path
    with pytest.raises(WeightsError, match=f"sha256 {digest}, not {'0' * 64}"):
        locate(model(weights=form(path), sha256="0" * 64), None, tmp_path)


@pytest.mark.parametrize("weights", ["not-there.pth", "torchvison:DEFAULT", "s3://bucket/w.pth"])
def test_weights_that_are_nowhere_are_refused(weights: str, tmp_path: Path):
    with pytest.raises(WeightsError):
        locate(model(weights=weights), None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def published(content: bytes, digest: str) -> WeightsEnum:
    url = f"https://127.0.0.1:9/net-{digest[:8]}.pth"

    class Published(WeightsEnum):
        V1 = Weights(url=url, transforms=list, meta={})

    return Published.V1


def test_file_that_torch_has_at_hand_is_used_if_its_digest_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    weights = published(b"weights", hashlib.sha256(b"weights").hexdigest())
    at_hand = tmp_path / "torch/hub/checkpoints" / weights.url.rpartition("/")[2]
    at_hand.parent.mkdir(parents=True)
    at_hand.write_bytes(b"weights")
    assert published_weights(weights, tmp_path / "cache") == at_hand

    at_hand.write_bytes(b"changed")
    with pytest.raises(TransientWeightsError, match="cannot be read"):  # nobody listens on port 9
        published_weights(weights, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_torchvision_weights_are_held_to_the_digest_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    digest = hashlib.sha256(b"weights").hexdigest()
    weights = published(b"weights", digest)
    monkeypatch.setattr("tasks.pretrained.sources.torchvision_weights", lambda *_: weights)
    at_hand = tmp_path / "torch/hub/checkpoints" / weights.url.rpartition("/")[2]
    at_hand.parent.mkdir(parents=True)
    at_hand.write_bytes(b"weights")
    for given in (None, digest):
        asked = model(weights="torchvision:DEFAULT", sha256=given)
        assert locate(asked, None, tmp_path / "cache") == at_hand
    with pytest.raises(WeightsError, match=f"sha256 {digest}, not {'0' * 64}"):
        locate(model(weights="torchvision:DEFAULT", sha256="0" * 64), None, tmp_path / "cache")


def test_published_weights_without_a_digest_are_for_the_user_to_check(tmp_path: Path):
    class Bare(WeightsEnum):
        V1 = Weights(url="https://127.0.0.1:9/net.pth", transforms=list, meta={})

    with pytest.raises(WeightsError, match=r"net.pth has no digest in its name.\nDownload it, and"):
        published_weights(Bare.V1, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.network
def test_download_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = locate(model("squeezenet1_1", weights="torchvision:DEFAULT"), None, tmp_path)
    assert path is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem)


@pytest.fixture
def shipped_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put weights where the repo's own lie, in the same layout."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    path = folder / "graft_tiny_cifar10.safetensors"
    save_file(build("graft_tiny", 10).state_dict(), path)
    card = {
        "architecture": "graft_tiny",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "input": SPEC.model_dump(),
        "recipe": "more than is read is allowed",
    }
    path.with_suffix(".json").write_text(json.dumps(card))
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


def test_shipped_weights_and_their_card(shipped_folder: Path, tmp_path: Path):
    tiny = model("graft_tiny", weights="graft:tiny-cifar10")
    assert locate(tiny, None, tmp_path) == shipped_folder / "graft_tiny_cifar10.safetensors"
    assert preset(tiny, None) == SPEC


def test_shipped_weights_are_refused_where_they_do_not_belong(shipped_folder: Path, tmp_path: Path):
    with pytest.raises(WeightsError, match=r"is for graft_tiny, not for resnet18"):
        locate(model("resnet18", weights="graft:tiny-cifar10"), None, tmp_path)
    with pytest.raises(WeightsError, match=r"Did you mean tiny-cifar10"):
        locate(model("graft_tiny", weights="graft:tiny-cifar100"), None, tmp_path)
    with pytest.raises(WeightsError, match=r"No weights graft:\.\./secret"):
        locate(model("graft_tiny", weights="graft:../secret"), None, tmp_path)


def test_changed_shipped_weights_are_refused(shipped_folder: Path, tmp_path: Path):
    with (shipped_folder / "graft_tiny_cifar10.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightsError, match="missing or was changed"):
        locate(model("graft_tiny", weights="graft:tiny-cifar10"), None, tmp_path)


def test_registered_weights(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    torch.save({}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    registered = RegisteredModel(
        uri="models:/graft/3",
        name="graft",
        version=3,
        architecture="graft_tiny",
        classes=("a", "b"),
        input=SPEC,
        weights=path,
        sha256=digest,
    )
    source = "models:/graft@champion"
    assert locate(model("graft_tiny", weights=source), registered, tmp_path) == path
    assert preset(model("graft_tiny", weights=source), registered) == SPEC
    with pytest.raises(WeightsError, match="is a graft_tiny, not a resnet18"):
        locate(model("resnet18", weights=source), registered, tmp_path)
    with pytest.raises(WeightsError, match=r"Check model\.sha256"):
        locate(model("graft_tiny", weights=source, sha256="0" * 64), registered, tmp_path)
    with pytest.raises(WeightsError, match="was not fetched"):
        locate(model("graft_tiny", weights=source), None, tmp_path)
