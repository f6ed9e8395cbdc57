"""The reference is the features of held-out images, taken without a pass of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.artifacts import sha256_bytes, sha256_file
from tasks.evaluate import reference
from tasks.evaluate.features import head_inputs
from tasks.evaluate.reference import REFERENCE_FILE, Outlook, ReferenceSample, look_at
from tasks.evaluate.scorer import open_model
from tasks.preprocess.batches import PackedImages
from tasks.pretrained.architectures import build
from tasks.pretrained.heads import find_heads
from tasks.values import RegisteredModel


@pytest.fixture
def model(prepared, tmp_path):
    """Return a network of random weights as a registered model."""
    return registered(prepared, tmp_path, "graft_tiny")


def registered(prepared, folder, architecture: str) -> RegisteredModel:
    torch.manual_seed(0)
    weights = folder / f"{architecture}.safetensors"
    save_file(build(architecture, 3, 16).state_dict(), weights)
    return RegisteredModel(
        uri="models:/colours/1",
        name="colours",
        version=1,
        architecture=architecture,
        classes=prepared.classes,
        input=prepared.input,
        weights=weights,
        sha256=sha256_file(weights),
    )


def opened(model: RegisteredModel):
    return open_model(model, "cpu", 1, 8)


def expected(prepared, model: RegisteredModel, split) -> np.ndarray:
    """Return every image's features by the code that ranks backbones, of a network not fused."""
    from tasks.pretrained.network import restore_network

    network = restore_network(model.architecture, 3, model.weights)
    rows = np.arange(split.n)
    return head_inputs(
        network, find_heads(network)[0], PackedImages(split), rows, prepared.input, 5
    )


@pytest.mark.parametrize("architecture", ["graft_tiny", "resnet18", "mobilenet_v3_small"])
def test_features_are_those_of_the_head_in_a_fused_network_as_well(
    prepared, tmp_path, architecture: str
):
    own = registered(prepared, tmp_path, architecture)
    wanted = np.arange(prepared.test.n) % 3 == 1
    with opened(own) as scorer:
        scores, found = look_at(scorer, prepared.test, wanted)
        plain = scorer.score(prepared.test)
    np.testing.assert_allclose(
        found.features_nd,
        expected(prepared, own, prepared.test)[wanted],
        rtol=1e-3,
        atol=1e-4,
    )
    assert np.array_equal(scores.probabilities_nc, plain.probabilities_nc)
    assert np.array_equal(found.energy_n, plain.energy_n[wanted])
    chosen = np.bincount(plain.predictions_n[wanted], minlength=3)
    assert np.array_equal(found.chosen_c, chosen)
    assert found.n == wanted.sum()


def test_a_sample_of_all_splits_is_written_and_read_back(prepared, model, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "REFERENCE_IMAGES", 40)
    sample = ReferenceSample([prepared.test, prepared.val], seed=0)
    with opened(model) as scorer:
        assert sample.write(tmp_path) is None  # nothing is scored yet
        sample.score(scorer, prepared.test)
        assert sample.write(tmp_path) is None
        sample.score(scorer, prepared.val)
        sample.score(scorer, prepared.train)  # is none of its splits
    digest = sample.write(tmp_path)
    content = (tmp_path / REFERENCE_FILE).read_bytes()
    assert digest == sha256_bytes(content)
    found = Outlook.from_bytes(content)
    assert (found.n, len(found.energy_n), found.chosen_c.sum()) == (40, 40, 40)
    assert found.to_bytes() == content
    rows = np.concatenate(
        [expected(prepared, model, split) for split in (prepared.test, prepared.val)]
    )
    far = np.abs(found.features_nd[:, None] - rows[None]).max(axis=2)
    assert np.all(far.min(axis=1) < 1e-3)  # each is one of theirs ...
    assert len(set(far.argmin(axis=1))) == 40  # ... and none twice
    assert 0 < np.sum(far.argmin(axis=1) < prepared.test.n) < 40


def test_all_images_are_taken_where_there_are_few(prepared, model):
    sample = ReferenceSample([prepared.test], seed=0)
    with opened(model) as scorer:
        sample.score(scorer, prepared.test)
    taken = sample.taken()
    assert taken is not None
    assert taken.n == prepared.test.n


def test_features_that_are_no_numbers_make_no_reference_and_do_not_stop_a_run(
    prepared, model, tmp_path, caplog
):
    sample = ReferenceSample([prepared.test], seed=0)
    with opened(model) as scorer:
        scorer.network.get_submodule(scorer.head).register_forward_pre_hook(
            lambda _, given: (given[0] * float("inf"),)
        )
        assert len(sample.score(scorer, prepared.test).labels_n) == prepared.test.n
    assert sample.write(tmp_path) is None
    assert "no reference for graft monitor" in caplog.text
