"""The graph of a network's forward pass, in the mode that it is in."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torchvision
from torch import fx, nn

from tasks.finetune.dropout import ByteDropout


class CannotTrace(Exception):  # noqa: N818 - it names what cannot be done; no user meets it
    """The forward pass is no fixed sequence of operations; ``str(error)`` is the reason."""


class _Tracer(fx.Tracer):
    """Follows everything but the layers of torch, torchvision's operators and what timm names.

    As ``torchvision.models.feature_extraction`` does, but that it opens torchvision's sequences
    (``Conv2dNormActivation``), so that a convolution and its batch norm are seen apart.
    """

    proxy_buffer_attributes = True  # or what is computed from buffers would become constants

    def __init__(
        self, leaves: tuple[type[nn.Module], ...], functions: tuple[Callable[..., Any], ...]
    ) -> None:
        modules: Any = (math, torchvision.ops)  # torch says that it takes just one
        super().__init__(autowrap_modules=modules, autowrap_functions=functions)
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is one node of the graph."""
        operator = type(m).__module__.startswith("torchvision.ops.")
        return (
            isinstance(m, (*self._leaves, ByteDropout))
            or (operator and not isinstance(m, nn.Sequential))
            or super().is_leaf_module(m, module_qualified_name)
        )


def trace(network: nn.Module) -> fx.Graph:
    """Return the graph of ``network``'s forward pass (torch.fx; Reed et al. 2022).

    What its code does with ``self.training`` is settled here: the graph is that of the mode which
    the modules are in now. Nothing is run. Raises ``CannotTrace``.
    """
    # a stand-in for a tensor would be taken for given where the code asks ``if mask is not None``
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(network.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    try:
        graph = _Tracer(*_opaque_to_timm(network)).trace(network, concrete_args=options or None)
    except Exception as error:  # a network's own code raises anything on a stand-in for a tensor
        reason = str(error).strip().splitlines()
        raise CannotTrace(
            f"{type(network).__name__} cannot be traced: {reason[0] if reason else error!r}"
        ) from error
    for node in graph.nodes:
        if not node.users and _is_in_place(network, node):
            _show_change(node)
    return graph


def _is_in_place(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    name = str(getattr(node.target, "__name__", node.target))
    by_name = name.endswith("_") and not name.endswith("__")
    return node.op.startswith("call_") and (by_name or bool(node.kwargs.get("inplace")))


def _show_change(node: fx.Node) -> None:
    """Let the later uses of a tensor that ``node`` changes in place be uses of ``node``.

    ``mask.div_(0.9)`` on a line of its own gives ``mask`` too, and then the graph shows the order.
    """
    changed = node.all_input_nodes[0]
    later = [user for user in changed.users if user > node]
    if not later:  # a view of it may be used, which the graph does not tell
        raise CannotTrace(f"{node.name} changes a tensor in place, unseen by what uses it")
    for user in later:
        user.replace_input_with(changed, node)


def _opaque_to_timm(
    network: nn.Module,
) -> tuple[tuple[type[nn.Module], ...], tuple[Callable[..., Any], ...]]:
    """Return the modules and functions that timm says are not to be looked into."""
    if not any(type(m).__module__.startswith("timm.") for m in network.modules()):
        return (), ()
    layers: Any = import_module("timm.layers")
    functions = (function for function in layers.get_notrace_functions() if callable(function))
    return tuple(layers.get_notrace_modules()), tuple(functions)


@contextmanager
def modes_kept(*networks: nn.Module) -> Iterator[None]:
    """Put every module back into its mode, training or evaluation, when the block ends."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def needed(graph: fx.Graph, stop: fx.Node | None = None) -> set[fx.Node]:
    """Return the nodes that the output needs, its own included; none beyond ``stop``."""
    return ancestors([graph.output_node()], stop)


def ancestors(nodes: Iterable[fx.Node], stop: fx.Node | None = None) -> set[fx.Node]:
    """Return ``nodes`` and all that they are computed from, but nothing that ``stop`` is."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(() if node is stop else node.all_input_nodes)
    return found
