"""Which values of a traced network are fixed: decided by its input and by frozen parts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode


class Probe(fx.Interpreter):
    """Runs a graph as far as it is fixed, each module in the mode that it is in.

    After ``run``, ``shapes`` has the shape of every fixed value that is a tensor. What is not
    fixed is not run, so that no statistic is counted.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self._network = network
        self._fixed: set[fx.Node] = set()
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - a value of any kind
        """Run a node whose inputs are all fixed, unless it holds something that trains."""
        if n.op == "output" or not self._fixed.issuperset(n.all_input_nodes) or self._moves(n):
            return None
        with _Draws() as draws:  # type: ignore[no-untyped-call]  # torch's own is not typed
            value = super().run_node(n)
        if not draws.found:
            self._fixed.add(n)
            if isinstance(value, Tensor):
                self.shapes[n] = tuple(value.shape)
        return value

    def _moves(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return _moves(self._network.get_submodule(str(node.target)))
        if node.op == "get_attr":
            return self._attribute_moves(str(node.target))
        return False

    def _attribute_moves(self, target: str) -> bool:
        owner, _, name = target.rpartition(".")
        module = self._network.get_submodule(owner)
        counted = module.training and name in dict(module.named_buffers(recurse=False))
        value = getattr(module, name)
        return counted or (isinstance(value, Tensor) and value.requires_grad)


def _moves(layer: nn.Module) -> bool:
    """Tell whether a layer trains, counts, or mixes the images of a batch."""
    return any(parameter.requires_grad for parameter in layer.parameters()) or any(
        (module.training and any(True for _ in module.buffers(recurse=False)))
        or (isinstance(module, _BatchNorm) and (module.training or module.running_mean is None))
        for module in layer.modules()
    )


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is not typed
    """Notices operators that draw random numbers: those that torch tags so.

    Attention kernels have the tag whether they drop anything or not.
    """

    found = False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - the protocol of torch
        kwargs = kwargs or {}
        assert isinstance(func, torch._ops.OpOverload)
        if torch.Tag.nondeterministic_seeded in func.tags:
            names = [argument.name for argument in func._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            self.found |= "dropout_p" not in names or given.get("dropout_p", 0.0) > 0
        return func(*args, **kwargs)
