"""A backbone from end to end: real weights, real photographs, and what is refused."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import models

from tasks.config import ModelConfig, PreprocessConfig, RunConfig
from tasks.errors import ConfigError, GraftError, WeightsError
from tasks.preprocess.decode import decode_rgb
from tasks.preprocess.views import eval_view, shrink
from tasks.pretrained.architectures import build
from tasks.pretrained.load import input_spec, load_pretrained
from tasks.pretrained.network import build_network
from tasks.values import Backbone, InputSpec, RegisteredModel

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BEE, ANT = 309, 310
CLASSES = ("ants", "bees")
Run = Callable[..., RunConfig]


def spec_of(architecture: str, weights: str | None, **overrides: object) -> InputSpec:
    model = ModelConfig(architecture=architecture, weights=weights)
    return input_spec(model, PreprocessConfig.model_validate(overrides))


@pytest.fixture
def run() -> Run:
    def make(architecture: str, weights: str | None, **overrides: object) -> RunConfig:
        return RunConfig.model_validate(
            {
                "data": {"kind": "digits"},
                "model": {"architecture": architecture, "weights": weights},
                "strategy": {"kind": "scratch" if weights is None else "full"},
                "preprocess": overrides,
            }
        )

    return make


def saved(architecture: str, classes: int, path: Path) -> Path:
    save_file(build(architecture, classes).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("architecture", "weights", "expected"),
    [
        ("resnet50", "torchvision:IMAGENET1K_V1", (256, 224, "bilinear")),
        ("resnet50", "torchvision:DEFAULT", (232, 224, "bilinear")),
        ("resnet50", "some.pth", (256, 224, "bilinear")),  # a file: the first recipe
        ("resnet50", None, (256, 224, "bilinear")),
        ("efficientnet_b3", "torchvision:DEFAULT", (320, 300, "bicubic")),
        ("vit_b_16", "torchvision:IMAGENET1K_SWAG_E2E_V1", (384, 384, "bicubic")),
        ("vit_h_14", "some.pth", (224, 224, "bicubic")),
        ("graft_tiny", None, (32, 32, "bilinear")),
    ],
)
def test_preprocessing_is_that_of_the_weights(
    architecture: str, weights: str | None, expected: tuple[int, int, str]
):
    spec = spec_of(architecture, weights)
    assert (spec.resize, spec.crop, spec.interpolation) == expected
    if architecture != "graft_tiny":
        assert (spec.mean, spec.std) == IMAGENET


@pytest.mark.parametrize("architecture", ["efficientnet_b0", "resnet18", "inception_v3"])
def test_preprocessing_is_torchvisions_own_on_a_real_photograph(architecture: str, shared: Path):
    with zipfile.ZipFile(shared / "data/hymenoptera.zip") as archive:
        name = next(n for n in sorted(archive.namelist()) if "val/bees/" in n and n.endswith("jpg"))
        content = archive.read(name)
    expected = models.get_model_weights(architecture).IMAGENET1K_V1.transforms()(
        Image.open(io.BytesIO(content)).convert("RGB")
    )
    if architecture == "inception_v3":
        network = models.inception_v3(weights=None, init_weights=False, transform_input=True)
        expected = network._transform_input(expected[None])[0]
    spec = spec_of(architecture, "torchvision:IMAGENET1K_V1")
    pixels_chw = torch.from_numpy(decode_rgb(content)).permute(2, 0, 1)
    ours = eval_view(shrink(pixels_chw, spec, spec.crop).permute(1, 2, 0)[None], spec)[0]
    # Pillow and torch may round a resized pixel to neighbouring levels
    torch.testing.assert_close(ours, expected, rtol=0, atol=1.01 / 255 / min(spec.std))


def test_overrides_win_one_by_one():
    spec = spec_of("resnet18", "torchvision:DEFAULT", resize=128, crop=112, mean=(0.1, 0.2, 0.3))
    assert (spec.resize, spec.crop, spec.mean) == (128, 112, (0.1, 0.2, 0.3))
    assert (spec.std, spec.interpolation) == (IMAGENET[1], "bilinear")


def test_cifar10_statistics_are_those_of_its_images(shared: Path):
    with zipfile.ZipFile(shared / "data/cifar10-small.zip") as archive:
        names = [n for n in archive.namelist() if "train/" in n and n.endswith(".jpg")]
        pixels = np.stack([np.asarray(Image.open(archive.open(n))) for n in names]) / 255
    spec = spec_of("graft_tiny", None)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1, 2)), spec.mean, atol=0.01)
    np.testing.assert_allclose(pixels.std(axis=(0, 1, 2)), spec.std, atol=0.01)


@pytest.mark.parametrize(
    ("architecture", "weights", "crop", "advice"),
    [
        ("vit_b_16", "torchvision:DEFAULT", 32, "Set preprocess.crop to 224"),
        ("vit_b_16", "torchvision:IMAGENET1K_SWAG_E2E_V1", 224, "Set preprocess.crop to 384"),
        ("vit_b_16", None, 100, "indivisible"),
        ("inception_v3", "torchvision:DEFAULT", 32, "cannot take images of 32 px"),
        ("vgg16", None, 16, "cannot take images of 16 px"),
        ("maxvit_t", "torchvision:DEFAULT", 100, "cannot take images of 100 px"),
    ],
)
def test_crop_that_the_network_cannot_take_is_refused(
    architecture: str, weights: str | None, crop: int, advice: str
):
    with pytest.raises(WeightsError, match=advice) as caught:
        spec_of(architecture, weights, crop=crop, resize=max(crop, 256))
    assert str(caught.value).count("\n") <= 1


@pytest.mark.parametrize("crop", [16, 31, 32, 63, 64])
@pytest.mark.parametrize("architecture", ["alexnet", "squeezenet1_1", "vgg11", "mobilenet_v2"])
def test_size_is_refused_exactly_where_the_real_network_fails(architecture: str, crop: int):
    try:
        with torch.no_grad():
            build(architecture, 2).eval()(torch.zeros(2, 3, crop, crop))
        fails = False
    except RuntimeError:
        fails = True
    try:
        spec_of(architecture, None, crop=crop)
        refused = False
    except WeightsError:
        refused = True
    assert refused == fails


def test_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(ConfigError, match=r"crop 224 is larger than preprocess\.resize 64"):
        spec_of("resnet18", "torchvision:DEFAULT", resize=64)


def squeezenet(shared: Path, suffix: str = "safetensors") -> str:
    return str(shared / f"weights/squeezenet1_0-imagenet.{suffix}")


def test_real_squeezenet_becomes_a_backbone(run: Run, shared: Path, tmp_path: Path):
    backbone = load_pretrained(run("squeezenet1_0", squeezenet(shared)), CLASSES, None, tmp_path)
    weights = Path(squeezenet(shared))
    assert backbone.weights == weights.resolve()
    assert backbone.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (backbone.head, backbone.keep_head) == ("classifier.1", False)
    assert (backbone.input.resize, backbone.input.crop) == (256, 224)
    assert len(backbone.stages) == 9
    assert backbone.parameters == models.SqueezeNet1_0_Weights.DEFAULT.meta["num_params"]
    assert Backbone.model_validate_json(backbone.model_dump_json()) == backbone
    assert list(tmp_path.iterdir()) == []


def test_real_squeezenet_knows_ants_and_bees(run: Run, shared: Path, tmp_path: Path):
    backbone = load_pretrained(run("squeezenet1_0", squeezenet(shared)), CLASSES, None, tmp_path)
    # as published, its own thousand classes
    whole = backbone.model_copy(update={"keep_head": True})
    network = build_network(whole, 1000, seed=0).eval()
    with zipfile.ZipFile(shared / "data/hymenoptera.zip") as archive:
        hits = {insect: top5_hits(archive, network, whole.input, insect) for insect in (ANT, BEE)}
    print("squeezenet1_0, ImageNet top-5 on hymenoptera/val:", hits)
    # SqueezeNet's ImageNet top-5 accuracy is 80.4%; broken preprocessing falls far below this
    assert min(hits.values()) >= 0.75


def top5_hits(
    archive: zipfile.ZipFile, network: torch.nn.Module, spec: InputSpec, insect: int
) -> float:
    folder = {ANT: "val/ants/", BEE: "val/bees/"}[insect]
    names = sorted(n for n in archive.namelist() if folder in n and n.endswith(".jpg"))[:40]
    crops_chw = [
        shrink(torch.from_numpy(decode_rgb(archive.read(n))).permute(2, 0, 1), spec, spec.crop)
        for n in names
    ]
    images_bchw = eval_view(torch.stack(crops_chw).permute(0, 2, 3, 1), spec)
    with torch.no_grad():
        best_b5 = network(images_bchw).topk(5).indices
    return (best_b5 == insect).any(dim=1).float().mean().item()


def test_another_architectures_weights_are_refused_with_the_keys(
    run: Run, shared: Path, tmp_path: Path
):
    with pytest.raises(WeightsError) as caught:
        load_pretrained(run("squeezenet1_1", squeezenet(shared)), CLASSES, None, tmp_path)
    assert "does not fit squeezenet1_1" in str(caught.value)
    assert "features.0.weight is (96, 3, 7, 7), not (64, 3, 3, 3)" in str(caught.value)
    with pytest.raises(WeightsError) as caught:
        load_pretrained(run("resnet18", squeezenet(shared, "pth")), CLASSES, None, tmp_path)
    # 62 parameters, 20 running means and 20 variances; counters of batches may be missing
    assert "102 missing: conv1.weight, bn1.weight," in str(caught.value)
    assert "52 unexpected: " in str(caught.value)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize("architecture", ["mnasnet0_5", "regnet_y_400mf", "shufflenet_v2_x0_5"])
def test_file_of_any_number_of_classes_is_a_backbone(architecture: str, run: Run, tmp_path: Path):
    path = saved(architecture, 6, tmp_path / "w.safetensors")
    backbone = load_pretrained(run(architecture, str(path)), CLASSES, None, tmp_path)
    network, state = build_network(backbone, 2, seed=0), load_file(path)
    for name, value in network.state_dict().items():
        if not name.startswith(backbone.head):
            assert torch.equal(value, state[name]), name
    assert network.get_parameter(f"{backbone.head}.weight").shape[0] == 2


def test_file_without_a_head_is_refused(run: Run, tmp_path: Path):
    state = build("resnet18", 3).state_dict()
    del state["fc.weight"], state["fc.bias"]
    save_file(state, tmp_path / "w.safetensors")
    config = run("resnet18", str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"2 missing: fc\.weight, fc\.bias"):
        load_pretrained(config, CLASSES, None, tmp_path)


def test_transformers_file_of_another_size_is_told_from_its_embeddings(tmp_path: Path, run: Run):
    # the names and shapes of a vit_b_16 for 96 px, a byte a weight
    from tasks.pretrained.outline import outline

    empty = outline("vit_b_16", 4, image_size=96).state_dict()
    small = {k: torch.zeros(v.shape, dtype=torch.float8_e4m3fn) for k, v in empty.items()}
    save_file(small, tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError, match=r"for images of 96 px, not 224.*\n.*preprocess\.crop=96"
    ):
        load_pretrained(run("vit_b_16", str(tmp_path / "w.safetensors")), CLASSES, None, tmp_path)


def test_scratch_has_no_weights_and_counts_its_own_head(run: Run, tmp_path: Path):
    backbone = load_pretrained(run("graft_tiny", None), CLASSES, None, tmp_path)
    assert (backbone.weights, backbone.sha256, backbone.source) == (None, None, "none")
    network = build("graft_tiny", 2)
    assert backbone.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("classes", "several", "kept"),
    [
        (CLASSES, False, True),
        (("bees", "ants"), False, False),
        (("a", "b", "c"), False, False),
        (CLASSES, True, False),
    ],
)
def test_warm_start_keeps_the_head_for_the_same_classes_alone(
    classes: tuple[str, ...], several: bool, kept: bool, run: Run, tmp_path: Path
):
    path = saved("graft_tiny", 2, tmp_path / "model.safetensors")
    spec = spec_of("graft_tiny", None, resize=24, crop=24)
    registered = RegisteredModel(
        uri="models:/graft/1",
        name="graft",
        version=1,
        architecture="graft_tiny",
        classes=CLASSES,
        input=spec,
        weights=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        multi_label=several,
    )
    config = run("graft_tiny", "models:/graft@champion")
    backbone = load_pretrained(config, classes, registered, tmp_path)
    assert backbone.keep_head is kept
    assert backbone.input == spec
    weight = build_network(backbone, len(classes), seed=5).get_parameter("fc.weight")
    assert torch.equal(weight, load_file(path)["fc.weight"]) is kept


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "resnet81"},
        {"weights": "torchvision:IMAGENET1K_V9"},
        {"weights": "not-there.safetensors"},
        {"architecture": "graft_tiny"},
    ],
)
def test_mistakes_cost_nothing(values: dict[str, str], run: Run, tmp_path: Path):
    given = {"architecture": "resnet18", "weights": "torchvision:DEFAULT"} | values
    with pytest.raises(GraftError) as caught:
        load_pretrained(run(**given), CLASSES, None, tmp_path)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []
