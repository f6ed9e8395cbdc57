"""The training views against torchvision's transforms, and against their papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from tasks.preprocess.augment import augmented, erased, train_view
from tasks.preprocess.crops import random_boxes
from tasks.preprocess.policies import apply_policy
from tasks.preprocess.views import eval_view, fitted, normalize
from tasks.recipe import TrainingConfig
from tasks.values import InputSpec
from tests.tasks.preprocess.fake_gpu import FakeGpu


def spec_of(resize: int, crop: int) -> InputSpec:
    return InputSpec(
        resize=resize,
        crop=crop,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bilinear",
    )


def batch(n: int, height: int, width: int) -> torch.Tensor:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 9, 9, 3), dtype=np.uint8)
    bicubic = Image.Resampling.BICUBIC
    images = [np.array(Image.fromarray(c).resize((width, height), bicubic)) for c in coarse]
    return torch.from_numpy(np.stack(images))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def recipe(augment: str = "none", **settings: object) -> TrainingConfig:
    return TrainingConfig(augment=augment, **settings)


def test_views_are_channels_last_float32_and_leave_the_pack_alone() -> None:
    spec = spec_of(40, 32)
    for side in (32, 40, 20):
        pack_bhwc = batch(2, side, side)
        before = pack_bhwc.clone()
        for augment in ("none", "flip", "crop", "crop_flip"):
            busy = recipe(augment, random_erasing=1.0, policy="trivial_augment")
            for settings in (recipe(augment), busy):
                view_bchw = train_view(pack_bhwc, spec, settings, seeded())
                assert view_bchw.shape == (2, 3, 32, 32)
                assert view_bchw.dtype == torch.float32
                assert view_bchw.is_contiguous(memory_format=torch.channels_last)
                levels = augmented(pack_bhwc, spec, settings, seeded())
                assert levels.shape == (2, 32, 32, 3)
                assert levels.dtype == torch.uint8
        assert torch.equal(pack_bhwc, before)


def test_no_augmentation_is_the_evaluation_view() -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(3, 40, 40)
    assert torch.equal(train_view(pack_bhwc, spec, recipe(), seeded()), eval_view(pack_bhwc, spec))


def test_flip_mirrors_half_of_the_images_and_changes_nothing_else() -> None:
    spec = spec_of(32, 32)
    pack_bhwc = batch(1, 32, 32).expand(400, -1, -1, -1)
    seen = train_view(pack_bhwc, spec, recipe("flip"), seeded())
    plain = eval_view(pack_bhwc[:1], spec)[0]
    same = (seen == plain).flatten(1).all(1)
    mirrored = (seen == plain.flip(2)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250  # five standard deviations of a fair coin


def test_crop_is_torchvisions_resized_crop_of_the_drawn_boxes() -> None:
    spec = spec_of(80, 72)
    pack_bhwc = batch(4, 80, 80)
    seen = train_view(pack_bhwc, spec, recipe("crop"), seeded(5))
    boxes = random_boxes(4, 80, 80, seeded(5)).tolist()
    crops = [
        tv.resized_crop(image.permute(2, 0, 1), *box, [72, 72], antialias=True)
        for image, box in zip(pack_bhwc, boxes, strict=True)
    ]
    expected = tv.normalize(torch.stack(crops) / 255, list(spec.mean), list(spec.std))
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-6)


def test_crop_at_a_small_networks_own_size_pads_and_shifts() -> None:
    spec = spec_of(32, 32)
    pack_bhwc = batch(60, 32, 32)
    seen = augmented(pack_bhwc, spec, recipe("crop"), seeded())
    padded = torch.nn.functional.pad(pack_bhwc, (0, 0, 4, 4, 4, 4))  # He et al. 2016: 4 px of 32
    shifts = set()
    for view, image in zip(seen, padded, strict=True):
        found = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if torch.equal(view, image[y : y + 32, x : x + 32])
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 25
    assert {y for y, _ in shifts} == set(range(9)) == {x for _, x in shifts}


@pytest.mark.parametrize("policy", ["none", "rand_augment", "trivial_augment"])
@pytest.mark.parametrize("augment", ["flip", "crop", "crop_flip"])
@pytest.mark.parametrize(("side", "crop"), [(32, 32), (256, 224)])
def test_no_copy_to_a_gpu_is_waited_for(augment: str, policy: str, side: int, crop: int) -> None:
    """CUDA itself keeps up to 64 KiB of what is copied from ordinary memory."""
    with FakeGpu() as gpu:
        images_bhwc = torch.empty(256, side, side, 3, dtype=torch.uint8, device="cuda")
        augmented(images_bhwc, spec_of(crop, crop), recipe(augment, policy=policy), seeded())
    assert gpu.copies
    assert all(n <= 2**16 and goes_on for n, goes_on in gpu.copies)


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "flip"},
        {"augment": "crop"},
        {"augment": "crop_flip"},
        {"policy": "rand_augment"},
        {"policy": "trivial_augment"},
        {"random_erasing": 0.7},
    ],
)
@pytest.mark.parametrize("side", [32, 40, 16])
def test_a_seed_repeats_the_views_exactly(settings: dict[str, object], side: int) -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(8, side, side)
    torch.manual_seed(1)
    first = train_view(pack_bhwc, spec, recipe(**settings), seeded(3))
    torch.manual_seed(2)  # the global generator plays no part
    assert torch.equal(first, train_view(pack_bhwc, spec, recipe(**settings), seeded(3)))
    assert not torch.equal(first, train_view(pack_bhwc, spec, recipe(**settings), seeded(4)))


def test_a_policy_comes_after_the_crop_and_erasing_after_all() -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(8, 40, 40)
    settings = recipe("crop_flip", policy="rand_augment", random_erasing=0.5)
    seen = train_view(pack_bhwc, spec, settings, seeded())
    generator = seeded()
    cropped = augmented(pack_bhwc, spec, recipe("crop_flip"), generator)
    changed = apply_policy(cropped, "rand_augment", generator)
    assert torch.equal(seen, erased(normalize(changed, spec), settings, generator))


def test_a_callers_autocast_plays_no_part() -> None:
    spec = spec_of(80, 72)
    pack_bhwc = batch(20, 80, 80)
    settings = recipe("crop_flip", policy="trivial_augment")
    plain = augmented(pack_bhwc, spec, settings, seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(pack_bhwc, spec, settings, seeded()), plain)


def holes(images_bchw: torch.Tensor) -> list[tuple[int, int, int, int] | None]:
    """Find the box of zeros in images of ones; fail if it is no box."""
    found: list[tuple[int, int, int, int] | None] = []
    for image in images_bchw:
        zero = image == 0
        assert torch.equal(zero, zero[:1].expand_as(zero))
        rows, columns = zero[0].any(1).nonzero()[:, 0], zero[0].any(0).nonzero()[:, 0]
        if not len(rows):
            found.append(None)
            continue
        top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
        assert torch.equal(tv.erase(torch.ones_like(image), top, left, height, width,
                                    torch.zeros(1)), image)  # fmt: skip
        found.append((top, left, height, width))
    return found


def test_erasing_follows_torchvisions_random_erasing() -> None:
    n, height, width = 3000, 30, 44
    images = torch.ones(n, 3, height, width)
    mine = holes(erased(images, recipe(random_erasing=1.0), seeded()))
    torch.manual_seed(1)
    theirs_of = v2.RandomErasing(p=1.0)
    drawn = [theirs_of.make_params([images[0]]) for _ in range(n)]
    theirs = [(p["i"], p["j"], p["h"], p["w"]) for p in drawn if p["v"] is not None]
    ours = torch.tensor([box for box in mine if box is not None], dtype=torch.float64)
    others = torch.tensor(theirs, dtype=torch.float64)
    assert abs(len(ours) - len(others)) < 0.01 * n
    for a, b in zip(ours.T, others.T, strict=True):
        assert abs(a.mean() - b.mean()) < 5 * (a.var() / n + b.var() / n).sqrt()
        assert a.std() == pytest.approx(float(b.std()), rel=0.1)


def test_so_many_images_are_erased_as_asked_for() -> None:
    images = torch.ones(2000, 3, 20, 20)
    share = sum(box is not None for box in holes(erased(images, recipe(random_erasing=0.25),
                                                        seeded()))) / 2000  # fmt: skip
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5
    assert torch.equal(erased(images.clone(), recipe(), seeded()), images)


def test_an_image_too_small_for_any_box_stays_whole() -> None:
    images = torch.ones(50, 3, 1, 1)
    assert torch.equal(erased(images.clone(), recipe(random_erasing=1.0), seeded()), images)


def test_erasing_waits_for_no_device() -> None:
    """A meta tensor has no values, so whatever asked for one would fail."""
    images = torch.empty(4, 3, 20, 20, device="meta")
    assert erased(images, recipe(random_erasing=0.5), seeded()).shape == images.shape


def test_an_enlarged_pack_is_shrunk_before_a_policy() -> None:
    spec = spec_of(40, 32)
    pack_bhwc = batch(6, 48, 48)
    seen = augmented(pack_bhwc, spec, recipe(policy="rand_augment"), seeded())
    assert torch.equal(seen, apply_policy(fitted(pack_bhwc, spec), "rand_augment", seeded()))
