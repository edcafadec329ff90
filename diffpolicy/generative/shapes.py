"""What every formula here does with a batch: broadcast times over samples, and draw noise.

x has shape (B, *shape). Its times t are (B,), or (B, T) where every step of a sequence has a time of its own. Times
may be more precise than x (samplers and objectives keep them in float64): path coefficients are computed in the
precision of t and meet x through `expand`, so that results have the dtype of x. The times of a single sample may stay
on the CPU while x is on a GPU: coefficients are then numbers, and nobody waits for the GPU to tell what they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffpolicy.util.device import precise_device, precise_dtype
from diffpolicy.util.errors import explain


class NoiseSource(ABC):
    """Draws noise for some samples of a batch, where a generator alone does not say which."""

    @abstractmethod
    def draw(self, function: Callable[[int, Generators], Tensor], samples: int) -> Tensor:
        """Return this source's part of what `function` draws.

        Args:
            function: (n, generator) -> a tensor of n samples on the first axis.
            samples: how many samples to return.
        """

    @abstractmethod
    def gather(self, values: Tensor) -> Tensor:
        """Return values (B, ...) of this source's samples with those of all others of the batch, in its order."""


# None (torch's global one), one for the whole batch, or one for each sample, which then does not depend on its batch.
Generators = torch.Generator | NoiseSource | Sequence[torch.Generator] | None


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Return t (B,) or (B, T) with trailing axes of size 1, so that it broadcasts with x (B, *shape).

    The result has x's dtype; a boolean t stays boolean. A single time on another device than x becomes a number,
    without axes.

    Raises:
        ValueError: the axes of t are not the first one or two of x.
    """
    if t.ndim not in (1, 2) or t.shape != x.shape[: t.ndim]:
        given = f"t has shape {tuple(t.shape)} and x {tuple(x.shape)}"
        cure = "for one common time use t.expand(len(x))"
        raise ValueError(explain(given, "one value of t per sample (B,), or per step (B, T)", cure))
    dtype = x.dtype if t.is_floating_point() and x.is_floating_point() else t.dtype
    if t.device != x.device and t.numel() == 1:
        return t.to(dtype).reshape(())
    return t.to(x.device, dtype).reshape(*t.shape, *[1] * (x.ndim - t.ndim))


def where(mask: Tensor, yes: Tensor, no: Tensor | float) -> Tensor:
    """Return `torch.where` of a mask that `expand` returned, or that was computed from what it returned."""
    if mask.device == yes.device:
        return torch.where(mask, yes, no)
    return yes if bool(mask) else torch.zeros_like(yes) + no


def as_input(t: Tensor, x: Tensor) -> Tensor:
    """Return t as a network takes it: on x's device, in its dtype, but at least float32.

    bfloat16 leaves a time two digits.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    if t.device != x.device and t.numel() == 1:  # written by the device itself, which need not be waited for
        return torch.full(t.shape, float(t), dtype=dtype, device=x.device)
    return t.to(x.device, dtype)


def randn(shape: Sequence[int], generator: Generators, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return standard normal noise of `shape` (B, *rest). All randomness of this package comes from here and `rand`.

    Noise is drawn on the generator's device and then moved, so that a CPU generator gives the same everywhere.

    Args:
        shape: the shape of the result; the first axis is the batch.
        generator: one for the whole batch; or B of them, sample i then drawn from generator[i] alone; or a
            `NoiseSource`; or None for torch's global generator.
        dtype: dtype of the result.
        device: device of the result.

    Raises:
        ValueError: the number of generators is not B.
    """
    return _draw(torch.randn, shape, generator, dtype, torch.device(device))


def rand(shape: Sequence[int], generator: Generators, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return uniform noise on [0, 1) of `shape`; arguments and errors are those of `randn`."""
    return _draw(torch.rand, shape, generator, dtype, torch.device(device))


def joint(function: Callable[[int, Generators], Tensor], samples: int, generator: Generators) -> Tensor:
    """Return `function(samples, generator)`, a draw whose samples may depend on each other.

    A `NoiseSource` is asked for it once, for the batch that it is a part of.
    """
    if isinstance(generator, NoiseSource):
        return generator.draw(function, samples)
    return function(samples, generator)


def whole(values: Tensor, generator: Generators) -> Tensor:
    """Return values of the samples (B, ...) of the whole batch, of which a `NoiseSource` may draw a part."""
    return generator.gather(values) if isinstance(generator, NoiseSource) else values


def _draw(
    function: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generators,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    if isinstance(generator, NoiseSource):
        return generator.draw(lambda n, g: _draw(function, (n, *shape[1:]), g, dtype, device), shape[0])
    if generator is None or isinstance(generator, torch.Generator):
        source = device if generator is None else generator.device
        drawn = dtype if dtype != torch.float64 else precise_dtype(source)
        return function(tuple(shape), generator=generator, dtype=drawn, device=source).to(device, dtype)
    if len(generator) != shape[0]:
        given = f"{len(generator)} generators for {shape[0]} samples"
        raise ValueError(explain(given, cure="give one generator, or one per sample"))
    if not generator:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.stack([_draw(function, shape[1:], g, dtype, device) for g in generator])


def uniform(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Return uniform noise in float64: near t = 1 float32 leaves σ few digits.

    It lies on `device`, or on the CPU where that has no float64.
    """
    return rand(shape, generator, dtype=torch.float64, device=precise_device(device))
