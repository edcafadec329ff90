"""Shapes and noise: what every file here does with a batch x of shape (B, *shape) and times t (B,).

Times may be more precise than x (samplers and objectives keep them in float64): path coefficients are
computed in the precision of t and meet x through `expand`, which gives them x's dtype. So results have the
dtype of x.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Share:
    """A generator for rows `start` … of a batch of `total` rows: what is drawn is drawn for all of them, and cut.

    So processes that share a batch draw, row by row, what one process draws for the whole of it.
    """

    generator: torch.Generator
    start: int
    total: int


Generators = torch.Generator | Share | Sequence[torch.Generator] | None


def expand(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) as (B, 1, …, 1) with as many axes as x (B, *shape), in x's dtype (a boolean t stays boolean).

    Raises ValueError when t is not one value per row of x.
    """
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(t.shape)} and x {tuple(x.shape)}; t must hold one value per row, shape "
            f"{tuple(x.shape[:1])}; for one common time use t.expand(len(x))"
        )
    dtype = x.dtype if t.is_floating_point() and x.is_floating_point() else t.dtype
    return t.to(dtype).reshape(t.shape[0], *[1] * (x.ndim - 1))


def randn(shape: Sequence[int], generator: Generators, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Standard normal noise of `shape` (B, *rest); all randomness of this package comes from here and `rand`.

    `generator` is None (torch's global one), one generator for the whole batch, a `Share` of one, or B generators:
    then row i is drawn from generator[i] alone, so that it does not depend on which rows share the batch. Drawn on
    the generator's device, then moved, so that a CPU generator gives the same noise everywhere.

    Raises ValueError when the number of generators is not B, or a share reaches beyond its batch.
    """
    return _draw(torch.randn, shape, generator, dtype, device)


def rand(shape: Sequence[int], generator: Generators, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Uniform noise on [0, 1); otherwise as `randn`."""
    return _draw(torch.rand, shape, generator, dtype, device)


def _draw(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generators,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    if generator is None:
        return draw(tuple(shape), dtype=dtype, device=device)
    if isinstance(generator, torch.Generator):
        return draw(tuple(shape), generator=generator, dtype=dtype, device=generator.device).to(device)
    if isinstance(generator, Share):
        return for_whole_batch(lambda n, g: _draw(draw, (n, *shape[1:]), g, dtype, device), shape[0], generator)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} rows; give one generator, or one per row")
    if not generator:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    return torch.stack([_draw(draw, shape[1:], g, dtype, device) for g in generator])


def for_whole_batch(draw: Callable[[int, Generators], Tensor], rows: int, generator: Generators) -> Tensor:
    """`draw(rows, generator)`; with a `Share`, what is drawn for the whole batch is cut to the share's rows."""
    if not isinstance(generator, Share):
        return draw(rows, generator)
    first, total = generator.start, generator.total
    if not 0 <= first <= total - rows:
        raise ValueError(f"{rows} rows from row {first} on do not lie within a batch of {total}")
    return draw(total, generator.generator)[first : first + rows]


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Raise ValueError when `name` is not among `known`, naming the near ones and all of them."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")
