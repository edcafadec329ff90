"""What a network is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Condition(NamedTuple):
    """A vector per sample and, where there are any, tokens.

    A named tuple, so that compilers and data-parallel wrappers see the tensors inside.

    Attributes:
        vector: (B, C).
        tokens: (B, N, C'), or None.
        mask: (B, N) boolean, True where a token counts; None if all do.
    """

    vector: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """Return a condition of `change(tensor)` for every tensor."""
        return Condition(*(None if part is None else change(part) for part in self))

    def rows(self, index: slice | Sequence[int] | Tensor) -> Condition:
        """Return the samples of `index` (a slice, a list or a tensor of row numbers)."""
        return self.map(lambda part: part[index])


def select(cond: Any, index: slice | Sequence[int] | Tensor) -> Any:
    """Return the samples of `index` of a condition of any form: a `Condition`, a tensor (B, ...) or None."""
    if cond is None:
        return None
    return cond.rows(index) if isinstance(cond, Condition) else cond[index]


def where(mask: Tensor, one: Any, other: Any) -> Any:
    """Return a condition with the samples of `one` where `mask` (B,) is true, and those of `other` elsewhere.

    Args:
        mask: (B,) boolean.
        one: a `Condition`, or a tensor (B, ...).
        other: a condition of the same form.
    """
    if isinstance(one, Condition):
        return Condition(*(None if a is None else where(mask, a, b) for a, b in zip(one, other, strict=True)))
    return torch.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)


def concat(conditions: list[Condition]) -> Condition:
    """Return the samples of several conditions of one kind in one batch."""
    return Condition(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*conditions, strict=True)))
