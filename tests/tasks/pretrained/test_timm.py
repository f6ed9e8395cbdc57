"""timm's networks: names, weights from files and from the hub, and preprocessing."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tasks.config import ModelConfig, PreprocessConfig, RunConfig
from tasks.errors import ConfigError, TransientWeightsError, WeightsError
from tasks.finetune.strategy import describe_stages
from tasks.preprocess.decode import decode_rgb
from tasks.preprocess.views import eval_view, shrink
from tasks.pretrained.architectures import build, check_name
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.pretrained.network import build_network, restore_network
from tasks.pretrained.presets import preset
from tasks.pretrained.sources import locate
from tasks.values import Backbone

CLASSES = ("ants", "bees", "wasps")
DISTILLED = "deit_tiny_distilled_patch16_224"


def config(architecture: str, weights: Path | str | None) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"kind": "digits"},
            "model": {
                "architecture": f"timm:{architecture}",
                "weights": None if weights is None else str(weights),
            },
            "strategy": {"kind": "scratch" if weights is None else "full"},
        }
    )


def loaded(architecture: str, weights: Path | str | None, cache: Path) -> Backbone:
    return load_pretrained(config(architecture, weights), CLASSES, None, cache)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", DISTILLED])
def test_all_but_the_heads_comes_from_the_file(name: str, tmp_path: Path):
    torch.manual_seed(1)
    theirs = timm.create_model(name)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    backbone = loaded(name, tmp_path / "w.safetensors", tmp_path)
    assert backbone.parameters == sum(p.numel() for p in theirs.parameters())
    network, again, other = (build_network(backbone, 3, seed) for seed in (0, 0, 1))
    changed = {k for k, v in theirs.state_dict().items() if not v.equal(network.state_dict()[k])}
    assert changed == {f"{head}.{kind}" for head in backbone.heads for kind in ("weight", "bias")}
    assert len(backbone.heads) == (2 if name == DISTILLED else 1)
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
        if key not in changed or key.endswith("weight"):  # some biases start from 0
            assert torch.equal(value, other.state_dict()[key]) == (key not in changed)
    # timm's own way to a new head leaves the same shapes
    theirs.reset_classifier(3)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in network.state_dict().items()} == shapes


def test_a_file_without_a_head_is_a_whole_backbone(tmp_path: Path):
    theirs = timm.create_model("test_vit", num_classes=0)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    backbone = loaded("test_vit", tmp_path / "w.safetensors", tmp_path)
    assert backbone.head == "head"
    assert backbone.parameters == sum(p.numel() for p in theirs.parameters())
    network = build_network(backbone, 3, seed=0).eval()
    images_bchw = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(
            network.forward_head(network.forward_features(images_bchw), pre_logits=True),
            theirs.eval()(images_bchw),
        )
    assert network(images_bchw).shape == (2, 3)


def test_a_file_of_another_network_is_refused(tmp_path: Path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit timm:test_resnet.\n\d+ missing: "):
        loaded("test_resnet", tmp_path / "w.safetensors", tmp_path)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", DISTILLED])
def test_restored_network_gives_the_same_logits(name: str, tmp_path: Path):
    network = build(f"timm:{name}", 4).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    restored = restore_network(f"timm:{name}", 4, tmp_path / "model.safetensors")
    images_bchw = torch.randn(2, *network.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert torch.equal(network(images_bchw), restored(images_bchw))


def test_stages_read_as_one_would_name_them(tmp_path: Path):
    assert describe_stages(loaded("resnet18", None, tmp_path)) == (
        "1 conv1+bn1, 2 layer1, 3 layer2, 4 layer3, 5 layer4"
    )
    assert describe_stages(loaded("convnext_atto", None, tmp_path)) == (
        "1 stem.0+stem.1, 2 stages.0, 3 stages.1, 4 stages.2, 5 stages.3+head.norm"
    )
    vit = describe_stages(loaded("vit_tiny_patch16_224", None, tmp_path))
    assert vit.startswith("1 cls_token+pos_embed+patch_embed.proj, 2 blocks.0, 3 blocks.1, ")
    assert vit.endswith(", 13 blocks.11+norm")


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("resnet18", "timm:DEFAULT"),  # bicubic, crop_pct 0.95
        ("resnet18", "timm:tv_in1k"),  # bilinear, 0.875
        ("vit_tiny_patch16_224", "timm:DEFAULT"),  # 0.9, mean of a half
        ("efficientnet_b3", None),  # 288 px
    ],
)
def test_preprocessing_is_timms_own_on_a_real_photograph(
    architecture: str, weights: str | None, shared: Path
):
    with zipfile.ZipFile(shared / "data/hymenoptera.zip") as archive:
        name = next(n for n in sorted(archive.namelist()) if "val/bees/" in n and n.endswith("jpg"))
        content = archive.read(name)
    model = ModelConfig(architecture=f"timm:{architecture}", weights=weights)
    spec = input_spec(model, PreprocessConfig())
    tag = "" if weights in (None, "timm:DEFAULT") else f".{weights.removeprefix('timm:')}"
    facts = timm.get_pretrained_cfg(architecture + tag).to_dict()
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=facts))
    expected = theirs(Image.open(io.BytesIO(content)).convert("RGB"))
    pixels_chw = torch.from_numpy(decode_rgb(content)).permute(2, 0, 1)
    ours = eval_view(shrink(pixels_chw, spec, spec.crop).permute(1, 2, 0)[None], spec)[0]
    # Pillow and torch may round a resized pixel to neighbouring levels
    torch.testing.assert_close(ours, expected, rtol=0, atol=1.01 / 255 / min(spec.std))


@pytest.mark.parametrize(
    ("architecture", "weights", "message"),
    [
        ("timm:resnet81", None, r"'timm:resnet81'.\nDid you mean timm:resnet"),
        ("timm:resnet18.a1_in1k", None, "architecture=timm:resnet18 and model.weights=timm:a1_in1"),
        ("timm:resnet18", "timm:a1_in1", r"has no weights 'a1_in1' for .*\nDid you mean a1_in1k"),
        ("timm:resnet18", "torchvision:DEFAULT", r"Set model.weights=timm:DEFAULT"),
        ("resnet18", "timm:DEFAULT", r"resnet18 is not.\nSet model.architecture=timm:NAME"),
        ("timm:vit_base_patch16_sapiens2", None, "1024 x 768 px, and graft cuts squares"),
    ],
)
def test_what_is_not_there_is_refused(architecture: str, weights: str | None, message: str):
    with pytest.raises(WeightsError, match=message) as caught:
        preset(ModelConfig(architecture=architecture, weights=weights), None)
    assert str(caught.value).count("\n") == 1


def test_a_network_without_published_weights_says_so(tmp_path: Path):
    bare = next(n for n in timm.list_models() if not timm.get_pretrained_cfg(n).has_weights)
    model = ModelConfig(architecture=f"timm:{bare}", weights="timm:DEFAULT")
    with pytest.raises(WeightsError, match=f"publishes no weights for timm:{bare}"):
        locate(model, None, tmp_path)


def test_images_of_another_size_are_refused_where_the_network_is_for_one():
    model = ModelConfig(architecture="timm:vit_tiny_patch16_224", weights=None)
    with pytest.raises(WeightsError, match=r"64 px: .*\nSet preprocess.crop to 224"):
        input_spec(model, PreprocessConfig(resize=64, crop=64))


def test_without_timm_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"uv sync --extra timm"):
        check_name("timm:resnet18")
    check_name("resnet18")


HUB = """
import sys
from pathlib import Path
import huggingface_hub.constants
from tasks.config import ModelConfig
from tasks.errors import GraftError
from tasks.pretrained.sources import locate

def show(name):
    model = ModelConfig(architecture=f"timm:{name}", weights="timm:r160_in1k")
    try:
        path = locate(model, None, Path(sys.argv[1]))
    except GraftError as error:
        print(type(error).__name__, str(error).splitlines()[0])
    else:
        print(path)
        return path

show("test_resnet")
show("test_resnet").write_bytes(b"damaged")
show("test_resnet")
show("test_vit")
huggingface_hub.constants.HF_HUB_OFFLINE = True
show("test_vit")
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve test_resnet's weights as the Hugging Face hub does; yield its address and requests."""
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(f"{self.command} {self.path}")
            found = self.path == "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.do_HEAD()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_come_from_the_hub_once_and_what_it_lacks_is_told(
    hub: tuple[str, list[str]], tmp_path: Path
):
    address, asked = hub
    environment = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "PATH": ""}
    environment |= {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", HUB, str(tmp_path / "cache")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *paths, missing, offline = done.stdout.splitlines()
    path = Path(paths[0])
    assert paths == [str(path)] * 3
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"timm-test_resnet.r160_in1k-{timm.__version__}-{digest[:16]}.safetensors"
    expected, found = load_file(tmp_path / "model.safetensors"), load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert len([line for line in asked if line.startswith("GET /timm/test_resnet")]) == 1
    assert missing.startswith("WeightsError The Hugging Face hub does not give out timm/test_vit")
    assert offline.startswith("TransientWeightsError timm/test_vit.r160_in1k cannot be read")
    assert list((tmp_path / "cache/downloads").iterdir()) == [path]


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return what puts the weights of one network into the hub's cache under another's name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(tagged: str, network: str) -> Path:
        repository = tmp_path / "hub" / f"models--timm--{tagged}"
        path = repository / "snapshots" / ("0" * 40) / "model.safetensors"
        path.parent.mkdir(parents=True)
        save_file(timm.create_model(network).state_dict(), path)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        return path

    return put


def test_what_the_hub_cached_before_is_taken_and_kept_under_its_digest(
    hub_cache: Callable[[str, str], Path], tmp_path: Path
):
    theirs = hub_cache("test_resnet.r160_in1k", "test_resnet")
    model = ModelConfig(architecture="timm:test_resnet", weights="timm:r160_in1k")
    path = locate(model, None, tmp_path)
    assert path is not None
    expected, found = load_file(theirs), load_file(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    theirs.unlink()  # it is not asked for again ...
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stem.rpartition("-")[2] == digest[:16]
    with pytest.raises(WeightsError, match=f"sha256 {digest}, not {'0' * 64}"):
        locate(model.model_copy(update={"sha256": "0" * 64}), None, tmp_path)
    path.write_bytes(b"damaged")  # ... until what is kept is not what its name says
    with pytest.raises(TransientWeightsError, match=r"timm/test_resnet.r160_in1k cannot be read"):
        locate(model, None, tmp_path)


def test_weights_of_another_network_under_its_name_are_refused(
    hub_cache: Callable[[str, str], Path], tmp_path: Path
):
    hub_cache("test_vit.r160_in1k", "test_resnet")
    model = ModelConfig(architecture="timm:test_vit", weights="timm:r160_in1k")
    with pytest.raises(
        WeightsError, match=r"^timm could not load test_vit.r160_in1k: .*"
    ) as caught:
        locate(model, None, tmp_path)
    assert type(caught.value) is WeightsError  # trying again would not mend it
    assert str(caught.value).endswith("\nSet model.weights to a file.")
    assert not list((tmp_path).glob("downloads/*"))


def test_a_network_that_was_shown_whole_images_is_told_of(caplog: pytest.LogCaptureFixture):
    model = ModelConfig(architecture="timm:convnextv2_huge", weights=None)
    spec = preset(model, None)
    assert "timm:convnextv2_huge was trained on whole images (squash)" in caplog.text
    assert (spec.resize, spec.crop) == (384, 384)


@pytest.mark.network
def test_download_through_timm(tmp_path: Path):
    model = ModelConfig(architecture="timm:test_resnet", weights="timm:DEFAULT")
    path = locate(model, None, tmp_path)
    assert path is not None
    theirs = timm.create_model("test_resnet", pretrained=True).state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in load_file(path).items())
