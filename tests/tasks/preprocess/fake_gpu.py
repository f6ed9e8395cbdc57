"""What would be copied to a GPU, on tensors that have everything but values: there is no GPU."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree


class FakeGpu(FakeTensorMode):
    """Has tensors of a GPU beside a CPU's own, and keeps a list of the copies to it."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.copies: list[tuple[int, bool]] = []  # bytes, and whether the call goes on meanwhile

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = torch.device(kwargs.get("device") or "cpu")
        flat, _ = pytree.tree_flatten((args, kwargs))
        if device.type == "cpu" and not any(isinstance(one, FakeTensor) for one in flat):
            return func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" != device.type:
            self.copies.append((args[0].nbytes, bool(kwargs.get("non_blocking"))))
        return super().__torch_dispatch__(func, types, args, kwargs)
