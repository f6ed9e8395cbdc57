"""Whether a training would give the same weights once more, and if not, what was in the way.

Torch is asked for kernels that add in a fixed order. Where it has none it warns and names the
operation; those warnings, and what the course notes where a clock or the disk decides, are the
reasons that the report gives.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tasks.finetune.course import Course
from tasks.finetune.machine import this_machine
from tasks.finetune.ranks import world
from tasks.measures import Repeatability

# torch's own words
_WARNED = re.compile(
    r"Deterministic behavior was enabled with either"  # of cuBLAS, without its workspace
    r"|(?P<name>.+?) (?:does not have a deterministic implementation"
    r"|defaults to a non-deterministic|is not deterministic)"
)
_CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product; NVIDIA's own advice


@contextmanager
def in_fixed_order(course: Course) -> Iterator[None]:
    """Have torch add in a fixed order in the block, and tell the course what it has no way for."""
    os.environ.setdefault(*_CUBLAS)
    settings: Any = torch.utils.deterministic  # has a property that torch's types do not know
    on = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled, always = settings.fill_uninitialized_memory, torch.is_warn_always_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # it finds faults in programs that read what they never wrote, and takes time
    settings.fill_uninitialized_memory = False
    # some of its warnings come once a process, and a process may train again
    torch.set_warn_always(True)
    try:
        with _heard(course):
            yield
    finally:
        torch.use_deterministic_algorithms(on, warn_only=warn_only)
        settings.fill_uninitialized_memory = filled
        torch.set_warn_always(always)


@contextmanager
def _heard(course: Course) -> Iterator[None]:
    """Turn torch's warnings of this kind into reasons; others are shown as ever."""
    with warnings.catch_warnings():
        shown = warnings.showwarning
        warnings.filterwarnings("always", message=_WARNED.pattern)

        def hear(message: Warning | str, *where: Any, **more: Any) -> None:  # noqa: ANN401 - as it is
            found = _WARNED.match(str(message))
            if found is None:
                shown(message, *where, **more)
            else:
                course.vary(f"{found['name'] or 'cuBLAS'} adds in no fixed order on this device")

        warnings.showwarning = hear
        yield


def repeatability(course: Course) -> Repeatability:
    """Return what is known when the course is over, of the process that ends it."""
    reasons = list(course.varying)
    if course.device.type == "mps":
        reasons.append("of Apple's GPU it is not known in which order its kernels add")
    if world() > 2:  # a sum of two is the same either way round
        reasons.append(f"the gradients of {world()} processes are added in no promised order")
    if course.seconds_before and course.device.type != "cpu":
        reasons.append("it went on after a break, and what was seen before that is not known")
    return Repeatability(machine=this_machine(course.device), reasons=tuple(reasons))
