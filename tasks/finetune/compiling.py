"""torch.compile, where it pays: tried on the run itself, with its compile time counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum, auto

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from tasks.errors import ConfigError
from tasks.finetune.device import free_memory, is_out_of_memory
from tasks.finetune.ranks import world
from tasks.recipe import TrainingConfig

log = logging.getLogger(__name__)

_WARM = 10  # steps until caches, clocks and cuDNN's choices have settled
_TIMED = 20  # steps a speed is measured over
_COMPILING = 5  # steps in which what is compiled gets ready
# A compiler for a ResNet-50, forward and backward, takes up to a minute; a run that has less than
# this before it cannot win it back.
_WORTH_SECONDS = 120.0


class _Stage(Enum):
    WARMING = auto()
    PLAIN = auto()
    COMPILING = auto()
    COMPILED = auto()
    SETTLED = auto()


class Uncompilable(Exception):  # noqa: N818 - it is no error: the step is begun again
    """What was compiled is given up, in the middle of a step."""


class Forward:
    """Calls a model for training, compiled or not.

    With ``training.compile=auto`` on one GPU the first steps run as they are and are timed; if the
    steps left are worth it, the model is compiled (``reduce-overhead``: CUDA graphs where shapes
    allow), timed again, and the faster of the two stays. Only batches of the full size go through
    the compiled model: an epoch's last, smaller one would be compiled anew. A compiler that fails
    leaves the model as it is under ``auto``, and is a ``ConfigError`` under ``on``.

    What is compiled lasts as long as the process, with the memory of its CUDA graphs, unless the
    thread that trained calls ``stay_plain``.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: TrainingConfig,
        device: torch.device,
        batches: int,
        vary: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self._device = device
        self._left = batches
        self._recipe = recipe
        self._vary = vary  # is told what may be otherwise another time
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._size = 0
        self._count = 0
        self._mark = 0.0
        self._plain_seconds = 0.0
        self._compile_seconds = 0.0
        self._stage = _Stage.SETTLED
        if recipe.compile == "on":
            self._compiled = self._compile()
            if device.type == "cuda":
                vary("torch.compile may choose among kernels by timing them")
        elif recipe.compile == "auto" and device.type == "cuda" and world() == 1:
            self._stage = _Stage.WARMING

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the model's logits (b, k).

        Raises ``Uncompilable`` where torch.compile failed under ``auto``: a part of the model may
        have been run by then.
        """
        self._size = max(self._size, len(inputs))
        self._left -= 1
        if self._stage is not _Stage.SETTLED:
            self._advance()
        whole = len(inputs) == self._size
        if self._compiled is not None and whole:
            return self._through_compiler(inputs, self._compiled)
        logits_bk: Tensor = self.model(inputs)
        return logits_bk

    def stay_plain(self) -> bool:
        """Call the model as it is from here on; return whether it was compiled.

        Torch keeps what it compiled for a function, eight variants of it at most (a ninth would be
        run as it is, without a word of graft's); and a thread's CUDA graphs keep their memory.
        """
        was, self._compiled = self._compiled is not None, None
        self._stage = _Stage.SETTLED
        if was:
            torch.compiler.reset()
            free_memory(self._device)
        return was

    @contextmanager
    def for_a_while(self) -> Iterator[None]:
        """Let go of what is compiled when the block is over."""
        try:
            yield
        finally:
            self.stay_plain()

    def begin_epoch(self) -> None:
        """Start the present timing anew: between epochs there is validation, and more."""
        if self._stage is not _Stage.SETTLED:
            self._count, self._mark = 0, self._clock()

    def _through_compiler(self, inputs: Tensor, compiled: Callable[[Tensor], Tensor]) -> Tensor:
        try:
            with _backward_too():
                return compiled(inputs)
        except TorchDynamoException as error:
            cause = _cause(error)
        if is_out_of_memory(cause):
            raise cause
        reason = str(cause).strip().partition("\n")[0]
        if self._recipe.compile == "on":
            raise ConfigError(
                f"training.compile=on, and torch.compile fails: {reason}\n"
                "Set training.compile=off, or install the C++ compiler that it needs."
            ) from cause
        log.warning("not compiled, since torch.compile fails: %s", reason)
        self.stay_plain()
        raise Uncompilable from cause

    def _compile(self) -> Callable[[Tensor], Tensor]:
        # a CUDA graph's gradients are gone when its next forward pass begins, so that batches
        # whose gradients are summed go without graphs
        graphs = self._device.type == "cuda" and self._recipe.accumulate == 1
        mode = "reduce-overhead" if graphs else "default"
        compiled: Callable[[Tensor], Tensor] = torch.compile(self.model, dynamic=False, mode=mode)
        return compiled

    def _advance(self) -> None:
        """Go from stage to stage, reading the clock (and waiting for the device) between them."""
        self._count += 1
        lengths = {
            _Stage.WARMING: _WARM,
            _Stage.PLAIN: _TIMED,
            _Stage.COMPILING: _COMPILING,
            _Stage.COMPILED: _TIMED,
        }
        length = lengths[self._stage]
        if self._count <= length:
            return
        now = self._clock()
        seconds, self._mark, self._count = now - self._mark, now, 1
        self._next(seconds, seconds / length)

    def _next(self, seconds: float, a_step: float) -> None:
        if self._stage is _Stage.WARMING:
            self._stage = _Stage.PLAIN
        elif self._stage is _Stage.PLAIN:
            self._plain_seconds = a_step
            self._try_or_not()
        elif self._stage is _Stage.COMPILING:
            self._compile_seconds = seconds
            self._stage = _Stage.COMPILED
        else:
            self._settle(a_step)

    def _try_or_not(self) -> None:
        self._vary("a clock decides by training.compile=auto what is compiled (set on or off)")
        left = self._left * self._plain_seconds
        if left < _WORTH_SECONDS:
            log.info("not compiled: %.0f s of training are left, too few to pay for it", left)
            self._stage = _Stage.SETTLED
            return
        self._compiled = self._compile()
        self._stage = _Stage.COMPILING

    def _settle(self, a_step: float) -> None:
        gain = self._plain_seconds / a_step
        saved = self._left * (self._plain_seconds - a_step) - self._compile_seconds
        log.info(
            "compiled in %.0f s: %.2f times as fast, %.0f s saved by the end of training",
            self._compile_seconds,
            gain,
            saved,
        )
        if gain <= 1:
            self.stay_plain()
        self._stage = _Stage.SETTLED

    def _clock(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _backward_too() -> AbstractContextManager[None]:
    """Have the backward pass compiled with the forward pass, where a failure can be caught."""
    from torch._functorch import config

    if not hasattr(config, "force_non_lazy_backward_lowering"):  # an inner part of torch
        return nullcontext()
    found: AbstractContextManager[None] = config.patch(force_non_lazy_backward_lowering=True)
    return found


def _cause(error: Exception) -> Exception:
    """Return what a compiler met, without the layers that pass it on."""
    while isinstance(error, BackendCompilerFailed):
        error = error.inner_exception
    return error
