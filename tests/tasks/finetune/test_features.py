"""Cached features against the network they come from: numbers, keys, damage, and the disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.errors import ResourceError
from tasks.finetune import feature_disk, feature_files, feature_pass, feature_worth
from tasks.finetune.cut import Cut, cut_network
from tasks.finetune.device import on_device
from tasks.finetune.feature_disk import make_room
from tasks.finetune.feature_key import cache_key, origin_digest
from tasks.finetune.feature_worth import NoRoom
from tasks.finetune.features import FeatureRequest, cache_features, worth_caching
from tasks.finetune.strategy import FrozenPart
from tasks.preprocess.augment import train_view
from tasks.preprocess.batches import PackedImages
from tasks.preprocess.views import eval_view
from tasks.pretrained.architectures import build
from tasks.pretrained.heads import find_heads
from tasks.pretrained.stages import find_stages
from tasks.recipe import TrainingConfig
from tasks.values import PreparedDataset

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


class Frozen:
    """A network with random weights, and its cut behind the first stages."""

    def __init__(self, architecture: str, share: float, prepared: PreparedDataset) -> None:
        torch.manual_seed(0)
        self.network = on_device(build(architecture, 3), CPU)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics as of a trained network
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        stages = find_stages(self.network, *find_heads(self.network))
        names = tuple(n for stage in stages[: round(share * len(stages))] for n in stage)
        self.part = FrozenPart(self.network)
        self.part.hold(names)
        side = prepared.input.crop
        self.cut = cut_network(self.network, names, torch.zeros(1, 3, side, side))


@pytest.fixture
def tiny(prepared: PreparedDataset) -> Frozen:
    return Frozen("graft_tiny", 0.5, prepared)


def recipe_of(**settings: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"precision": "float32", "device": "cpu", **settings})


def request_of(seed: int = 0, batch: int = 25, **settings: object) -> FeatureRequest:
    recipe = recipe_of(**settings)
    precision = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    return FeatureRequest(recipe, seed, CPU, precision, "", batch)


def images_of(prepared: PreparedDataset, name: str = "train") -> Tensor:
    split = getattr(prepared, name)
    return PackedImages(split).read(np.arange(split.n), pin=False)[0]


def rows_of(features, n: int) -> Tensor:
    return torch.cat([x for x, _ in features.batches(np.arange(n), 7, CPU)])


def at_64_px(prepared: PreparedDataset) -> PreparedDataset:
    spec = prepared.input.model_copy(update={"resize": 64, "crop": 64})
    return prepared.model_copy(update={"input": spec})


def test_rows_are_what_the_frozen_part_makes_of_the_evaluation_view(prepared, tiny, tmp_path):
    tiny.network.train()  # the prefix must not count, whatever mode it is found in
    before = {k: v.clone() for k, v in tiny.network.state_dict().items()}
    cached = cache_features(tiny.cut, prepared, request_of(), tmp_path / "features")
    assert all(module.training for module in tiny.network.modules())
    assert all(torch.equal(v, before[k]) for k, v in tiny.network.state_dict().items())
    tiny.network.eval()
    for name, features in (("train", cached.train), ("val", cached.val)):
        split = getattr(prepared, name)
        with torch.no_grad():
            expected = tiny.cut.prefix(eval_view(images_of(prepared, name), prepared.input))
        found = rows_of(features, split.n)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert found.shape == (split.n, *tiny.cut.shape)
        assert (features.n, features.views) == (split.n, 1)
        assert np.array_equal(features.labels_n, np.load(split.labels))


def test_batches_are_the_rows_in_order_and_channels_last(prepared, tiny, tmp_path):
    train = cache_features(tiny.cut, prepared, request_of(), tmp_path).train
    order = np.random.default_rng(0).permutation(61)
    batches = list(train.batches(order, 20, CPU))
    assert [len(labels) for _, labels in batches] == [20, 20, 20, 1]
    found = torch.cat([features for features, _ in batches])
    assert torch.equal(found, rows_of(train, 61)[order])
    assert np.array_equal(torch.cat([y for _, y in batches]).numpy(), train.labels_n[order])
    for features, _ in batches:
        assert features.is_contiguous(memory_format=torch.channels_last)
        features.zero_()  # a copy: the suffix may change it in place
    assert torch.equal(rows_of(train, 61)[order], found)


@pytest.mark.parametrize(
    ("architecture", "share", "tolerance"),
    [
        ("graft_tiny", 1.0, 1e-6),
        # batch norm that trains magnifies the rounding of folded batch norm before it
        ("graft_tiny", 0.5, 1e-5),
        ("squeezenet1_1", 1.0, 1e-6),
        ("squeezenet1_1", 0.5, 1e-6),
    ],
)
def test_two_steps_on_features_are_two_steps_on_images(
    architecture, share, tolerance, prepared, tmp_path
):
    on_images, on_features = two_steps_each(architecture, share, at_64_px(prepared), tmp_path)
    start = Frozen(architecture, share, at_64_px(prepared)).network.state_dict()
    moved = 0
    for name, expected in on_images.items():
        found = on_features[name]
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=name)
        moved += not torch.equal(expected, start[name])
    assert moved >= 2


def test_without_folding_every_bit_is_the_same(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_pass, "fused", lambda prefix: prefix)
    on_images, on_features = two_steps_each("graft_tiny", 0.5, prepared, tmp_path)
    assert all(torch.equal(on_features[name], value) for name, value in on_images.items())


def test_folding_that_would_change_numbers_is_not_done(prepared, tiny, tmp_path, monkeypatch):
    folded = cache_features(tiny.cut, prepared, request_of(), tmp_path / "folded")
    monkeypatch.setattr(feature_pass, "_TOLERANCE", 0.0)
    exact = cache_features(tiny.cut, prepared, request_of(), tmp_path / "exact")
    monkeypatch.setattr(feature_pass, "fused", lambda prefix: prefix)
    plain = cache_features(tiny.cut, prepared, request_of(), tmp_path / "plain")
    assert torch.equal(rows_of(exact.train, 61), rows_of(plain.train, 61))
    assert not torch.equal(rows_of(folded.train, 61), rows_of(plain.train, 61))


State = dict[str, Tensor]


def two_steps_each(
    architecture: str, share: float, prepared: PreparedDataset, folder: Path
) -> tuple[State, State]:
    order = np.random.default_rng(0).permutation(61)[:40]
    on_images, on_features = (Frozen(architecture, share, prepared) for _ in range(2))
    images = PackedImages(prepared.train).batches(order, 20, CPU)
    train(on_images, on_images.network, [(eval_view(x, prepared.input), y) for x, y in images])
    cached = cache_features(on_features.cut, prepared, request_of(), folder)
    train(on_features, on_features.cut.suffix, list(cached.train.batches(order, 20, CPU)))
    return on_images.network.state_dict(), on_features.network.state_dict()


def train(frozen: Frozen, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    parameters = [p for p in frozen.network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    frozen.part.train_mode()
    torch.manual_seed(5)  # dropout
    for inputs, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def test_a_second_call_computes_nothing(prepared, tiny, tmp_path):
    ran = []
    tiny.network.stem[0].register_forward_pre_hook(lambda *_: ran.append(1))
    first = cache_features(tiny.cut, prepared, request_of(), tmp_path)
    assert len(ran) >= 5  # 61 and 30 images, 25 at a time
    del ran[:]
    again = cache_features(tiny.cut, prepared, request_of(seed=1), tmp_path)
    assert not ran
    assert torch.equal(rows_of(again.train, 61), rows_of(first.train, 61))
    assert len(list(tmp_path.glob("?" * 64))) == 1


def test_views_are_drawn_one_after_the_other_from_the_seed(prepared, tiny, tmp_path):
    settings = {"augment": "crop_flip", "feature_views": 3, "random_erasing": 0.5}
    request = request_of(seed=3, batch=61, policy="trivial_augment", **settings)
    cached = cache_features(tiny.cut, prepared, request, tmp_path)
    assert (cached.train.views, cached.val.views) == (3, 1)
    generator = torch.Generator().manual_seed(3)
    tiny.network.eval()
    for index in range(3):
        view = train_view(images_of(prepared), prepared.input, request.recipe, generator)
        with torch.no_grad():
            expected = tiny.cut.prefix(view)
        found = rows_of(cached.train.view(index), 61)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows_of(cached.train, 61), rows_of(cached.train.view(0), 61))
    with pytest.raises(IndexError):
        cached.train.view(3)


def test_bfloat16_is_kept_as_it_is_computed(prepared, tiny, tmp_path):
    cached = cache_features(tiny.cut, prepared, request_of(precision="bfloat16"), tmp_path)
    found = rows_of(cached.val, 30)
    assert found.dtype == torch.bfloat16
    tiny.network.eval()
    views_bchw = eval_view(images_of(prepared, "val"), prepared.input)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = torch.cat([tiny.cut.prefix(part) for part in views_bchw.split(25)])
    torch.testing.assert_close(found, expected.bfloat16())
    size = sum(path.stat().st_size for path in tmp_path.rglob("val.features"))
    assert size == 30 * int(np.prod(tiny.cut.shape)) * 2


def test_several_labels_an_image_stay_so(prepared, tiny, tmp_path):
    several = np.eye(3, dtype=np.uint8)[np.load(prepared.train.labels)]
    np.save(tmp_path / "several.npy", several)
    split = prepared.train.model_copy(
        update={"labels": tmp_path / "several.npy", "multi_label": True}
    )
    prepared = prepared.model_copy(update={"train": split})
    labels = cache_features(tiny.cut, prepared, request_of(), tmp_path).train.labels_n
    assert labels.dtype == np.float32
    assert np.array_equal(labels, several)


AUGMENTED = {"augment": "flip", "feature_views": 2}


def test_the_key_tells_apart_all_that_decides_the_numbers(prepared, tiny):
    def key(cut: Cut = tiny.cut, data: PreparedDataset = prepared, **request: object) -> str:
        return cache_key(origin_digest(cut, data), request_of(**request))

    spec = prepared.input.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    keys = [
        key(),
        key(Frozen("graft_tiny", 1.0, prepared).cut),
        key(data=prepared.model_copy(update={"digest": "0" * 64})),
        key(data=prepared.model_copy(update={"input": spec})),
        key(precision="bfloat16"),
        key(**AUGMENTED),
        key(**AUGMENTED, seed=1),
        key(**AUGMENTED, batch=10),
        key(batch=10),
        key(**AUGMENTED | {"feature_views": 3}),
        key(**AUGMENTED | {"augment": "crop"}),
        key(**AUGMENTED, policy="rand_augment"),
        key(**AUGMENTED, random_erasing=0.1),
    ]
    with torch.no_grad():
        next(tiny.network.stem.parameters()).add_(1e-3)
    keys.append(key())
    next(tiny.network.stem.buffers()).add_(1e-3)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_the_key_is_the_same_where_the_numbers_are(prepared, tiny):
    def key(cut: Cut, **request: object) -> str:
        return cache_key(origin_digest(cut, prepared), request_of(**request))

    first = key(tiny.cut)
    with torch.no_grad():
        tiny.network.fc.weight.add_(1)
    same = [
        key(tiny.cut),
        key(Frozen("graft_tiny", 0.5, prepared).cut),
        key(tiny.cut, seed=9, learning_rate=0.5, epochs=3),
    ]
    assert set(same) == {first}


def spoil_size(folder: Path) -> None:
    path = folder / "train.features"
    path.write_bytes(path.read_bytes()[:-4])


def spoil_byte(folder: Path) -> None:
    content = bytearray((folder / "val.features").read_bytes())
    content[100] ^= 1
    (folder / "val.features").write_bytes(content)


def spoil_labels(folder: Path) -> None:
    np.save(folder / "train.labels.npy", np.zeros(61, dtype=np.int64))


def spoil_manifest(folder: Path) -> None:
    (folder / "features.json").write_text("{")


def lose_file(folder: Path) -> None:
    (folder / "val.features").unlink()


@pytest.mark.parametrize("spoil", [spoil_size, spoil_byte, spoil_labels, spoil_manifest, lose_file])
def test_damage_is_noticed_and_mended(spoil, prepared, tiny, tmp_path, caplog):
    first = cache_features(tiny.cut, prepared, request_of(), tmp_path)
    expected = rows_of(first.train, 61), rows_of(first.val, 30), first.train.labels_n
    (folder,) = tmp_path.glob("?" * 64)
    spoil(folder)
    again = cache_features(tiny.cut, prepared, request_of(), tmp_path)
    assert "damaged" in caplog.text
    assert torch.equal(rows_of(again.train, 61), expected[0])
    assert torch.equal(rows_of(again.val, 30), expected[1])
    assert np.array_equal(again.train.labels_n, expected[2])


def test_of_a_large_file_the_size_alone_is_looked_at(prepared, tiny, tmp_path, monkeypatch):
    cache_features(tiny.cut, prepared, request_of(), tmp_path)
    (folder,) = tmp_path.glob("?" * 64)
    spoil_byte(folder)
    assert feature_files.load_whole(folder) is None
    monkeypatch.setattr(feature_files, "DIGESTED", 1000)
    assert feature_files.load_whole(folder) is not None
    spoil_size(folder)
    assert feature_files.load_whole(folder) is None


def test_a_disk_that_is_too_small_is_told_beforehand(prepared, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ResourceError, match=r"need 0\.00 GB.*\n.*feature_cache=off"):
        cache_features(tiny.cut, prepared, request_of(), tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_a_disk_that_fills_up_leaves_nothing_behind(prepared, tiny, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="disk is full"):
            cache_features(tiny.cut, prepared, request_of(), tmp_path / "features")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "features").iterdir()) == []


def fill(folder: Path, letter: str, size: int, age: float) -> Path:
    path = folder / (letter * 64)
    path.mkdir()
    (path / "train.features").write_bytes(bytes(size))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_what_was_not_used_for_longest_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_disk, "MOST", 1000)
    paths = [fill(tmp_path, letter, 300, age) for letter, age in (("a", 50), ("b", 90), ("c", 10))]
    other = tmp_path / "of-another"
    other.mkdir()
    left = []
    for need in (100, 101, 500):
        make_room(tmp_path, need)
        left.append([path.exists() for path in paths])
    assert left == [[True, True, True], [True, False, True], [False, False, True]]
    assert other.exists()
    make_room(tmp_path / "not-there", 500)


def test_a_cache_that_is_used_stays(prepared, tiny, tmp_path, monkeypatch):
    cache_features(tiny.cut, prepared, request_of(), tmp_path)
    (used,) = tmp_path.glob("?" * 64)
    os.utime(used, (0, 0))
    between = fill(tmp_path, "a", 300, 3600)
    cached = cache_features(tiny.cut, prepared, request_of(), tmp_path)
    size = sum(path.stat().st_size for path in used.iterdir())
    monkeypatch.setattr(feature_disk, "MOST", size + 100)
    make_room(tmp_path, 50)
    assert used.exists()
    assert not between.exists()
    shutil.rmtree(used)
    assert len(rows_of(cached.train, 61)) == 61  # mapped files live on


def test_leftovers_of_killed_processes_go_in_the_end(tmp_path):
    fresh, old = tmp_path / ".aaa.1", tmp_path / ".bbb.2"
    for path in (fresh, old):
        path.mkdir()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    make_room(tmp_path, 1)
    assert fresh.exists()
    assert not old.exists()


@pytest.mark.parametrize(
    ("settings", "epochs", "reason"),
    [
        ({}, 2, None),
        ({}, 1, "1 epoch"),
        ({"feature_cache": "off"}, 9, "feature_cache is off"),
        ({"mixup": 0.2}, 9, "mixup mixes images"),
        ({"cutmix": 1.0}, 9, "cutmix mixes images"),
        ({"augment": "flip"}, 9, "new augmented views every epoch"),
        ({"random_erasing": 0.1}, 9, "new augmented views every epoch"),
        (AUGMENTED, 3, None),
        (AUGMENTED, 2, "2 view"),
        (AUGMENTED, 1, "would not come to see all of 2 views"),
    ],
)
def test_when_it_pays(settings, epochs, reason, prepared, tiny, tmp_path):
    tiny = Frozen("graft_tiny", 1.0, prepared)
    found = worth_caching(tiny.cut, prepared, recipe_of(**settings), epochs, tmp_path / "features")
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize(
    ("settings", "epochs", "trainings", "reason"),
    [
        ({}, 1, 2, None),
        (AUGMENTED, 2, 2, None),
        (AUGMENTED, 1, 5, "would not come to see all of 2 views"),
        ({"feature_cache": "off"}, 1, 2, "feature_cache is off"),
    ],
)
def test_the_trainings_of_a_soup_count_together(
    settings, epochs, trainings, reason, prepared, tmp_path
):
    cut = Frozen("graft_tiny", 1.0, prepared).cut
    found = worth_caching(cut, prepared, recipe_of(**settings), epochs, tmp_path, trainings)
    assert (found is None) if reason is None else (reason in found)


def test_what_lies_there_decides_only_that_the_disk_has_room_for_it(
    prepared, tmp_path, monkeypatch
):
    cut = Frozen("graft_tiny", 1.0, prepared).cut
    cache_features(cut, prepared, request_of(), tmp_path)
    assert "1 epoch" in worth_caching(cut, prepared, recipe_of(), 1, tmp_path)  # as without them
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    assert worth_caching(cut, prepared, recipe_of(), 5, tmp_path) is None
    other = prepared.model_copy(update={"digest": "0" * 64})
    for given in ((prepared, recipe_of(precision="bfloat16")), (other, recipe_of())):
        assert isinstance(worth_caching(cut, *given, 5, tmp_path), NoRoom)


def test_features_that_are_too_large_do_not_pay(prepared, tmp_path, monkeypatch):
    cut = Frozen("graft_tiny", 1.0, prepared).cut
    need = (61 + 30) * 112 * 4
    for free, reason in ((2 * need + 2, None), (2 * need - 2, "half of the free disk")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(free, 0, free))
        found = worth_caching(cut, prepared, recipe_of(), 5, tmp_path)
        assert (found is None) if reason is None else (reason in found)


def test_a_thin_layer_with_large_maps_is_quicker_computed(prepared, tmp_path):
    """VGG's first convolution: 64 maps, 54 operations for each of their numbers."""
    prepared = at_64_px(prepared)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64**3, 3)
    )
    FrozenPart(network).hold(("0",))
    cut = cut_network(network, ("0",), torch.zeros(1, 3, 64, 64))
    assert cut.shape == (64, 64, 64)
    assert "longer to read" in worth_caching(cut, prepared, recipe_of(), 99, tmp_path)


def test_no_cache_may_take_more_than_all_may(prepared, tmp_path, monkeypatch):
    cut = Frozen("graft_tiny", 1.0, prepared).cut
    need = (61 + 30) * 112 * 4
    for most, fits in ((need, True), (need - 1, False)):
        monkeypatch.setattr(feature_worth, "MOST", most)
        found = worth_caching(cut, prepared, recipe_of(), 5, tmp_path)
        assert found is None if fits else found.endswith("0.0 GB all caches may take")
        assert not isinstance(found, NoRoom)


@pytest.mark.parametrize(
    ("kind", "operations"), [("cuda", feature_worth._GPU), ("mps", feature_worth._APPLE)]
)
def test_a_gpu_computes_more_while_a_byte_is_read(kind, operations, monkeypatch):
    monkeypatch.setattr(feature_worth, "pick_device", torch.device)
    per_thread = feature_worth._operations_a_byte(recipe_of(device="cpu")) / torch.get_num_threads()
    assert feature_worth._operations_a_byte(recipe_of(device=kind)) == operations > per_thread
