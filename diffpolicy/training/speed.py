"""How the arithmetic of a training step is run: its precision, and what of the network is compiled.

A speed is a name, "float32" or "bfloat16" (autocast; the weights stay float32), alone or with what is compiled:

    bfloat16+blocks    what stands between the matrix products (the network's `fuse`), once for all sizes: seconds
    bfloat16+network   the whole network, with CUDA graphs on a GPU: a minute or two

Weights are the same whatever was chosen, so that checkpoints can be exchanged. "auto" measures; see `choose`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

PRECISIONS = ("float32", "bfloat16")
COMPILED = ("", "blocks", "network")

_BLOCKS_SECONDS = 15.0  # the first compilation of the blocks on two cores; one that is cached takes 5
_NETWORK_SECONDS = 90.0  # of the network, on a GPU's host
_BLOCKS_SAVE = 0.15  # of a step: 20% were measured at widths 64/128/256, 6% at 256/512/1024
_NETWORK_SAVES = 0.5  # of a step, on a GPU, where launching kernels one by one is most of it
_MARGIN = 1.1  # how much faster a choice must be than the plainer one, so that noise does not choose


@final
@dataclass(frozen=True)
class Speed:
    """One of the names above, taken apart."""

    precision: str
    compiled: str

    @classmethod
    def parse(cls, name: str) -> Speed:
        """Raises ValueError for what is no speed."""
        precision, _, compiled = name.partition("+")
        if precision not in PRECISIONS or compiled not in COMPILED or name.endswith("+"):
            names = [f"{p}+{c}" if c else p for p in PRECISIONS for c in COMPILED]
            raise ValueError(f"speed must be auto or one of {', '.join(names)}; not {name!r}")
        return cls(precision, compiled)

    def __str__(self) -> str:
        return f"{self.precision}+{self.compiled}" if self.compiled else self.precision

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of the forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Compile what is to be compiled of the model's networks; happens at the first step.

        Raises:
            ValueError: "blocks" of networks that have none.
        """
        if device.type == "cuda" and self.precision == "bfloat16":
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
        if self.compiled and device.type == "cpu" and not has_compiler():
            raise ValueError(
                f"speed={self} compiles, and no C++ compiler was found; install one (g++), or take "
                f"speed={self.precision}"
            )
        if self.compiled == "network":
            for net in networks(model):  # in place: the names of the weights stay
                net.compile(mode="reduce-overhead" if device.type == "cuda" else None)
        if self.compiled == "blocks":
            fusable = [net for net in networks(model) if hasattr(net, "fuse")]
            if not fusable:
                raise ValueError(f"no network here has blocks to compile; speed={self.precision} compiles nothing")
            for net in fusable:
                net.fuse()


def networks(model: nn.Module) -> list[nn.Module]:
    """What can be compiled of a model: what it says (`Actor.networks`), or its children."""
    return model.networks() if hasattr(model, "networks") else list(model.children())


def has_compiler() -> bool:
    """Whether torch finds the C++ compiler with which it compiles for a processor."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second to import

    try:
        return bool(get_cpp_compiler())
    except RuntimeError:
        return False


Pass = Callable[[torch.autocast], object]


def choose(model: nn.Module, run: Pass, device: torch.device, steps: int) -> tuple[Speed, str]:
    """The fastest speed for `steps` more steps, counting what compiling costs, and a line that says why.

    On a processor both precisions are timed where it has instructions for bfloat16, and the blocks are compiled if
    that pays within the run. On a GPU it is bfloat16 where that is supported, and the whole network if that pays.

    Args:
        run: one forward pass under the context it is given, and the backward pass.
    """
    before = [buffer.clone() for buffer in model.buffers()]  # a batch norm counts what it sees
    try:
        return _choose(model, run, device, steps)
    finally:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)


def _choose(model: nn.Module, run: Pass, device: torch.device, steps: int) -> tuple[Speed, str]:
    if device.type == "cuda":
        precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        seconds = _seconds(run, Speed(precision, ""), device)
        pays = steps * seconds * _NETWORK_SAVES > _NETWORK_SECONDS
        chosen = Speed(precision, "network" if pays else "")
        return chosen, f"speed: {chosen} ({1e3 * seconds:.0f} ms a pass before compiling, {steps} steps to go)"
    timed = {Speed("float32", ""): _seconds(run, Speed("float32", ""), device)}
    chosen = Speed("float32", "")
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        half = Speed("bfloat16", "")
        timed[half] = _seconds(run, half, device)
        if timed[half] * _MARGIN < timed[chosen]:
            chosen = half
    seen = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in timed.items())
    can = any(hasattr(net, "fuse") for net in networks(model))
    if can and steps * timed[chosen] * _BLOCKS_SAVE > _BLOCKS_SECONDS:
        if has_compiler():
            chosen = Speed(chosen.precision, "blocks")
        else:
            seen += "; no C++ compiler, which would make it faster"
    return chosen, f"speed: {chosen} (ms a pass: {seen}; {steps} steps to go)"


def _seconds(run: Pass, speed: Speed, device: torch.device, repeats: int = 3) -> float:
    """The fastest of a few passes, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run(speed.autocast(device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
