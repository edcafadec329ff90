"""How the arithmetic of a training step is run: its precision, and what of the network is compiled.

A speed is a precision, "float32" or "bfloat16" (autocast; the weights stay float32), alone or with what is compiled:

    bfloat16+blocks    what stands between the matrix products (`nets.base.Fusable`), once for all sizes: seconds
    bfloat16+network   the whole network, with CUDA graphs on a GPU: a minute or two

Weights are the same at every speed, so that checkpoints can be exchanged. "auto" measures; see `choose`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from diffpolicy.nets.base import Fusable, Model
from diffpolicy.util import names
from diffpolicy.util.errors import require

PRECISIONS = ("float32", "bfloat16")
COMPILED = ("", "blocks", "network")
SPEEDS = tuple(f"{precision}+{part}" if part else precision for precision in PRECISIONS for part in COMPILED)

_BLOCKS_SECONDS = 15.0  # the first compilation of the blocks on two cores; one that is cached takes 5
_NETWORK_SECONDS = 90.0  # of the network, on a GPU's host
_BLOCKS_SAVE = 0.15  # of a step: 20% were measured at widths 64/128/256, 6% at 256/512/1024
_NETWORK_SAVES = 0.5  # of a step, on a GPU, where launching kernels one by one is most of it
_MARGIN = 1.1  # how much faster a choice must be than the plainer one, so that noise does not choose


@final
@dataclass(frozen=True)
class Speed:
    """A speed, taken apart.

    Args:
        precision: one of PRECISIONS.
        compiled: one of COMPILED.
    """

    precision: str
    compiled: str

    @classmethod
    def parse(cls, name: str) -> Speed:
        """Return the speed of a name; raise ValueError if there is none."""
        require(name in SPEEDS, names.unknown("speed", name, ("auto", *SPEEDS)))
        precision, _, compiled = name.partition("+")
        return cls(precision, compiled)

    def __str__(self) -> str:
        return f"{self.precision}+{self.compiled}" if self.compiled else self.precision

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context of the forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def prepare(self, model: Model, device: torch.device) -> None:
        """Compile what is to be compiled of the model's networks; happens at the first step.

        Raises:
            ValueError: "blocks" of networks that have none, or no compiler.
        """
        if device.type == "cuda" and self.precision == "bfloat16":
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        plain = f"take speed={self.precision}"
        if self.compiled and device.type == "cpu":
            says = f"speed={self} compiles, and no C++ compiler was found"
            require(has_compiler(), says, cure=f"{plain}, or install one (g++)")
        if self.compiled == "network":
            for net in model.networks():  # in place: the names of the weights stay
                net.compile(mode="reduce-overhead" if device.type == "cuda" else None)
        if self.compiled == "blocks":
            require(fusable(model), f"speed={self}, and no network here has blocks to compile", cure=plain)
            for net in fusable(model):
                net.fuse()


def fusable(model: Model) -> list[Fusable]:
    """Return the networks of a model whose blocks can be compiled."""
    return [net for net in model.networks() if isinstance(net, Fusable) and net.has_blocks]


def has_compiler() -> bool:
    """Return whether torch finds the C++ compiler with which it compiles for a processor."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second to import

    try:
        return bool(get_cpp_compiler())
    except RuntimeError:
        return False


Pass = Callable[[torch.autocast], object]


def choose(model: Model, run: Pass, device: torch.device, steps: int) -> tuple[Speed, str]:
    """Return the fastest speed for `steps` more steps, counting what compiling costs, and a line that says why.

    On a processor both precisions are timed where it has instructions for bfloat16, and the blocks are compiled if
    that pays within the run. On a GPU it is bfloat16 where that is supported, and the whole network if that pays.

    Args:
        model: what is trained; its buffers are left as they are.
        run: one forward pass under the context it is given, and the backward pass.
        device: where it is trained.
        steps: steps of the run that are still to be taken.
    """
    with untouched_buffers(model):
        return (_choose_for_gpu if device.type == "cuda" else _choose_for_processor)(model, run, device, steps)


@contextmanager
def untouched_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a block changes in a model's buffers: a batch norm counts what it sees."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)


def _choose_for_gpu(model: Model, run: Pass, device: torch.device, steps: int) -> tuple[Speed, str]:
    precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    seconds = _seconds(run, Speed(precision, ""), device)
    pays = steps * seconds * _NETWORK_SAVES > _NETWORK_SECONDS
    chosen = Speed(precision, "network" if pays else "")
    return chosen, f"speed: {chosen} ({1e3 * seconds:.0f} ms a pass before compiling, {steps} steps to go)"


def _choose_for_processor(model: Model, run: Pass, device: torch.device, steps: int) -> tuple[Speed, str]:
    timed = {Speed("float32", ""): _seconds(run, Speed("float32", ""), device)}
    chosen = Speed("float32", "")
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        half = Speed("bfloat16", "")
        timed[half] = _seconds(run, half, device)
        if timed[half] * _MARGIN < timed[chosen]:
            chosen = half
    seen = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in timed.items())
    if fusable(model) and steps * timed[chosen] * _BLOCKS_SAVE > _BLOCKS_SECONDS:
        if has_compiler():
            chosen = Speed(chosen.precision, "blocks")
        else:
            seen += "; no C++ compiler, which would make it faster"
    return chosen, f"speed: {chosen} (ms a pass: {seen}; {steps} steps to go)"


def _seconds(run: Pass, speed: Speed, device: torch.device, repeats: int = 3) -> float:
    """Return the seconds of the fastest of a few passes, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run(speed.autocast(device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
