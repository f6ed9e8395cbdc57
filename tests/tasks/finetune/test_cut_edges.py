"""Where the cut falls at the edges, and what is said where there is none."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from tasks.finetune.cut import CannotCut, cut_network, describe, separators
from tests.tasks.finetune.test_cut import FunctionalDropout, Small, held, small_cut

IMAGES = torch.zeros(1, 4, 8, 8)


class Changed(Small):
    """Between the layers a function, into which tracing looks."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.Identity())
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.change(self.layer(x.mean((2, 3)))))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda y: y.mean(0).expand(2, 4), id="two"),
        pytest.param(lambda y: y.mean(0).expand(3, 4), id="three"),
        pytest.param(lambda y: y[: y.shape[0] // 2 * 2], id="an even number"),
    ],
)
def test_what_has_another_number_of_rows_than_images_comes_behind_the_cut(
    change: Callable[[Tensor], Tensor],
):
    network = Changed(change)
    held(network, ("layer",))
    cut = cut_network(network, ("layer",), IMAGES)
    images = torch.randn(5, 4, 8, 8)
    assert torch.equal(cut.prefix(images), network.layer(images.mean((2, 3))))


def test_one_image_is_tried_however_many_are_given():
    network = Small(nn.Identity())
    held(network, ("layer",))
    tried: list[int] = []
    network.layer.register_forward_hook(lambda _, given, __: tried.append(len(given[0])))
    cut_network(network, ("layer",), torch.zeros(5, 4, 8, 8))
    assert tried == [2, 3]  # copies of it


@pytest.mark.parametrize(("training", "other"), [(True, False), (False, True)])
def test_the_suffix_is_in_the_mode_of_the_network(training: bool, other: bool):
    network = Small(nn.Dropout(0.5))
    held(network, ("layer",))
    network.train(training)
    suffix = cut_network(network, ("layer",), IMAGES).suffix
    assert suffix.training is training
    assert suffix.train(other).training is other


def test_modes_of_the_same_code_share_a_graph():
    suffix = small_cut(nn.Dropout(0.5))[1].suffix
    assert suffix.evaluated is suffix.trained
    suffix = small_cut(FunctionalDropout())[1].suffix
    assert suffix.evaluated is not suffix.trained


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("too small\nfor this layer"), "too small"), (ValueError(), "ValueError()")],
)
def test_a_trial_run_that_fails_is_told_in_one_line(error: ValueError, said: str):
    def fail(*_: object) -> None:
        raise error

    network = Small(nn.Identity())
    held(network, ("layer",))
    network.layer.register_forward_pre_hook(fail)
    with pytest.raises(CannotCut) as caught:
        cut_network(network, ("layer",), IMAGES)
    assert str(caught.value) == f"a trial run failed: {said}"


class ImagesInEvaluation(Small):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.training else y + x.mean((2, 3))[:, :2]


def test_images_that_only_evaluation_needs_again_prevent_the_cut():
    network = ImagesInEvaluation(nn.Identity())
    held(network, ("layer",))
    with pytest.raises(CannotCut) as caught:
        cut_network(network, ("layer",), IMAGES)
    said = "in evaluation mode the images are used beyond the frozen part"
    assert str(caught.value) == said


def random_graph(draw: random.Random) -> fx.Graph:
    """Return sums of images, parameters and other sums, of which some are not used."""
    graph = fx.Graph()
    nodes = [graph.placeholder("images")]
    for _ in range(12):
        if draw.random() < 0.2:
            nodes.append(graph.get_attr("scale"))
        else:
            nodes.append(graph.call_function(operator.add, tuple(draw.choices(nodes[-4:], k=2))))
    graph.output(nodes[-1])
    return graph


def is_reached(graph: fx.Graph, without: fx.Node | None = None) -> bool:
    """Tell whether a path leads from the images to the output, but not through ``without``."""
    found = {node for node in graph.nodes if node.op == "placeholder"}
    for node in graph.nodes:  # each after what it is computed from
        if node is not without and found.intersection(node.all_input_nodes):
            found.add(node)
    return graph.output_node() in found


def test_separators_are_what_no_path_to_the_output_leads_around():
    numbers = set()
    for seed in range(60):
        graph = random_graph(random.Random(seed))
        inner = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
        expected = [node for node in inner if is_reached(graph) and not is_reached(graph, node)]
        assert list(separators(graph)) == expected, graph
        numbers.add(len(expected))
    assert len(numbers) > 3  # graphs of many kinds


def test_the_description_tells_kinds_and_settings_but_no_weights():
    texts = {small_cut(kind(), "between")[1].description for kind in (nn.Tanh, nn.Sigmoid)}
    assert len(texts) == 2

    network, cut = small_cut(nn.LayerNorm(4), "between")
    found = [line for line in cut.description.splitlines() if line.startswith("between: ")]
    assert len(found) == 1
    assert found[0].startswith("between: LayerNorm [")
    assert found[0].endswith("('eps', '1e-05'), ('normalized_shape', '(4,)')]")
    with torch.no_grad():
        network.layer.weight.zero_()
    assert describe(cut.prefix) == cut.description


def test_the_description_leaves_out_what_is_no_plain_value():
    plain, odd = nn.ReLU(), nn.ReLU()
    odd.others = (1, object())
    texts = {small_cut(between, "between")[1].description for between in (plain, odd)}
    assert len(texts) == 1
