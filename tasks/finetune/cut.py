"""Cut a network where its frozen part ends, so that what comes before is computed only once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from tasks.finetune.probing import Probe
from tasks.finetune.tracing import CannotTrace, ancestors, modes_kept, needed, trace

_SAMPLES = (2, 3)  # images of the trial runs: what depends on their number shows itself


class CannotCut(Exception):  # noqa: N818 - callers catch it and say why; no user meets it
    """The network cannot be cut; ``str(error)`` is the reason."""


@dataclass(frozen=True)
class Cut:
    """A network in two, both of its own modules and parameters.

    ``suffix(prefix(images_bchw))`` is the network's output, in training as in evaluation. The
    suffix may change its input in place, as the network does inside.
    """

    prefix: nn.Module  # images (b, 3, h, w) to features (b, *shape); for evaluation mode
    suffix: Suffix  # features to logits; its mode is the network's
    shape: tuple[int, ...]  # of one image's features
    description: str  # the prefix's code and its layers' settings, without weights


def cut_network(network: nn.Module, frozen: tuple[str, ...], images_bchw: Tensor) -> Cut:
    """Cut at the last tensor that only frozen parts decide and that alone decides the output.

    ``frozen`` are the dotted names that ``FrozenPart`` holds; their parameters must no longer
    require gradients. Before the cut nothing trains, nothing is drawn at random and no statistic is
    counted: dropout or batch norm outside ``frozen``, which is in training mode, comes after it.
    One of ``images_bchw`` is run through the frozen part to see the shapes. Cut on the device and
    in the memory format to train with: a later move would part shared buffers. All modules keep
    their modes. Raises ``CannotCut`` when nothing is frozen, the network does not trace or does
    not take the image, or no tensor is such a cut.
    """
    if not frozen:
        raise CannotCut("nothing is frozen")
    held = [module for name, module in network.named_modules() if name in frozen]
    with modes_kept(network):
        try:
            evaluated = trace(network.eval())
            _set_modes(network, held, training=True)
            trained = trace(network)
        except CannotTrace as error:
            raise CannotCut(str(error)) from error
        at, prefix, shape = _last_cut(network, trained, images_bchw[:1])
    suffix = Suffix(network, held, after(trained, at), after(evaluated, _twin(at, evaluated)))
    return Cut(prefix, suffix, shape, describe(prefix))


def _set_modes(network: nn.Module, held: list[nn.Module], training: bool) -> None:
    network.train(training)
    for module in held:
        module.eval()


class Suffix(nn.Module):
    """What follows the cut.

    Tracing has settled every ``if self.training`` in the network's code, so that there is a graph
    for each mode; the network's own ``training`` decides which of them runs.
    """

    def __init__(
        self, network: nn.Module, held: list[nn.Module], trained: fx.Graph, evaluated: fx.Graph
    ) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: no part of this module
        self._held = tuple(held)
        self.trained = fx.GraphModule(network, trained)
        other = fx.GraphModule(network, evaluated)
        self.evaluated = self.trained if other.code == self.trained.code else other
        self.training = network.training

    def forward(self, features: Tensor) -> Tensor:
        """Map features (b, *shape) to the network's output."""
        part = self.trained if self._network[0].training else self.evaluated
        output: Tensor = part(features)
        return output

    def of(self, network: nn.Module) -> nn.Module:
        """Return what follows the cut in a copy of the network, for evaluation mode.

        Its weights are those that the copy has whenever it is called.
        """
        if network is self._network[0]:
            return self
        graph = self.evaluated.graph
        names = {str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")}
        return fx.GraphModule({name: self._part(network, name) for name in names}, graph).eval()

    def _part(self, network: nn.Module, name: str) -> object:
        find = attrgetter(name)
        try:
            return find(network)
        except AttributeError:  # a constant of the code's, which tracing has put there
            return find(self.evaluated)

    def train(self, mode: bool = True) -> Suffix:
        """Put the whole network in training mode, what is frozen excepted, or in evaluation."""
        _set_modes(self._network[0], list(self._held), mode)
        self.training = mode
        return self


def _last_cut(
    network: nn.Module, graph: fx.Graph, image_bchw: Tensor
) -> tuple[fx.Node, fx.GraphModule, tuple[int, ...]]:
    first, second = (image_bchw.repeat(n, 1, 1, 1) for n in _SAMPLES)
    shapes = _shapes(network, graph, first)
    for node in reversed(list(separators(graph))):
        shape = shapes.get(node, ())
        if shape[:1] != (len(first),):
            continue
        part = before(graph, node)
        if _shapes(network, part, second).get(_result(part)) == (len(second), *shape[1:]):
            prefix = fx.GraphModule(network, part)
            if any(True for _ in prefix.parameters()):
                return node, prefix, shape[1:]
    raise CannotCut("no single tensor stands between what is frozen and what trains")


def _shapes(
    network: nn.Module, graph: fx.Graph, images_bchw: Tensor
) -> dict[fx.Node, tuple[int, ...]]:
    probe = Probe(network, graph)
    probe.extra_traceback = False
    try:
        with torch.no_grad():
            probe.run(images_bchw)
    except Exception as error:  # a network's own code raises anything
        lines = str(error).splitlines() or [repr(error)]
        raise CannotCut(f"a trial run failed: {lines[0]}") from error
    return probe.shapes


def _result(graph: fx.Graph) -> fx.Node:
    (node,) = graph.output_node().all_input_nodes
    return node


def separators(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the nodes that every path from the input to the output goes through, in order.

    In a topological order such a node is one that no edge between input-dependent nodes passes.
    """
    wanted, of_input = needed(graph), set[fx.Node]()
    position = {node: i for i, node in enumerate(graph.nodes)}
    reach = 0  # the furthest use of any input-dependent value so far
    for node in graph.nodes:
        if node not in wanted or not (
            node.op == "placeholder" or of_input.intersection(node.all_input_nodes)
        ):
            continue
        of_input.add(node)
        if reach <= position[node] and node.op not in ("placeholder", "output"):
            yield node
        reach = max([reach, *(position[user] for user in node.users if user in wanted)])


def before(graph: fx.Graph, node: fx.Node) -> fx.Graph:
    """Return the graph from the input to ``node``."""
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    _copy(graph, ancestors([node]), part, copies)
    part.output(copies[node])
    return part


def after(graph: fx.Graph, node: fx.Node) -> fx.Graph:
    """Return the graph from ``node`` to the output; raises ``CannotCut`` if it needs more."""
    part = fx.Graph()
    wanted = needed(graph, stop=node) - {node}
    if any(other.op == "placeholder" for other in wanted):
        raise CannotCut("in evaluation mode the images are used beyond the frozen part")
    _copy(graph, wanted, part, {node: part.placeholder("features")})
    return part


def _copy(
    graph: fx.Graph, wanted: set[fx.Node], part: fx.Graph, copies: dict[fx.Node, fx.Node]
) -> None:
    for node in graph.nodes:
        if node in wanted:
            copies[node] = part.node_copy(node, copies.__getitem__)


def _twin(at: fx.Node, evaluated: fx.Graph) -> fx.Node:
    """Return the same value in the evaluation graph."""
    nodes: list[fx.Node] = [node for node in evaluated.nodes if node.name == at.name]
    for node in nodes:
        if _code(evaluated, node) == _code(at.graph, at):
            return node
    raise CannotCut("the frozen part's code does something else in evaluation mode")


def _code(graph: fx.Graph, node: fx.Node) -> str:
    return before(graph, node).python_code("self").src


def describe(part: fx.GraphModule) -> str:
    """Return the code of ``part`` and the settings of its layers, such as strides, as one text."""
    lines = [part.code]
    for name, module in part.named_modules():
        settings = {key: repr(value) for key, value in vars(module).items() if _is_plain(value)}
        settings.pop("training")
        lines.append(f"{name}: {type(module).__name__} {sorted(settings.items())}")
    return "\n".join(lines)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
