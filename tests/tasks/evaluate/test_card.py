"""The model card as huggingface_hub reads it back, and as its own template has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.config import DataConfig, ModelConfig
from tasks.evaluate.card import model_card
from tasks.evaluate.card_data import base_model, dataset_name

huggingface_hub = pytest.importorskip("huggingface_hub")
HOSTILE = ("<script>alert(1)</script>", "---\n---", "![x](http://evil.example)", "`|`", "__a__")


@pytest.fixture
def read(tmp_path: Path):
    """Return a function that writes a card and lets huggingface_hub read it."""

    def load(text: str):
        path = tmp_path / "README.md"
        path.write_bytes(text.encode())
        return huggingface_hub.ModelCard.load(path)

    return load


def test_the_results_come_back_with_their_intervals(make_sample, read):
    sample = make_sample()
    data = read(model_card(*sample.parts())).data
    assert (data.library_name, data.pipeline_tag) == ("graft", "image-classification")
    assert data.model_name == "wings"
    assert data.datasets == ["a"]
    assert data.license is data.base_model is None
    estimates = [one for one in sample.report.estimates if "[" not in one.name]
    assert len(data.eval_results) == len(estimates) + len(sample.report.slices)
    names = {"brier_score": "brier"}
    for one, result in zip(estimates, data.eval_results, strict=False):
        assert names.get(result.metric_type, result.metric_type) == one.name
        assert result.metric_value == one.value
        assert result.metric_args == {"confidence": 0.95, "low": one.low, "high": one.high}
        assert (result.dataset_split, result.dataset_revision) == (
            "test",
            sample.report.test_digest,
        )
    slices = data.eval_results[len(estimates) :]
    for one, result in zip(sample.report.slices, slices, strict=True):
        assert result.dataset_config == f"{one.column}={one.value}"
        assert result.metric_value == one.accuracy


def test_huggingface_hub_writes_the_same_model_index(make_sample, read):
    from huggingface_hub.repocard_data import eval_results_to_model_index

    text = model_card(*make_sample().parts())
    data = read(text).data
    front = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert eval_results_to_model_index(data.model_name, data.eval_results) == front["model-index"]


def test_the_sections_are_those_of_the_template(make_sample, read):
    template = Path(huggingface_hub.__file__).parent / "templates" / "modelcard_template.md"
    known = {
        line.removesuffix(" [optional]")
        for line in template.read_text().splitlines()
        if line.startswith("##")
    }
    card = read(model_card(*make_sample().parts()))
    ours = [line for line in card.text.splitlines() if line.startswith("##")]
    assert set(ours) <= known
    for needed in ("## Uses", "## Bias, Risks, and Limitations", "### Results", "#### Factors"):
        assert needed in ours
    assert "[More Information Needed]" not in card.text


def test_it_says_what_the_evaluation_found_wanting(make_sample):
    sample = make_sample()
    text = model_card(*sample.parts())
    limits = text.split("## Bias, Risks, and Limitations")[1].split("## How to")[0]
    assert "Where site A = site A 1 (50 images) accuracy is 62.00%" in limits
    assert "site A 2" not in limits  # as good as the rest
    assert "mean accuracy is 60.00%" in limits
    assert "near duplicates (2 images): warned" in limits
    assert "exact duplicates" not in limits
    assert "Take no answer below a confidence of 0.8000" in limits
    assert "models:/graft@champion" in text
    assert "note of site A" in text
    assert "secret" not in text


def test_names_are_no_markup_and_no_front_matter(make_sample, read):
    sample = make_sample(names=HOSTILE, words="a\n---\nlicense: mit")
    card = read(model_card(*sample.parts()))
    assert card.data.license is None
    assert len(card.data.eval_results) == 8
    for markup in ("<script", "](http", "\n---", "__a__"):
        assert markup not in card.text
    assert "&lt;script&gt;" in card.text


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_is_missing_is_left_out(make_sample, read, multi_label: bool):
    sample = make_sample(whole=False, multi_label=multi_label)
    card = read(model_card(*sample.parts()))
    assert card.data.eval_results[0].metric_args is None
    for absent in ("### Recommendations", "#### Factors", "## Model Examination", "energy"):
        assert absent not in card.text
    assert ("mean_average_precision" in card.data.metrics) == multi_label


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [("timm:resnet18", "timm:DEFAULT"), ("timm:resnet18", "timm:tv_in1k"), ("resnet18", None)],
)
def test_the_base_model_is_timms_repository(make_sample, architecture, weights):
    timm = pytest.importorskip("timm")
    sample = make_sample()
    named = weights or "torchvision:DEFAULT"
    config = sample.config.model_copy(
        update={"model": ModelConfig(architecture=architecture, weights=named)}
    )
    model = sample.model.model_copy(update={"architecture": architecture})
    expected = None
    if weights is not None:
        tag = weights.removeprefix("timm:").removeprefix("DEFAULT")
        expected = timm.get_pretrained_cfg(f"resnet18.{tag}".rstrip(".")).hf_hub_id
        assert expected.startswith(f"timm/resnet18.{tag}")
    assert base_model(config, model) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, "digits"),
        ("https://me:secret@host/birds.zip?token=secret", "birds"),
        ("https://me:secret@host", "host"),
        ("/home/me/photos/", "photos"),
        ("birds.tar.gz", "birds.tar"),
    ],
)
def test_a_data_set_is_called_as_its_file(path, name):
    kind = "digits" if path is None else "folder"
    assert dataset_name(DataConfig(kind=kind, path=path, sha256="0" * 64)) == name
